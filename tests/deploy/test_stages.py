import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy.stages import Stage, stages
from sparse_mcu.quant.graph import INPUT, Add, Conv2d, IntegerGraph, MaxPool2d, TensorType
from sparse_mcu.quant.random_graph import GraphSize, random_graph

ONE = np.ones(2, np.int32)


def conv(name: str, source: str) -> Conv2d:
    return Conv2d(name, (source,), np.ones((2, 1, 1, 2), np.int8), ONE, ONE, ONE)


def graph(*ops: Conv2d | MaxPool2d | Add) -> IntegerGraph:
    """The shapes do not matter here."""
    return IntegerGraph(ops, {name: TensorType((4, 4, 2), "uint8", 1.0) for name in (INPUT, *(op.name for op in ops))})


def test_a_convolution_takes_the_pool_behind_it_along() -> None:
    first, pool, last = conv("first", INPUT), MaxPool2d("pool", ("first",), (2, 3)), conv("last", "pool")
    found = stages(graph(first, pool, last))
    assert found == (Stage(first, pool), Stage(last))
    assert (found[0].name, found[0].windows, found[1].name, found[1].windows) == ("pool", (2, 3), "last", (1, 1))


def test_what_something_else_reads_too_is_written() -> None:
    ops = conv("first", INPUT), MaxPool2d("pool", ("first",), (1, 1)), Add("add", ("first", "pool"), (1, 1), 0)
    assert stages(graph(*ops)) == tuple(map(Stage, ops))


def test_a_pool_of_a_pool_or_of_the_image_stands_alone() -> None:
    ops = MaxPool2d("image", (INPUT,), (1, 1)), MaxPool2d("pool", ("image",), (1, 1)), conv("last", "pool")
    assert stages(graph(*ops)) == tuple(map(Stage, ops))


def test_a_pool_too_large_to_count_stands_alone() -> None:
    ops = conv("first", INPUT), MaxPool2d("pool", ("first",), (1, 256))
    assert stages(graph(*ops)) == tuple(map(Stage, ops))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_operation_is_in_one_stage_and_none_reads_what_is_not_written(seed: int) -> None:
    random = random_graph(np.random.default_rng(seed), GraphSize(layers=9))
    found = stages(random)
    assert sorted(op.name for stage in found for op in (stage.op, stage.pool) if op is not None) == sorted(
        op.name for op in random.ops
    )
    written = {INPUT}
    for stage in found:
        assert written.issuperset(stage.op.inputs)
        written.add(stage.name)
