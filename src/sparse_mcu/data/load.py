"""From a name or a path to a data set: find the reader, refuse what breaks a rule, split, convert to bytes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sparse_mcu.data import digits, split
from sparse_mcu.data.dataset import Dataset, Int64Array, Split, UInt8Array
from sparse_mcu.data.npz import read_npz
from sparse_mcu.data.reading import AnyArray, Part, Reading, input_shape, problems
from sparse_mcu.errors import DataError, unknown_name

BUILT_IN = {"digits": digits.DESCRIPTION}
_READERS: dict[str, Callable[[], Reading]] = {"digits": digits.read_digits}

TEST_SEED = 0  # of no user's choice: what was tested once must stay the test split
CHUNK = 1024  # images converted at a time


def load(source: str | Path, seed: int = 0) -> Dataset:
    """Load a built-in data set by its name, or an .npz archive or a folder of class folders by its path.

    A test split that the source does not have is split off, the same for every ``seed``; then a validation split by ``seed``.
    The splits of a built-in data set are fixed altogether. 0 <= seed < 2**32. Raises DataError naming the first problem.
    """
    reading = read(source)
    found = list(problems(reading))
    if found:
        more = f" (and {len(found) - 1} more: sparse-mcu data check {source})" if len(found) > 1 else ""
        raise DataError(found[0] + more)
    return assemble(reading, TEST_SEED if source in BUILT_IN else seed)


def read(source: str | Path) -> Reading:
    """Read ``source`` with the reader for its kind. Raises DataError where there is none, or nothing to read."""
    if isinstance(source, str) and source in _READERS:
        return _READERS[source]()
    path = _existing(source)
    if path.is_dir():
        from sparse_mcu.data.folder import read_folder  # here: built-in sets and archives need no Pillow

        return read_folder(path)
    if path.suffix.lower() == ".npz":
        return read_npz(path)
    raise DataError(
        f"a data set must be a name ({', '.join(BUILT_IN)}), an .npz archive or a folder of class folders, but is {path}"
    )


def _existing(source: str | Path) -> Path:
    """Return ``source`` as the path of something that is there."""
    path = Path(source)
    if source == "":  # Path("") would be the current folder
        raise DataError(unknown_name("data set", "", BUILT_IN))
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.name == source and not path.suffix:
            raise DataError(f"{unknown_name('data set', source, BUILT_IN)}; nor is there a folder of that name") from None
        raise DataError(f"a data set must exist, but there is no file or folder {source}") from None
    except OSError as error:
        raise DataError(f"a data set must be readable, but {source} is not: {error.strerror}") from error
    return path


def assemble(
    reading: Reading,  # without problems
    seed: int,
) -> Dataset:
    """Split what is not yet split and convert it to bytes."""
    train = reading.train
    assert train is not None, "a reading without problems has a training part"
    labels = train.labels.astype(np.int64)
    stay = np.arange(len(labels))
    if reading.test is None:
        stay, picked = split.stratify(labels, split.held_out(len(labels)), TEST_SEED)
        test = _split(train, labels, picked)
    else:
        test = _split(reading.test, reading.test.labels.astype(np.int64), np.arange(len(reading.test.labels)))
    kept, picked = split.stratify(labels[stay], split.held_out(len(labels)), seed)
    names = reading.class_names or tuple(str(label) for label in range(labels.max() + 1))
    return Dataset(
        reading.name,
        names,
        train=_split(train, labels, stay[kept]),
        validation=_split(train, labels, stay[picked]),
        test=test,
        source=reading.source,
    )


def _split(part: Part, labels: Int64Array, picked: Int64Array) -> Split:
    return Split(_to_bytes(part.images, picked), labels[picked])


def _to_bytes(
    images: AnyArray,  # (N, H, W) or (N, H, W, C), uint8 or float in [0, 1]
    picked: Int64Array,  # (n,)
) -> UInt8Array:
    """Return the ``picked`` images as (n, C, H, W); in chunks, so that no second copy, least of all of floats, is held."""
    result = np.empty((len(picked), *input_shape(images)), dtype=np.uint8)
    for start in range(0, len(picked), CHUNK):
        chunk = images[picked[start : start + CHUNK]]
        if chunk.dtype != np.uint8:
            chunk = np.rint(chunk * 255)
        result[start : start + CHUNK] = np.moveaxis(chunk, -1, 1) if chunk.ndim == 4 else chunk[:, None]
    return result
