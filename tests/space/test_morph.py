import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from sparse_mcu.errors import ArchitectureError
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning, Training
from sparse_mcu.space.layers import layers
from sparse_mcu.space.limits import SpaceLimits, TrainingLimits
from sparse_mcu.space.memory import peak_activations
from sparse_mcu.space.morph import MORPHS, SMALL_MORPHS, morph
from sparse_mcu.space.suggest import assignment, contains

LIMITS = dataclasses.replace(
    SpaceLimits.for_input((1, 28, 28), 10, ram_bytes=4096, flash_bytes=32768),
    training=TrainingLimits(weight_bits=(2, 4, 8), methods=("none", "structured")),
)
PARENT = Architecture(
    (1, 28, 28),
    10,
    (
        Block((Conv("regular", (3, 3), 4, (2, 2)),), Pool("max", (2, 2))),
        Block(
            (Conv("regular", (3, 3), 6), Conv("reduced", (3, 3), 4, reduced_channels=2), Conv("separable", (3, 3), 6)),
            residual=True,
        ),
    ),
    head=Head("flatten", 16),
    training=Training(learning_rate=0.01, batch_size=32, epochs=20, pruning=Pruning("structured", 0.1)),
)
BY_NAME = {morph.name: morph for morph in MORPHS}


def children(name: str, parent: Architecture = PARENT, limits: SpaceLimits = LIMITS) -> list[Architecture]:
    """Every child that the morph can make of ``parent``, all within the limits and unlike it."""
    found = list(BY_NAME[name].edits(parent, limits, np.random.default_rng(0)))
    assert found
    assert parent not in found
    assert all(contains(limits, child) for child in found)
    return found


def convs(architecture: Architecture) -> list[Conv]:
    return [conv for block in architecture.blocks for conv in block.convs]


def changes(name: str, parent: Architecture = PARENT) -> Iterator[dict[str, tuple[object, object]]]:
    """What each child changes: old and new value (None: inactive) of every dimension that differs."""
    before = assignment(LIMITS, parent)
    for child in children(name, parent):
        after = assignment(LIMITS, child)
        names = {*before, *after}
        yield {n: (before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)}


def test_the_parent_lies_within_the_limits() -> None:
    assert contains(LIMITS, PARENT)


def test_add_conv_inserts_what_can_be_the_identity() -> None:
    for child in children("add_conv"):
        assert len(child.blocks) == 2 and len(convs(child)) == 5
        (index,) = (i for i in range(5) if convs(child)[:i] + convs(child)[i + 1 :] == convs(PARENT) and is_identity(child, i))
        assert index != 0  # the input has one channel, which the widths do not hold


def is_identity(architecture: Architecture, index: int) -> bool:
    conv, width = convs(architecture)[index], 1 if index == 0 else convs(architecture)[index - 1].channels
    odd = all(extent % 2 for extent in conv.kernel)
    return odd and (conv.channels, conv.stride, conv.padding) == (width, (1, 1), "same") and conv.kind != "reduced"


def test_add_conv_leaves_a_residual_connection_around_the_same_two() -> None:
    limits = dataclasses.replace(LIMITS, convs=(1, 2, 3, 4))
    for child in children("add_conv", limits=limits):
        assert child.blocks[1].residual
        assert child.blocks[1].convs[-2:] == PARENT.blocks[1].convs[-2:]


def test_add_block_inserts_what_can_be_the_identity() -> None:
    found = children("add_block")
    assert {child.blocks.index(new_block(child)) for child in found} == {1, 2}
    for child in found:
        conv = new_block(child).convs[0]
        assert conv.channels == (4 if child.blocks.index(new_block(child)) == 1 else 6)
        assert new_block(child) == Block((conv,))


def new_block(child: Architecture) -> Block:
    (added,) = (block for block in child.blocks if block not in PARENT.blocks)
    return added


def test_a_block_behind_the_last_ends_its_route() -> None:
    parent = dataclasses.replace(PARENT, blocks=PARENT.blocks[:1])
    for child in children("add_block", parent):
        assert [layer.op for layer in layers(child) if layer.name.startswith("head")] == []


def test_remove_conv_takes_one() -> None:
    parent = dataclasses.replace(PARENT, blocks=(PARENT.blocks[0], dataclasses.replace(PARENT.blocks[1], residual=False)))
    kept = {tuple(convs(child)) for child in children("remove_conv", parent)}
    assert kept == {tuple(convs(parent)[:i] + convs(parent)[i + 1 :]) for i in (1, 2, 3)}


def test_remove_conv_keeps_a_residual_connection_whole() -> None:
    (child,) = children("remove_conv")  # without the last, 4 channels meet 4; else 4 would meet 6
    assert child.blocks[1] == dataclasses.replace(PARENT.blocks[1], convs=PARENT.blocks[1].convs[:2])


def test_remove_block_takes_one_and_routes_the_new_last_alone() -> None:
    parent = dataclasses.replace(PARENT, blocks=(dataclasses.replace(PARENT.blocks[0], branch=True), PARENT.blocks[1]))
    found = children("remove_block", parent, dataclasses.replace(LIMITS, max_activation_bytes=32768, max_weights=10**6))
    assert {child.blocks for child in found} == {(PARENT.blocks[0],), (PARENT.blocks[1],)}


def test_widths_tied_by_a_residual_connection_change_together() -> None:
    for name, widths in (("widen", {8, 12}), ("narrow", {3, 4})):
        ends = {(convs(child)[1].channels, convs(child)[3].channels) for child in children(name)}
        assert ends == {(6, 6)} | {(width, width) for width in widths}


def test_a_width_tied_to_the_input_stays() -> None:
    limits = dataclasses.replace(LIMITS, channels=(1, 2, 3, 4))
    block = Block((Conv("regular", (3, 3), 2, (1, 1)), Conv("regular", (3, 3), 1)), residual=True)
    parent = dataclasses.replace(PARENT, blocks=(block,))
    assert {child.blocks[0].convs[1].channels for child in children("widen", parent, limits)} == {1}


def test_widen_and_narrow_reach_two_steps() -> None:
    assert {convs(child)[0].channels for child in children("widen")} == {4, 6, 8}
    assert {convs(child)[0].channels for child in children("narrow")} == {4, 2, 3}


@pytest.mark.parametrize(("name", "sign"), [("grow_kernel", 1), ("shrink_kernel", -1)])
def test_kernels_grow_and_shrink(name: str, sign: int) -> None:
    for change in changes(name):
        kernels = [new - old for key, (old, new) in change.items() if key.endswith(".kernel")]  # type: ignore[operator]
        assert len(kernels) == 1
        assert 1 <= sign * kernels[0] <= 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("change_kind", {f"block{b}.conv{c}.kind" for b, c in ((0, 0), (1, 0), (1, 1), (1, 2))}),
        ("change_stride", {"block0.conv0.stride", "block1.conv0.stride"}),
        ("change_padding", {"block0.conv0.padding", "block1.conv0.padding"}),
        ("change_pool", {"block0.pool.window", "block0.pool.kind", "block1.pool.window"}),
        ("change_downsample", {"downsample.window"}),
        ("change_reduction", {"block1.conv1.reduced_channels"}),
        ("toggle_residual", {"block1.residual"}),
        ("toggle_batch_norm", {f"block{b}.conv{c}.batch_norm" for b, c in ((0, 0), (1, 0), (1, 1), (1, 2))}),
        ("toggle_branch", {"block0.branch"}),
        ("change_hidden", {"head.hidden"}),
        ("change_head", {"head.kind"}),
        (
            "change_training",
            {
                f"training.{name}"
                for name in ("learning_rate", "batch_size", "epochs", "weight_decay", "dropout", "augmentation", "weight_bits")
            },
        ),
        ("change_pruning", {"training.pruning.method", "training.pruning.strength"}),
    ],
)
def test_a_morph_changes_what_its_name_says(name: str, expected: set[str]) -> None:
    found = list(changes(name))
    assert all(set(change) & expected for change in found)
    assert set().union(*found) >= expected
    firsts = {key for change in found for key in change if len(change) == 1}
    assert firsts <= expected  # alone, nothing else changes


def test_what_no_longer_fits_is_brought_to_the_nearest() -> None:
    parent = dataclasses.replace(PARENT, blocks=(PARENT.blocks[0], Block((Conv("regular", (7, 7), 4),))))
    pools = {
        child.blocks[0].pool: child.blocks[1].convs[0].kernel for child in children("change_pool", parent) if child.blocks[0].pool
    }
    assert pools[Pool("max", (4, 4))] == (5, 5)  # on 3x3 a kernel of 7 would only meet padding at its rim


def test_a_residual_connection_makes_its_two_ends_equal() -> None:
    blocks = (
        Block((Conv("regular", (3, 3), 4, (2, 2)), Conv("regular", (3, 3), 6, (2, 2)), Conv("regular", (3, 3), 8, (2, 2)))),
    )
    parent = dataclasses.replace(PARENT, blocks=blocks)
    (child,) = children("toggle_residual", parent)
    assert [(conv.channels, conv.stride) for conv in convs(child)] == [(4, (2, 2)), (6, (1, 1)), (4, (1, 1))]


@pytest.mark.parametrize("name", list(BY_NAME))
def test_where_nothing_can_change_a_morph_returns_none(name: str) -> None:
    point = SpaceLimits(
        input_shape=(1, 8, 8),
        classes=2,
        max_activation_bytes=1024,
        max_weights=1000,
        downsamples=(1,),
        pool_kinds=("max",),
        blocks=(1,),
        convs=(1,),
        kinds=("regular",),
        kernels=(1,),
        channels=(2,),
        reduced_channels=(2,),
        strides=(1,),
        paddings=("same",),
        batch_norms=(False,),
        pools=(1,),
        residuals=(False,),
        branches=(False,),
        heads=("flatten",),
        hidden=(0,),
        training=TrainingLimits(
            learning_rate=(0.01, 0.01),
            epochs=(10, 10),
            strength=(1.0, 1.0),
            batch_sizes=(64,),
            weight_decays=(0.0,),
            dropouts=(0.0,),
            augmentations=(0.0,),
            weight_bits=(8,),
            methods=("unstructured",),
        ),
    )
    only = Architecture(
        (1, 8, 8), 2, (Block((Conv("regular", (1, 1), 2, batch_norm=False),)),), training=Training(learning_rate=0.01, epochs=10)
    )
    assert contains(point, only)
    assert BY_NAME[name](only, point, np.random.default_rng(0)) is None
    with pytest.raises(ArchitectureError, match="but none of 21 does"):
        morph(only, point, np.random.default_rng(0), MORPHS)


def test_morphs_respect_the_limits_of_ram() -> None:
    tight = dataclasses.replace(LIMITS, max_activation_bytes=peak_activations(layers(PARENT)).bytes)
    assert contains(tight, PARENT)
    assert {convs(child)[0].channels for child in children("widen", limits=tight)} == {4}


def test_a_morph_depends_on_the_generator_alone() -> None:
    first, again = (morph(PARENT, LIMITS, np.random.default_rng(5), MORPHS) for _ in range(2))
    assert first == again
    assert len({morph(PARENT, LIMITS, np.random.default_rng(seed), MORPHS) for seed in range(20)}) > 15


def test_small_morphs_leave_the_graph_alone() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        name, child = morph(PARENT, LIMITS, rng, SMALL_MORPHS)
        assert name in {"widen", "narrow", "change_reduction", "change_training", "change_pruning"}
        ops = [[(layer.name, layer.op, layer.kernel, layer.stride) for layer in layers(a)] for a in (PARENT, child)]
        assert ops[0] == ops[1]


def test_a_parent_outside_the_limits_is_refused() -> None:
    outside = dataclasses.replace(PARENT, head=Head(hidden=17))
    with pytest.raises(ArchitectureError, match=r"head\.hidden must be one of"):
        BY_NAME["grow_kernel"](outside, LIMITS, np.random.default_rng(0))
