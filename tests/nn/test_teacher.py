import numpy as np
import pytest

from sparse_mcu.nn.teacher import FEWEST_STEPS, MOST_PASSES, MOST_STEPS, affordable_steps, logits, most_steps, teacher


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
    network = teacher(*bright_thirds(shape, 300), classes=3, steps=300)
    images, labels = bright_thirds(shape, 2000, seed=1)  # more than a batch of the evaluation
    answers = logits(network, images)
    assert answers.shape == (2000, 3) and answers.dtype == np.float32
    assert (answers.argmax(1) == labels).mean() >= 0.95


def test_a_large_image_is_read_in_larger_steps():
    images, labels = bright_thirds((1, 60, 48), 64)
    network = teacher(images, labels, classes=3, steps=2)
    assert network.layers[0].out_shape[1:] == (15, 16)


def test_a_teacher_learns_no_more_when_its_time_is_over():
    images, labels = bright_thirds((1, 8, 8), 200)
    untrained = teacher(images, labels, classes=3, steps=300, deadline=0.0)
    assert (logits(untrained, images).argmax(1) == labels).mean() < 0.8


def test_steps_are_as_many_as_the_time_allows():
    images, labels = bright_thirds((1, 8, 8), 640)
    assert affordable_steps(images, labels, 3, seconds=0.0) == 0
    assert affordable_steps(images, labels, 3, seconds=1e6) == most_steps(640) == MOST_PASSES * 640 / 64
    assert (
        affordable_steps(np.tile(images, (200, 1, 1, 1)), np.tile(labels, 200), 3, seconds=1.0) == 0
    )  # all used up by its answers
    assert affordable_steps(images, labels, 3, seconds=60.0) >= FEWEST_STEPS


def test_steps_end_where_hardly_anything_is_learnt_any_more():
    assert [most_steps(images) for images in (2, 3200, 10**6)] == [FEWEST_STEPS, MOST_PASSES * 50, MOST_STEPS]
