"""Sizes, times and ranges as people write them: ``2K`` is 2048 bytes, ``10m`` is 600 seconds, ``-1,1`` is a range; and back.

A kilobyte is 1024 bytes throughout, as in the data sheets of microcontrollers.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from sparse_mcu.errors import UserError


class Range(NamedTuple):
    """Two numbers, the smaller first."""

    low: float
    high: float


_BYTES = {"": 1, "k": 1024, "m": 1024**2}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([km]?)i?b?")
_TIME = re.compile(r"[0-9]+(?:\.[0-9]+)?|(?:[0-9]+(?:\.[0-9]+)?\s*[smhd]\s*)+")
_TIME_PART = re.compile(r"([0-9.]+)\s*([smhd]?)")


def parse_bytes(text: str) -> int:
    """Return the bytes that ``text`` such as 1024, 2K, 2KB or 1.5K stands for."""
    match = _SIZE.fullmatch(text.strip().lower())
    size = float(match[1]) * _BYTES[match[2]] if match else 0.0
    if size < 1 or not size.is_integer():
        raise UserError(f"a size is a whole number of bytes such as 1024, 2K or 2KB, but is {text!r}")
    return int(size)


def parse_limits(texts: Sequence[str]) -> dict[str, int]:
    """Return the limits that ``texts`` such as model_size=2K name."""
    limits = {}
    for text in texts:
        name, equals, limit = text.partition("=")
        if not equals or name in limits:
            raise UserError(f"a limit is NAME=N such as model_size=2K, each name once, but is {text!r}")
        limits[name] = parse_bytes(limit)
    return limits


def parse_seconds(text: str) -> float:
    """Return the seconds that ``text`` such as 90s, 10m, 1h or 1h30m stands for; a bare number counts seconds."""
    stripped = text.strip().lower()
    parts = _TIME_PART.findall(stripped) if _TIME.fullmatch(stripped) else []
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds <= 0:
        raise UserError(f"a time is a number above zero and a unit such as 90s, 10m or 1h, but is {text!r}")
    return seconds


def parse_range(text: str) -> Range:
    """Return the range that ``text`` such as 0,255 or -1,1 names."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high or math.isinf(low) or math.isinf(high):
        raise UserError(f"a range is two numbers, the smaller first, such as 0,255 or -1,1, but is {text!r}")
    return Range(low, high)


def format_seconds(seconds: float) -> str:
    """Return ``seconds`` as 45s, 2m05s or 1h02m, rounded down."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
