"""An ONNX file as plain values: nodes, constants, the names of input and output. All that is known of onnx's own classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sparse_mcu.errors import NetworkError

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]
# Behind the logits these change neither which is largest nor, in a batch of one, where it stands.
TRAILING = frozenset(("ArgMax", "LogSoftmax", "Sigmoid", "Softmax"))
TRAILING |= frozenset(("Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze"))
NEWEST = frozenset(
    ("DequantizeLinear", "QuantizeLinear")
)  # onnx computes only the latest versions of these, which take older nodes


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A node; ``str`` names it in messages."""

    op: str
    name: str  # its own, or else that of what it writes
    inputs: tuple[str, ...]  # "" where one is left out
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    proto: "onnx.NodeProto"

    def __str__(self) -> str:
        return f"{self.op} {self.name!r}"


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A network: ``nodes`` in order, those that the output needs; one input, one output, which are the logits."""

    path: Path
    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    input: str
    input_shape: tuple[int | None, ...]  # None where the file leaves it open
    output: str
    opsets: "Sequence[onnx.OperatorSetIdProto]"

    def evaluate(self, node: Node, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return what ``node`` computes from constant ``inputs``."""
        from onnx import defs, helper
        from onnx.reference import ReferenceEvaluator

        opsets = [helper.make_opsetid("", defs.onnx_opset_version())] if node.op in NEWEST else self.opsets
        values = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.outputs if name]
        graph = helper.make_graph([node.proto], "constants", values, outputs)
        names = [output.name for output in outputs]
        try:
            results = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(names, dict(inputs))
        except (NotImplementedError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise NetworkError(f"it must be computable, its inputs being constant, but is not: {error}") from error
        return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}


def read_model(path: Path) -> Model:
    """Read the ONNX file at ``path``. Raises NetworkError where it is none, or has several inputs or outputs."""
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from onnx import numpy_helper
    except ImportError:
        raise NetworkError("reading ONNX needs the onnx package, which is missing: pip install 'sparse-mcu[onnx]'") from None
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except OSError as error:
        raise NetworkError(f"cannot read {path}: {error.strerror or error}") from None
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise NetworkError(f"{path} must be an ONNX file, but is not one or is damaged: {str(error).splitlines()[0]}") from None
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    given = [value for value in proto.graph.input if value.name not in constants]
    inputs, outputs = [value.name for value in given], [value.name for value in proto.graph.output]
    if len(inputs) != 1 or len(outputs) != 1:
        raise NetworkError(f"a network must have one input and one output, but {path} has {_list(inputs)} and {_list(outputs)}")
    nodes = [_node(node) for node in proto.graph.node]
    output = _logits(nodes, outputs[0])
    shape = tuple(d.dim_value or None for d in given[0].type.tensor_type.shape.dim)
    return Model(path, _needed(nodes, output), constants, inputs[0], shape, output, list(proto.opset_import))


def _node(proto: "onnx.NodeProto") -> Node:
    from onnx import helper

    attributes = {attribute.name: _plain(helper.get_attribute_value(attribute)) for attribute in proto.attribute}
    name = proto.name or next(filter(None, proto.output), "")
    return Node(proto.op_type, name, tuple(proto.input), tuple(proto.output), attributes, proto)


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _logits(nodes: Sequence[Node], output: str) -> str:
    """Return the tensor that everything TRAILING in front of ``output`` reads."""
    writers = {name: node for node in nodes for name in node.outputs}
    while output in writers and writers[output].op in TRAILING:
        output = writers[output].inputs[0]
    return output


def _needed(nodes: Sequence[Node], output: str) -> tuple[Node, ...]:
    """Return the nodes that ``output`` depends on, in their order."""
    wanted = {output}
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return tuple(reversed(kept))


def _list(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})"
