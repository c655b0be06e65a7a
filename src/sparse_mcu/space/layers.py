"""An architecture as the flat list of layers that runs: the one place that infers shapes.

The trainable network, the cost of a network and the integer graph all walk this list; nothing else derives a shape.
Layers come in an order in which each follows those it reads. Shapes are (channels, height, width).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from sparse_mcu.errors import ArchitectureError
from sparse_mcu.space.architecture import Architecture, Block, Conv, Pool, Size

INPUT = "input"
LOGITS = "logits"
Shape = tuple[int, int, int]
Operation = Literal["conv", "depthwise", "linear", "max_pool", "average_pool", "add"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation. ``padding`` is (top, left, bottom, right) zeros; a linear layer's kernel is its whole input map."""

    name: str
    op: Operation
    inputs: tuple[str, ...]  # names of earlier layers, or INPUT
    in_shape: Shape
    out_shape: Shape
    kernel: Size = (1, 1)
    stride: Size = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    batch_norm: bool = False
    relu: bool = False

    @property
    def weight_shape(self) -> tuple[int, ...] | None:
        """(O, I, KH, KW) for a convolution, (C, 1, KH, KW) depthwise, (O, C*H*W) linear; None for a layer without weights."""
        out_channels, in_channels = self.out_shape[0], self.in_shape[0]
        if self.op == "conv":
            return (out_channels, in_channels, *self.kernel)
        if self.op == "depthwise":
            return (in_channels, 1, *self.kernel)
        if self.op == "linear":
            return (out_channels, math.prod(self.in_shape))
        return None

    @property
    def weights(self) -> int:
        """Number of weights, without bias."""
        shape = self.weight_shape
        return 0 if shape is None else math.prod(shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense layer, taps that fall on padding included."""
        out_height, out_width = self.out_shape[1:]
        return self.weights * out_height * out_width


def layers(architecture: Architecture) -> tuple[Layer, ...]:
    """Return the layers of ``architecture``; the last is named LOGITS and its output is (classes, 1, 1).

    A routed block's fully connected layer follows its block at once, so that its feature map need not be kept.
    Raises ArchitectureError where the architecture cannot be built, naming the layer and the shape that does not fit.
    """
    _check_ends(architecture)
    chain = _Chain(architecture.input_shape)
    if architecture.downsample is not None:
        chain.pool("downsample", architecture.downsample)
    last = len(architecture.blocks) - 1
    single = not any(block.branch for block in architecture.blocks[:last])
    summands: list[str] = []
    for index, block in enumerate(architecture.blocks):
        _block(chain, f"block{index}", block)
        if block.branch or index == last:
            summands.append(_route(chain, architecture, len(summands), single))
    _classify(chain, architecture, summands)
    return tuple(chain.layers)


def conv_shape(name: str, shape: Shape, conv: Conv) -> Shape:
    """Return the output shape of ``conv`` on ``shape``; raises ArchitectureError, naming ``name``, where it does not fit."""
    _check_positive(f"{name}.channels, kernel and stride", (conv.channels, *conv.kernel, *conv.stride))
    top, left, bottom, right = _padding(conv)
    height = _extent(name, shape[1], conv.kernel[0], conv.stride[0], top + bottom)
    width = _extent(name, shape[2], conv.kernel[1], conv.stride[1], left + right)
    return conv.channels, height, width


def pool_shape(name: str, shape: Shape, pool: Pool) -> Shape:
    """Return the output shape of ``pool`` on ``shape``; raises ArchitectureError, naming ``name``, where it does not fit."""
    _check_positive(f"{name}.window", pool.window)
    channels, height, width = shape
    if pool.window[0] > height or pool.window[1] > width:
        raise ArchitectureError(f"a pooling window must fit its input, but {name} is {pool.window} on {(height, width)}")
    return channels, height // pool.window[0], width // pool.window[1]


class _Chain:
    """Appends layers, each reading the one before."""

    def __init__(self, input_shape: Shape) -> None:
        _check_positive("input_shape", input_shape)
        self.layers: list[Layer] = []
        self.name = INPUT
        self.shape = input_shape

    def append(self, layer: Layer) -> None:
        self.layers.append(layer)
        self.name, self.shape = layer.name, layer.out_shape

    def pool(self, name: str, pool: Pool) -> None:
        op: Operation = "max_pool" if pool.kind == "max" else "average_pool"
        out_shape = pool_shape(name, self.shape, pool)
        self.append(Layer(name, op, (self.name,), self.shape, out_shape, kernel=pool.window, stride=pool.window))

    def conv(self, name: str, conv: Conv, *, depthwise: bool = False) -> None:
        op: Operation = "depthwise" if depthwise else "conv"
        out_shape = conv_shape(name, self.shape, conv)
        shape, reads, padding = self.shape, (self.name,), _padding(conv)
        self.append(Layer(name, op, reads, shape, out_shape, conv.kernel, conv.stride, padding, conv.batch_norm, relu=True))

    def linear(self, name: str, units: int, *, relu: bool) -> None:
        shape = self.shape
        self.append(Layer(name, "linear", (self.name,), shape, (units, 1, 1), kernel=shape[1:], relu=relu))

    def pointwise(self, name: str, channels: int, batch_norm: bool) -> None:
        self.conv(name, Conv("regular", (1, 1), channels, batch_norm=batch_norm))


def _block(chain: _Chain, name: str, block: Block) -> None:
    if not block.convs:
        raise ArchitectureError(f"a block needs at least one convolution, but {name} has none")
    if block.residual and len(block.convs) < 2:
        raise ArchitectureError(f"a residual connection spans two convolutions, but {name} has {len(block.convs)}")
    for index, conv in enumerate(block.convs):
        if block.residual and index == len(block.convs) - 2:
            shortcut, shortcut_shape = chain.name, chain.shape
        _conv(chain, f"{name}.conv{index}", conv)
    if block.residual:
        if chain.shape != shortcut_shape:
            raise ArchitectureError(
                f"a residual connection joins equal shapes, but {name} joins {shortcut_shape} and {chain.shape}"
            )
        chain.append(Layer(f"{name}.add", "add", (shortcut, chain.name), chain.shape, chain.shape))
    if block.pool is not None:
        chain.pool(f"{name}.pool", block.pool)


def _conv(chain: _Chain, name: str, conv: Conv) -> None:
    if (conv.kind == "reduced") != (conv.reduced_channels is not None):
        raise ArchitectureError(
            f"reduced_channels goes with kind 'reduced', but {name} is {conv.kind!r} with {conv.reduced_channels}"
        )
    if conv.kind == "separable":
        chain.conv(f"{name}.depthwise", replace(conv, channels=chain.shape[0]), depthwise=True)
        chain.pointwise(f"{name}.pointwise", conv.channels, conv.batch_norm)
    elif conv.reduced_channels is not None:
        chain.pointwise(f"{name}.reduce", conv.reduced_channels, conv.batch_norm)
        chain.conv(f"{name}.full", conv)
    else:
        chain.conv(name, conv)


def _route(chain: _Chain, architecture: Architecture, index: int, single: bool) -> str:
    """Append the classifier's layers that read the block just built; the chain goes on from the block. Return their output."""
    block = chain.name, chain.shape
    if architecture.head.kind == "global" and chain.shape[1:] != (1, 1):
        chain.pool(f"head{index}.global", Pool("average", chain.shape[1:]))
    name, units, relu = _first_stage(architecture)
    if single:
        chain.linear(name, units, relu=relu)
    else:
        chain.linear(f"head{index}.linear", units, relu=False)  # the sum goes through the ReLU, not its parts
    output = chain.name
    chain.name, chain.shape = block
    return output


def _classify(chain: _Chain, architecture: Architecture, summands: list[str]) -> None:
    """Append the sum of the routed outputs and, behind a hidden layer, the logits."""
    name, units, relu = _first_stage(architecture)
    chain.name, chain.shape = summands[-1], (units, 1, 1)
    if len(summands) > 1:
        chain.append(Layer(name, "add", tuple(summands), chain.shape, chain.shape, relu=relu))
    if architecture.head.hidden is not None:
        chain.linear(LOGITS, architecture.classes, relu=False)


def _first_stage(architecture: Architecture) -> tuple[str, int, bool]:
    """Name, units and ReLU of what the routed outputs sum to: the hidden layer, or else the logits."""
    hidden = architecture.head.hidden
    return (LOGITS, architecture.classes, False) if hidden is None else ("hidden", hidden, True)


def _check_ends(architecture: Architecture) -> None:
    if not architecture.blocks:
        raise ArchitectureError("an architecture needs at least one block, but has none")
    if architecture.classes < 2:
        raise ArchitectureError(f"a classifier needs at least 2 classes, but has {architecture.classes}")
    if architecture.head.hidden is not None:
        _check_positive("head.hidden", (architecture.head.hidden,))


def _padding(conv: Conv) -> tuple[int, int, int, int]:
    """(top, left, bottom, right). "same" keeps the size at stride 1; an even kernel takes the extra row or column after."""
    if conv.padding == "valid":
        return (0, 0, 0, 0)
    height, width = conv.kernel
    return ((height - 1) // 2, (width - 1) // 2, height // 2, width // 2)


def _extent(name: str, extent: int, kernel: int, stride: int, padding: int) -> int:
    if extent + padding < kernel:
        raise ArchitectureError(f"a kernel must fit its input, but {name} has kernel {kernel} on {extent} with padding {padding}")
    return (extent + padding - kernel) // stride + 1


def _check_positive(what: str, values: tuple[int, ...]) -> None:
    if min(values) < 1:
        raise ArchitectureError(f"{what} must be at least 1, but is {values}")
