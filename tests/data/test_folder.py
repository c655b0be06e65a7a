from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparse_mcu.data import check, load

Paint = Callable[[dict[str, np.ndarray | Image.Image]], Path]
Refusal = Callable[[str | Path], str]


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def grey(classes: tuple[str, ...] = ("cat", "dog"), each: int = 5) -> dict[str, np.ndarray | Image.Image]:
    return {f"{name}/{i}.png": noise(10 * c + i, 6, 4) for c, name in enumerate(classes) for i in range(each)}


def test_folders_become_classes_and_pixels_survive(paint: Paint) -> None:
    images = grey()
    dataset = load(paint(images))
    assert (dataset.name, dataset.class_names, dataset.input_shape) == ("pictures", ("cat", "dog"), (1, 6, 4))
    assert [len(part) for part in dataset.splits.values()] == [6, 2, 2]
    found = {
        (image.tobytes(), dataset.class_names[label])
        for part in dataset.splits.values()
        for image, label in zip(part.images, part.labels, strict=True)
    }
    assert found == {(np.asarray(image).tobytes(), name.split("/")[0]) for name, image in images.items()}


def test_train_and_test_folders_are_kept_apart(paint: Paint) -> None:
    training = {f"train/{name}": image for name, image in grey().items()}
    tests = {"test/dog/b.png": noise(90, 6, 4), "test/dog/a.png": noise(91, 6, 4), "test/cat/c.png": noise(92, 6, 4)}
    dataset = load(paint(training | tests))
    assert dataset.test.labels.tolist() == [0, 1, 1]
    assert np.array_equal(dataset.test.images[:, 0], [noise(92, 6, 4), noise(91, 6, 4), noise(90, 6, 4)])
    assert [len(part) for part in dataset.splits.values()] == [8, 2, 3]


def test_a_class_may_be_called_train(paint: Paint) -> None:
    assert load(paint(grey(("bus", "train")))).class_names == ("bus", "train")


def test_numbers_are_ordered_as_numbers(paint: Paint) -> None:
    assert load(paint(grey(("10", "2", "0", "other")))).class_names == ("0", "2", "10", "other")


def test_colours_come_channels_first(paint: Paint) -> None:
    colour = noise(1, 6, 4, 3)
    dataset = load(paint(grey() | {"cat/0.png": colour}))
    assert dataset.input_shape == (3, 6, 4)
    images = np.concatenate([part.images for part in dataset.splits.values()])
    assert sum(np.array_equal(image, np.moveaxis(colour, 2, 0)) for image in images) == 1
    # the others stay grey: three equal channels
    assert sum(np.array_equal(image[0], image[1]) and np.array_equal(image[1], image[2]) for image in images) == 9


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK"])
def test_grey_content_is_one_channel_however_it_is_stored(paint: Paint, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    images = {name.replace("png", suffix): Image.fromarray(np.asarray(image)).convert(mode) for name, image in grey().items()}
    dataset = load(paint(images))
    assert dataset.input_shape == (1, 6, 4)
    found = {image.tobytes() for part in dataset.splits.values() for image in part.images}
    assert found == {np.asarray(image).tobytes() for image in grey().values()}


def test_black_and_white_spans_the_whole_range(paint: Paint) -> None:
    images = {name: Image.fromarray(np.asarray(image)).convert("1") for name, image in grey().items()}
    assert set(np.unique(load(paint(images)).train.images)) == {0, 255}


def test_photographs_are_turned_as_the_camera_was_held(paint: Paint) -> None:
    images = grey()
    sideways = Image.fromarray(np.rot90(np.asarray(images["cat/0.png"])))  # counter-clockwise
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn it clockwise to show it
    folder = paint(images)
    sideways.save(folder / "cat" / "0.png", exif=exif)
    found = [image[0] for part in load(folder).splits.values() for image in part.images]
    assert sum(np.array_equal(image, np.asarray(images["cat/0.png"])) for image in found) == 1


def test_other_files_are_ignored_and_told(paint: Paint) -> None:
    folder = paint(grey())
    (folder / "README.txt").write_text("my pictures")
    (folder / "cat" / "notes.txt").write_text("whiskers")
    (folder / ".git").mkdir()
    (folder / "dog" / ".DS_Store").write_bytes(b"")
    report = check(folder)
    assert report.problems == ()
    (told,) = [warning for warning in report.warnings if "ignored" in warning]
    assert told.startswith("2 files or folders are not images")
    assert str(folder / "README.txt") in told


def test_sizes_that_differ_name_two_files(paint: Paint, refusal: Refusal) -> None:
    folder = paint(grey() | {"dog/3.png": noise(1, 7, 4), "dog/4.png": noise(1, 6, 5)})
    message = refusal(folder)
    assert f"but {folder / 'cat' / '0.png'} has 4x6 and {folder / 'dog' / '3.png'} has 4x7 pixels" in message
    assert "2 of 10" in message


def test_an_unreadable_image_is_named(paint: Paint, refusal: Refusal) -> None:
    folder = paint(grey())
    (folder / "cat" / "3.png").write_bytes(b"no picture")
    assert f"every image must be readable, but {folder / 'cat' / '3.png'} is not: no format fits" in refusal(folder)


def test_a_truncated_image_is_named(paint: Paint, refusal: Refusal) -> None:
    folder = paint(grey())
    path = folder / "dog" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    assert f"every image must be readable, but {path} is not" in refusal(folder)


def test_many_unreadable_images_are_summed_up(paint: Paint, refusal: Refusal) -> None:
    folder = paint(grey(each=20))
    for i in range(12):
        (folder / "cat" / f"{i}.png").write_bytes(b"")
    found = check(folder).problems
    assert len(found) == 6
    assert found[-1] == "7 more images cannot be read"
    assert refusal(folder).endswith(f"(and 5 more: sparse-mcu data check {folder})")


def test_16_bits_are_refused(paint: Paint, refusal: Refusal) -> None:
    folder = paint(grey() | {"cat/0.png": Image.fromarray(noise(1, 6, 4).astype(np.uint16) * 256)})
    assert f"8 bits a channel, but {folder / 'cat' / '0.png'} is of Pillow's mode I;16" in refusal(folder)


def test_transparent_pixels_are_refused_however_they_are_stored(paint: Paint, refusal: Refusal) -> None:
    rgba = np.full((6, 4, 4), 255, np.uint8)
    rgba[2, 2, 3] = 254
    folder = paint(grey() | {"cat/0.png": rgba})
    assert f"images must be opaque, but {folder / 'cat' / '0.png'} has transparent pixels" in refusal(folder)
    Image.fromarray(noise(0, 6, 4)).save(folder / "cat" / "0.png", transparency=int(noise(0, 6, 4)[0, 0]))
    assert f"images must be opaque, but {folder / 'cat' / '0.png'} has transparent pixels" in refusal(folder)


def test_photographs_in_full_size_are_refused_before_they_fill_the_memory(paint: Paint, refusal: Refusal) -> None:
    folder = paint(grey() | {"cat/0.png": Image.new("1", (4096, 257))})
    assert f"at most 1,048,576 pixels to fit a board, but {folder / 'cat' / '0.png'} has 4096x257; resize it" in refusal(folder)


def test_a_picture_that_would_burst_the_memory_is_refused(paint: Paint, refusal: Refusal) -> None:
    folder = paint(grey())
    header = b"P5 60000 60000 255\n"
    (folder / "cat" / "bomb.pgm").write_bytes(header + bytes(100))
    assert f"every image must be readable, but {folder / 'cat' / 'bomb.pgm'} is not" in refusal(folder)


def test_folders_that_hold_no_classes(paint: Paint, refusal: Refusal, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty} must hold one folder of images per class, such as {empty / 'cat' / '1.png'}" in refusal(empty)
    assert "must hold one folder of images per class" in refusal(paint({"1.png": noise(1, 6, 4)}))


def test_an_empty_class_folder_is_refused(paint: Paint, refusal: Refusal) -> None:
    folder = paint(grey())
    (folder / "eel").mkdir()
    (folder / "eel" / "1.txt").write_text("long")
    assert f"but {folder / 'eel'} has none; fill or remove it" in refusal(folder)


def test_folders_beside_train_and_test_are_refused(paint: Paint, refusal: Refusal) -> None:
    folder = paint({f"{part}/{name}": image for part in ("train", "val") for name, image in grey().items()})
    assert "only test/ may lie beside, but it has val/ too" in refusal(folder)


def test_a_class_that_only_the_test_folder_has_is_refused(paint: Paint, refusal: Refusal) -> None:
    training = {f"train/{name}": image for name, image in grey().items()}
    folder = paint(training | {"test/eel/1.png": noise(1, 6, 4)})
    assert f"must have a folder in {folder / 'train'} too, but eel has none" in refusal(folder)


def test_one_class_and_a_class_of_one_image_are_refused(paint: Paint, refusal: Refusal) -> None:
    folder = paint(grey(("cat",)))
    assert "at least two classes are needed" in refusal(folder)
    paint({"dog/1.png": noise(1, 6, 4)})
    assert "every class needs at least 3 images" in refusal(folder)


def test_a_folder_that_may_not_be_listed_is_refused(paint: Paint, refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = paint(grey())

    def forbidden(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert refusal(folder) == f"folders of images must be readable, but {folder} is not: Permission denied"
