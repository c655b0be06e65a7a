"""Reads parsed JSON into frozen dataclasses by their annotations; what does not fit raises, nothing is dropped."""

import dataclasses
import types
import typing
from typing import Any, Literal

from sparse_mcu.errors import ArchitectureError

ADDED = ("weight_bits",)  # fields that came later: what was written before them means their defaults


def read(kind: Any, value: Any, where: str) -> Any:
    """Read ``value`` as the annotated type ``kind``; ``where`` names it in messages.

    Knows dataclasses, Literal, ``X | None``, tuples and the scalars of JSON; an int is read as a float where one is asked for.
    Raises ArchitectureError on a missing or unknown key or a value of the wrong type.
    """
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
        raise ArchitectureError(f"{where} must be one of {', '.join(map(repr, arguments))}, but is {value!r}")
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        (inner,) = (a for a in arguments if a is not type(None))
        return read(inner, value, where)
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    return _read_scalar(kind, value, where)


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ArchitectureError(f"{where} must be an object, but is {value!r}")
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    unknown = sorted(set(value) - {f.name for f in fields})
    if unknown:
        raise ArchitectureError(f"{where} has no field {unknown[0]!r}")
    missing = [f.name for f in fields if f.name not in value and f.name not in ADDED]
    if missing:
        raise ArchitectureError(f"{where} lacks the field {missing[0]!r}")
    return kind(**{name: read(hints[name], part, f"{where}.{name}") for name, part in value.items()})


def _read_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ArchitectureError(f"{where} must be a list, but is {value!r}")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise ArchitectureError(f"{where} must have {len(arguments)} items, but has {len(value)}")
    return tuple(read(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))


def _read_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ArchitectureError(f"{where} must be of type {kind.__name__}, but is {value!r}")
    return value
