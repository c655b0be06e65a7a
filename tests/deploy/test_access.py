import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy.access import accesses, item_bytes, lead, scratch_bytes, tensor_bytes, twice
from sparse_mcu.deploy.stages import Stage, stages
from sparse_mcu.quant.graph import Add, AveragePool2d, Conv2d, DepthwiseConv2d, MaxPool2d, Op, TensorType
from sparse_mcu.quant.random_graph import random_graph


def elements_of_steps(stage: Stage, output: TensorType, in_pairs: bool) -> list[range]:
    """Which output elements a kernel computes in each of its steps."""
    height, width, channels = output.shape
    size = 1
    if isinstance(stage.op, Conv2d | DepthwiseConv2d):
        size = channels * (
            2 if in_pairs and isinstance(stage.op, Conv2d) and stage.windows == (1, 1) and height * width > 1 else 1
        )
    total = height * width * channels
    return [range(first, min(first + size, total)) for first in range(0, total, size)]


def bytes_read(stage: Stage, source: TensorType, output: TensorType, element: int) -> set[int]:
    """Which bytes of its (first) input an output element depends on, by the definition of its operations."""
    op = stage.op
    position, channel = divmod(element, output.shape[2])
    if isinstance(op, Add):
        return {element * item_bytes(source) + byte for byte in range(item_bytes(source))}
    y, x = divmod(position, output.shape[1])
    if isinstance(op, MaxPool2d | AveragePool2d):
        return window_bytes(source, (y * op.window[0], x * op.window[1]), op.window, channel, depthwise=True)
    down, across = stage.windows
    return {
        byte
        for window_y in range(y * down, (y + 1) * down)
        for window_x in range(x * across, (x + 1) * across)
        for byte in window_bytes(
            source,
            (window_y * op.stride[0] - op.padding[0], window_x * op.stride[1] - op.padding[1]),
            op.kernel,
            channel,
            depthwise=isinstance(op, DepthwiseConv2d),
        )
    }


def window_bytes(source: TensorType, corner: tuple[int, int], size: tuple[int, int], channel: int, depthwise: bool) -> set[int]:
    height, width, depth = source.shape
    return {
        (row * width + column) * depth + c
        for row in range(max(corner[0], 0), min(corner[0] + size[0], height))
        for column in range(max(corner[1], 0), min(corner[1] + size[1], width))
        for c in ([channel] if depthwise else range(depth))
    }


def overlap_is_safe(stage: Stage, source: TensorType, output: TensorType, begin: int, in_pairs: bool, early: int = 0) -> bool:
    """Whether no byte is written before its last read if the output begins at ``begin``, seen from the input's begin."""
    written: set[int] = set()
    size = item_bytes(output)
    for step in elements_of_steps(stage, output, in_pairs):
        if any(not written.isdisjoint(bytes_read(stage, source, output, element)) for element in step):
            return False
        written.update(range(begin + step.start * size, begin + step.start * size + early))
        if early and any(not written.isdisjoint(bytes_read(stage, source, output, element)) for element in step):
            return False
        written.update(range(begin + step.start * size, begin + step.stop * size))
    return True


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), in_pairs=st.booleans())
def test_an_output_may_begin_its_lead_before_the_input_and_no_later(seed: int, in_pairs: bool) -> None:
    graph = random_graph(np.random.default_rng(seed))
    for stage in stages(graph):
        source, output = graph.tensors[stage.op.inputs[0]], graph.tensors[stage.name]
        least = lead(stage, source, output, in_pairs)
        assert overlap_is_safe(stage, source, output, -least, in_pairs)
        assert overlap_is_safe(stage, source, output, -least - 1, in_pairs)
        if least > -tensor_bytes(source):
            assert not overlap_is_safe(stage, source, output, -least + 1, in_pairs)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_an_output_that_is_written_early_begins_before_what_is_still_read_for_it(seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed))
    for stage in stages(graph):
        source, output = graph.tensors[stage.op.inputs[0]], graph.tensors[stage.name]
        if not isinstance(stage.op, Conv2d) or output.shape[2] < 2 or item_bytes(output) > 1:
            continue
        early = output.shape[2] // 2
        least = lead(stage, source, output, in_pairs=False, early=early)
        assert overlap_is_safe(stage, source, output, -least, False, early)
        assert overlap_is_safe(stage, source, output, -least - 1, False, early)
        assert not overlap_is_safe(stage, source, output, -least + 1, False, early)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), in_pairs=st.booleans())
def test_accesses_are_the_lowest_bytes_read_and_the_ends_of_what_is_written(seed: int, in_pairs: bool) -> None:
    graph = random_graph(np.random.default_rng(seed))
    for stage in stages(graph):
        source, output = graph.tensors[stage.op.inputs[0]], graph.tensors[stage.name]
        steps = elements_of_steps(stage, output, in_pairs)
        reads, written = accesses(stage, source, output, in_pairs)
        assert reads.tolist() == [min(min(bytes_read(stage, source, output, element)) for element in step) for step in steps]
        assert written.tolist() == [step.stop * item_bytes(output) for step in steps]
        assert written[-1] == tensor_bytes(output) == math.prod(output.shape) * item_bytes(output)


def convolution(kernel: tuple[int, int], channels: int, **geometry: tuple[int, ...]) -> Conv2d:
    one = np.ones(2, np.int32)
    return Conv2d("conv", ("input",), np.ones((2, *kernel, channels), np.int8), one, one, one, **geometry)  # type: ignore[arg-type]


def image(height: int, width: int, channels: int) -> TensorType:
    return TensorType((height, width, channels), "uint8", 1.0)


def test_pools_and_additions_run_in_place() -> None:
    assert lead(Stage(MaxPool2d("pool", ("input",), (2, 2))), image(8, 8, 3), image(4, 4, 3)) <= 0
    assert lead(Stage(Add("add", ("a", "b"), (1, 1), 0)), image(8, 8, 3), image(8, 8, 3)) <= 0


def test_a_same_convolution_leads_by_about_a_row_of_its_kernel() -> None:
    op = convolution((3, 3), 2, padding=(1, 1, 1, 1))
    # All outputs but the last two are written when their windows still read from row 6, column 5 on.
    assert lead(Stage(op), image(8, 8, 2), image(8, 8, 2)) == 62 * 2 - (6 * 8 + 5) * 2


def test_a_fully_connected_layer_has_read_everything_before_it_writes() -> None:
    assert lead(Stage(convolution((4, 4), 3)), image(4, 4, 3), image(1, 1, 2)) == -4 * 4 * 3


def scratch(op: Op, output: TensorType, pool: MaxPool2d | None = None) -> tuple[bool, int]:
    stage = Stage(op, pool)
    return twice(stage, output), scratch_bytes(stage, output)


def test_scratch_holds_the_sums_of_an_even_number_of_channels() -> None:
    one = np.ones(3, np.int32)
    pool = MaxPool2d("pool", ("conv",), (2, 2))
    depthwise = DepthwiseConv2d("depthwise", ("input",), np.ones((2, 4, 3), np.int8), one, one, one)
    assert scratch(convolution((2, 4), 3), image(4, 4, 3)) == (True, 2 * 4 * 4)
    assert scratch(convolution((2, 4), 3), image(2, 2, 2), pool) == (False, 2 * 4)
    assert scratch(convolution((2, 4), 3), image(1, 1, 2)) == (False, 2 * 4)
    assert scratch(convolution((2, 4), 3), image(1, 1, 2), pool) == (False, 2 * 4)
    assert scratch(depthwise, image(4, 4, 3)) == (False, 4 * 4)
    assert scratch(pool, image(4, 4, 3)) == (False, 0)
