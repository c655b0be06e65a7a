"""Data that users bring."""

from pathlib import Path

import numpy as np
import pytest
from command_line import UNO, CommandLine
from PIL import Image

CLASSES = ("left", "right")


def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``count`` noisy 8x8 images, bright in the left or the right half, and which."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    pixels = rng.integers(0, 100, (count, 8, 8))
    pixels[labels == 0, :, :4] += 120
    pixels[labels == 1, :, 4:] += 120
    return pixels.astype(np.uint8), labels


def write_npz(folder: Path) -> Path:
    """Write an archive with a test split of its own."""
    x_train, y_train = images(120, seed=0)
    x_test, y_test = images(40, seed=1)
    np.savez(folder / "halves.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return folder / "halves.npz"


def write_folder(folder: Path) -> Path:
    """Write a folder of class folders of PNG files."""
    for number, (pixels, label) in enumerate(zip(*images(160, seed=0), strict=True)):
        path = folder / "halves" / CLASSES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder / "halves"


@pytest.mark.parametrize("write", [write_npz, write_folder])
def test_from_own_images_to_c_that_agrees(cli: CommandLine, write) -> None:
    source = write(cli.cwd).name
    assert cli.json("data", "check", source)["problems"] == []
    found = cli.json("search", source, *UNO, "--trials", "3", "--workers", "1")
    assert found["run"] == "runs/halves"
    assert found["front"][0]["validation_accuracy"] > 0.9
    cli.done("export", "runs/halves", "--out", "build")
    assert sorted(path.name for path in (cli.cwd / "build").iterdir()) == ["model.c", "model.h"]
    assert cli.json("verify", "runs/halves")["mismatches"] == 0


def test_data_that_moved_are_named_anew_and_must_be_the_same(cli: CommandLine) -> None:
    write_npz(cli.cwd).rename(cli.cwd / "old.npz")
