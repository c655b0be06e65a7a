"""Reads a folder of class folders of images: folder/class/*.png, or folder/train/class/*.png with folder/test/class/*.png beside.

Classes are numbered in the order of their names (folders called 2 and 10: in the order of the numbers). All images have one
size. They are grey where red, green and blue are equal in every pixel of every image, RGB otherwise.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sparse_mcu.data.dataset import UInt8Array
from sparse_mcu.data.reading import LARGEST_IMAGE_BYTES, Part, Reading
from sparse_mcu.errors import DataError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # Pillow's names of pixels of at most 8 bits a channel
LISTED = 5  # unreadable images that are named one by one

ClassFiles = dict[str, list[Path]]  # class name -> its images


def read_folder(folder: Path) -> Reading:
    """Read the images below ``folder``. Raises DataError where a folder cannot be listed."""
    problems: list[str] = []
    ignored: list[Path] = []
    try:
        roots = _roots(folder, problems)
        files = {part: _class_files(root, problems, ignored) for part, root in roots.items()}
    except OSError as error:
        raise DataError(f"folders of images must be readable, but {error.filename} is not: {error.strerror}") from error
    class_names = tuple(sorted(files["train"], key=_class_order))
    for name in sorted(set(files.get("test", {})) - set(class_names)):
        problems.append(f"every class of {roots['test']} must have a folder in {roots['train']} too, but {name} has none")
    images = _read_images([path for classes in files.values() for paths in classes.values() for path in paths], problems)
    parts = {} if problems else {part: _part(roots[part], files[part], class_names, images) for part in roots}
    told = [f"{len(ignored)} files or folders are not images in class folders and are ignored, such as {p}" for p in ignored[:1]]
    name = folder.resolve().name
    return Reading(name, str(folder), parts.get("train"), parts.get("test"), class_names, tuple(problems), tuple(told))


def _roots(folder: Path, problems: list[str]) -> dict[str, Path]:
    """Return the folders that hold the class folders, by part. A train/ without folders in it is a class called train."""
    children = {child.name: child for child in _visible(folder) if child.is_dir()}
    if "train" not in children or not any(child.is_dir() for child in _visible(children["train"])):
        return {"train": folder}
    problems.extend(
        f"{folder} has train/ with class folders in it, so that only test/ may lie beside, but it has {name}/ too; "
        "move its images into train/ or test/"
        for name in children
        if name not in ("train", "test")
    )
    return {part: children[part] for part in ("train", "test") if part in children}


def _class_files(root: Path, problems: list[str], ignored: list[Path]) -> ClassFiles:
    """Return the images of every class folder in ``root``."""
    classes: ClassFiles = {}
    for child in _visible(root):
        if not child.is_dir():
            ignored.append(child)
            continue
        classes[child.name] = []
        for entry in _visible(child):
            is_image = entry.suffix.lower() in SUFFIXES and entry.is_file()
            (classes[child.name] if is_image else ignored).append(entry)
        if not classes[child.name]:
            problems.append(f"a class folder must hold images ({' '.join(SUFFIXES)}), but {child} has none; fill or remove it")
    if not classes:
        problems.append(
            f"{root} must hold one folder of images per class, such as {root / 'cat' / '1.png'}, but has no folder in it"
        )
    return classes


def _visible(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if not child.name.startswith("."))


def _class_order(name: str) -> tuple[bool, int, str]:
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)


def _read_images(paths: list[Path], problems: list[str]) -> dict[Path, UInt8Array]:
    """Return what can be read; unreadable images and images of another size than the first become problems."""
    images: dict[Path, UInt8Array] = {}
    unreadable: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on files that it reads all the same
        for path in paths:
            try:
                images[path] = _read_image(path)
            except DataError as error:
                unreadable.append(str(error))
    problems.extend(unreadable[:LISTED])
    if len(unreadable) > LISTED:
        problems.append(f"{len(unreadable) - LISTED} more images cannot be read")
    first = next(iter(images), None)
    others = [path for path in images if first is not None and images[path].shape[:2] != images[first].shape[:2]]
    if first is not None and others:
        problems.append(
            f"all images must have the same size, but {first} has {_size(images[first])} and {others[0]} has "
            f"{_size(images[others[0]])} pixels, {len(others)} of {len(images)} are not as the first; resize them"
        )
    return images


def _size(image: UInt8Array) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _read_image(
    path: Path,
) -> UInt8Array:  # (H, W) where the content is grey, (H, W, 3) otherwise
    try:
        with Image.open(path) as image:
            if image.mode not in MODES:
                raise DataError(f"images must have 8 bits a channel, but {path} is of Pillow's mode {image.mode}; convert it")
            if image.width * image.height > LARGEST_IMAGE_BYTES:
                limit, size = f"{LARGEST_IMAGE_BYTES:,}", f"{image.width}x{image.height}"
                raise DataError(f"an image must have at most {limit} pixels to fit a board, but {path} has {size}; resize it")
            return _pixels(ImageOps.exif_transpose(image), path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # whatever bytes a broken file may hold
        reason = "no format fits" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise DataError(f"every image must be readable, but {path} is not: {reason}; repair or remove it") from error


def _pixels(image: Image.Image, path: Path) -> UInt8Array:
    """Return the decoded pixels; transparent ones are refused, for what would the camera have seen there."""
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return np.asarray(image.convert("L"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise DataError(f"images must be opaque, but {path} has transparent pixels; put it on a background")
    pixels = np.asarray(image.convert("RGB"))
    is_grey = (pixels == pixels[..., :1]).all()
    return pixels[..., 0].copy() if is_grey else pixels


def _part(root: Path, files: ClassFiles, class_names: tuple[str, ...], images: dict[Path, UInt8Array]) -> Part:
    """Stack the images of one part; all become RGB where any image of the whole data set is."""
    is_rgb = any(image.ndim == 3 for image in images.values())
    stack = [images[path] for name in class_names for path in files.get(name, [])]
    if is_rgb:
        stack = [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in stack]
    labels = np.repeat(np.arange(len(class_names)), [len(files.get(name, [])) for name in class_names])
    return Part(np.stack(stack), labels, f"images of {root}", f"labels of {root}")
