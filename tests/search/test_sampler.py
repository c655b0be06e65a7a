import dataclasses
from collections.abc import Mapping

import numpy as np
import optuna
import pytest
from search_fakes import FLASH_BYTES, IMAGES, LIMITS, RAM_BYTES, objectives

from sparse_mcu.errors import BudgetError
from sparse_mcu.search import records
from sparse_mcu.search.feasibility import Shortfall
from sparse_mcu.search.objectives import MINIMISED, Budget, Goal
from sparse_mcu.search.omega import choose_by
from sparse_mcu.search.records import TrialRecord, record
from sparse_mcu.search.sampler import PLAIN_TRIALS, QUASI_TRIALS, SparseSampler
from sparse_mcu.search.scalarise import Region
from sparse_mcu.search.stages import (
    POLISH,
    POLISHING_BATCH,
    REFINE,
    STAGES,
    images_seen,
    polished,
    polishing_steps,
    steps_of,
    trained_for,
)
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.layers import layers
from sparse_mcu.space.plain import plain
from sparse_mcu.space.suggest import contains, suggest

BUDGET = Budget(RAM_BYTES, FLASH_BYTES)
GOAL = Goal(MINIMISED, BUDGET)
TRIALS = 24


def fits(architecture: Architecture) -> Shortfall | None:
    return None


SECONDS = 100.0  # that every trial took


class Session:
    """A search without workers: ``objectives`` at once."""

    def __init__(self, seed: int, trials: int = TRIALS, shortfall=fits) -> None:
        self.trials, self.begun = trials, 0
        self.sampler = SparseSampler(LIMITS, GOAL, IMAGES, seed, lambda: self.begun / self.trials, shortfall)
        self.study = optuna.create_study(directions=["minimize"] * 3, sampler=self.sampler)

    def ask(self) -> tuple[optuna.Trial, Architecture]:
        trial = self.study.ask()
        architecture = suggest(LIMITS, choose_by(trial))
        trial.set_user_attr(records.ARCHITECTURE, architecture.to_json())
        self.begun += 1
        return trial, architecture

    def tell(self, trial: optuna.Trial, architecture: Architecture) -> None:
        measured = objectives(architecture)
        trial.set_user_attr(records.OBJECTIVES, measured)
        trial.set_user_attr(records.SECONDS, SECONDS)
        self.study.tell(trial, [measured[name] for name in MINIMISED])

    def run(self) -> list[TrialRecord]:
        while self.begun < self.trials:
            self.tell(*self.ask())
        return [record(trial) for trial in self.study.trials]


@pytest.fixture(scope="module")
def trials() -> list[TrialRecord]:
    return Session(seed=0).run()


@pytest.fixture(scope="module")
def many() -> list[TrialRecord]:
    return Session(seed=0, trials=60).run()


def test_every_proposal_lies_within_the_limits(trials: list[TrialRecord]) -> None:
    for trial in trials:
        assert trial.architecture is not None
        assert contains(LIMITS, trial.architecture)


def test_no_network_is_trained_twice_but_to_polish_it(trials: list[TrialRecord]) -> None:
    found = [trial for trial in trials if trial.stage != "polish"]
    assert len({trial.architecture for trial in found}) == len(found)


def test_a_search_begins_with_plain_networks_of_all_sizes(many: list[TrialRecord]) -> None:
    designs = [network.blocks for network in plain(LIMITS)]
    begun = [trial.architecture for trial in many[:PLAIN_TRIALS]]
    positions = [designs.index(architecture.blocks) for architecture in begun if architecture is not None]
    sizes = np.array_split(np.arange(len(designs)), PLAIN_TRIALS)
    assert all(len(np.intersect1d(size, positions)) == 1 for size in sizes)
    assert len({architecture.training.pruning for architecture in begun if architecture is not None}) == PLAIN_TRIALS
    other = Session(seed=1, trials=60)
    assert [other.ask()[1] for _ in begun] != begun


def test_stages_follow_the_budget_and_set_the_epochs(trials: list[TrialRecord]) -> None:
    for trial in trials:
        used = trial.number / TRIALS
        assert trial.architecture is not None
        stage = next(stage for stage in STAGES if used < stage.until)
        assert trial.stage == stage.name
        assert trial.architecture == trained_for(trial.architecture, stage.steps, IMAGES)


def test_networks_are_polished_as_they_are_and_each_once(trials: list[TrialRecord]) -> None:
    polishing = [trial for trial in trials if trial.stage == "polish"]
    parents = [trials[trial.parent or 0] for trial in polishing]
    assert len(polishing) >= 3 and len({parent.number for parent in parents}) == len(parents)
    for trial, parent in zip(polishing, parents, strict=True):
        assert parent.architecture is not None
        assert trial.architecture == polished(parent.architecture, POLISH.steps, IMAGES)


def test_what_is_polished_errs_hardly_more_than_the_best(trials: list[TrialRecord]) -> None:
    for trial in trials:
        if trial.stage == "polish":
            best = max(other.accuracy for other in trials[: trial.number] if BUDGET.keeps(other.objectives))
            assert trials[trial.parent or 0].accuracy >= best - 0.25 * (1.0 - best) - 0.02


def rounds_of(trials: list[TrialRecord]) -> dict[int, int]:
    """How often the weights of each trial have been polished, by its number."""
    rounds: dict[int, int] = {}
    for trial in trials:
        rounds[trial.number] = rounds[trial.parent or 0] + 1 if trial.stage == "polish" else 0
    return rounds


def test_what_was_polished_and_is_on_the_front_is_polished_again_in_later_rounds(many: list[TrialRecord]) -> None:
    rounds = rounds_of(many)
    for index in range(3):
        begin = REFINE.until + index / 3 * (1.0 - REFINE.until)
        now = [rounds[trial.number] for trial in many if 0 <= trial.number / 60 - begin < (1.0 - REFINE.until) / 3]
        assert max(now) == index + 1


def test_where_all_has_been_polished_the_search_refines() -> None:
    session = Session(seed=0, trials=10)
    session.run()
    session.begun, session.trials = 380, 460  # as one that is resumed with much time left at its end
    found = session.run()
    assert max(rounds_of(found).values()) == 3
    assert "refine" in {trial.stage for trial in found[10:]}


def test_a_search_for_a_time_polishes_for_as_long_as_there_is() -> None:
    session = Session(seed=0, trials=40)
    while session.begun < 30:
        session.tell(*session.ask())
    session.sampler = SparseSampler(LIMITS, GOAL, IMAGES, 0, lambda: 0.95, fits, seconds=36_000.0)
    session.study.sampler = session.sampler
    _, architecture = session.ask()
    parent = record(session.study.trials[30]).parent
    before = record(session.study.trials[parent])
    assert before.architecture is not None and before.seconds == SECONDS
    step_seconds = POLISHING_BATCH * SECONDS / images_seen(before.architecture, IMAGES)
    assert steps_of(architecture, IMAGES) == pytest.approx(polishing_steps(0.95, 36_000.0, step_seconds), rel=0.05)


def test_what_was_being_polished_when_the_search_ended_is_not_lost_for_it() -> None:
    session = Session(seed=0, trials=20)
    while session.begun < 16:
        session.tell(*session.ask())
    parents = []
    for _ in range(20):
        trial, _ = session.ask()
        session.begun -= 1
        parents.append(record(session.study.trials[trial.number]).parent)
        trial.set_user_attr(records.INTERRUPTED, True)
        session.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        assert record(session.study.trials[trial.number]).stage == "polish"
    assert len(set(parents)) < 20


def test_explored_candidates_start_from_scratch_and_others_from_a_complete_trial(trials: list[TrialRecord]) -> None:
    for trial in trials:
        if trial.stage == "explore":
            assert trial.parent is None
        else:
            assert trial.parent is not None and trial.parent < trial.number


def test_children_may_train_in_quite_another_way_than_their_parent(many: list[TrialRecord]) -> None:
    """A morph changes one setting, three in a row no more than three; fresh ones differ in most."""
    changed = []
    for trial in many:
        if trial.stage == "morph":
            now, before = (dataclasses.asdict(of.architecture.training) for of in (trial, many[trial.parent or 0]))
            pruning = zip(now.pop("pruning").values(), before.pop("pruning").values(), strict=True)
            changed.append(sum(now[name] != before[name] for name in now if name != "epochs") + sum(a != b for a, b in pruning))
    assert min(changed) <= 1 and max(changed) > 3


def test_refined_candidates_keep_their_parents_operations(trials: list[TrialRecord]) -> None:
    for trial in trials:
        if trial.stage == "refine":
            assert trial.parent is not None
            child, parent = trial.architecture, trials[trial.parent].architecture
            assert child is not None and parent is not None
            assert [layer.op for layer in layers(child)] == [layer.op for layer in layers(parent)]


def test_the_same_seed_proposes_the_same_and_another_seed_something_else(trials: list[TrialRecord]) -> None:
    repeated, other = Session(seed=0), Session(seed=1)
    for expected in trials[: QUASI_TRIALS + 4]:
        trial, architecture = repeated.ask()
        assert architecture == expected.architecture
        repeated.tell(trial, architecture)
    assert other.ask()[1] != trials[0].architecture


def test_a_resumed_search_proposes_what_it_would_have_proposed(trials: list[TrialRecord]) -> None:
    """The sampler's memory can be thrown away at any point."""
    session = Session(seed=0)
    for number in range(QUASI_TRIALS + 3):
        if number >= QUASI_TRIALS:
            begun = session.begun
            session.study.sampler = SparseSampler(LIMITS, GOAL, IMAGES, 0, lambda begun=begun: begun / TRIALS, fits)
        trial, architecture = session.ask()
        assert architecture == trials[number].architecture
        session.tell(trial, architecture)


def test_pending_trials_are_taken_into_account() -> None:
    """Asks that nothing finished between are as different as asks in sequence: each draws its own weights and functions."""
    session = Session(seed=4, trials=60)
    while session.begun < 10:
        session.tell(*session.ask())
    networks = [layers(session.ask()[1]) for _ in range(4)]
    # All different, and not by their training settings alone.
    assert all(network not in networks[:index] for index, network in enumerate(networks))


def test_refusals_are_counted() -> None:
    refused = 0

    def every_other(architecture: Architecture) -> Shortfall | None:
        nonlocal refused
        refuse = sum(layer.weights for layer in layers(architecture)) % 2 == 1
        refused += refuse
        return Shortfall("bytes of RAM", 2000, RAM_BYTES, "block0.conv0") if refuse else None

    trials = Session(seed=0, trials=30, shortfall=every_other).run()
    assert sum(trial.refused for trial in trials) == refused > 0


def test_what_pruning_can_bring_within_the_limits_may_be_a_parent_and_nothing_else_beyond_them() -> None:
    outcomes = np.array([[0.10, 4000.0, 500.0], [0.02, 12_000.0, 500.0], [0.01, 20_000.0, 500.0], [0.01, 4000.0, 1500.0]])
    region = Region(np.array([0.01, 2000.0, 200.0]), np.array([0.2, 8192.0, 1024.0]), np.array([False, True, True]))
    accuracy_first = np.array([50.0, 1.0, 1.0])
    order = Session(seed=0).sampler._prolific(outcomes, region, accuracy_first)
    assert order.tolist() == [1, 0, 3, 2]  # too much flash, within, too much RAM, beyond any reach
    assert Session(seed=0).sampler._prolific(outcomes, region, accuracy_first[::-1]).tolist()[0] == 0


def test_failed_and_running_trials_do_no_harm() -> None:
    session = Session(seed=3, trials=20)
    waiting = []
    while session.begun < 20:
        trial, architecture = session.ask()
        if trial.number % 4 == 1:
            session.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif trial.number % 4 == 2:
            waiting.append(architecture)
        else:
            session.tell(trial, architecture)
    proposed = [record(trial) for trial in session.study.trials]
    # What still runs is not proposed again; polished, networks that were trained in different ways are trained alike.
    assert len({(trial.architecture, trial.parent) for trial in proposed}) == 20


def test_what_cannot_fit_is_not_proposed() -> None:
    def too_wide(architecture: Architecture) -> Shortfall | None:
        widest = max(layer.out_shape[0] for layer in layers(architecture)[:-1])
        return Shortfall("bytes of RAM", 2000, RAM_BYTES, "block0.conv0") if widest > 12 else None

    for trial in Session(seed=0, trials=16, shortfall=too_wide).run():
        assert trial.architecture is not None and too_wide(trial.architecture) is None


def test_a_budget_that_nothing_meets_names_what_binds_and_what_would_do() -> None:
    def never(architecture: Architecture) -> Shortfall | None:
        needed = 1100 + 10 * len(layers(architecture))
        return Shortfall("bytes of RAM", needed, RAM_BYTES, "block0.conv0")

    with pytest.raises(BudgetError, match=r"in 1024 bytes of RAM and 8192 of flash.*needs 11\d\d bytes of RAM.*'block0\.conv0'"):
        Session(seed=0, shortfall=never).ask()


def test_a_foreign_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="'momentum' is none"):
        Session(seed=0).study.ask().suggest_float("momentum", 0.0, 1.0)


def test_finds_better_networks_than_random_search(many: list[TrialRecord]) -> None:
    """The point of it all, on objectives that cost nothing: the least error within the budget."""

    def least_error(found: list[Mapping[str, float]]) -> float:
        return min(values["error"] for values in found if BUDGET.keeps(values))

    def random_search(seed: int) -> float:
        study = optuna.create_study(directions=["minimize"] * 3, sampler=optuna.samplers.RandomSampler(seed=seed))
        return least_error([objectives(suggest(LIMITS, choose_by(study.ask()))) for _ in many])

    ours = least_error([trial.objectives for trial in many])
    assert ours < np.median([random_search(seed) for seed in range(5)])
