"""What users bring that cannot work: one clear line on stderr, status 2, and no directory left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sparse_mcu.cli import run

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 3


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def npz(**arrays: Any) -> Callable[[Path], str]:
    """Return what writes an archive of ``arrays``; the images and labels of a good one where they are not given."""

    def write(folder: Path) -> str:
        good = {"x_train": pixels(60, 8, 8), "y_train": LABELS}
        kept = {name: array for name, array in (good | arrays).items() if array is not None}
        np.savez(folder / "data.npz", **kept)
        return "data.npz"

    return write


def text(folder: Path) -> str:
    (folder / "data.npz").write_text("not an archive")
    return "data.npz"


def csv(folder: Path) -> str:
    (folder / "data.csv").write_text("1,2,3\n")
    return "data.csv"


def folder_of_two_sizes(folder: Path) -> str:
    for name, size in (("a", 8), ("b", 9)):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(pixels(size, size)).save(folder / "images" / name / f"{number}.png")
    return "images"


def empty_folder(folder: Path) -> str:
    (folder / "images").mkdir()
    return "images"


def name(text: str) -> Callable[[Path], str]:
    return lambda _: text


LONELY = np.where(np.arange(60) == 7, 2, np.arange(60) % 2)
SPLIT = {"x_test": pixels(9, 8, 8), "y_test": LABELS[:9]}
BAD_DATA = {
    "unknown name": (name("digit"), "did you mean digits?"),
    "no such file": (name("photos/cats.npz"), "no file or folder photos/cats.npz"),
    "a kind not read": (csv, "must be a name (digits), an .npz archive or a folder of class folders"),
    "no archive": (text, "data.npz"),
    "missing key": (npz(y_train=None), "y_train"),
    "unknown key": (npz(weights=np.ones(3)), "weights"),
    "objects": (npz(x_train=np.array([None] * 60)), "x_train"),
    "NaN": (npz(x_train=np.full((60, 8, 8), np.nan)), "must be finite"),
    "infinite": (npz(x_train=np.full((60, 8, 8), np.inf)), "must be finite"),
    "floats outside 0..1": (npz(x_train=pixels(60, 8, 8) / 25.5), "[0, 1]"),
    "one class": (npz(y_train=np.zeros(60, int)), "at least two classes"),
    "a class with a single sample": (npz(y_train=LONELY), "every class needs at least 3 images"),
    "label gap": (npz(y_train=LABELS * 2), "label"),
    "labels that are no integers": (npz(y_train=LABELS + 0.5), "integer"),
    "empty split": (npz(x_test=pixels(0, 8, 8), y_test=LABELS[:0]), "x_test"),
    "half a split": (npz(x_test=SPLIT["x_test"]), "y_test"),
    "shapes that differ": (npz(x_test=pixels(9, 7, 8), y_test=SPLIT["y_test"]), "must have the same shape"),
    "images of two sizes": (folder_of_two_sizes, "size"),
    "an empty folder": (empty_folder, "images"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write, part = BAD_DATA[case]
    source = write(tmp_path)
    assert run(["search", source, "--board", "arduino-uno", "--trials", "1", "--out", "run"]) == 2
    refused(capsys, part)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--board", "arduino-unno"), "no board is called 'arduino-unno'; did you mean arduino-uno"),
        (("--board", "arduino-uno", "--ram", "4K"), "a RAM budget must be from 1 to the 2048 bytes of arduino-uno, but is 4096"),
        (
            ("--board", "arduino-uno", "--flash", "64K"),
            "a flash budget must be from 1 to the 32768 bytes of arduino-uno, but is 65536",
        ),
        (("--board", "arduino-uno", "--time", "1m"), "a time or after a number of trials"),
        (("--board", "arduino-uno", "--device", "tpu"), "no device is called 'tpu'"),
        (("--board", "arduino-uno", "--resume", "run"), "a resumed search keeps its board, but --board is given; leave it out"),
    ],
)
def test_bad_options(
    options: tuple[str, ...], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["search", "digits", "--trials", "1", *options]) == 2
    refused(capsys, part)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["front"], ["export"], ["verify"], ["search", "--resume"]])
def test_no_run_directory(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, str(tmp_path)]) == 2
    refused(capsys, "has no run.json")
    assert run([*command, str(tmp_path / "nothing")]) == 2
    refused(capsys, "does not exist")


def refused(capsys: pytest.CaptureFixture[str], part: str) -> None:
    """Check that what was printed is exactly one line, on stderr, with ``part`` in it."""
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("sparse-mcu: ")
    assert part in printed.err
