"""Stand-in for your own data: a folder of class folders of small grey images (a bar, a cross, a ring), drawn with noise.

Usage: python make_images.py FOLDER [SEED]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 12  # pixels, height and width
PER_CLASS = 180


def draw(name: str, rng: np.random.Generator) -> Image.Image:
    """Return one image of class ``name``: random place, size and brightness, noise over all."""
    image = Image.new("L", (SIZE, SIZE))
    pen = ImageDraw.Draw(image)
    radius = int(rng.integers(3, 5))
    x, y = (int(value) for value in rng.integers(radius, SIZE - radius, size=2))
    ink = int(rng.integers(120, 256))
    if name == "bar":
        pen.line((x, y - radius, x, y + radius), fill=ink, width=2)
    elif name == "cross":
        pen.line((x - radius, y - radius, x + radius, y + radius), fill=ink)
        pen.line((x - radius, y + radius, x + radius, y - radius), fill=ink)
    else:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ink)
    noisy = np.asarray(image) + rng.normal(0, 25, (SIZE, SIZE))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def main(folder: Path, seed: int) -> None:
    """Write ``PER_CLASS`` images of every class below ``folder``."""
    rng = np.random.default_rng(seed)
    for name in ("bar", "cross", "ring"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(PER_CLASS):
            draw(name, rng).save(folder / name / f"{number:03d}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
