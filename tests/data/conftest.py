from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparse_mcu.data import load
from sparse_mcu.data.reading import AnyArray
from sparse_mcu.errors import DataError

Save = Callable[..., Path]
Refusal = Callable[[str | Path], str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write an archive of 30 distinct 4x5 images in 3 classes, with the arrays given in place of or beside its own."""

    def write(**arrays: AnyArray | None) -> Path:
        own = {"x_train": np.arange(600, dtype=np.uint8).reshape(30, 4, 5), "y_train": np.arange(30) % 3}
        path = tmp_path / "own.npz"
        np.savez(path, **{key: array for key, array in (own | arrays).items() if array is not None})
        return path

    return write


@pytest.fixture
def paint(tmp_path: Path) -> Save:
    """Write a folder ``pictures`` of images, given as path=array or path=Pillow image."""

    def write(images: dict[str, AnyArray | Image.Image]) -> Path:
        for name, image in images.items():
            path = tmp_path / "pictures" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)
        return tmp_path / "pictures"

    return write


@pytest.fixture
def refusal() -> Refusal:
    """Return the one line with which ``load`` refuses a source."""

    def message(source: str | Path) -> str:
        with pytest.raises(DataError) as caught:
            load(source)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return message
