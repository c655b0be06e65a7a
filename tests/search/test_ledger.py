import errno
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from search_fakes import FLASH_BYTES, LIMITS, RAM_BYTES, graph

from sparse_mcu.errors import RunError
from sparse_mcu.search.candidate import Evaluation, Teacher
from sparse_mcu.search.ledger import ARTIFACTS, DATABASE, Ledger
from sparse_mcu.search.objectives import MINIMISED, Budget
from sparse_mcu.space.suggest import assignment

BUDGET = Budget(RAM_BYTES, FLASH_BYTES)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger.create(tmp_path)
    ledger.study.sampler = optuna.samplers.RandomSampler(seed=0)
    return ledger


def measured(error: float, flash: float, ram: float) -> Evaluation:
    weights = {"layer.weight": np.arange(3, dtype=np.float32)}
    return Evaluation({"error": error, "flash_bytes": flash, "ram_bytes": ram, "macs": 7.0}, graph(), weights, {"epochs": [1]})


def add(ledger: Ledger, *objectives: tuple[float, float, float]) -> None:
    for values in objectives:
        ledger.complete(ledger.ask(LIMITS).number, measured(*values), seconds=1.5)


def test_a_trial_comes_back_as_it_was_told(ledger: Ledger) -> None:
    asked = ledger.ask(LIMITS)
    assert asked.state == "running" and asked.objectives == {}
    ledger.complete(asked.number, measured(0.25, 4000.0, 500.0), seconds=1.5)
    ledger.close()
    with Ledger.open(ledger.directory) as reopened:
        (record,) = reopened.records()
        assert record.architecture == asked.architecture
        assert record.state == "complete" and record.seconds == 1.5 and record.accuracy == 0.75
        assert record.objectives == {"error": 0.25, "flash_bytes": 4000.0, "ram_bytes": 500.0, "macs": 7.0}
        assert reopened.graph(0).ops[0].weights.tolist() == graph().ops[0].weights.tolist()
        assert reopened.weights(0)["layer.weight"].tolist() == [0.0, 1.0, 2.0]
        assert reopened.log(0) == {"epochs": [1]}


def test_a_failure_comes_back_with_its_reason(ledger: Ledger) -> None:
    ledger.fail(ledger.ask(LIMITS).number, "TrainingError: the loss is nan", seconds=0.5)
    (record,) = ledger.records()
    assert (record.state, record.error, record.seconds) == ("failed", "TrainingError: the loss is nan", 0.5)
    with pytest.raises(RunError, match="trial 0 is failed"):
        ledger.graph(0)


def test_optuna_reads_the_study(ledger: Ledger) -> None:
    add(ledger, (0.1, 3000.0, 300.0))
    ledger.close()
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{ledger.directory / DATABASE}")
    assert study.metric_names == list(MINIMISED)
    assert study.trials[0].values == [0.1, 3000.0, 300.0]
    architecture = ledger.record(0).architecture
    assert architecture is not None
    # what the random sampler chose, projected to what can be built, is the architecture
    assert set(assignment(LIMITS, architecture)) <= set(study.trials[0].params)


def test_front_and_best_against_enumeration(ledger: Ledger) -> None:
    rng = np.random.default_rng(0)
    points = [(e / 10, 4000.0 + 1000 * f, 600.0 + 100 * r) for e, f, r in rng.integers(0, 8, size=(25, 3)).tolist()]
    add(ledger, *points)

    def dominated(p: tuple[float, ...]) -> bool:
        return any(q != p and all(a <= b for a, b in zip(q, p, strict=True)) for q in points)

    assert sorted(tuple(r.objectives[n] for n in MINIMISED) for r in ledger.front()) == sorted(
        p for p in points if not dominated(p)
    )
    within = [p for p in points if p[1] <= FLASH_BYTES and p[2] <= RAM_BYTES]
    assert 0 < len(within) < len(points)
    best = ledger.best(BUDGET)
    assert best is not None
    # the most accurate; of equals the one with the least flash, then RAM: the smallest tuple
    assert tuple(best.objectives[name] for name in MINIMISED) == min(within)
    assert ledger.front(BUDGET)[0] == best
    assert all(BUDGET.keeps(record.objectives) for record in ledger.front(BUDGET))


def test_a_front_of_other_objectives_holds_what_is_beaten_only_from_beyond_the_budget(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, ["error", "flash_bytes"]) as ledger:
        ledger.study.sampler = optuna.samplers.RandomSampler(seed=0)
        add(ledger, (0.1, 3000.0, 2000.0), (0.2, 4000.0, 500.0), (0.2, 4500.0, 400.0))
        assert [record.number for record in ledger.front()] == [0]
        assert [record.number for record in ledger.front(BUDGET)] == [1]
        assert ledger.study.trials[2].values == [0.2, 4500.0]


def test_samplers_hear_what_breaks_the_budget(ledger: Ledger) -> None:
    evaluation = measured(0.1, 1.5 * FLASH_BYTES, 0.5 * RAM_BYTES)
    ledger.complete(ledger.ask(LIMITS).number, evaluation, 1.0, BUDGET.excesses(evaluation.objectives))
    assert ledger.study.trials[0].constraints == {"flash_bytes": 0.5, "ram_bytes": -0.5}


def test_a_refused_trial_counts_as_such(ledger: Ledger) -> None:
    ledger.refuse(ledger.ask(LIMITS).number, "needs 2000 bytes of RAM")
    (record,) = ledger.records()
    assert (record.state, record.refused) == ("refused", 1)


def test_nothing_within_the_budget_is_no_best(ledger: Ledger) -> None:
    assert ledger.best(BUDGET) is None
    add(ledger, (0.0, FLASH_BYTES + 1.0, 300.0))
    assert ledger.best(BUDGET) is None and len(ledger.front()) == 1


def test_resume_records_running_trials_as_interrupted(ledger: Ledger) -> None:
    add(ledger, (0.1, 3000.0, 300.0))
    ledger.ask(LIMITS)
    ledger.close()
    with Ledger.open(ledger.directory) as reader:
        assert [record.state for record in reader.records()] == ["complete", "running"]
    with Ledger.resume(ledger.directory) as resumed:
        assert [record.state for record in resumed.records()] == ["complete", "interrupted"]
        resumed.study.sampler = optuna.samplers.RandomSampler(seed=1)
        assert resumed.ask(LIMITS).number == 2


@pytest.mark.parametrize("stop_before", ["rename", "tell"])
def test_a_crash_between_artefacts_and_tell_leaves_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, stop_before: str
) -> None:
    class Crash(Exception):
        pass

    def crash(*args: object, **kwargs: object) -> None:
        raise Crash

    number = ledger.ask(LIMITS).number
    monkeypatch.setattr(*((Path, "rename") if stop_before == "rename" else (ledger.study, "tell")), crash)
    with pytest.raises(Crash):
        ledger.complete(number, measured(0.1, 3000.0, 300.0), seconds=1.0)
    monkeypatch.undo()
    assert list((ledger.directory / ARTIFACTS).iterdir())
    ledger.close()
    with Ledger.resume(ledger.directory) as resumed:
        assert resumed.record(number).state == "interrupted"
        assert list((ledger.directory / ARTIFACTS).iterdir()) == []


def test_at_rest_the_database_is_a_single_file(ledger: Ledger) -> None:
    add(ledger, (0.1, 3000.0, 300.0))
    ledger.close()
    assert {path.name for path in ledger.directory.iterdir()} == {ARTIFACTS, DATABASE}
    with Ledger.open(ledger.directory) as reader:
        assert len(reader.records()) == 1
        assert {path.name for path in ledger.directory.iterdir()} == {ARTIFACTS, DATABASE}


def test_a_writer_that_ends_while_somebody_reads_leaves_the_reader_alone(ledger: Ledger) -> None:
    add(ledger, (0.1, 3000.0, 300.0))
    with Ledger.open(ledger.directory) as reader:
        assert len(reader.records()) == 1
        ledger.close()
        assert reader.record(0).state == "complete"


def test_seconds_used_last(ledger: Ledger) -> None:
    assert ledger.seconds_used == 0.0
    ledger.seconds_used = 12.5
    ledger.close()
    with Ledger.open(ledger.directory) as reopened:
        assert reopened.seconds_used == 12.5


def test_limits_last(ledger: Ledger) -> None:
    assert ledger.limits is None
    ledger.limits = LIMITS
    ledger.close()
    with Ledger.open(ledger.directory) as reopened:
        assert reopened.limits == LIMITS


def test_a_teacher_lasts(ledger: Ledger) -> None:
    assert ledger.teacher is None
    logits = np.random.default_rng(0).normal(size=(20, 10)).astype(np.float32)
    ledger.teacher = Teacher(0.875, logits, mirrored=True)
    with Ledger.open(ledger.directory) as reader:
        kept = reader.teacher
        assert kept is not None and kept.accuracy == 0.875 and np.array_equal(kept.logits, logits) and kept.mirrored
        (ledger.directory / "artifacts" / "teacher" / "logits.safetensors").write_bytes(b"nothing")
        with pytest.raises(RunError, match=r"logits.safetensors must hold a teacher's logits.*; remove .*teacher$"):
            _ = reader.teacher


def test_a_reader_sees_what_another_process_is_writing(ledger: Ledger) -> None:
    add(ledger, (0.1, 3000.0, 300.0))
    script = "import sys, pathlib, sparse_mcu.search as s; print(len(s.Ledger.open(pathlib.Path(sys.argv[1])).records()))"
    command = [sys.executable, "-c", script, str(ledger.directory)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


def test_reading_imports_no_torch() -> None:
    script = "import sys, sparse_mcu.search; sparse_mcu.search.Ledger; assert not {'torch', 'botorch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_is_no_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"holds a {DATABASE}"):
        Ledger.open(tmp_path)
    (tmp_path / DATABASE).write_bytes(b"no database at all, but long enough to have a header" * 50)
    for opening in (Ledger.open, Ledger.resume):
        with pytest.raises(RunError, match="cannot be read: file is not a database"):
            opening(tmp_path)
    with pytest.raises(RunError, match="resume it instead"):
        Ledger.create(tmp_path)


def test_a_study_of_another_name_is_not_ours(tmp_path: Path) -> None:
    optuna.create_study(storage=f"sqlite:///{tmp_path / DATABASE}", study_name="other")
    with pytest.raises(RunError, match="must be a study of sparse-mcu"):
        Ledger.open(tmp_path)


def test_an_unknown_trial_is_named(ledger: Ledger) -> None:
    with pytest.raises(RunError, match="no trial yet"):
        ledger.record(0)
    add(ledger, (0.1, 3000.0, 300.0))
    with pytest.raises(RunError, match="trials 0 to 0, but not 7"):
        ledger.record(7)


def test_a_missing_artefact_is_named(ledger: Ledger) -> None:
    add(ledger, (0.1, 3000.0, 300.0))
    (ledger.directory / ARTIFACTS / "000000" / "log.json").unlink()
    with pytest.raises(RunError, match=r"trial 0 must have its log\.json"):
        ledger.log(0)


def test_a_full_disk_is_one_clear_error_and_loses_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    add(ledger, (0.1, 3000.0, 300.0))
    number = ledger.ask(LIMITS).number

    def no_space(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(RunError, match="No space left on device; nothing recorded is lost"):
        ledger.complete(number, measured(0.2, 3000.0, 200.0), seconds=1.0)
    monkeypatch.undo()
    ledger.close()
    with Ledger.resume(ledger.directory) as resumed:
        assert [record.state for record in resumed.records()] == ["complete", "interrupted"]
        assert resumed.log(0) == {"epochs": [1]}


FILL = """
import resource, signal, sys
from pathlib import Path
import optuna
sys.path.insert(0, sys.argv[2])
from search_fakes import LIMITS
from sparse_mcu.errors import RunError
from sparse_mcu.search import Ledger
ledger = Ledger.resume(Path(sys.argv[1]))
ledger.study.sampler = optuna.samplers.RandomSampler(seed=0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write past the limit fails as one on a full disk does
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
try:
    while True:
        ledger.fail(ledger.ask(LIMITS).number, "x" * 100_000)
except RunError as error:
    print(error)
"""


def test_a_database_that_cannot_grow_is_one_clear_error_and_loses_nothing(ledger: Ledger) -> None:
    """Through SQLite itself: the operating system refuses to let files grow."""
    add(ledger, (0.1, 3000.0, 300.0))
    ledger.close()
    here = str(Path(__file__).parent)
    output = subprocess.run([sys.executable, "-c", FILL, ledger.directory, here], capture_output=True, text=True, check=True)
    assert output.stdout.count("\n") == 1 and "cannot be written" in output.stdout and "make room, then resume" in output.stdout
    with Ledger.resume(ledger.directory) as resumed:
        states = [record.state for record in resumed.records()]
        assert states[0] == "complete" and "failed" in states and states[-1] != "running"
        assert resumed.log(0) == {"epochs": [1]}


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it is not allowed to")
def test_a_read_only_directory_can_be_read_but_not_searched_in(ledger: Ledger) -> None:
    add(ledger, (0.1, 3000.0, 300.0))
    ledger.close()
    for path in (ledger.directory / DATABASE, ledger.directory):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    assert len(Ledger.open(ledger.directory).records()) == 1
    with pytest.raises(RunError, match="cannot be written"):
        Ledger.resume(ledger.directory)


def test_a_database_that_is_read_only_to_us_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above for any user: SQLite is told to open the file read-only."""
    Ledger.create(tmp_path).close()
    connect = sqlite3.connect

    def connect_read_only(database: str, **kwargs: Any) -> sqlite3.Connection:
        return connect(database.replace("mode=rwc", "mode=ro"), **kwargs)

    monkeypatch.setattr(sqlite3, "connect", connect_read_only)
    with pytest.raises(RunError, match="cannot be written: attempt to write a readonly database"):
        Ledger.resume(tmp_path)
