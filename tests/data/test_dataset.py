import dataclasses
import hashlib

import numpy as np
import pytest

from sparse_mcu.data import Dataset, Split, digest
from sparse_mcu.errors import DataError


def split(first: int, images: int = 2) -> Split:
    pixels = np.arange(first, first + images * 12, dtype=np.uint8).reshape(images, 1, 3, 4)
    return Split(pixels, np.arange(images, dtype=np.int64))


def dataset() -> Dataset:
    return Dataset("small", ("cat", "dog"), split(0, 4), split(50), split(90), "made for a test")


def test_what_a_data_set_says_of_itself() -> None:
    small = dataset()
    assert small.classes == 2
    assert small.input_shape == (1, 3, 4)
    assert {name: len(part) for name, part in small.splits.items()} == {"train": 4, "validation": 2, "test": 2}


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 4), np.uint8), np.zeros(2, np.int64), r"must be uint8 \(N, C, H, W\), but are uint8 \(2, 3, 4\)"),
        (np.zeros((2, 1, 3, 4), np.float32), np.zeros(2, np.int64), "but are float32"),
        (np.zeros((2, 1, 3, 4), np.uint8), np.zeros(2, np.int32), r"must be int64 \(2,\), but are int32"),
        (
            np.zeros((2, 1, 3, 4), np.uint8),
            np.zeros(3, np.int64),
            r"labels of 2 images must be int64 \(2,\), but are int64 \(3,\)",
        ),
    ],
)
def test_a_split_refuses_other_shapes_and_types(images: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Split(images, labels)


def test_the_digest_is_the_hash_of_names_shapes_and_bytes() -> None:
    small = dataset()
    text = b""
    for name, part in (("train", small.train), ("validation", small.validation), ("test", small.test)):
        text += f"{name} {part.images.shape} ".encode() + part.images.tobytes() + part.labels.astype("<i8").tobytes()
    assert digest(small) == hashlib.sha256(text).hexdigest()


def test_the_digest_changes_with_a_pixel_a_label_the_order_the_cut_and_the_split() -> None:
    small = dataset()
    train = small.train
    pixel, label = train.images.copy(), train.labels.copy()
    pixel[3, 0, 2, 3] ^= 1
    label[1] = 0
    changed = [
        Split(pixel, train.labels),
        Split(train.images, label),
        Split(train.images[::-1], train.labels[::-1]),
        Split(train.images.reshape(4, 1, 4, 3), train.labels),
    ]
    others = [dataclasses.replace(small, train=part) for part in changed]
    others.append(dataclasses.replace(small, validation=small.test, test=small.validation))
    assert len({digest(small), *map(digest, others)}) == 6


def test_the_digest_sees_values_not_memory_order() -> None:
    small = dataset()
    fortran = Split(np.asfortranarray(small.train.images), small.train.labels)
    assert digest(dataclasses.replace(small, train=fortran)) == digest(small)
