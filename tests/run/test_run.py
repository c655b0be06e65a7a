import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparse_mcu
from sparse_mcu import run as runs
from sparse_mcu.data import Dataset
from sparse_mcu.errors import BoardError, BudgetError, DataError, RunError, UserError
from sparse_mcu.run import Run
from sparse_mcu.search.ledger import Ledger
from sparse_mcu.search.loop import Ending, Observer
from sparse_mcu.search.options import Progress, SearchOptions


def test_a_run_keeps_what_was_asked_and_finds_what_was_found(finished: Run) -> None:
    record = Run.load(finished.path).record
    assert record == finished.record
    assert (record.source, record.board, record.ram_bytes, record.flash_bytes) == ("digits", "arduino-uno", 1024, 8192)
    assert (record.seconds, record.trials, record.seed, record.workers) == (None, 5, 0, 1)
    assert (finished.ending, Run.load(finished.path).ending) == ("finished", None)


def test_the_front_holds_what_fits_and_is_not_beaten_best_first(finished: Run) -> None:
    assert [model.number for model in finished.front] == [0, 2]
    assert [round(model.accuracy, 9) for model in finished.front] == [0.9, 0.7]


def test_best_is_the_most_accurate_within_the_budget_asked_for(finished: Run) -> None:
    assert finished.best().number == 0
    assert finished.best(ram="2K", flash="16K").number == 3
    assert finished.best(flash=3000).number == 2
    with pytest.raises(BudgetError, match="takes at most 100 bytes of RAM and 8192 of flash; search longer"):
        finished.best(ram=100)


def test_a_model_is_named_by_its_trial_or_as_best(finished: Run) -> None:
    assert finished.model("best").number == 0
    assert finished.model("3").number == finished.model(3).number == 3
    with pytest.raises(RunError, match="only a complete trial has a network, but trial 4 is failed"):
        finished.model(4)
    with pytest.raises(RunError, match="trials 0 to 4, but not 17"):
        finished.model(17)
    with pytest.raises(UserError, match="a model is 'best' or the number of a trial, but is 'worst'"):
        finished.model("worst")


def test_a_second_search_in_a_run_directory_is_refused(finished: Run) -> None:
    with pytest.raises(RunError, match=r"holds a run; --resume .*run goes on with it"):
        runs.search("digits", board="arduino-uno", trials=1, out=finished.path)
    assert len(finished.front) == 2


def test_a_directory_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="needs a new or an empty directory"):
        runs.search("digits", board="arduino-uno", trials=1, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"board": "arduino-unno"}, BoardError, "did you mean arduino-uno"),
        ({"ram": "4K"}, BudgetError, "a RAM budget must be from 1 to the 2048 bytes of arduino-uno, but is 4096"),
        ({"flash": 0}, BudgetError, "a flash budget must be from 1 to the 32768 bytes of arduino-uno, but is 0"),
        ({"source": "digit"}, DataError, "did you mean digits"),
        ({"trials": 3, "time": "1m"}, UserError, "a time or after a number of trials"),
        ({"time": "soon"}, UserError, "but is 'soon'"),
        ({"workers": 0}, UserError, "workers must be above 0"),
        ({"device": "gpu"}, UserError, "no device is called 'gpu'; did you mean cpu"),
    ],
)
def test_a_search_that_makes_no_sense_leaves_no_directory(
    tmp_path: Path, options: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments = {"source": "digits", "board": "arduino-uno", "out": tmp_path / "run"} | options
    with pytest.raises(error, match=message):
        runs.search(**arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_search_that_cannot_begin_can_be_put_right_and_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Ending:
        raise BudgetError("nothing fits")

    with monkeypatch.context() as patched, pytest.raises(BudgetError, match="nothing fits"):
        patched.setattr("sparse_mcu.search.loop.search", refuse)
        runs.search("digits", board="arduino-uno", ram=64, trials=1, out=tmp_path / "run")
    assert len(runs.search("digits", board="arduino-uno", ram="1K", trials=5, out=tmp_path / "run").front) == 2


def test_an_error_after_the_first_result_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_mcu.search.loop import search as search_into

    def fill_the_disk(dataset: Dataset, options: SearchOptions, ledger: Ledger, observer: Observer) -> Ending:
        search_into(dataset, options, ledger, observer)
        raise RunError("no space left")

    monkeypatch.setattr("sparse_mcu.search.loop.search", fill_the_disk)
    with pytest.raises(RunError, match="no space left"):
        runs.search("digits", board="arduino-uno", trials=5, out=tmp_path / "run")
    assert len(Run.load(tmp_path / "run").front) == 4 - 1


def test_interrupted_before_the_first_trial_is_a_run_without_a_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> Ending:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparse_mcu.search.loop.search", interrupt)
    run = runs.search("digits", board="arduino-uno", trials=5, out=tmp_path / "run")
    assert (run.ending, run.front) == ("interrupted", ())


def test_resume_keeps_the_budget_or_takes_a_new_total(finished: Run) -> None:
    assert runs.resume(finished.path).record == finished.record
    longer = runs.resume(finished.path, time="10m", workers=3)
    assert (longer.record.seconds, longer.record.trials, longer.record.workers) == (600.0, None, 3)
    assert Run.load(finished.path).record == longer.record
    with pytest.raises(UserError, match="workers must be above 0"):
        runs.resume(finished.path, workers=0)
    assert Run.load(finished.path).record == longer.record


def test_resume_goes_on_with_the_same_data_only(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    labels = np.arange(60) % 3
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels)
    run = runs.search(tmp_path / "mine.npz", board="arduino-uno", trials=5, out=tmp_path / "run")
    (tmp_path / "mine.npz").rename(tmp_path / "moved.npz")
    with pytest.raises(DataError, match=r"mine\.npz"):
        runs.resume(run.path)
    assert runs.resume(run.path, source=tmp_path / "moved.npz").record.source == str(tmp_path / "moved.npz")
    np.savez(tmp_path / "moved.npz", x_train=255 - images, y_train=labels)
    with pytest.raises(RunError, match="a run stays with the data that it began with"):
        runs.resume(run.path)


def test_a_source_is_found_from_another_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=np.arange(60) % 3)
    monkeypatch.chdir(tmp_path)
    run = runs.search("mine.npz", board="arduino-uno", trials=5)
    assert run.path == Path("runs/mine")
    monkeypatch.chdir("/")
    assert Run.load(tmp_path / run.path).dataset().input_shape == (1, 8, 8)


def test_resuming_what_is_no_run_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        runs.resume(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_the_observer_hears_of_the_search(tmp_path: Path) -> None:
    heard: list[Progress] = []
    runs.search("digits", board="arduino-uno", trials=5, out=tmp_path / "run", observer=heard.append)
    assert heard[-1].done == 4


def test_the_package_offers_the_python_face_and_the_room_alike() -> None:
    assert sparse_mcu.Run is Run
    assert sparse_mcu.resume is runs.resume
    assert sparse_mcu.search.ledger.Ledger is Ledger  # type: ignore[attr-defined]  # the room, as mypy does not see
    with pytest.raises(UserError, match="did you mean arduino-uno"):
        sparse_mcu.search("digits", board="arduino-unno")
    with pytest.raises(AttributeError, match="has no attribute 'find'"):
        sparse_mcu.find  # noqa: B018


def test_a_search_is_told_its_objectives_its_limit_of_time_and_its_sampler(tmp_path: Path) -> None:
    run = runs.search(
        "digits",
        board="arduino-uno",
        trials=5,
        workers=1,
        out=tmp_path / "run",
        objectives=["accuracy", "flash"],
        max_ms=1.0,
        limits={"macs": 10**6},
        sampler="random",
    )
    options = Run.load(run.path).record.options
    assert (options.goal.minimised, options.sampler) == (("error", "flash_bytes"), "random")
    assert options.budget.cycles == 16_000  # a millisecond at 16 MHz
    assert options.budget.macs == 10**6
    assert [model.number for model in run.front] == [3, 0, 2]  # of FIGURES, RAM now limited by the board alone
    with pytest.raises(BudgetError, match="no network of .* and 15999 cycles and macs 1000000;"):
        dataclasses.replace(run, record=dataclasses.replace(run.record, cycles=15_999)).best()


@pytest.mark.parametrize(
    ("board", "options", "message"),
    [
        ("arduino-uno", {"max_ms": 1.0, "max_cycles": 10}, "limited once, but both"),
        ("microbit", {"max_ms": 1.0}, "microbit counts instructions"),
        ("arduino-uno", {"max_cycles": 0}, "at least 1 cycle, but may have 0"),
        ("arduino-uno", {"max_ms": -1.0}, "some time, but may have -1.0 ms"),
        ("arduino-uno", {"limits": {"mac": 9}}, "did you mean macs"),
        ("arduino-uno", {"limits": {"macs": 0}}, "macs of at least 1, but may have 0"),
        ("arduino-uno", {"objectives": ["ram"]}, "objectives are accuracy and others"),
    ],
)
def test_limits_and_objectives_that_make_no_sense_are_named(
    tmp_path: Path, board: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        runs.search("digits", board=board, trials=5, workers=1, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
