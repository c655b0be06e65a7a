import numpy as np
import pytest
import torch

from sparse_mcu.nn import teacher as teacher_module
from sparse_mcu.nn.teacher import (
    FEWEST_STEPS,
    LONG,
    MOST_PASSES,
    MOST_STEPS,
    Effort,
    affordable,
    keeps_classes_mirrored,
    logits,
    most_steps,
    teacher,
)
from sparse_mcu.nn.train import Images


def bright_thirds(shape, n, seed=0):
    """Images (N, *shape) one third of whose last axis is bright, and which."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.integers(0, 150, (n, *shape), dtype=np.uint8)
    third = shape[2] // 3
    for image, label in zip(images, labels, strict=True):
        image[:, :, label * third : (label + 1) * third] += 90
    return images, labels


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 40), (2, 1, 64), (1, 3, 3)])
def test_a_teacher_learns_from_images_and_signals_of_any_size(shape):
    network = teacher(*bright_thirds(shape, 300), classes=3, effort=Effort.of(300))
    images, labels = bright_thirds(shape, 2000, seed=1)  # more than a batch of the evaluation
    answers = logits(network, images)
    assert answers.shape == (2000, 3) and answers.dtype == np.float32
    assert (answers.argmax(1) == labels).mean() >= 0.95


def test_a_large_image_is_read_in_larger_steps_where_there_is_little_time():
    images, labels = bright_thirds((1, 60, 48), 64)
    maps = [teacher(images, labels, 3, Effort(2, fine)).layers[0].out_shape[1:] for fine in (False, True)]
    assert maps == [(15, 16), (30, 24)]
    assert [Effort.of(steps).fine for steps in (LONG - 1, LONG)] == [False, True]


def test_a_teacher_learns_no_more_when_its_time_is_over():
    images, labels = bright_thirds((1, 8, 8), 200)
    untrained = teacher(images, labels, classes=3, effort=Effort.of(300), deadline=0.0)
    assert (logits(untrained, images).argmax(1) == labels).mean() < 0.8


def test_steps_are_as_many_as_the_time_allows():
    images, labels = bright_thirds((1, 8, 8), 640)
    assert affordable(images, labels, 3, seconds=0.0).steps == 0
    assert affordable(images, labels, 3, seconds=1e6).steps == most_steps(640) == MOST_PASSES * 640 / 64
    many = np.tile(images, (200, 1, 1, 1)), np.tile(labels, 200)
    assert affordable(*many, 3, seconds=1.0).steps == 0  # all used up by its answers
    assert affordable(images, labels, 3, seconds=60.0).steps >= FEWEST_STEPS


def test_large_images_are_read_finely_where_that_leaves_enough_steps(monkeypatch):
    images, labels = bright_thirds((1, 24, 24), 640)
    assert not affordable(images, labels, 3, seconds=1e6).fine  # so few images are worth fewer steps
    monkeypatch.setattr(teacher_module, "LONG", most_steps(640))
    assert affordable(images, labels, 3, seconds=1e6).fine


@pytest.mark.parametrize(("moved", "expected"), [("columns", False), ("rows", True)])
def test_classes_that_mirroring_changes_are_told_from_those_that_it_keeps(moved, expected, monkeypatch):
    """Thirds of the width are turned round by it, thirds of the height are not."""
    monkeypatch.setattr(teacher_module, "MIRROR_STEPS", 200)

    def data(n, seed):
        images, labels = bright_thirds((1, 9, 9), n, seed)
        return (images if moved == "columns" else np.ascontiguousarray(images.transpose(0, 1, 3, 2))), labels

    held_out = Images.on(torch.device("cpu"), *data(300, seed=1))
    assert keeps_classes_mirrored(*data(600, seed=0), held_out, classes=3) is expected


def test_a_network_that_knows_nothing_says_nothing_of_mirror_images(monkeypatch):
    monkeypatch.setattr(teacher_module, "MIRROR_STEPS", 100)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (400, 1, 8, 8), dtype=np.uint8), np.arange(400) % 2
    held_out = Images.on(torch.device("cpu"), images[:200], 1 - labels[:200])
    assert not keeps_classes_mirrored(images, labels, held_out, classes=2)


def test_steps_end_where_hardly_anything_is_learnt_any_more():
    assert [most_steps(images) for images in (2, 3200, 10**6)] == [FEWEST_STEPS, MOST_PASSES * 50, MOST_STEPS]
