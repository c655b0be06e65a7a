import numpy as np
import pytest

from sparse_mcu.data.reading import AnyArray, Part, Reading, input_shape, problems

IMAGES = np.zeros((6, 4, 5), np.uint8)
LABELS = np.array([0, 0, 0, 1, 1, 1])


def reading(images: AnyArray = IMAGES, labels: AnyArray = LABELS, test: tuple[AnyArray, AnyArray] | None = None) -> Reading:
    test_part = None if test is None else Part(*test, "x_test", "y_test")
    return Reading("own", "own.npz", Part(images, labels, "x_train", "y_train"), test_part)


def the_problem(of: Reading) -> str:
    (problem,) = problems(of)
    assert "\n" not in problem
    return problem


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 28, 20), (1, 28, 20)),
        ((6, 28, 20, 1), (1, 28, 20)),
        ((6, 28, 20, 3), (3, 28, 20)),
        ((6, 1, 128), (1, 1, 128)),
        ((6, 1, 128, 9), (9, 1, 128)),
        ((6, 1, 1, 1), (1, 1, 1)),
    ],
)
def test_channels_come_last_and_one_channel_may_go_without_axis(shape: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    images = np.zeros(shape, np.uint8)
    assert input_shape(images) == expected
    assert list(problems(reading(images))) == []


@pytest.mark.parametrize("shape", [(6, 3, 32, 32), (6, 1, 28, 28), (6, 1, 8, 8), (6, 3, 24, 20), (6, 1, 64, 17), (6, 2, 5, 5)])
def test_channels_first_is_recognised_and_refused(shape: tuple[int, ...]) -> None:
    assert f"that is {shape[-1]} channels" in the_problem(reading(np.zeros(shape, np.uint8)))
    assert "np.moveaxis(x, 1, -1)" in the_problem(reading(np.zeros(shape, np.uint8)))


@pytest.mark.parametrize("shape", [(6, 20), (6,), (6, 1, 4, 5, 3)])
def test_other_numbers_of_axes_are_refused(shape: tuple[int, ...]) -> None:
    problem = the_problem(reading(np.zeros(shape, np.uint8)))
    assert problem.startswith(f"images must have shape (N, H, W) or (N, H, W, C), but x_train has shape {shape}")


@pytest.mark.parametrize("shape", [(0, 4, 5), (6, 0, 5), (6, 4, 5, 0)])
def test_empty_images_are_refused(shape: tuple[int, ...]) -> None:
    assert "it is empty" in the_problem(reading(np.zeros(shape, np.uint8), LABELS[: shape[0]]))


def test_an_empty_test_part_is_refused() -> None:
    assert the_problem(reading(test=(IMAGES[:0], LABELS[:0]))).endswith(
        "x_test has shape (0, 4, 5): it is empty; remove it or fill it"
    )


def test_images_larger_than_any_memory_are_refused() -> None:
    # one image seen six times: an array of this size without its memory
    images = np.broadcast_to(np.zeros((1, 1024, 1025), np.uint8), (6, 1024, 1025))
    assert "at most 1,048,576 bytes to fit a board, but those of x_train have 1,049,600" in the_problem(reading(images))
    assert list(problems(reading(images[:, :, :1024]))) == []


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.bool_, np.complex64, "<U3"])
def test_pixels_of_other_types_are_refused(dtype: type) -> None:
    problem = the_problem(reading(IMAGES.astype(dtype)))
    assert f"must be uint8 or float in [0, 1], but x_train is {np.dtype(dtype)}" in problem


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8"])
def test_pixels_that_are_not_finite_are_counted_and_placed(value: float, dtype: str) -> None:
    images = np.zeros((6, 4, 5), dtype)
    images[2, 1, 1] = images[4, 0, 0] = value
    assert "NaN or infinite ones in 2 of 6 images, the first is image 2" in the_problem(reading(images))


@pytest.mark.parametrize(("value", "span"), [(255.0, "[0, 255]"), (-0.5, "[-0.5, 0]"), (1.001, "[0, 1.001]")])
def test_floats_outside_the_unit_interval_are_refused(value: float, span: str) -> None:
    images = np.zeros((6, 4, 5))
    images[5, 3, 4] = value
    assert f"must lie in [0, 1], but x_train spans {span}" in the_problem(reading(images))


def test_the_ends_of_the_unit_interval_belong_to_it() -> None:
    assert list(problems(reading(np.repeat([0.0, 1.0], 60).reshape(6, 4, 5)))) == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS.astype(float), "labels must be integers 0, 1, 2, ..., but y_train is float64"),
        (np.array(["a", "a", "a", "b", "b", "b"]), "labels must be integers 0, 1, 2, ..., but y_train is <U1"),
        (LABELS[:, None], "labels must be one number an image, shape (N,), but y_train has shape (6, 1)"),
        (LABELS - 1, "labels must be 0 or more, but y_train holds -1"),
        (LABELS[:5], "every image needs one label, but x_train holds 6 images and y_train 5 labels"),
        (np.full(6, 4), "at least two classes are needed, but every label of y_train is 4"),
        (LABELS * 2, "has 2 classes up to 2 and none called 1"),
        (LABELS + 1, "has 2 classes up to 2 and none called 0"),
        (LABELS * 10**12, "has 2 classes up to 1000000000000 and none called 1"),
        (np.array([0, 0, 0, 0, 0, 1]), "into training, validation and test, but class 1 of y_train has 1"),
    ],
)
def test_labels_that_are_refused(labels: AnyArray, message: str) -> None:
    assert message in the_problem(reading(labels=labels))


@pytest.mark.parametrize("dtype", [np.uint8, ">i4", np.uint64])
def test_any_integer_type_will_do_for_labels(dtype: str) -> None:
    assert list(problems(reading(labels=LABELS.astype(dtype)))) == []


def test_with_a_test_part_two_images_of_a_class_are_enough() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    assert "has 2; add images" in the_problem(reading(labels=labels))
    assert list(problems(reading(labels=labels, test=(IMAGES, LABELS)))) == []
    assert "into training and validation, but class 1 of y_train has 1" in the_problem(
        reading(labels=np.array([0, 0, 0, 0, 0, 1]), test=(IMAGES, LABELS))
    )


def test_the_two_parts_must_agree() -> None:
    assert "x_train holds 4x5 and x_test 5x4" in the_problem(reading(test=(IMAGES.reshape(6, 5, 4), LABELS)))
    assert "y_test holds 2 and y_train does not" in the_problem(reading(test=(IMAGES, LABELS + 1)))
    assert list(problems(reading(test=(IMAGES[..., None], LABELS)))) == []


def test_all_problems_of_both_parts_are_found() -> None:
    found = list(problems(reading(IMAGES.astype(float) - 1, LABELS.astype(float), test=(IMAGES[:5], LABELS))))
    assert [message.split(",")[0] for message in found] == [
        "float pixels must lie in [0",
        "labels must be integers 0",
        "every image needs one label",
    ]
