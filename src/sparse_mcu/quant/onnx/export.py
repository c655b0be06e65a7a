"""An integer graph as an ONNX file of QuantizeLinear and DequantizeLinear around float operators, which other tools read.

What an operation writes is quantised to the graph's integers. A reader dequantises them by the scale that makes its multipliers
come out: a sum of input_i * m_i >> shift reads input i by m_i s_y / 2**shift, s_y being the real value of a step of the output.
Weights and biases are the graph's own integers. ONNX does two things otherwise: sums are float32, and halves go to even integers.
Where halves are frequent, in averages and additions, less than what separates other values from them is added: then they go up.
Tensors are (N, C, H, W); the input is real, from 0 to 1.
"""

from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
import numpy.typing as npt

from sparse_mcu.errors import UserError
from sparse_mcu.quant.graph import (
    INPUT,
    Add,
    AveragePool2d,
    Conv2d,
    Convolution,
    DepthwiseConv2d,
    IntegerGraph,
    MaxPool2d,
    Op,
    TensorType,
    digest,
)

if TYPE_CHECKING:
    import onnx

OPSET = 21  # the first whose QuantizeLinear writes int16
IR_VERSION = 10
IMAGE, LOGITS = "image", "logits"


def qdq_bytes(graph: IntegerGraph) -> bytes:
    """Return ``graph`` as the content of an ONNX file. Raises UserError where onnx is not installed."""
    try:
        import onnx  # noqa: F401 (the writer imports its parts)
    except ImportError:
        raise UserError("writing ONNX needs the onnx package, which is missing: pip install 'sparse-mcu[onnx]'") from None
    return bytes(_Writer(graph).model().SerializeToString())


def integers(tensor: str) -> str:
    """Return the name in the file of the integers of ``tensor``."""
    return f"{tensor}.integers"


class _Writer:
    """Nodes and constants so far. Every name but IMAGE and LOGITS has an ending, so that none is that of another operation."""

    def __init__(self, graph: IntegerGraph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def model(self) -> "onnx.ModelProto":
        from onnx import TensorProto, helper

        self._quantise(IMAGE, INPUT)
        for op in self.graph.ops:
            self._quantise(self._real(op), op.name)
        scale = self.graph.tensors[self.graph.output].scale
        self._node("Flatten", [self._dequantised(self.graph.output, LOGITS, scale)], LOGITS)
        height, width, channels = self.graph.tensors[INPUT].shape
        inputs = [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, ("N", channels, height, width))]
        outputs = [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ("N", self.graph.classes))]
        graph = helper.make_graph(self.nodes, "sparse-mcu", inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name, model.doc_string = "sparse-mcu", f"integer graph {digest(self.graph)}"
        return model

    def _real(self, op: Op) -> str:
        """Append the float operator of ``op``; return the name of its result."""
        output = self.graph.tensors[op.name]
        match op:
            case Conv2d() | DepthwiseConv2d():
                return self._convolution(op, self.graph.tensors[op.inputs[0]], output)
            case MaxPool2d():
                x = self._dequantised(op.inputs[0], op.name, output.scale)
                return self._node("MaxPool", [x], f"{op.name}.real", kernel_shape=op.window, strides=op.window)
            case AveragePool2d():
                count = op.window[0] * op.window[1]
                x = self._dequantised(op.inputs[0], op.name, count * op.multiplier * output.scale / 2**op.shift)
                mean = self._node("AveragePool", [x], f"{op.name}.mean", kernel_shape=op.window, strides=op.window)
                # Means, in steps of the output, lie 1 / (2 count) or more from the halves that they do not meet.
                upward = self._constant(f"{op.name}.upward", _real(output.scale / (4 * count)))
                return self._node("Add", [mean, upward], f"{op.name}.real")
            case Add():
                step = output.scale / 2**op.shift
                summands = [
                    self._dequantised(name, op.name, multiplier * step)
                    for name, multiplier in zip(op.inputs, op.multiplier, strict=True)
                ]
                return self._node("Sum", [*summands, self._constant(f"{op.name}.upward", _real(step / 4))], f"{op.name}.real")
            case _:
                assert_never(op)

    def _convolution(self, op: Convolution, source: TensorType, output: TensorType) -> str:
        sum_scale = op.multiplier / 2.0**op.shift * output.scale  # (O,), the real value of a step of the sum
        depthwise = isinstance(op, DepthwiseConv2d)
        weights = op.weights[None].transpose(3, 0, 1, 2) if depthwise else op.weights.transpose(0, 3, 1, 2)
        parts = {"weights": (weights, sum_scale / source.scale), "bias": (op.bias, sum_scale)}
        constants = []
        for name, (values, scale) in parts.items():
            stored = self._constant(f"{op.name}.{name}.stored", np.ascontiguousarray(values))
            scales = self._constant(f"{op.name}.{name}.scale", _real(scale))
            constants.append(self._node("DequantizeLinear", [stored, scales], f"{op.name}.{name}.real", axis=0))
        x = self._dequantised(op.inputs[0], op.name, source.scale)
        group = len(weights) if depthwise else 1
        return self._node("Conv", [x, *constants], f"{op.name}.real", strides=op.stride, pads=op.padding, group=group)

    def _quantise(self, real: str, tensor: str) -> None:
        """Round and clamp to the integers of ``tensor``; the clamp of a uint8 is the ReLU."""
        kind = self.graph.tensors[tensor]
        scale = self._constant(f"{tensor}.scale", _real(kind.scale))
        zero = self._constant(f"{tensor}.zero", np.zeros((), kind.dtype))
        self._node("QuantizeLinear", [real, scale, zero], integers(tensor))

    def _dequantised(self, tensor: str, reader: str, scale: float) -> str:
        """Append what ``reader`` takes the integers of ``tensor`` for."""
        name = f"{tensor} for {reader}"
        zero = self._constant(f"{name}.zero", np.zeros((), self.graph.tensors[tensor].dtype))
        return self._node(
            "DequantizeLinear", [integers(tensor), self._constant(f"{name}.scale", _real(scale)), zero], f"{name}.real"
        )

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op} {output}", **attributes))
        return output

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _real(value: npt.ArrayLike) -> npt.NDArray[np.float32]:
    return np.asarray(value, np.float32)
