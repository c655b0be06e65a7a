import numpy as np
import pytest
import torch

from sparse_mcu.data.dataset import Split
from sparse_mcu.errors import TrainingError
from sparse_mcu.search import teaching
from sparse_mcu.search.teaching import Lesson, teach
from sparse_mcu.search.workers import TrainingData


def halves(seed: int, n: int) -> Split:
    """Noise, one half of which is brighter."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    images = rng.integers(0, 150, (n, 1, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, :, 4 * label : 4 * label + 4] += 60
    return Split(images, labels)


DATA = TrainingData(halves(0, 300), halves(1, 100))


def test_a_teacher_knows_its_subject_and_how_well() -> None:
    threads = torch.get_num_threads()
    teacher = teach(Lesson(classes=2, threads=1, steps=150), DATA, "cpu", None)
    assert teacher.accuracy >= 0.9 and teacher.logits.shape == (300, 2) and teacher.logits.dtype == np.float32
    assert (teacher.logits.argmax(1) == DATA.train.labels).mean() >= 0.9
    assert torch.get_num_threads() == threads
    again = teach(Lesson(classes=2, threads=1, steps=150), DATA, "cpu", None)
    assert np.array_equal(again.logits, teacher.logits)


def test_only_a_long_training_is_worth_asking_about_mirror_images(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(teaching, "keeps_classes_mirrored", lambda *_: asked.append(1) or True)
    assert not teach(Lesson(classes=2, threads=1, steps=100), DATA, "cpu", None).mirrored and not asked
    monkeypatch.setattr("sparse_mcu.nn.teacher.LONG", 100)
    assert teach(Lesson(classes=2, threads=1, steps=100), DATA, "cpu", None).mirrored and asked


def test_a_teacher_with_hardly_any_time_knows_nothing() -> None:
    teacher = teach(Lesson(classes=2, threads=1, seconds=0.01), DATA, "cpu", None)
    assert teacher.accuracy == 0.0 and teacher.logits.shape == (300, 2)


def test_what_cannot_be_learnt_from_is_told() -> None:
    one = Split(DATA.train.images[:1], DATA.train.labels[:1])
    with pytest.raises(TrainingError, match="at least 2 images"):
        teach(Lesson(classes=2, threads=1, steps=10), TrainingData(one, DATA.validation), "cpu", None)
