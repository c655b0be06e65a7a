"""What a source holds before it is trusted, and every rule that it must keep.

The rules yield problems instead of raising, so that ``check`` can list them all and ``load`` can raise the first.
Images lie as (N, H, W) grey or (N, H, W, C), channels last, uint8 or float in [0, 1]; labels as (N,) integers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]

LARGEST_IMAGE_BYTES = 1 << 20  # no board has RAM for more
IMAGE_CHANNELS = 4
SIGNAL_CHANNELS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Images and labels of one part, as they lie in the source, and what messages call the two."""

    images: AnyArray
    labels: AnyArray
    images_name: str  # "x_train of digits.npz"
    labels_name: str


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What a reader found. Where it reports problems it may have left parts out."""

    name: str
    source: str
    train: Part | None = None  # to be split further
    test: Part | None = None
    class_names: tuple[str, ...] | None = None  # None: classes are called by their numbers
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that are there."""
        return tuple(part for part in (self.train, self.test) if part is not None)


def problems(reading: Reading) -> Iterator[str]:
    """Yield all that keeps ``reading`` from becoming a data set, the reader's own problems first."""
    yield from reading.problems
    broken = False
    for part in reading.parts:
        for problem in _part_problems(part):
            broken = True
            yield problem
    if broken or reading.train is None:
        return  # the rules between parts speak of sound parts only
    yield from _class_problems(reading.train, reading.test)
    if reading.test is not None and input_shape(reading.test.images) != input_shape(reading.train.images):
        yield (
            f"training and test images must have the same shape, but {reading.train.images_name} holds "
            f"{_image_shape(reading.train.images)} and {reading.test.images_name} {_image_shape(reading.test.images)}"
        )


def input_shape(images: AnyArray) -> tuple[int, int, int]:
    """Return (C, H, W) of one image of (N, H, W) or (N, H, W, C)."""
    height, width = images.shape[1:3]
    return (images.shape[3] if images.ndim == 4 else 1), height, width


def _image_shape(images: AnyArray) -> str:
    return "x".join(str(n) for n in images.shape[1:])


def _part_problems(part: Part) -> Iterator[str]:
    images, labels = part.images, part.labels
    layout = _layout_problem(images, part.images_name)
    if layout is not None:
        yield layout
    else:
        yield from _pixel_problems(images, part.images_name)
    if labels.ndim != 1:
        yield (
            f"labels must be one number an image, shape (N,), but {part.labels_name} has shape {labels.shape}; "
            "use y.ravel() on a column, y.argmax(axis=1) on one-hot rows"
        )
    elif labels.dtype.kind not in "iu":
        yield f"labels must be integers 0, 1, 2, ..., but {part.labels_name} is {labels.dtype}; number the classes from 0"
    elif len(labels) and labels.min() < 0:
        yield f"labels must be 0 or more, but {part.labels_name} holds {labels.min()}; number the classes from 0"
    if images.ndim and labels.ndim and len(images) != len(labels):
        yield (
            f"every image needs one label, but {part.images_name} holds {len(images)} images "
            f"and {part.labels_name} {len(labels)} labels"
        )


def _layout_problem(images: AnyArray, name: str) -> str | None:
    """Return what is wrong with the shape of ``images``, None where nothing is.

    A channels-first array is a channels-last one of odd sizes; the limits on the channels tell the two apart.
    """
    rule = f"images must have shape (N, H, W) or (N, H, W, C), but {name} has shape {images.shape}"
    if images.ndim not in (3, 4):
        return f"{rule}; reshape signals of T samples to (N, 1, T, C)"
    if 0 in images.shape:
        return f"{rule}: it is empty; remove it or fill it"
    channels, height, width = input_shape(images)
    limit = IMAGE_CHANNELS if height > 1 else min(SIGNAL_CHANNELS, width - 1)
    if channels > max(limit, 1):
        kind = "images have at most 4" if height > 1 else "signals at most 16 and fewer than samples"
        return f"{rule}, that is {channels} channels, and {kind}; channels come last, np.moveaxis(x, 1, -1) puts them there"
    size = math.prod(images.shape[1:])
    if size > LARGEST_IMAGE_BYTES:
        return (
            f"an image must have at most {LARGEST_IMAGE_BYTES:,} bytes to fit a board, but those of {name} have {size:,}; resize"
        )
    return None


def _pixel_problems(images: AnyArray, name: str) -> Iterator[str]:
    if images.dtype == np.uint8:
        return
    if images.dtype.kind != "f":
        yield (
            f"pixels must be uint8 or float in [0, 1], but {name} is {images.dtype}; "
            "bring them to 0..255 and use x.astype(np.uint8)"
        )
        return
    low, high = images.min(), images.max()  # NaN where any pixel is; no temporary as large as the images
    if not np.isfinite(low) or not np.isfinite(high):
        bad = [i for i, image in enumerate(images) if not np.isfinite(image).all()]
        yield (
            f"pixels must be finite, but {name} has NaN or infinite ones in {len(bad)} of {len(images)} images, "
            f"the first is image {bad[0]}; repair or remove them"
        )
    elif low < 0 or high > 1:
        yield f"float pixels must lie in [0, 1], but {name} spans [{low:g}, {high:g}]; scale the data, such as x / 255"


def _class_problems(train: Part, test: Part | None) -> Iterator[str]:
    labels, counts = np.unique(train.labels, return_counts=True)
    if len(labels) == 1:
        yield f"at least two classes are needed, but every label of {train.labels_name} is {labels[0]}"
        return
    if labels[-1] >= len(labels):
        missing = np.setdiff1d(np.arange(len(labels)), labels)
        yield (
            f"labels must be 0, 1, 2, ... without gaps, but {train.labels_name} has {len(labels)} classes up to {labels[-1]} "
            f"and none called {missing[0]}; renumber with np.unique(y, return_inverse=True)"
        )
    least = 2 if test is not None else 3
    into = "training and validation" if test is not None else "training, validation and test"
    for label, count in zip(labels[counts < least], counts[counts < least], strict=True):
        yield (
            f"every class needs at least {least} images to be split into {into}, but class {label} of {train.labels_name} "
            f"has {count}; add images or remove the class"
        )
    unknown = np.setdiff1d(test.labels, labels) if test is not None else labels[:0]
    if test is not None and len(unknown):
        yield (
            f"every test label must occur in training, but {test.labels_name} holds {unknown[0]} and {train.labels_name} does not"
        )
