import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.data.split import held_out, stratify


@settings(max_examples=100)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.floats(0.05, 0.95), st.integers(0, 2**32 - 1))
def test_every_image_goes_one_way_and_every_class_both_ways(sizes: list[int], share: float, seed: int) -> None:
    labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = round(share * len(labels))
    stay, picked = stratify(labels, count, seed)
    assert sorted([*stay, *picked]) == list(range(len(labels)))
    for label, size in enumerate(sizes):
        given_away = int((labels[picked] == label).sum())
        assert 1 <= given_away <= size - 1
        quota = count * size / len(labels)
        assert abs(given_away - min(max(quota, 1), size - 1)) < 1
    if all(1 <= count * size / len(labels) <= size - 1 for size in sizes):
        assert len(picked) == count


def test_the_largest_remainders_get_the_images_that_rounding_down_leaves() -> None:
    labels = np.repeat([0, 1, 2], [13, 28, 59])  # 10 of 100: quotas 1.3, 2.8, 5.9
    _, picked = stratify(labels, 10, seed=3)
    assert np.bincount(labels[picked]).tolist() == [1, 3, 6]


def test_a_seed_picks_the_same_images_for_ever() -> None:
    stay, picked = stratify(np.arange(12) % 3, 3, seed=7)
    assert picked.tolist() == [10, 6, 11]
    assert stay.tolist() == [1, 2, 5, 3, 0, 4, 7, 8, 9]
    assert stratify(np.arange(12) % 3, 3, seed=8)[1].tolist() != picked.tolist()


@pytest.mark.parametrize(("images", "count"), [(10, 2), (1797, 359), (50_000, 10_000), (60_000, 10_000)])
def test_a_fifth_is_held_out_up_to_ten_thousand(images: int, count: int) -> None:
    assert held_out(images) == count
