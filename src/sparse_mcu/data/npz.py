"""Reads an .npz archive: x_train, y_train and, together or not at all, x_test, y_test. Nothing in it is ever unpickled."""

import difflib
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from sparse_mcu.data.reading import AnyArray, Part, Reading
from sparse_mcu.errors import DataError

REQUIRED = ("x_train", "y_train")
OPTIONAL = ("x_test", "y_test")

# What zipfile, zlib and NumPy raise on bytes that are not what they say they are. MemoryError: a header may claim any shape.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    MemoryError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: Path) -> Reading:
    """Read the archive at ``path``. Raises DataError where it cannot be opened at all."""
    try:
        archive = np.load(path, allow_pickle=False)
    except _UNREADABLE as error:
        raise DataError(
            f"{path} must be an .npz archive as numpy.savez writes, but cannot be opened: {_reason(error)}"
        ) from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DataError(f"{path} must be an .npz archive as numpy.savez writes, but holds a single array")
    with archive:
        problems = _key_problems(path, archive.files)
        found = {key: _array(archive, key, path) for key in (*REQUIRED, *OPTIONAL) if key in archive.files}
    problems += [problem for problem in found.values() if isinstance(problem, str)]
    arrays = {key: array for key, array in found.items() if not isinstance(array, str)}
    return Reading(path.stem, str(path), _part(path, arrays, *REQUIRED), _part(path, arrays, *OPTIONAL), problems=tuple(problems))


def _key_problems(path: Path, keys: list[str]) -> list[str]:
    """Return what is wrong with the names in the archive."""
    known = (*REQUIRED, *OPTIONAL)
    problems = [
        f"{path} must hold x_train and y_train, but has no {key}; it holds {', '.join(map(repr, keys)) or 'nothing'}"
        for key in REQUIRED
        if key not in keys
    ]
    if len([key for key in OPTIONAL if key in keys]) == 1:
        present, absent = sorted(OPTIONAL, key=lambda key: key not in keys)
        problems.append(f"{path} must hold x_test and y_test together or neither, but has {present} and no {absent}")
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            offer = f"did you mean {near[0]}?" if near else "remove or rename it"
            problems.append(f"{path} may hold {', '.join(known)} and nothing else, but has {key!r}; {offer}")
    return problems


def _array(archive: "np.lib.npyio.NpzFile", key: str, path: Path) -> AnyArray | str:
    """Return the array called ``key``, or the problem that keeps it from being read."""
    try:
        array = archive[key]
    except _UNREADABLE as error:
        if "allow_pickle" in str(error):
            return f"{key} of {path} must hold numbers, but holds Python objects, never unpickled; are its rows of equal length?"
        return f"{key} of {path} cannot be read: {_reason(error)}; write the file anew"
    if not isinstance(array, np.ndarray):
        return f"{key} of {path} must be a NumPy array, but is another file in the archive"
    return array


def _part(path: Path, arrays: dict[str, AnyArray], images: str, labels: str) -> Part | None:
    if images not in arrays or labels not in arrays:
        return None
    return Part(arrays[images], arrays[labels], f"{images} of {path}", f"{labels} of {path}")


def _reason(error: BaseException) -> str:
    """Return what the system says of a file it will not read; other errors speak of bytes that no user knows."""
    return error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged or something else"
