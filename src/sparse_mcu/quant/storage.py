"""Integer graphs as files: safetensors for the arrays, JSON in its metadata for the rest. Nothing is ever unpickled.

docs/integer-arithmetic.md describes the format. A file carries the SHA-256 of its content: damage never becomes a network.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from sparse_mcu.errors import UserError
from sparse_mcu.quant.graph import (
    Add,
    AveragePool2d,
    Conv2d,
    DepthwiseConv2d,
    IntegerGraph,
    MaxPool2d,
    Op,
    TensorType,
    arrays,
    content_digest,
    describe,
)
from sparse_mcu.quant.verify import GraphError, verify

FORMAT = "sparse-mcu integer graph"  # the one key of the metadata: several would come in random order
VERSION = 1
_OPS: dict[str, type[Op]] = {kind.__name__: kind for kind in (Conv2d, DepthwiseConv2d, MaxPool2d, AveragePool2d, Add)}


class GraphFileError(UserError):
    """A file that cannot be written, or that holds no integer graph which this version can read."""


def save(graph: IntegerGraph, path: Path) -> None:
    """Write ``graph`` to ``path`` under a temporary name, then rename: a crash leaves the old file or the new, never half."""
    description, tensors = describe(graph), arrays(graph)
    record = {"version": VERSION, "sha256": content_digest(description, tensors), "graph": description}
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    data = serialise(contiguous, {FORMAT: json.dumps(record)})
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise GraphFileError(f"cannot write {path}: {error.strerror or error}; make room there or name another place") from None


def load(path: Path) -> IntegerGraph:
    """Read the graph that ``save`` wrote to ``path``; raises GraphFileError where that is not what the file holds."""
    try:
        with safe_open(path, framework="numpy") as file:
            record = _read_record(path, file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except OSError as error:
        raise GraphFileError(f"cannot read {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise GraphFileError(f"an integer graph is a safetensors file, but {path} is not one or is damaged: {error}") from None
    if content_digest(record["graph"], tensors) != record["sha256"]:
        raise GraphFileError(f"a graph's file must hold what its SHA-256 says, but {path} does not: it is damaged")
    graph = _read_graph(record["graph"], tensors)
    try:
        verify(graph)
    except GraphError as error:
        raise GraphFileError(f"{path} holds a graph that breaks a rule: {error}") from error
    return graph


def _read_record(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the version, SHA-256 and description in a file's metadata."""
    if FORMAT not in metadata:
        raise GraphFileError(f"an integer graph's file says so in its metadata, but {path} does not; name another file")
    try:
        record = json.loads(metadata[FORMAT])
    except json.JSONDecodeError as error:
        raise GraphFileError(f"the metadata of an integer graph is JSON, but {path} is damaged: {error}") from None
    version = record.get("version") if isinstance(record, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise GraphFileError(
            f"this sparse-mcu reads graphs up to format {VERSION}, but {path} has format {version}; use the newer sparse-mcu"
        )
    if version != VERSION or set(record) != {"version", "sha256", "graph"}:
        raise GraphFileError(f"a graph's file has a version, a SHA-256 and a graph, but {path} has not: it is damaged")
    return cast(dict[str, Any], record)


def _read_graph(description: dict[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> IntegerGraph:
    """Build the graph from ``describe``'s JSON, parsed, and ``arrays``'s arrays."""
    types = {name: TensorType(**_tuples(value)) for name, value in description["tensors"].items()}
    return IntegerGraph(tuple(_read_op(value, tensors) for value in description["ops"]), types)


def _read_op(value: dict[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> Op:
    kind = _OPS[value["op"]]
    parts = _tuples({name: part for name, part in value.items() if name != "op"})
    parts |= {f.name: tensors[f"{value['name']}/{f.name}"] for f in fields(kind) if f.name not in parts}
    return kind(**parts)


def _tuples(value: dict[str, Any]) -> dict[str, Any]:
    """Turn JSON's lists into the tuples that they were."""
    return {name: tuple(part) if isinstance(part, list) else part for name, part in value.items()}
