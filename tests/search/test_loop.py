import collections
import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import search_fakes
import sqlalchemy
import torch
from search_fakes import FLASH_BYTES, RAM_BYTES, dataset, teach_at_once

from sparse_mcu.deploy.boards import board
from sparse_mcu.errors import BudgetError, SparseMcuError, UserError
from sparse_mcu.search.feasibility import Feasibility
from sparse_mcu.search.ledger import Ledger
from sparse_mcu.search.loop import (
    GRACE_SECONDS,
    HOPELESS_FAILURES,
    TEACHER_STEPS_PER_TRIAL,
    TEACHER_TIME_SHARE,
    Ending,
    Evaluate,
    Teach,
    search,
)
from sparse_mcu.search.objectives import Budget
from sparse_mcu.search.options import Progress, SearchOptions
from sparse_mcu.search.records import TrialRecord
from sparse_mcu.space.suggest import contains

OPTIONS = SearchOptions(board("arduino-uno"), Budget(RAM_BYTES, FLASH_BYTES), trials=12, seed=3, device="cpu")
BUSY_SECONDS = 15.0  # by which a busy machine may delay what should take none


def run(
    directory: Path, evaluate: Evaluate, teach: Teach = teach_at_once, **changes: Any
) -> tuple[Ending, list[TrialRecord], list[Progress]]:
    """Search in ``directory``, which holds a ledger or nothing."""
    seen: list[Progress] = []
    directory.mkdir(exist_ok=True)
    opening = Ledger.resume if any(directory.iterdir()) else Ledger.create
    with opening(directory) as ledger:
        ending = search(dataset(), dataclasses.replace(OPTIONS, **changes), ledger, seen.append, evaluate, teach)
        return ending, ledger.records(), seen


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ending, list[TrialRecord], list[Progress]]:
    return run(tmp_path_factory.mktemp("run"), search_fakes.evaluate_at_once)


def test_a_budget_in_trials_is_met_exactly(finished: tuple[Ending, list[TrialRecord], list[Progress]]) -> None:
    ending, records, _ = finished
    assert ending == "finished" and [record.state for record in records] == ["complete"] * 12
    for record in records:
        assert record.architecture is not None
        assert record.objectives == search_fakes.objectives(record.architecture)


def test_progress_is_honest(finished: tuple[Ending, list[TrialRecord], list[Progress]]) -> None:
    _, records, seen = finished
    assert seen[0].done == 0 and seen[0].best_accuracy is None and seen[0].hypervolume == 0.0
    assert seen[-1].taught
    assert seen[-1].done == 12 and seen[-1].share == 1.0
    assert seen[-1].stage in ("refine", "polish")  # whatever is worth polishing may have been polished
    within = [record.accuracy for record in records if OPTIONS.budget.keeps(record.objectives)]
    assert seen[-1].best_accuracy == max(within)
    for name in ("share", "done", "hypervolume"):
        values = [getattr(progress, name) for progress in seen]
        assert values == sorted(values)
    assert all(progress.seconds_left is None and progress.failed == 0 for progress in seen)


def test_progress_tells_the_share_of_the_box_that_the_front_dominates(
    finished: tuple[Ending, list[TrialRecord], list[Progress]],
) -> None:
    _, records, seen = finished
    F = np.array(
        [
            [r.objectives["error"] / 0.9, r.objectives["flash_bytes"] / FLASH_BYTES, r.objectives["ram_bytes"] / RAM_BYTES]
            for r in records
        ]
    )
    points = np.random.default_rng(0).uniform(size=(20_000, 3))
    share = (F[:, None] <= points).all(axis=2).any(axis=0).mean()
    # 20,000 points: five standard errors
    assert seen[-1].hypervolume == pytest.approx(share, abs=5 * 0.5 / 20_000**0.5)


def test_one_worker_repeats_itself(finished: tuple[Ending, list[TrialRecord], list[Progress]], tmp_path: Path) -> None:
    def decided(records: list[TrialRecord]) -> list[object]:
        return [(record.architecture, record.stage, record.parent, record.objectives) for record in records]

    assert decided(run(tmp_path, search_fakes.evaluate_at_once)[1]) == decided(finished[1])


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_other_samplers_search_the_same_way(tmp_path: Path, sampler: str) -> None:
    ending, records, seen = run(tmp_path, search_fakes.evaluate_at_once, sampler=sampler)
    states = collections.Counter(record.state for record in records)
    assert ending == "finished" and states["complete"] == 12 and states.keys() <= {"complete", "refused"}
    assert {record.stage for record in records} == {None} and seen[-1].stage == sampler
    assert seen[-1].refused == states["refused"] > 0
    feasibility = Feasibility(OPTIONS.board, OPTIONS.budget)
    for record in records:
        assert record.architecture is not None
        may_fit = contains(search_fakes.LIMITS, record.architecture) and feasibility.shortfall(record.architecture) is None
        assert may_fit == (record.state == "complete")


def test_other_objectives_and_a_limit_of_cycles(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, ["error", "model_size"]) as ledger:
        options = dataclasses.replace(
            OPTIONS, objectives=("accuracy", "model_size"), budget=Budget(RAM_BYTES, FLASH_BYTES, cycles=300_000)
        )
        assert search(dataset(), options, ledger, lambda _: None, search_fakes.evaluate_everything, teach_at_once) == "finished"
        front = ledger.front(options.budget)
        assert front and all(record.objectives["cycles"] <= 300_000 for record in front)
        sizes = [record.objectives["model_size"] for record in front]
        assert sizes == sorted(sizes, reverse=True)  # the most accurate first: each after it is smaller


def test_candidates_meet_the_rungs_of_their_own_stage(tmp_path: Path) -> None:
    _, records, seen = run(tmp_path, search_fakes.evaluate_hopelessly, trials=16)
    for record in records:
        earlier = [other for other in records[: record.number] if other.stage == record.stage]
        assert record.stopped == (bool(earlier) and record.stage != "polish")  # what is polished has shown what it is worth
    assert seen[-1].stopped == sum(record.stopped for record in records)


def test_failures_are_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    _, records, seen = run(tmp_path, search_fakes.evaluate_odd_seeds_diverge, workers=2)
    failed = [record for record in records if record.state == "failed"]
    assert len(records) == 12 and 0 < len(failed) < 12 and seen[-1].failed == len(failed)
    assert {record.error for record in failed} == {"TrainingError: the loss of a network must be finite"}


def test_workers_that_die_fail_their_trial_only(tmp_path: Path) -> None:
    _, records, _ = run(tmp_path, search_fakes.evaluate_odd_seeds_die, trials=6)
    assert {record.state for record in records} == {"complete", "failed"}
    assert all("SIGKILL" in (record.error or "") for record in records if record.state == "failed")


def test_a_search_in_which_all_fails_ends_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(SparseMcuError, match=f"first {HOPELESS_FAILURES} candidates all failed.*IndexError") as caught:
        run(tmp_path, search_fakes.evaluate_wrongly, trials=100)
    assert not isinstance(caught.value, UserError)
    with Ledger.open(tmp_path) as ledger:
        records = ledger.records()
    assert len(records) == HOPELESS_FAILURES and all("Traceback" in (record.error or "") for record in records)


def test_a_budget_in_time_holds_even_for_what_never_ends(tmp_path: Path) -> None:
    with Ledger.create(tmp_path) as ledger:
        ledger.teacher = search_fakes.teacher(0.5)  # to train one, the search would wait until workers are up
    start = time.monotonic()
    ending, records, seen = run(tmp_path, search_fakes.evaluate_forever, trials=None, seconds=4.0, workers=2)
    assert time.monotonic() - start < 4.0 + GRACE_SECONDS + BUSY_SECONDS
    assert ending == "finished" and [record.state for record in records] == ["interrupted"] * 2
    left = [progress.seconds_left for progress in seen]
    assert left[-1] == 0.0 and left == sorted(left, reverse=True)  # type: ignore[type-var]


def test_time_of_earlier_sessions_counts(tmp_path: Path) -> None:
    run(tmp_path, search_fakes.evaluate_at_once, trials=1)
    with Ledger.open(tmp_path) as ledger:
        used = ledger.seconds_used
    assert used > 0.0
    _, records, seen = run(tmp_path, search_fakes.evaluate_at_once, trials=None, seconds=used)
    assert len(records) == 1 and seen[-1].done == 1 and seen[-1].seconds_left == 0.0


def test_a_run_that_is_over_tells_the_stage_that_it_ended_in(tmp_path: Path) -> None:
    assert run(tmp_path, search_fakes.evaluate_at_once, trials=10)[2][-1].stage == "polish"
    assert run(tmp_path, search_fakes.evaluate_at_once, trials=10)[2][0].stage == "polish"


def test_a_search_keeps_to_the_limits_that_its_run_began_with(tmp_path: Path) -> None:
    separable = dataclasses.replace(search_fakes.LIMITS, kinds=("separable",))
    with Ledger.create(tmp_path) as ledger:
        ledger.limits = separable
    _, records, _ = run(tmp_path, search_fakes.evaluate_at_once, trials=3)
    for record in records:
        assert record.architecture is not None
        assert {conv.kind for block in record.architecture.blocks for conv in block.convs} == {"separable"}
    with Ledger.open(tmp_path) as ledger:
        assert ledger.limits == separable


def test_one_teacher_is_trained_for_all_sessions(tmp_path: Path) -> None:
    _, records, seen = run(tmp_path, search_fakes.evaluate_taught, trials=3)
    assert seen[0].stage == "teacher" and seen[0].done == 0
    taught = {record.objectives["error"] for record in records}
    assert taught == {TEACHER_STEPS_PER_TRIAL * 3 / 1000}
    _, records, seen = run(tmp_path, search_fakes.evaluate_taught, trials=4, teach=search_fakes.teach_never)
    assert records[-1].objectives["error"] in taught and "teacher" not in {progress.stage for progress in seen}


def test_the_time_of_the_teacher_is_a_share_of_the_search(tmp_path: Path) -> None:
    run(tmp_path, search_fakes.evaluate_at_once, trials=None, seconds=3.0)
    with Ledger.open(tmp_path) as ledger:
        teacher = ledger.teacher
    assert teacher is not None and teacher.accuracy == pytest.approx(TEACHER_TIME_SHARE * 3.0)  # the seconds that it was given


def test_a_teacher_that_takes_all_the_time_ends_the_search_in_time(tmp_path: Path) -> None:
    options = {"trials": None, "seconds": 1.0}
    ending, records, seen = run(tmp_path, search_fakes.evaluate_at_once, search_fakes.teach_forever, **options)
    assert ending == "finished" and [record.state for record in records] == ["interrupted"]
    assert seen[-1].done == 0


def test_a_teacher_that_dies_is_done_without_and_a_fault_is_told(tmp_path: Path) -> None:
    _, records, seen = run(tmp_path / "dies", search_fakes.evaluate_taught, trials=2, teach=search_fakes.teach_and_die)
    assert not seen[-1].taught
    assert [record.objectives["error"] for record in records] == [0.5, 0.5]
    with pytest.raises(SparseMcuError, match="(?s)a teacher must be trained, but that fails.*IndexError"):
        run(tmp_path / "fault", search_fakes.evaluate_at_once, teach=search_fakes.teach_wrongly)


def test_a_budget_too_small_for_any_network_is_told(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="allow at least"):
        run(tmp_path / "ram", search_fakes.evaluate_at_once, budget=Budget(ram_bytes=40, flash_bytes=8192))
    with pytest.raises(BudgetError, match=r"100 of flash.*bytes of flash, most of it at '"):
        run(
            tmp_path / "flash",
            search_fakes.evaluate_at_once,
            search_fakes.teach_never,
            budget=Budget(ram_bytes=1024, flash_bytes=100),
        )
    with Ledger.open(tmp_path / "flash") as ledger:
        assert {record.state for record in ledger.records()} <= {"interrupted"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device cuda needs a GPU"):
        run(tmp_path, search_fakes.evaluate_at_once, device="cuda")


SEARCH = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import search_fakes
from test_loop import run
if __name__ == "__main__":
    print(run(Path(sys.argv[1]), search_fakes.evaluate_slowly, trials=int(sys.argv[3]), workers=2)[0])
"""


def start_search(directory: Path, trials: int) -> subprocess.Popen[str]:
    """Search in another process, and return when at least three trials are done."""
    script = directory.with_suffix(".py")
    script.write_text(SEARCH)
    command = [sys.executable, script, directory, Path(__file__).parent, str(trials)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not (directory / "artifacts").is_dir() or len(list((directory / "artifacts").glob("[0-9]*"))) < 3:
        assert process.poll() is None, "the search ended early"
        time.sleep(0.05)
    return process


def test_kill_9_and_resume(tmp_path: Path) -> None:
    """Every finished trial is still there, the interrupted one is recorded as such, and the search goes on."""
    directory = tmp_path / "run"
    with start_search(directory, trials=1000) as process:
        process.kill()
    with Ledger.open(directory) as ledger:
        before = ledger.records()
    complete = [record for record in before if record.state == "complete"]
    assert len(complete) >= 2 and "running" in {record.state for record in before}
    ending, after, _ = run(directory, search_fakes.evaluate_at_once, trials=len(complete) + 4)
    assert ending == "finished"
    assert [record for record in after if record.state == "complete"][: len(complete)] == complete
    assert {after[record.number].state for record in before if record.state == "running"} == {"interrupted"}
    assert len([record for record in after if record.state == "complete"]) == len(complete) + 4
    with Ledger.open(directory) as ledger:
        for record in after:
            if record.state == "complete":
                assert ledger.graph(record.number).output == "logits"
                assert set(ledger.weights(record.number)) == {"seed"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_a_transaction_waits_for_its_end(tmp_path: Path, number: signal.Signals) -> None:
    """A read is one too: KeyboardInterrupt in it would lock the database for what is still to be recorded."""
    sent = []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def send(*_: object) -> None:
        sent.append(number)
        signal.raise_signal(number)

    def observe(progress: Progress) -> None:
        if progress.done == 2:
            sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", send)

    before = signal.signal(number, interrupt)
    try:
        with Ledger.create(tmp_path) as ledger:
            options = dataclasses.replace(OPTIONS, trials=1000)
            ending = search(dataset(), options, ledger, observe, search_fakes.evaluate_at_once, teach_at_once)
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", send)
    with Ledger.open(tmp_path) as ledger:
        states = collections.Counter(record.state for record in ledger.records())
    assert ending == "interrupted" and sent
    assert 2 <= states["complete"] < 20 and set(states) <= {"complete", "interrupted"}


def test_an_interrupt_stops_the_search_cleanly(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with start_search(directory, trials=1000) as process:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert output == "interrupted\n" and process.returncode == 0
    with Ledger.open(directory) as ledger:
        states = [record.state for record in ledger.records()]
    assert states.count("complete") >= 2 and set(states) == {"complete", "interrupted"}
