import dataclasses

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.errors import ArchitectureError, BudgetError
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning, Training
from sparse_mcu.space.dimensions import Choice, Dimension, Value, dimensions
from sparse_mcu.space.layers import layers
from sparse_mcu.space.limits import SpaceLimits, TrainingLimits
from sparse_mcu.space.memory import peak_activations
from sparse_mcu.space.suggest import assignment, contains, decode, fits, sample, suggest

LIMITS = SpaceLimits.for_input((1, 28, 28), 10, ram_bytes=2048, flash_bytes=32768)
FULL = Architecture(
    (1, 28, 28),
    10,
    (
        Block((Conv("regular", (5, 5), 4, (2, 2), "valid"),), Pool("average", (2, 2)), branch=True),
        Block(
            (Conv("separable", (3, 3), 4, batch_norm=False), Conv("reduced", (3, 3), 4, reduced_channels=2)),
            residual=True,
        ),
    ),
    Pool("max", (2, 2)),
    Head("global", 16),
    Training(learning_rate=0.01, batch_size=32, epochs=20, dropout=0.1, pruning=Pruning("unstructured", 0.1)),
)
FULL_ASSIGNMENT: dict[str, Value] = {  # Python scalars alone, as Optuna stores them
    "downsample.window": 2,
    "downsample.kind": "max",
    "blocks": 2,
    "block0.convs": 1,
    "block0.conv0.kind": "regular",
    "block0.conv0.kernel": 5,
    "block0.conv0.padding": "valid",
    "block0.conv0.stride": 2,
    "block0.conv0.channels": 4,
    "block0.conv0.batch_norm": True,
    "block0.pool.window": 2,
    "block0.pool.kind": "average",
    "block0.branch": True,
    "block1.convs": 2,
    "block1.conv0.kind": "separable",
    "block1.conv0.kernel": 3,
    "block1.conv0.padding": "same",
    "block1.conv0.stride": 1,
    "block1.conv0.channels": 4,
    "block1.conv0.batch_norm": False,
    "block1.residual": True,
    "block1.conv1.kind": "reduced",
    "block1.conv1.reduced_channels": 2,
    "block1.conv1.kernel": 3,
    "block1.conv1.padding": "same",
    "block1.conv1.stride": 1,
    "block1.conv1.channels": 4,
    "block1.conv1.batch_norm": True,
    "block1.pool.window": 1,
    "head.kind": "global",
    "head.hidden": 16,
    "training.learning_rate": 0.01,
    "training.batch_size": 32,
    "training.epochs": 20,
    "training.weight_decay": 0.0,
    "training.dropout": 0.1,
    "training.augmentation": 0.0,
    "training.weight_bits": 8,
    "training.pruning.method": "unstructured",
    "training.pruning.strength": 0.1,
}


def with_values(**changes: Value) -> Architecture:
    """FULL with some recorded values replaced; dots in names are written as two underscores."""
    return decode(LIMITS, FULL_ASSIGNMENT | {name.replace("__", "."): value for name, value in changes.items()})


def with_block0(conv: Conv) -> Architecture:
    return dataclasses.replace(FULL, blocks=(dataclasses.replace(FULL.blocks[0], convs=(conv,)), FULL.blocks[1]))


def draw(limits: SpaceLimits, rng: np.random.Generator) -> dict[str, Value]:
    """Values for all dimensions, inactive ones included, drawn without knowing what is feasible."""
    return {dimension.name: dimension.at(rng.random()) for dimension in dimensions(limits)}


def test_assignment_names_every_active_dimension() -> None:
    assert assignment(LIMITS, FULL) == FULL_ASSIGNMENT


def test_decode_is_the_inverse() -> None:
    assert decode(LIMITS, FULL_ASSIGNMENT) == FULL


def test_inactive_values_are_ignored() -> None:
    assert with_values(block2__conv0__kernel=7, block1__pool__kind="max", block0__conv0__reduced_channels=4) == FULL


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"no dimension 'block0\.conv0\.colour'"):
        decode(LIMITS, FULL_ASSIGNMENT | {"block0.conv0.colour": 1})


def test_a_missing_value_is_named() -> None:
    with pytest.raises(ArchitectureError, match=r"lacks 'head\.kind'"):
        decode(LIMITS, {name: value for name, value in FULL_ASSIGNMENT.items() if name != "head.kind"})


def test_a_value_outside_the_limits_is_named() -> None:
    with pytest.raises(ArchitectureError, match=r"block0\.conv0\.channels must be one of 2, 3, 4, .* but is 5"):
        with_values(block0__conv0__channels=5)


def test_a_kernel_shrinks_to_what_its_map_can_use() -> None:
    # 28 / 4 = 7 rows; a valid kernel of 5 leaves 3, a stride of 3 one, on which only a kernel of 1 has no idle rim
    architecture = with_values(downsample__window=4, block0__conv0__stride=3, block0__pool__window=1)
    assert architecture.blocks[1].convs[0].kernel == (1, 1)
    assert architecture.blocks[1].convs[0].padding == "same"


def test_a_pool_shrinks_to_its_map() -> None:
    architecture = with_values(downsample__window=4, block0__conv0__stride=1, block0__pool__window=4)
    assert architecture.blocks[0].pool == Pool("average", (3, 3))


def test_a_stride_shrinks_to_its_map() -> None:
    architecture = with_values(downsample__window=4, block0__conv0__kernel=6, block0__conv0__stride=3)
    assert architecture.blocks[0].convs[0].stride == (2, 2)


def test_valid_padding_needs_room() -> None:
    architecture = with_values(
        downsample__window=4, block0__pool__window=3, block1__conv0__padding="valid", block1__residual=False
    )
    assert architecture.blocks[1].convs[0].padding == "same"


def test_a_residual_keeps_size_and_width() -> None:
    architecture = with_values(block1__conv0__stride=2, block1__conv1__channels=8, block1__conv1__padding="valid")
    assert architecture == FULL


def test_a_residual_needs_a_width_that_the_space_has() -> None:
    changes: dict[str, Value] = FULL_ASSIGNMENT | {
        "blocks": 1,
        "block0.convs": 2,
        "block0.residual": True,
        "block0.pool.window": 1,
        **{
            f"block0.conv1.{key}": FULL_ASSIGNMENT[f"block1.conv1.{key}"] for key in ("kernel", "padding", "stride", "batch_norm")
        },
        "block0.conv1.kind": "regular",
        "block0.conv1.channels": 4,
    }
    assert not decode(LIMITS, changes).blocks[0].residual  # it would add the one channel of the input


def test_reducing_needs_more_channels_than_it_leaves() -> None:
    assert with_values(block0__conv0__kind="reduced").blocks[0].convs[0].kind == "regular"
    assert with_values(block1__conv1__reduced_channels=6).blocks[1].convs[1].reduced_channels == 3


def test_a_pixel_has_one_kind_of_head() -> None:
    changes: dict[str, Value] = {"downsample.window": 4, "block0.conv0.stride": 1, "block0.pool.window": 3}
    assert decode(LIMITS, FULL_ASSIGNMENT | changes).head.kind == "flatten"


def test_pruning_none_has_no_strength() -> None:
    limits = dataclasses.replace(LIMITS, training=TrainingLimits(methods=("none", "unstructured")))
    architecture = decode(limits, FULL_ASSIGNMENT | {"training.pruning.method": "none"})
    assert architecture.training.pruning == Pruning("none")
    assert "training.pruning.strength" not in assignment(limits, architecture)


@pytest.mark.parametrize(
    ("outside", "message"),
    [
        (dataclasses.replace(FULL, classes=9), "for .* 10 classes, but the architecture has .* 9"),
        (dataclasses.replace(FULL, head=Head("global", 17)), r"head\.hidden must be one of .* but is 17"),
        (dataclasses.replace(FULL, training=Training(schedule="constant")), r"training\.schedule is 'constant'"),
        (dataclasses.replace(FULL, training=Training(epochs=1000)), r"training\.epochs must be a whole number from"),
        (with_block0(Conv("regular", (5, 3), 4, (2, 2), "valid")), "must be k x k"),
        (
            dataclasses.replace(FULL, blocks=(*FULL.blocks[:1], dataclasses.replace(FULL.blocks[1], branch=True))),
            r"block1\.branch",
        ),
        (dataclasses.replace(FULL, blocks=FULL.blocks * 2), r"blocks must be one of 1, 2, 3, but is 4"),
    ],
)
def test_what_lies_outside_the_limits_is_named(outside: Architecture, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        assignment(LIMITS, outside)
    assert not contains(LIMITS, outside)


@pytest.mark.parametrize(("fixed", "lacking"), [("blocks", "block2.convs"), ("convs", "block0.conv1.kind")])
def test_fewer_parts_than_the_limits_fix_lie_outside(fixed: str, lacking: str) -> None:
    limits = dataclasses.replace(LIMITS, **{fixed: (3,)})
    with pytest.raises(ArchitectureError, match=f"lacks '{lacking}'"):
        assignment(limits, FULL)
    assert not contains(limits, FULL)


def test_the_limits_of_ram_and_weights_are_exact() -> None:
    network = layers(FULL)
    peak, weights = peak_activations(network).bytes, sum(layer.weights for layer in network)
    assert fits(dataclasses.replace(LIMITS, max_activation_bytes=peak, max_weights=weights), FULL)
    for bytes_over, weights_over in ((1, 0), (0, 1)):
        tight = dataclasses.replace(LIMITS, max_activation_bytes=peak - bytes_over, max_weights=weights - weights_over)
        assert not contains(tight, FULL)
        assert assignment(tight, FULL) == FULL_ASSIGNMENT


def test_samples_depend_on_the_generator_alone() -> None:
    first, again, other = (sample(LIMITS, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again != other


def test_sampling_where_nothing_fits_says_so() -> None:
    tight = dataclasses.replace(LIMITS, max_activation_bytes=700)
    with pytest.raises(BudgetError, match=r"fit in 700 bytes of RAM, .* holds 784 at 'input'; allow at least 784"):
        sample(tight, np.random.default_rng(0))


def test_too_few_weights_are_named_as_such() -> None:
    tight = dataclasses.replace(LIMITS, max_weights=3)
    with pytest.raises(BudgetError, match=r"at most 3 weights, but the smallest of 2000 drawn has \d+"):
        sample(tight, np.random.default_rng(0))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_values_make_a_network_within_the_limits(seed: int) -> None:
    values = draw(LIMITS, np.random.default_rng(seed))
    architecture = decode(LIMITS, values)
    layers(architecture)
    changed = assignment(LIMITS, architecture)
    assert decode(LIMITS, values | changed) == architecture


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_walk_asks_for_known_dimensions_once_each(seed: int) -> None:
    rng = np.random.default_rng(seed)
    static = {dimension.name: dimension for dimension in dimensions(LIMITS)}
    asked: list[str] = []

    def choose(dimension: Dimension) -> Value:
        asked.append(dimension.name)
        known = static[dimension.name]
        if isinstance(dimension, Choice):
            assert isinstance(known, Choice) and dimension.values == known.values
            assert set(dimension.feasible) <= set(dimension.values) and dimension.feasible
            assert list(dimension.feasible) == [value for value in dimension.values if value in dimension.feasible]
        else:
            assert dimension == known
        return dimension.at(rng.random())

    architecture = suggest(LIMITS, choose)
    assert len(asked) == len(set(asked))
    assert asked == list(assignment(LIMITS, architecture))


def test_an_optuna_trial_can_drive_the_walk() -> None:
    def objective(trial: optuna.Trial) -> float:
        def choose(dimension: Dimension) -> Value:
            if isinstance(dimension, Choice):
                value = trial.suggest_categorical(dimension.name, dimension.values)
                assert value is not None
                return value
            if dimension.integer:
                return trial.suggest_int(dimension.name, int(dimension.low), int(dimension.high), log=True)
            return trial.suggest_float(dimension.name, dimension.low, dimension.high, log=True)

        architecture = suggest(LIMITS, choose)
        assert decode(LIMITS, trial.params) == architecture
        return float(sum(layer.weights for layer in layers(architecture)))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5))
    study.optimize(objective, n_trials=20)  # Optuna refuses choices that change from trial to trial
    assert len(study.trials) == 20
