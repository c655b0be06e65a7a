"""An architecture as the flat list of layers that runs: the one place that infers shapes.

The trainable network, the cost of a network and the integer graph all walk this list; nothing else derives a shape.
Layers come in an order in which each follows those it reads. Shapes are (channels, height, width).
"""

import math
from dataclasses import dataclass
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

    Raises ArchitectureError where the architecture cannot be built, naming the layer and the shape that does not fit.
    """
    chain = _Chain(architecture.input_shape)
    if architecture.downsample is not None:
        chain.pool("downsample", architecture.downsample)
    if not architecture.blocks:
        raise ArchitectureError("an architecture needs at least one block, but has none")
    routed: list[tuple[str, Shape]] = []
    for index, block in enumerate(architecture.blocks):
        _block(chain, f"block{index}", block)
        if block.branch or index == len(architecture.blocks) - 1:
            routed.append((chain.name, chain.shape))
    _head(chain, architecture, routed)
    return tuple(chain.layers)


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
        _check_positive(f"{name}.window", pool.window)
        channels, *size = self.shape
        out = tuple(extent // window for extent, window in zip(size, pool.window, strict=True))
        if min(out) < 1:
            raise ArchitectureError(f"a pooling window must fit its input, but {name} is {pool.window} on {tuple(size)}")
        op: Operation = "max_pool" if pool.kind == "max" else "average_pool"
        self.append(Layer(name, op, (self.name,), self.shape, (channels, *out), kernel=pool.window, stride=pool.window))

    def conv(self, name: str, channels: int, conv: Conv, *, depthwise: bool = False) -> None:
        _check_positive(f"{name}.channels, kernel and stride", (channels, *conv.kernel, *conv.stride))
        padding = _same_padding(conv.kernel) if conv.padding == "same" else (0, 0, 0, 0)
        height = _extent(name, self.shape[1], conv.kernel[0], conv.stride[0], padding[0] + padding[2])
        width = _extent(name, self.shape[2], conv.kernel[1], conv.stride[1], padding[1] + padding[3])
        op: Operation = "depthwise" if depthwise else "conv"
        out_shape = (channels, height, width)
        self.append(
            Layer(
                name,
                op,
                (self.name,),
                self.shape,
                out_shape,
                conv.kernel,
                conv.stride,
                padding,
                conv.batch_norm,
                relu=True,
            )
        )

    def pointwise(self, name: str, channels: int, batch_norm: bool) -> None:
        self.conv(name, channels, Conv("regular", (1, 1), channels, batch_norm=batch_norm))


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
        chain.conv(f"{name}.depthwise", chain.shape[0], conv, depthwise=True)
        chain.pointwise(f"{name}.pointwise", conv.channels, conv.batch_norm)
    elif conv.reduced_channels is not None:
        chain.pointwise(f"{name}.reduce", conv.reduced_channels, conv.batch_norm)
        chain.conv(f"{name}.full", conv.channels, conv)
    else:
        chain.conv(name, conv.channels, conv)


def _head(chain: _Chain, architecture: Architecture, routed: list[tuple[str, Shape]]) -> None:
    if architecture.classes < 2:
        raise ArchitectureError(f"a classifier needs at least 2 classes, but has {architecture.classes}")
    hidden = architecture.head.hidden
    if hidden is not None:
        _check_positive("head.hidden", (hidden,))
    units = architecture.classes if hidden is None else hidden
    name = LOGITS if hidden is None else "hidden"
    branches = []
    for index, (source, shape) in enumerate(routed):
        chain.name, chain.shape = source, shape
        if architecture.head.kind == "global" and shape[1:] != (1, 1):
            chain.pool(f"head{index}.global", Pool("average", shape[1:]))
        single = len(routed) == 1
        _linear(chain, name if single else f"head{index}.linear", units, relu=single and hidden is not None)
        branches.append(chain.name)
    if len(branches) > 1:
        shape = (units, 1, 1)
        chain.append(Layer(name, "add", tuple(branches), shape, shape, relu=hidden is not None))
    if hidden is not None:
        _linear(chain, LOGITS, architecture.classes, relu=False)


def _linear(chain: _Chain, name: str, units: int, relu: bool) -> None:
    shape = chain.shape
    chain.append(Layer(name, "linear", (chain.name,), shape, (units, 1, 1), kernel=shape[1:], relu=relu))


def _same_padding(kernel: Size) -> tuple[int, int, int, int]:
    """Padding that keeps the size at stride 1; an even kernel takes the extra row or column after."""
    height, width = kernel
    return ((height - 1) // 2, (width - 1) // 2, height // 2, width // 2)


def _extent(name: str, extent: int, kernel: int, stride: int, padding: int) -> int:
    if extent + padding < kernel:
        raise ArchitectureError(f"a kernel must fit its input, but {name} has kernel {kernel} on {extent} with padding {padding}")
    return (extent + padding - kernel) // stride + 1


def _check_positive(what: str, values: tuple[int, ...]) -> None:
    if min(values) < 1:
        raise ArchitectureError(f"{what} must be at least 1, but is {values}")
