"""A data set as everything downstream sees it: three splits of bytes and class numbers.

N: images of a split; C, H, W: channels, height, width. A 1-D signal of T samples is (C, 1, T).
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparse_mcu.errors import DataError

UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Images with their labels. A byte p stands for the real value p / 255."""

    images: UInt8Array  # (N, C, H, W)
    labels: Int64Array  # (N,), 0 <= label < classes

    def __post_init__(self) -> None:
        """Raise DataError where shape or type is another, so that no room needs to look again."""
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise DataError(f"images of a split must be uint8 (N, C, H, W), but are {self.images.dtype} {self.images.shape}")
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"labels of {len(self.images)} images must be int64 ({len(self.images)},), "
                f"but are {self.labels.dtype} {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Three disjoint splits: networks learn from ``train``, are chosen on ``validation`` and measured on ``test`` at the end."""

    name: str
    class_names: tuple[str, ...]  # class_names[label]
    train: Split
    validation: Split
    test: Split
    source: str  # where the data came from, in words or as a path

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width


def digest(dataset: Dataset) -> str:
    """Return the SHA-256 (hex) of all arrays: equal where every split holds equal images and labels in equal order."""
    sha256 = hashlib.sha256()
    for name, split in dataset.splits.items():
        # The shape goes in too: the same bytes cut into other images are other data.
        sha256.update(f"{name} {split.images.shape} ".encode())
        sha256.update(np.ascontiguousarray(split.images).data)
        sha256.update(np.ascontiguousarray(split.labels, dtype="<i8").data)
    return sha256.hexdigest()
