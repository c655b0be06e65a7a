import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.kernel_costs import kernel_costs
from sparse_mcu.deploy.predict import flash_bytes
from sparse_mcu.deploy.program import check_constants, lower
from sparse_mcu.deploy.stages import stages
from sparse_mcu.errors import BoardError
from sparse_mcu.quant.graph import INPUT, Conv2d, IntegerGraph, MaxPool2d, TensorType
from sparse_mcu.quant.random_graph import random_graph
from sparse_mcu.quant.verify import GraphError

UNO = board("arduino-uno")


def fully_connected(name: str, source: str, shape: tuple[int, int, int], classes: int = 2) -> Conv2d:
    ones, shifts = np.ones(classes, np.int32), np.full(classes, 8, np.int32)
    return Conv2d(name, (source,), np.full((classes, *shape), 100, np.int8), ones, ones, shifts)


def pooled(shape: tuple[int, int, int], *names: str) -> IntegerGraph:
    """Pools of 1x1 with these names, then logits."""
    tensors = {INPUT: TensorType(shape, "uint8", 1.0)}
    ops: list[MaxPool2d | Conv2d] = []
    for name in names:
        ops.append(MaxPool2d(name, (list(tensors)[-1],), (1, 1)))
        tensors[name] = TensorType(shape, "uint8", 1.0)
    ops.append(fully_connected("logits", list(tensors)[-1], shape))
    return IntegerGraph(tuple(ops), tensors | {"logits": TensorType((1, 1, 2), "int16", 1.0)})


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_program_has_a_step_for_each_stage_and_every_kernel_that_it_calls(seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed))
    program = lower(graph, UNO, None)
    assert [step.stage for step in program.steps] == list(stages(graph))
    for step in program.steps:
        assert set(step.kernels) <= set(program.kernels)
        assert (step.weights is not None) == hasattr(step.stage.op, "weights")
    assert len({step.name for step in program.steps}) == len(program.steps)


def test_operations_may_be_called_anything() -> None:
    names = ["a.b", "a_b", "a/b", "a b_2", "été", "*/", "", "int"]
    program = lower(pooled((2, 2, 1), *names), UNO, None)
    identifiers = [step.name for step in program.steps]
    assert len(set(identifiers)) == len(names) + 1
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", identifier) for identifier in identifiers)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_known_costs_never_make_a_program_larger(seed: int) -> None:
    """Layer by layer the smallest encoding may bring a kernel that takes more than it saves."""
    graph = random_graph(np.random.default_rng(seed))
    costs = kernel_costs(UNO)
    assert flash_bytes(lower(graph, UNO, costs), costs) <= flash_bytes(lower(graph, UNO, None), costs)


def test_a_second_encoding_must_save_more_than_its_kernel_takes() -> None:
    graph = pooled((16, 16, 1))
    costs = kernel_costs(UNO)
    dense_only = lower(graph, UNO, costs)
    assert "sums_gaps" not in dense_only.kernels
    (logits,) = graph.ops
    assert isinstance(logits, Conv2d)
    for weight, zeros, kept in (
        (100, 0, "pairs"),
        (100, 128, "bitmap"),
        (100, 250, "gaps"),
        (7, 0, "nibbles"),
        (7, 128, "nibble_bitmap"),
        (7, 250, "nibble_gaps"),
        (1, 0, "crumbs"),
        (-1, 250, "nibble_gaps"),
    ):
        weights = np.full_like(logits.weights, weight)
        weights.reshape(2, -1)[:, :zeros] = 0
        sparse = IntegerGraph((dataclasses.replace(logits, weights=weights),), graph.tensors)
        assert lower(sparse, UNO, costs).steps[0].kernels[1] == f"sums_{kept}"


def test_a_tensor_too_large_for_the_kernels_is_named() -> None:
    with pytest.raises(BoardError, match=r"input has 65536"):
        lower(pooled((256, 256, 1)), UNO, None)
    assert lower(pooled((255, 257, 1)), UNO, None).steps[0].weights is not None


def one_convolution(shape: tuple[int, int], kernel: tuple[int, int], **geometry: tuple[int, ...]) -> IntegerGraph:
    """A convolution of a map of one channel down to one row and column of two."""
    one = np.ones(2, np.int32)
    wide = Conv2d("wide", (INPUT,), np.ones((2, *kernel, 1), np.int8), one, one, np.full(2, 20, np.int32), **geometry)  # type: ignore[arg-type]
    return IntegerGraph((wide,), {INPUT: TensorType((*shape, 1), "uint8", 1.0), "wide": TensorType((1, 1, 2), "int16", 1.0)})


def test_a_padded_map_too_long_for_the_kernels_is_named() -> None:
    with pytest.raises(BoardError, match=r"32767 rows and columns, but that of wide has 32768"):
        lower(one_convolution((1, 32768), (1, 32769), padding=(0, 1, 0, 0)), UNO, None)
    assert lower(one_convolution((1, 32767), (1, 32768), padding=(0, 1, 0, 0)), UNO, None).padded


@pytest.mark.parametrize(("shape", "geometry"), [((256, 2), {}), ((2, 2), {"stride": (256, 1)}), ((2, 2), {"stride": (1, 256)})])
def test_numbers_that_kernels_count_in_8_bits_are_checked(shape: tuple[int, int], geometry: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(BoardError, match=r"at most 255 rows and steps as small, but wide has"):
        lower(one_convolution(shape, shape, **geometry), UNO, None)


def test_a_pool_behind_a_convolution_needs_no_map_between() -> None:
    one, image = np.ones(2, np.int32), TensorType((8, 8, 1), "uint8", 1.0)
    first = Conv2d("first", (INPUT,), np.ones((2, 3, 3, 1), np.int8), one, one, np.full(2, 8, np.int32))
    pool = MaxPool2d("pool", ("first",), (2, 2))
    graph = IntegerGraph(
        (first, pool, fully_connected("logits", "pool", (3, 3, 2))),
        {
            INPUT: image,
            "first": TensorType((6, 6, 2), "uint8", 1.0),
            "pool": TensorType((3, 3, 2), "uint8", 1.0),
            "logits": TensorType((1, 1, 2), "int16", 1.0),
        },
    )
    program = lower(graph, UNO, None)
    assert [step.kernels[0] for step in program.steps] == ["convolve", "convolve"]
    assert "first" not in program.plan.tensors
    assert program.plan.arena_bytes <= 8 * 8 + 8  # the image, and the sums beside it


def test_a_graph_that_breaks_a_rule_is_not_lowered() -> None:
    graph = pooled((2, 2, 1))
    with pytest.raises(GraphError):
        lower(IntegerGraph(graph.ops, graph.tensors | {"logits": TensorType((1, 1, 2), "uint8", 1.0)}), UNO, None)


def test_weights_that_an_avr_cannot_address_are_counted() -> None:
    graph = pooled((100, 100, 1))
    several = {
        name: dataclasses.replace(program, steps=4 * program.steps)
        for name in ("nucleo-f446", "arduino-mega")
        if check_constants(program := lower(graph, board(name), None)) is None
    }
    check_constants(several["nucleo-f446"])
    with pytest.raises(BoardError, match=r"80048"):
        check_constants(several["arduino-mega"])


def test_a_table_that_avr_gcc_cannot_make_names_its_layer() -> None:
    check_constants(lower(pooled((2, 8191, 1)), board("arduino-mega"), None))
    too_large = pooled((128, 128, 1))
    check_constants(lower(too_large, board("nucleo-f446"), None))
    with pytest.raises(BoardError, match=r"at most 32767 bytes on an AVR, but those of logits take 32768"):
        check_constants(lower(too_large, board("arduino-mega"), None))
