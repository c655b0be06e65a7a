import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_mcu.errors import RunError
from sparse_mcu.run.files import locked, make_directory, write_text

HOLD = """
import pathlib, sys, time
from sparse_mcu.run.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(directory: Path) -> "subprocess.Popen[str]":
    """Start a process that holds the lock of ``directory``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    with hold(tmp_path) as holder:
        with pytest.raises(RunError, match="in use by another"), locked(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked(tmp_path):
            pass


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), locked(tmp_path):
        raise ValueError("inside")
    with locked(tmp_path):
        pass


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")
    write_text(path, "näw")
    assert path.read_text(encoding="utf-8") == "näw"
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*run\.json: No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write .*file/run: Not a directory"):
        make_directory(tmp_path / "file" / "run")
    with pytest.raises(RunError, match="cannot write"), locked(tmp_path / "file"):
        pass
