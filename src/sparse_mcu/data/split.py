"""Stratified splits, by hand for two reasons: they must not change, and no class may be missing from a split.

A run is resumed, and figures are compared, on the split they were made with; scikit-learn may pick other images from one
version to the next. Hence RandomState: NumPy keeps its stream the same for ever (NEP 19), while Generator's may change.
"""

import numpy as np

from sparse_mcu.data.dataset import Int64Array

SHARE = 0.2  # of all images, for the validation split and for the test split
LARGEST = 10_000  # images in a split held out: they tell 99 % to +-0.2 %, more only cost time


def held_out(images: int) -> int:
    """Return how many of ``images`` a validation or test split should take."""
    return min(round(SHARE * images), LARGEST)


def stratify(
    labels: Int64Array,  # (N,), every class at least twice
    count: int,
    seed: int,  # 0 <= seed < 2**32
) -> tuple[Int64Array, Int64Array]:
    """Return the shuffled indices of what stays and of the ``count`` images held out.

    Every class gives the same share of its images up to rounding, but at least one and never all; ``count`` yields to that.
    """
    random = np.random.RandomState(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    is_held_out = np.zeros(len(labels), dtype=bool)
    for label, give in zip(classes, _allot(sizes, count), strict=True):
        is_held_out[random.permutation(np.flatnonzero(labels == label))[:give]] = True
    # Shuffled: the files of a folder lie class by class, and a part of a split should still hold every class.
    return random.permutation(np.flatnonzero(~is_held_out)), random.permutation(np.flatnonzero(is_held_out))


def _allot(
    sizes: Int64Array,  # (classes,)
    count: int,
) -> Int64Array:
    """Share ``count`` out in proportion to ``sizes`` by largest remainders, then within 1..size - 1."""
    quota = sizes * (count / sizes.sum())
    shares = np.floor(quota).astype(np.int64)
    shares[np.argsort(shares - quota, kind="stable")[: count - shares.sum()]] += 1
    bounded: Int64Array = shares.clip(1, sizes - 1)
    return bounded
