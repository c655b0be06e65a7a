import math

import numpy as np
import pytest
from search_fakes import LIMITS, objectives

from sparse_mcu.search.guide import (
    HEARD_MOST,
    INCUMBENTS_MOST,
    KNOWN_COSTS,
    REFIT_GROWTH,
    Guide,
    Observations,
    fit_size,
    heard,
    incumbents,
    point,
    region_of_interest,
)
from sparse_mcu.search.objectives import MINIMISED, Budget, Goal
from sparse_mcu.search.pareto import non_dominated
from sparse_mcu.search.scalarise import preference
from sparse_mcu.space.encode import encode
from sparse_mcu.space.layers import layers
from sparse_mcu.space.memory import peak_activations
from sparse_mcu.space.suggest import sample

WEIGHTS = np.array([[2.0, 1.0, 1.0], [1.0, 3.0, 2.0]])
GOAL = Goal(MINIMISED, Budget(ram_bytes=1024, flash_bytes=8192))


def test_region_reaches_from_the_best_useful_network_to_the_budget() -> None:
    F = np.array([[0.04, 6000, 900], [0.06, 4000, 800], [0.9, 2000, 300], [0.01, 9000, 900], [0.03, 5000, 2000]], dtype=float)
    region = region_of_interest(F, GOAL)
    # the third errs too often to count, the last two are beyond the budget
    assert region.lower.tolist() == [0.04, 4000, 512]  # the region of bytes is at least a factor of two wide
    assert region.upper.tolist() == pytest.approx([0.07, 8192, 1024])


def test_region_stands_where_nothing_keeps_the_budget_yet() -> None:
    F = np.array([[0.3, 9000.0, 2000.0], [0.3, 8500.0, 1500.0]])
    region = region_of_interest(F, GOAL)
    assert region.upper.tolist() == pytest.approx([0.395, 8192, 1024])
    assert region.excess(F)[0] > region.excess(F)[1] > 0


def test_point_adds_known_costs_to_the_encoding() -> None:
    architecture = sample(LIMITS, np.random.default_rng(0))
    values, active = point(LIMITS, architecture)
    encoded, encoded_active = encode(LIMITS, architecture)
    assert values[:-KNOWN_COSTS].tolist() == encoded.tolist() and active[:-KNOWN_COSTS].tolist() == encoded_active.tolist()
    weights = sum(layer.weights for layer in layers(architecture))
    assert values[-3] == pytest.approx(math.log1p(weights) / math.log1p(LIMITS.max_weights))
    peak = peak_activations(layers(architecture)).bytes
    assert values[-1] == pytest.approx(math.log1p(peak) / math.log1p(LIMITS.max_activation_bytes))
    assert active[-KNOWN_COSTS:].all() and (values <= 1.0).all() and (values >= 0.0).all()


def test_fits_come_in_growing_steps() -> None:
    sizes = [fit_size(n) for n in range(1, 400)]
    assert all(size <= n for n, size in enumerate(sizes, start=1)) and sizes == sorted(sizes)
    steps = sorted(set(sizes))
    assert all(later <= max(earlier + 1, REFIT_GROWTH * earlier) for earlier, later in zip(steps, steps[1:], strict=False))
    assert len(steps) < 60


def test_few_observations_are_all_heard_and_of_many_the_preferred_and_some_of_the_rest() -> None:
    rng = np.random.default_rng(3)
    F = rng.uniform(0.5, 1.5, size=(2500, 3)) * [0.1, 8192.0, 1024.0]
    region = region_of_interest(F, GOAL)
    assert heard(F[:HEARD_MOST], region, WEIGHTS[0]).tolist() == list(range(HEARD_MOST))
    chosen = heard(F, region, WEIGHTS[0])
    assert len(set(chosen.tolist())) == HEARD_MOST
    order = preference(F, region, WEIGHTS[0])
    assert set(order[: HEARD_MOST // 2]) <= set(chosen)
    ranks = np.flatnonzero(np.isin(order, chosen))[HEARD_MOST // 2 :]
    # evenly over the other 2000: every fourth, and the last
    assert set(np.diff(ranks)) <= {4, 5} and ranks[-1] == 2499


def test_the_front_is_among_what_is_to_beat() -> None:
    rng = np.random.default_rng(6)
    F = rng.uniform(0.2, 1.1, size=(500, 3)) * [0.1, 8192.0, 1024.0]
    region = region_of_interest(F, GOAL)
    chosen = incumbents(F, region, WEIGHTS[0])
    assert len(set(chosen.tolist())) == INCUMBENTS_MOST
    within = np.flatnonzero(region.excess(F) <= 0.0)
    assert set(within[non_dominated(F[within])]) <= set(chosen)
    assert sorted(incumbents(F[:200], region, WEIGHTS[0])) == list(range(200))


def test_ranking_prefers_what_is_better_by_far() -> None:
    """Candidates that were observed to beat, or to be beaten by, all others come first, or last."""
    rng = np.random.default_rng(1)
    architectures = [sample(LIMITS, rng) for _ in range(40)]
    points = [point(LIMITS, architecture) for architecture in architectures]
    F = np.array([[objectives(architecture)[name] for name in MINIMISED] for architecture in architectures])
    F[0], F[1] = [0.01, 1500.0, 150.0], [0.9, 60000.0, 9000.0]
    region = region_of_interest(F, GOAL)
    guide = Guide.of(GOAL)
    positions = np.array(
        [
            [order.tolist().index(0), order.tolist().index(1)]
            for order in (guide.rank(Observations(points, F), points, region, WEIGHTS, rng) for _ in range(5))
        ]
    )
    assert np.median(positions[:, 0]) <= 2
    assert np.median(positions[:, 1]) >= 37


def test_ranking_follows_from_its_arguments() -> None:
    rng = np.random.default_rng(2)
    points = [point(LIMITS, sample(LIMITS, rng)) for _ in range(30)]
    observed = Observations(points[:10], rng.uniform(1.0, 2.0, size=(10, 3)) * [0.1, 4000.0, 500.0])
    region = region_of_interest(observed.outcomes, GOAL)
    fresh = [Guide.of(GOAL).rank(observed, points[10:], region, WEIGHTS, np.random.default_rng(7)) for _ in range(2)]
    assert fresh[0].tolist() == fresh[1].tolist() and sorted(fresh[0]) == list(range(20))
    used = Guide.of(GOAL)
    used.rank(Observations(points[:9], observed.outcomes[:9]), points[10:], region, WEIGHTS, np.random.default_rng(3))
    assert used.rank(observed, points[10:], region, WEIGHTS, np.random.default_rng(7)).tolist() == fresh[0].tolist()
