"""Looks a data set over before hours are spent on it: what keeps it from loading, what may spoil a result, what it holds.

Warnings are about data that load: classes of very unequal size, an image in two splits (what is learnt there is not
measured but remembered), few images, pixels that say little.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparse_mcu.data.dataset import Dataset, Split
from sparse_mcu.data.load import assemble, read
from sparse_mcu.data.reading import problems
from sparse_mcu.errors import DataError

IMBALANCE = 10  # largest class : smallest class
FEW_PER_CLASS = 20  # training images
FEW_HELD_OUT = 100  # images of a split: accuracy moves in steps of 1 %
CONSTANT_SHARE = 0.1  # of an image
NARROW_SPAN = 64  # of 256 values


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of ``check``. A data set with problems does not load; ``facts`` is then empty."""

    source: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)  # JSON values

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return dataclasses.asdict(self) | {"problems": list(self.problems), "warnings": list(self.warnings)}


def check(source: str | Path) -> Report:
    """Report everything that is wrong with or worth knowing of ``source``, as ``load`` with seed 0 would split it."""
    try:
        reading = read(source)
    except DataError as error:
        return Report(str(source), (str(error),))
    found = tuple(problems(reading))
    if found:
        return Report(str(source), found, reading.warnings)
    dataset = assemble(reading, seed=0)
    return Report(str(source), (), (*reading.warnings, *_warnings(dataset)), _facts(dataset))


def _facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "source": dataset.source,
        "classes": dataset.classes,
        "class_names": list(dataset.class_names),
        "input_shape": list(dataset.input_shape),  # C, H, W
        "input_bytes": math.prod(dataset.input_shape),
        "value_range": list(_value_range(dataset)),
        "constant_pixels": _constant_pixels(dataset.train),
        "images": {name: len(split) for name, split in dataset.splits.items()},
        "images_per_class": {name: _counts(split, dataset.classes) for name, split in dataset.splits.items()},
    }


def _warnings(dataset: Dataset) -> Iterator[str]:
    names, counts = dataset.class_names, _counts(dataset.train, dataset.classes)
    least, most = int(np.argmin(counts)), int(np.argmax(counts))
    if counts[most] > IMBALANCE * counts[least]:
        yield (
            f"classes should be within {IMBALANCE}:1 of each other, but {names[most]!r} has {counts[most]} training images "
            f"and {names[least]!r} {counts[least]}; accuracy will say little about the small ones"
        )
    if counts[least] < FEW_PER_CLASS:
        yield f"a class should have {FEW_PER_CLASS} training images or more, but {names[least]!r} has {counts[least]}"
    yield from _held_out_warnings(dataset)
    yield from _duplicate_warnings(dataset)
    yield from _pixel_warnings(dataset)


def _held_out_warnings(dataset: Dataset) -> Iterator[str]:
    for part in ("validation", "test"):
        split = dataset.splits[part]
        if len(split) < FEW_HELD_OUT:
            yield (
                f"a {part} split should have {FEW_HELD_OUT} images or more, but has {len(split)}: "
                f"accuracy moves in steps of {100 / len(split):.1f} %"
            )
        absent = [name for name, count in zip(dataset.class_names, _counts(split, dataset.classes), strict=True) if count == 0]
        if absent:
            yield f"every class should be in the {part} split, but {len(absent)} are not, such as {absent[0]!r}"


def _duplicate_warnings(dataset: Dataset) -> Iterator[str]:
    seen = {part: _fingerprints(split) for part, split in dataset.splits.items()}
    for part, others in (("validation", ("train",)), ("test", ("train", "validation"))):
        for other in others:
            shared = seen[part].keys() & seen[other].keys()
            if shared:
                images = sorted(seen[part][image] for image in shared)
                yield (
                    f"no image should be in two splits, but {len(images)} of {part} are in {other} too, such as {part} image "
                    f"{images[0]}; the accuracy on {part} will be too high: remove duplicates from the source"
                )


def _fingerprints(split: Split) -> dict[bytes, int]:
    """Return the index of an image for the hash of every distinct one."""
    return {hashlib.blake2b(image.tobytes(), digest_size=16).digest(): index for index, image in enumerate(split.images)}


def _pixel_warnings(dataset: Dataset) -> Iterator[str]:
    constant, pixels = _constant_pixels(dataset.train), math.prod(dataset.input_shape)
    if constant > CONSTANT_SHARE * pixels:
        yield f"{constant} of the {pixels} bytes of an image are the same in all training images; crop them to save RAM"
    low, high = _value_range(dataset)
    if high - low < NARROW_SPAN:
        yield f"pixels should use the range 0..255, but span {low}..{high}; spread them, the device has 8 bits only"


def _value_range(dataset: Dataset) -> tuple[int, int]:
    images = [split.images for split in dataset.splits.values()]
    return min(int(x.min()) for x in images), max(int(x.max()) for x in images)


def _constant_pixels(split: Split) -> int:
    """Return how many bytes of an image never change."""
    return int((split.images.min(axis=0) == split.images.max(axis=0)).sum())


def _counts(split: Split, classes: int) -> list[int]:
    return [int(count) for count in np.bincount(split.labels, minlength=classes)]
