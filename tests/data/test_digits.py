import numpy as np
from sklearn.datasets import load_digits

from sparse_mcu.data import digest, load


def test_all_of_the_digits_are_there_once_scaled_to_bytes() -> None:
    digits, bunch = load("digits"), load_digits()
    ours = np.concatenate([np.column_stack([s.images.reshape(-1, 64), s.labels]) for s in digits.splits.values()])
    theirs = np.column_stack([np.rint(bunch.data * (255 / 16)), bunch.target])
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    assert digits.class_names == tuple("0123456789")
    assert digits.input_shape == (1, 8, 8)


def test_the_split_is_60_20_20_within_every_class() -> None:
    digits = load("digits")
    assert [len(split) for split in digits.splits.values()] == [1079, 359, 359]
    counts = np.array([np.bincount(split.labels) for split in digits.splits.values()])
    assert np.abs(counts / counts.sum(axis=0) - [[0.6], [0.2], [0.2]]).max() < 0.01


def test_everybody_has_the_same_splits_for_ever() -> None:
    assert digest(load("digits", seed=5)) == digest(load("digits"))
    assert digest(load("digits")) == "90a4d8f1eae27090b9a12dac4fbc4fbe28727c0c379264fe14fe07eb9a4447a1"
