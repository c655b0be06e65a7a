"""Data that users bring."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import HALVES, UNO, CommandLine
from PIL import Image


def as_archive(folder: Path) -> str:
    """Leave the images as they are."""
    return HALVES


def as_folder(folder: Path) -> str:
    """Write the images into a folder of class folders."""
    with np.load(folder / HALVES) as archive:
        for number, (pixels, label) in enumerate(zip(archive["x_train"], archive["y_train"], strict=True)):
            path = folder / "halves" / ("left", "right")[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return "halves"


@pytest.mark.parametrize("write", [as_archive, as_folder])
def test_from_own_images_to_c_that_agrees_wherever_they_move(cli: CommandLine, write: Callable[[Path], str]) -> None:
    source = write(cli.cwd)
    assert cli.json("data", "check", source)["problems"] == []
    found = cli.json("search", source, *UNO, "--trials", "2", "--workers", "2")
    assert found["run"] == "runs/halves"
    moved = (cli.cwd / source).rename(cli.cwd / f"moved-{source}")
    assert f"no file or folder {cli.cwd / source}" in cli.refused("verify", "runs/halves")
    verified = cli.json("verify", "runs/halves", "--data", moved)
    assert (verified["images"], verified["mismatches"]) == (18, 0)
