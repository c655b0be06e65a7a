import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy.access import NEVER, first_reads, gathers, item_bytes, lead, scratch_bytes, tensor_bytes
from sparse_mcu.quant.graph import Add, Conv2d, DepthwiseConv2d, MaxPool2d, Op, TensorType
from sparse_mcu.quant.random_graph import random_graph


def bytes_read(op: Op, source: TensorType, output: TensorType, element: int) -> list[int]:
    """Which bytes of its (first) input a kernel reads for an output element, by the definition of the operation."""
    _, out_width, channels = output.shape
    position, channel = divmod(element, channels)
    if isinstance(op, Add):
        return [element * item_bytes(source) + byte for byte in range(item_bytes(source))]
    if isinstance(op, Conv2d) and gathers(op, source) and channel > 0:
        return []  # the window is in scratch by now
    y, x = divmod(position, out_width)
    if isinstance(op, Conv2d | DepthwiseConv2d):
        (kernel_height, kernel_width), (down, right), (pad_top, pad_left) = op.kernel, op.stride, op.padding[:2]
    else:
        (kernel_height, kernel_width), (down, right), (pad_top, pad_left) = op.window, op.window, (0, 0)
    height, width, depth = source.shape
    own = range(depth) if isinstance(op, Conv2d) else [channel]
    return [
        (row * width + column) * depth + c
        for row in range(y * down - pad_top, y * down - pad_top + kernel_height)
        for column in range(x * right - pad_left, x * right - pad_left + kernel_width)
        for c in own
        if 0 <= row < height and 0 <= column < width
    ]


def overlap_is_safe(op: Op, source: TensorType, output: TensorType, begin: int) -> bool:
    """Whether no byte is written before its last read if the output begins at ``begin``, seen from the input's begin."""
    written: set[int] = set()
    size = item_bytes(output)
    for element in range(math.prod(output.shape)):
        if not written.isdisjoint(bytes_read(op, source, output, element)):
            return False
        written.update(range(begin + element * size, begin + (element + 1) * size))
    return True


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_an_output_may_begin_its_lead_before_the_input_and_no_later(seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed))
    for op in graph.ops:
        source, output = graph.tensors[op.inputs[0]], graph.tensors[op.name]
        least = lead(op, source, output)
        assert overlap_is_safe(op, source, output, -least)
        assert overlap_is_safe(op, source, output, -least - 1)
        if least > -tensor_bytes(source):
            assert not overlap_is_safe(op, source, output, -least + 1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_first_reads_are_the_lowest_bytes_read(seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed))
    for op in graph.ops:
        source, output = graph.tensors[op.inputs[0]], graph.tensors[op.name]
        expected = [min(bytes_read(op, source, output, element), default=NEVER) for element in range(math.prod(output.shape))]
        assert first_reads(op, source, output).tolist() == expected


def convolution(kernel: tuple[int, int], channels: int, **geometry: tuple[int, ...]) -> Conv2d:
    one = np.ones(2, np.int32)
    return Conv2d("conv", ("input",), np.ones((2, *kernel, channels), np.int8), one, one, one, **geometry)  # type: ignore[arg-type]


def test_pools_and_additions_run_in_place() -> None:
    image, half = TensorType((8, 8, 3), "uint8", 1.0), TensorType((4, 4, 3), "uint8", 1.0)
    assert lead(MaxPool2d("pool", ("input",), (2, 2)), image, half) <= 0
    assert lead(Add("add", ("a", "b"), (1, 1), 0), image, image) <= 0


def test_a_same_convolution_leads_by_about_a_row_of_its_kernel() -> None:
    image = TensorType((8, 8, 2), "uint8", 1.0)
    op = convolution((3, 3), 2, padding=(1, 1, 1, 1))
    # The last window but one is written when the last one still reads from row 6, column 6 on.
    assert lead(op, image, image) == 63 * 2 - (6 * 8 + 6) * 2


def test_only_windows_in_pieces_are_gathered() -> None:
    image, line = TensorType((6, 5, 3), "uint8", 1.0), TensorType((1, 20, 3), "uint8", 1.0)
    assert not gathers(convolution((1, 1), 3), image)
    assert not gathers(convolution((2, 5), 3), image)
    assert not gathers(convolution((1, 4), 3), line)
    assert gathers(convolution((2, 4), 3), image)
    assert gathers(convolution((1, 4), 3, padding=(0, 1, 0, 1)), line)
    assert scratch_bytes(convolution((2, 4), 3), image) == 24
    assert scratch_bytes(convolution((1, 4), 3), line) == 0
    one = np.ones(3, np.int32)
    assert scratch_bytes(DepthwiseConv2d("d", ("input",), np.ones((2, 4, 3), np.int8), one, one, one), image) == 8
