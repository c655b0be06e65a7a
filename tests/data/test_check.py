import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparse_mcu.data import check, load
from sparse_mcu.errors import DataError

Save = Callable[..., Path]

RANDOM = np.random.default_rng(0).integers(0, 256, (1200, 4, 5), dtype=np.uint8)
LABELS = np.arange(1200) % 2


def test_sound_data_give_facts_and_no_warning(save: Save) -> None:
    path = save(x_train=RANDOM, y_train=LABELS)
    report = check(path)
    assert (report.problems, report.warnings) == ((), ())
    assert report.facts == {
        "name": "own",
        "source": str(path),
        "classes": 2,
        "class_names": ["0", "1"],
        "input_shape": [1, 4, 5],
        "input_bytes": 20,
        "value_range": [0, 255],
        "constant_pixels": 0,
        "images": {"train": 720, "validation": 240, "test": 240},
        "images_per_class": {"train": [360, 360], "validation": [120, 120], "test": [120, 120]},
    }


def test_the_built_in_digits_are_sound() -> None:
    report = check("digits")
    assert (report.problems, report.warnings) == ((), ())
    assert sum(report.facts["images"].values()) == 1797


def test_a_report_is_json(save: Save) -> None:
    for path in (save(), save(x_train=RANDOM)):
        report = check(path).to_json()
        assert json.loads(json.dumps(report)) == report


def test_all_problems_are_found_and_the_first_is_raised(save: Save) -> None:
    path = save(x_train=RANDOM[:30] / 1.0, y_train=np.zeros(29), x_tset=RANDOM)
    report = check(path)
    assert [problem.split(",")[0].split(" but ")[0] for problem in report.problems] == [
        f"{path} may hold x_train",
        "float pixels must lie in [0",
        "labels must be integers 0",
        "every image needs one label",
    ]
    assert (report.facts, report.warnings) == ({}, ())
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value) == f"{report.problems[0]} (and 3 more: sparse-mcu data check {path})"


def test_a_source_that_cannot_be_read_is_a_problem_not_an_exception() -> None:
    assert check("digist").problems[0].startswith("no data set is called 'digist'")


def the_warning(path: Path, about: str) -> str:
    (warning,) = [warning for warning in check(path).warnings if about in warning]
    return warning


def test_imbalance_beyond_10_to_1(save: Save) -> None:
    # of the training images a fifth goes to validation: 1000 and 100 stay within 10:1, 1000 and 99 do not
    tests = {"x_test": RANDOM[:200], "y_test": LABELS[:200]}
    within, beyond = np.repeat([0, 1], [1000, 100]), np.repeat([0, 1], [1000, 95])
    assert check(save(x_train=RANDOM[100:], y_train=within, **tests)).facts["images_per_class"]["train"] == [800, 80]
    assert not any("10:1" in warning for warning in check(save(x_train=RANDOM[:1100], y_train=within, **tests)).warnings)
    warning = the_warning(save(x_train=RANDOM[:1095], y_train=beyond, **tests), "10:1")
    assert "'0' has 800 training images and '1' 76" in warning


def test_few_images(save: Save) -> None:
    path = save(x_train=RANDOM[:60], y_train=LABELS[:60])
    assert "'0' has 18" in the_warning(path, "20 training images")
    assert "has 12: accuracy moves in steps of 8.3 %" in the_warning(path, "a validation split should")
    assert "has 12: accuracy moves in steps of 8.3 %" in the_warning(path, "a test split should")


def test_a_class_without_test_images(save: Save) -> None:
    path = save(x_train=RANDOM[:900], y_train=LABELS[:900], x_test=RANDOM[900:], y_test=LABELS[900:] * 0)
    assert the_warning(path, "every class") == "every class should be in the test split, but 1 are not, such as '1'"


def test_images_in_two_splits(save: Save) -> None:
    tests = RANDOM[900:].copy()
    x_train = RANDOM[:900]
    clean = load(save(x_train=x_train, y_train=LABELS[:900], x_test=tests, y_test=LABELS[900:]))
    tests[7], tests[5], tests[9] = clean.train.images[0, 0], clean.train.images[1, 0], clean.validation.images[0, 0]
    path = save(x_train=x_train, y_train=LABELS[:900], x_test=tests, y_test=LABELS[900:])
    assert "but 2 of test are in train too, such as test image 5;" in the_warning(path, "in train too")
    assert "but 1 of test are in validation too, such as test image 9;" in the_warning(path, "in validation too")


def test_images_that_come_twice_in_one_file_leak_through_the_split(save: Save) -> None:
    twice = np.concatenate([RANDOM[:600], RANDOM[:600]])
    warnings = check(save(x_train=twice, y_train=np.tile(LABELS[:600], 2))).warnings
    assert sum("no image should be in two splits" in warning for warning in warnings) == 3


def test_pixels_that_never_change(save: Save) -> None:
    border = RANDOM.copy()
    border[:, 0, :2] = 17
    assert check(save(x_train=border, y_train=LABELS)).warnings == ()
    border[:, 0, 2] = 0
    assert "3 of the 20 bytes" in the_warning(save(x_train=border, y_train=LABELS), "are the same in all training images")


def test_pixels_that_use_little_of_their_range(save: Save) -> None:
    assert "but span 0..15;" in the_warning(save(x_train=RANDOM // 16, y_train=LABELS), "should use the range")
