"""The sections of c/kernels.c: hand-written C that generated code is put together from."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).with_name("c") / "kernels.c"
_OPENING = re.compile(r"^/\* kernel (\w+)(?: \(uses ([\w, ]+)\))? \*/\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Section:
    """A kernel with the types it brings, and the sections it needs."""

    name: str
    uses: tuple[str, ...]
    text: str


@functools.cache
def sections() -> dict[str, Section]:
    """Return all sections by name, in the order of the file."""
    text = KERNELS.read_text(encoding="utf-8")
    openings = list(_OPENING.finditer(text))
    ends = [opening.start() for opening in openings[1:]] + [len(text)]
    return {
        opening[1]: Section(opening[1], tuple((opening[2] or "").replace(",", " ").split()), text[opening.end() : end].strip())
        for opening, end in zip(openings, ends, strict=True)
    }


def needed(names: Iterable[str]) -> tuple[str, ...]:
    """Return ``names`` with all that they use, in the order of the file."""
    known = sections()
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += known[name].uses
    return tuple(name for name in known if name in found)
