import json
from typing import Any

import pytest

from sparse_mcu.errors import ArchitectureError
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning, Training

FULL = Architecture(
    input_shape=(3, 16, 12),
    classes=5,
    blocks=(
        Block((Conv("regular", (3, 3), 4, stride=(2, 1), padding="valid"),), pool=Pool("max", (2, 2)), branch=True),
        Block(
            (Conv("separable", (5, 5), 4, batch_norm=False), Conv("reduced", (3, 3), 4, reduced_channels=2)),
            residual=True,
        ),
    ),
    downsample=Pool("average", (1, 1)),
    head=Head("global", hidden=8),
    training=Training(optimiser="sgd", learning_rate=0.01, epochs=7, pruning=Pruning("both", strength=0.1)),
)


def edited(path: str, value: Any) -> dict[str, Any]:
    """FULL as parsed JSON with the item at the dotted ``path`` set to ``value``."""
    root = json.loads(json.dumps(FULL.to_json()))
    *parents, last = path.split(".")
    item = root
    for key in parents:
        item = item[int(key) if isinstance(item, list) else key]
    item[int(last) if isinstance(item, list) else last] = value
    return root  # type: ignore[no-any-return]


def test_json_round_trip() -> None:
    text = json.dumps(FULL.to_json())
    assert Architecture.from_json(json.loads(text)) == FULL


def test_json_round_trip_of_defaults() -> None:
    plain = Architecture((1, 8, 8), 10, (Block((Conv("regular", (3, 3), 4),)),))
    assert Architecture.from_json(json.loads(json.dumps(plain.to_json()))) == plain


def test_architectures_are_hashable_values() -> None:
    assert len({FULL, Architecture.from_json(FULL.to_json())}) == 1


def test_an_integer_is_read_as_a_float() -> None:
    read = Architecture.from_json(edited("training.learning_rate", 1))
    assert read.training.learning_rate == 1.0
    assert isinstance(read.training.learning_rate, float)


@pytest.mark.parametrize("path", ["colour", "head.colour", "training.pruning.colour", "blocks.1.convs.0.colour"])
def test_an_unknown_key_is_named(path: str) -> None:
    with pytest.raises(ArchitectureError, match="has no field 'colour'"):
        Architecture.from_json(edited(path, 1))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("classes", 2.5, r"architecture\.classes must be of type int, but is 2\.5"),
        ("classes", True, r"architecture\.classes must be of type int, but is True"),
        ("classes", None, r"architecture\.classes must be of type int, but is None"),
        ("training.learning_rate", "fast", r"learning_rate must be of type float, but is 'fast'"),
        ("training.dropout", True, r"dropout must be of type float, but is True"),
        ("input_shape", [1, 8], r"architecture\.input_shape must have 3 items, but has 2"),
        ("input_shape", 8, r"architecture\.input_shape must be a list, but is 8"),
        ("blocks.0.convs.0.kernel.1", "3", r"blocks\[0\]\.convs\[0\]\.kernel\[1\] must be of type int, but is '3'"),
        ("blocks.0.convs.0.kind", "dilated", r"kind must be one of 'regular', 'separable', 'reduced', but is 'dilated'"),
        ("blocks.0.convs.0.kind", ["regular"], r"kind must be one of"),
        ("blocks.0.pool", "max", r"blocks\[0\]\.pool must be an object, but is 'max'"),
        ("head", None, r"architecture\.head must be an object, but is None"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(path: str, value: Any, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_json(edited(path, value))


def test_a_missing_key_is_named() -> None:
    value = FULL.to_json()
    del value["head"]
    with pytest.raises(ArchitectureError, match="architecture lacks the field 'head'"):
        Architecture.from_json(value)


def test_what_was_written_before_a_weight_could_have_fewer_bits_has_eight() -> None:
    value = FULL.to_json()
    del value["training"]["weight_bits"]
    assert Architecture.from_json(value).training.weight_bits == 8


@pytest.mark.parametrize("value", [None, [], "architecture", 3])
def test_what_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(ArchitectureError, match="architecture must be an object"):
        Architecture.from_json(value)
