import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparse_mcu.data import Dataset, check, load

Save = Callable[..., Path]
Refusal = Callable[[str | Path], str]

IMAGES = np.arange(600, dtype=np.uint8).reshape(30, 4, 5)
LABELS = np.arange(30) % 3


def pairs(dataset: Dataset) -> list[tuple[bytes, int]]:
    """Return every image with its label, in an order of its own."""
    parts = dataset.splits.values()
    return sorted((image.tobytes(), int(label)) for part in parts for image, label in zip(part.images, part.labels, strict=True))


def test_every_image_keeps_its_label_and_is_in_one_split(save: Save) -> None:
    dataset = load(save())
    assert pairs(dataset) == sorted((image.tobytes(), label) for image, label in zip(IMAGES, LABELS.tolist(), strict=True))
    assert [len(part) for part in dataset.splits.values()] == [18, 6, 6]
    assert (dataset.name, dataset.class_names, dataset.input_shape) == ("own", ("0", "1", "2"), (1, 4, 5))


def test_a_test_part_in_the_file_is_kept_as_it_is(save: Save) -> None:
    tests = IMAGES[:9] // 2
    dataset = load(save(x_test=tests, y_test=LABELS[:9].astype(np.uint8)))
    assert np.array_equal(dataset.test.images, tests[:, None])
    assert np.array_equal(dataset.test.labels, LABELS[:9])
    assert [len(part) for part in dataset.splits.values()] == [24, 6, 9]


def test_channels_last_becomes_channels_first(save: Save) -> None:
    images = np.arange(30 * 60, dtype=np.uint16).reshape(30, 4, 5, 3).astype(np.uint8)
    dataset = load(save(x_test=images, y_test=LABELS, x_train=images))
    assert dataset.input_shape == (3, 4, 5)
    for c in range(3):
        assert np.array_equal(dataset.test.images[:, c], images[..., c])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_become_the_nearest_byte(save: Save, dtype: str) -> None:
    values = np.linspace(0, 1, 600).reshape(30, 4, 5).astype(dtype)
    dataset = load(save(x_train=values, x_test=values, y_test=LABELS))
    assert np.abs(dataset.test.images[:, 0] - 255 * values.astype(np.float64)).max() <= 0.5 + 0.1 * (dtype == np.float16)
    exact = (IMAGES / 255).astype(dtype)
    assert np.array_equal(load(save(x_train=exact, x_test=exact, y_test=LABELS)).test.images[:, 0], IMAGES)


def test_more_images_than_are_converted_at_a_time(save: Save) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2500, 2, 3), dtype=np.uint8)
    labels = np.arange(2500) % 2
    dataset = load(save(x_train=images, y_train=labels))
    assert pairs(dataset) == sorted((image.tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True))


def test_a_missing_key_is_named_with_what_is_there(save: Save, refusal: Refusal) -> None:
    assert "has no y_train; it holds 'x_train'" in refusal(save(y_train=None))
    assert "has no x_train; it holds 'y_train', 'X_train'" in refusal(save(x_train=None, X_train=IMAGES))


def test_an_unknown_key_is_never_dropped(save: Save, refusal: Refusal) -> None:
    assert "nothing else, but has 'x_tset'; did you mean x_test?" in refusal(save(x_tset=IMAGES))
    assert refusal(save(mean=IMAGES)).endswith("nothing else, but has 'mean'; remove or rename it")


def test_half_a_test_part_is_refused(save: Save, refusal: Refusal) -> None:
    assert "together or neither, but has x_test and no y_test" in refusal(save(x_test=IMAGES))
    assert "together or neither, but has y_test and no x_test" in refusal(save(y_test=LABELS))


class Explosive:
    """Says so when unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return pytest.fail, ("it was unpickled",)


def test_object_arrays_are_refused_and_never_unpickled(save: Save, refusal: Refusal) -> None:
    labels = np.array([Explosive()] * 30, dtype=object)
    assert "y_train of" in refusal(save(y_train=labels))
    assert "holds Python objects, never unpickled" in refusal(save(y_train=labels))


def test_a_pickle_called_npz_is_never_unpickled(tmp_path: Path, refusal: Refusal) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(pickle.dumps(Explosive()))
    assert "must be an .npz archive as numpy.savez writes" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 nor this", b"\x93NUMPY\x01\x00v\x00"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, refusal: Refusal, content: bytes) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(content)
    assert "must be an .npz archive as numpy.savez writes, but cannot be opened" in refusal(path)


def test_a_single_array_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    np.save(tmp_path / "own.npy", IMAGES)
    assert "holds a single array" in refusal((tmp_path / "own.npy").rename(tmp_path / "own.npz"))


def test_a_truncated_archive_is_refused(save: Save, refusal: Refusal) -> None:
    path = save()
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot be opened: it is damaged or something else" in refusal(path)


def test_a_flipped_bit_is_noticed(save: Save, refusal: Refusal) -> None:
    path = save()
    content = bytearray(path.read_bytes())
    content[content.index(IMAGES.tobytes()) + 300] ^= 4
    path.write_bytes(content)
    assert "x_train of" in refusal(path)
    assert "cannot be read: it is damaged or something else; write the file anew" in refusal(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (90000000000000, 4, 5)}",  # more than there is memory
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (30, 4, 5",  # NumPy lets TokenError through
        b"{'descr': '|u1', 'fortran_order': 07, 'shape': (30, 4, 5)}",  # and SyntaxError
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, refusal: Refusal, header: bytes) -> None:
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(600))
    assert any("x_train of" in problem and "cannot be read" in problem for problem in check(path).problems)


def test_a_member_that_is_no_array_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train", b"1,2,3")
        archive.writestr("y_train", b"0")
    assert "must be a NumPy array, but is another file in the archive" in refusal(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": IMAGES.astype(np.int32)}, "pixels must be uint8 or float in [0, 1], but x_train of"),
        ({"x_train": np.where(IMAGES == 7, np.nan, 0.5)}, "pixels must be finite, but x_train of"),
        ({"x_train": np.where(IMAGES == 7, np.inf, 0.5)}, "pixels must be finite, but x_train of"),
        ({"x_train": IMAGES.astype(np.float32)}, "float pixels must lie in [0, 1], but x_train of"),
        ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, "it is empty"),
        ({"y_train": LABELS[:7]}, "holds 30 images and y_train of"),
        ({"y_train": LABELS * 0}, "at least two classes are needed"),
        ({"y_train": np.where(LABELS == 2, 3, LABELS)}, "labels must be 0, 1, 2, ... without gaps"),
        ({"y_train": LABELS / 1}, "labels must be integers"),
        ({"y_train": np.where(np.arange(30) == 5, 3, LABELS)}, "every class needs at least 3 images"),
        ({"x_test": IMAGES[:, :3], "y_test": LABELS}, "training and test images must have the same shape"),
        ({"x_test": IMAGES[:0], "y_test": LABELS[:0]}, "it is empty"),
        ({"x_test": IMAGES, "y_test": LABELS + 1}, "every test label must occur in training"),
    ],
)
def test_every_rule_reaches_the_user(save: Save, refusal: Refusal, arrays: dict[str, np.ndarray], message: str) -> None:
    path = save(**arrays)
    assert message in refusal(path)
    assert str(path) in refusal(path)
