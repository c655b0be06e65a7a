import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.errors import ArchitectureError
from sparse_mcu.space.architecture import Architecture, Block, Conv, Pool, Pruning, Training
from sparse_mcu.space.dimensions import Value, dimensions
from sparse_mcu.space.encode import encode
from sparse_mcu.space.limits import SpaceLimits, TrainingLimits
from sparse_mcu.space.suggest import assignment, decode, sample

LIMITS = SpaceLimits.for_input((1, 8, 8), 10, ram_bytes=1024, flash_bytes=8192)
TINY = SpaceLimits(  # few enough dimensions to write the code down
    input_shape=(1, 8, 8),
    classes=10,
    max_activation_bytes=1024,
    max_weights=10_000,
    downsamples=(1, 2),
    pool_kinds=("max", "average"),
    blocks=(1,),
    convs=(1, 2),
    kinds=("regular", "separable", "reduced"),
    kernels=(1, 3, 5),
    channels=(4, 8, 16),
    reduced_channels=(2,),
    strides=(1,),
    paddings=("same",),
    batch_norms=(True,),
    pools=(1,),
    residuals=(False,),
    heads=("flatten",),
    hidden=(0,),
    training=TrainingLimits(
        learning_rate=(1e-3, 1e-1),
        epochs=(10, 10),
        batch_sizes=(32,),
        weight_decays=(0.0,),
        dropouts=(0.0,),
        augmentations=(0.0,),
        weight_bits=(2, 4, 8),
        methods=("none", "structured"),
        strength=(0.1, 1.0),
    ),
)


def tiny(*convs: Conv, downsample: Pool | None = None, pruning: Pruning) -> Architecture:
    training = Training(learning_rate=1e-2, batch_size=32, epochs=10, pruning=pruning)
    return Architecture((1, 8, 8), 10, (Block(convs),), downsample, training=training)


def test_the_code_of_a_network_by_hand() -> None:
    values, active = encode(TINY, tiny(Conv("separable", (5, 5), 8), downsample=Pool("average", (2, 2)), pruning=Pruning("none")))
    names_and_codes = [
        ("downsample.window", [1.0], True),
        ("downsample.kind", [1.0], True),
        ("block0.convs", [0.0], True),
        ("block0.conv0.kind", [0.0, 1.0, 0.0], True),
        ("block0.conv0.kernel", [1.0], True),
        ("block0.conv0.channels", [0.5], True),
        ("block0.conv1.kind", [0.0, 0.0, 0.0], False),
        ("block0.conv1.kernel", [0.0], False),
        ("block0.conv1.channels", [0.0], False),
        ("training.learning_rate", [0.5], True),
        ("training.weight_bits", [1.0], True),
        ("training.pruning.method", [0.0], True),
        ("training.pruning.strength", [0.0], False),
    ]
    assert [dimension.name for dimension in dimensions(TINY)] == [name for name, _, _ in names_and_codes]
    np.testing.assert_allclose(values, np.concatenate([code for _, code, _ in names_and_codes]))
    np.testing.assert_array_equal(active, np.concatenate([[on] * len(code) for _, code, on in names_and_codes]))


def test_what_is_switched_on_becomes_active() -> None:
    convs = Conv("regular", (1, 1), 4), Conv("regular", (3, 3), 16)
    values, active = encode(TINY, tiny(*convs, pruning=Pruning("structured", 1.0)))
    np.testing.assert_allclose(values, [0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0.5, 1, 0.5, 1, 1, 1])
    np.testing.assert_array_equal(active, [True, False] + [True] * 15)


def test_an_architecture_outside_the_limits_has_no_code() -> None:
    with pytest.raises(ArchitectureError, match=r"block0\.conv0\.channels must be one of 4, 8, 16, but is 5"):
        encode(TINY, tiny(Conv("regular", (3, 3), 5), pruning=Pruning("none")))


@settings(max_examples=40, deadline=None)  # some 90 changes each
@given(st.integers(0, 2**32 - 1))
def test_inactive_dimensions_change_nothing_and_active_ones_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn: dict[str, Value] = {dimension.name: dimension.at(rng.random()) for dimension in dimensions(LIMITS)}
    architecture = decode(LIMITS, drawn)
    values, active = encode(LIMITS, architecture)
    chosen = assignment(LIMITS, architecture)
    for dimension in dimensions(LIMITS):
        changed = decode(LIMITS, drawn | chosen | {dimension.name: dimension.at(rng.random())})
        other_values, other_active = encode(LIMITS, changed)
        if dimension.name not in chosen:
            assert changed == architecture
        assert (changed == architecture) == (np.array_equal(values, other_values) and np.array_equal(active, other_active))


def test_different_networks_have_different_codes_of_one_length() -> None:
    rng = np.random.default_rng(0)
    networks = {sample(LIMITS, rng) for _ in range(500)}
    # θ apart, so that the graph alone has to tell them apart
    networks = {dataclasses.replace(n, training=Training(pruning=Pruning("unstructured", 0.1))) for n in networks}
    codes = [encode(LIMITS, network) for network in networks]
    assert len({values.tobytes() + active.tobytes() for values, active in codes}) == len(networks) > 300
    assert len({array.shape for code in codes for array in code}) == 1
    assert all(((values >= 0) & (values <= 1)).all() for values, _ in codes)
