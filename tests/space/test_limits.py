import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from sparse_mcu.errors import ArchitectureError, BudgetError
from sparse_mcu.space.layers import Shape, layers
from sparse_mcu.space.limits import SpaceLimits, TrainingLimits
from sparse_mcu.space.memory import peak_activations
from sparse_mcu.space.suggest import sample, suggest

DIGITS = SpaceLimits.for_input((1, 8, 8), 10, ram_bytes=1024, flash_bytes=8192)


def test_digits_on_an_uno_get_small_networks() -> None:
    assert DIGITS.channels == (2, 3, 4, 6, 8, 12, 16, 24)
    assert DIGITS.kernels == (1, 2, 3, 4, 5)
    assert DIGITS.downsamples == (1,)
    assert (DIGITS.max_activation_bytes, DIGITS.max_weights) == (1024, 16384)


def test_mnist_on_an_uno_may_be_downsampled_and_strided() -> None:
    limits = SpaceLimits.for_input((1, 28, 28), 10, ram_bytes=2048, flash_bytes=32768)
    assert limits.downsamples == (1, 2, 3, 4)
    assert limits.strides == (1, 2, 3)
    assert limits.kernels == (1, 2, 3, 4, 5, 6, 7)
    assert limits.channels[-1] == 48


def test_a_large_board_gets_wide_networks() -> None:
    limits = SpaceLimits.for_input((3, 32, 32), 10, ram_bytes=128 * 1024, flash_bytes=512 * 1024)
    assert limits.channels[-1] == 128
    assert limits.blocks == (1, 2, 3, 4)


def test_a_kernel_of_a_signal_has_one_row() -> None:
    assert SpaceLimits.for_input((3, 1, 128), 6, ram_bytes=2048, flash_bytes=32768).size(5) == (1, 5)
    assert SpaceLimits.for_input((3, 128, 1), 6, ram_bytes=2048, flash_bytes=32768).size(5) == (5, 1)
    assert DIGITS.size(5) == (5, 5)


@pytest.mark.parametrize("board", [(1024, 8192), (2048, 32768)])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28)])
def test_a_good_share_of_draws_fits_the_board(shape: Shape, board: tuple[int, int]) -> None:
    limits = SpaceLimits.for_input(shape, 10, *board)
    rng = np.random.default_rng(0)
    drawn = [layers(suggest(limits, lambda dimension: dimension.at(rng.random()))) for _ in range(300)]
    assert np.mean([peak_activations(network).bytes <= board[0] for network in drawn]) > 0.2


def test_samples_for_digits_are_of_the_size_that_solves_them() -> None:
    rng = np.random.default_rng(0)
    networks = [layers(sample(DIGITS, rng)) for _ in range(300)]
    weights = np.quantile([sum(layer.weights for layer in network) for network in networks], [0.25, 0.75])
    macs = np.quantile([sum(layer.macs for layer in network) for network in networks], [0.25, 0.75])
    assert (weights > (400, 1500)).all() and (weights < (2000, 8000)).all()
    assert (macs > (2000, 10_000)).all() and (macs < (10_000, 60_000)).all()


@pytest.mark.parametrize(
    ("shape", "ram_bytes", "binding"),
    [
        ((1, 96, 96), 2048, r"1x96x96 inputs the smallest network holds 9216 at 'input'; allow at least 9216 bytes"),
        ((2, 1, 1), 11, r"feature maps must fit in 11 bytes of RAM, .* holds 12 at 'logits'; allow at least 12 bytes"),
    ],
)
def test_a_budget_nothing_can_meet_names_what_binds(shape: Shape, ram_bytes: int, binding: str) -> None:
    with pytest.raises(BudgetError, match=binding):
        SpaceLimits.for_input(shape, 10, ram_bytes, flash_bytes=32768)


@pytest.mark.parametrize(
    ("shape", "classes"), [((1, 8, 8), 10), ((1, 9, 9), 300), ((3, 10, 14), 4), ((6, 1, 30), 2), ((2, 1, 1), 2)]
)
def test_the_nearest_reachable_budget_is_exact(shape: Shape, classes: int) -> None:
    with pytest.raises(BudgetError) as error:
        SpaceLimits.for_input(shape, classes, ram_bytes=1, flash_bytes=32768)
    nearest = int(str(error.value).split("allow at least ")[1].split()[0])
    limits = SpaceLimits.for_input(shape, classes, nearest, flash_bytes=32768)
    with pytest.raises(BudgetError):
        SpaceLimits.for_input(shape, classes, nearest - 1, flash_bytes=32768)
    rng = np.random.default_rng(0)
    drawn = (suggest(limits, lambda dimension: dimension.at(rng.random())) for _ in range(300))
    assert min(peak_activations(layers(architecture)).bytes for architecture in drawn) >= nearest


def test_json_round_trip() -> None:
    assert SpaceLimits.from_json(json.loads(json.dumps(DIGITS.to_json()))) == DIGITS


def test_json_with_an_unknown_key_is_refused() -> None:
    value = DIGITS.to_json()
    value["training"]["momentum"] = [0.9]
    with pytest.raises(ArchitectureError, match=r"limits\.training has no field 'momentum'"):
        SpaceLimits.from_json(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ()}, "at least one value for channels"),
        ({"channels": (4, 2)}, r"channels must be ascending, but is \(4, 2\)"),
        ({"channels": (2, 2)}, r"channels must not repeat a value, but is \(2, 2\)"),
        ({"kernels": (3, 5)}, r"kernels must start at 1, but is \(3, 5\)"),
        ({"strides": (2,)}, r"strides must start at 1"),
        ({"pools": (2, 3)}, r"pools must start at 1"),
        ({"downsamples": (2,)}, r"downsamples must start at 1"),
        ({"paddings": ("valid",)}, r"paddings must contain 'same'"),
        ({"residuals": (True,)}, r"residuals must contain False"),
        ({"heads": ("global",)}, r"heads must contain 'flatten'"),
        ({"blocks": (0, 1)}, r"blocks must be at least 1, but is \(0, 1\)"),
        ({"channels": (0, 2)}, r"channels must be at least 1"),
        ({"hidden": (-8, 0)}, r"hidden must be at least 0"),
    ],
)
def test_limits_that_make_no_space_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        dataclasses.replace(DIGITS, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": (1e-2, 1e-3)}, "learning_rate must be ascending"),
        ({"strength": (0.0, 1.0)}, "strength must be above 0"),
        ({"epochs": (0, 10)}, "epochs must be above 0"),
        ({"methods": ()}, "at least one value for methods"),
    ],
)
def test_training_limits_that_make_no_space_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        dataclasses.replace(DIGITS, training=dataclasses.replace(TrainingLimits(), **change))


def test_limits_written_before_a_weight_could_have_fewer_bits_hold_eight_alone() -> None:
    value = DIGITS.to_json()
    assert value["training"].pop("weight_bits") == (4, 8)
    assert SpaceLimits.from_json(value).training.weight_bits == (8,)
