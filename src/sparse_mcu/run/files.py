"""How files get into a run directory: whole or not at all, by one process at a time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sparse_mcu.errors import RunError

LOCK = ".lock"


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold ``directory`` for this process alone; the kernel lets go when the process dies, however it dies."""
    lock = FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(f"one process at a time may search in a run directory, but {directory} is in use by another") from None
    except OSError as error:
        raise cannot_write(directory, error) from None
    try:
        yield
    finally:
        lock.release()


def make_directory(path: Path) -> None:
    """Make the directory ``path`` and those above it where they are missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` under a temporary name, then rename: a crash leaves the old file or the new, never half."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> RunError:
    """Return the RunError that says why ``path`` cannot be written."""
    return RunError(f"cannot write {path}: {error.strerror or error}; make room there or name another place")
