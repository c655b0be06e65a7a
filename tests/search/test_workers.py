import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import search_fakes
from search_fakes import LIMITS, dataset

from sparse_mcu.deploy.boards import board
from sparse_mcu.errors import RunError
from sparse_mcu.search.candidate import Candidate, Evaluation
from sparse_mcu.search.loop import Evaluate
from sparse_mcu.search.workers import Failure, Finished, Task, Workers
from sparse_mcu.space.suggest import suggest

ARCHITECTURE = suggest(LIMITS, lambda dimension: dimension.at(0.3))
PATIENCE_SECONDS = 60.0  # workers start slowly on a busy machine


def task(evaluate: Evaluate, seed: int = 0) -> Task[Evaluation]:
    return functools.partial(evaluate, Candidate(ARCHITECTURE, board("arduino-uno"), seed))


def collect(workers: Workers[Evaluation], count: int) -> dict[int, Finished[Evaluation]]:
    """Wait for ``count`` results, by number."""
    finished: dict[int, Finished[Evaluation]] = {}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(finished) < count:
        assert time.monotonic() < deadline, "workers gave no result"
        finished |= {result.number: result for result in workers.wait(1.0)}
    return finished


def some_workers(count: int = 1) -> Workers[Evaluation]:
    return Workers(dataset(), "cpu", count)


def test_a_worker_sees_the_training_and_validation_splits() -> None:
    with some_workers() as workers:
        workers.submit(5, task(search_fakes.evaluate_data), deadline=123.0)
        assert workers.idle == 0 and workers.running == [5]
        outcome = collect(workers, 1)[5].outcome
        assert workers.idle == 1 and workers.running == []
    assert isinstance(outcome, Evaluation)
    splits = dataset().splits
    for name in ("train", "validation"):
        assert outcome.objectives[name] == splits[name].images.astype(int).sum() + splits[name].labels.sum()
    assert outcome.objectives["deadline"] == 123.0
    assert outcome.log["device"] == "cpu" and outcome.log["pid"] != os.getpid()


def test_a_killed_worker_fails_its_trial_and_is_replaced() -> None:
    mortal = search_fakes.evaluate_odd_seeds_die
    with some_workers(count=2) as workers:
        workers.submit(0, task(mortal, seed=1), None)
        workers.submit(1, task(mortal, seed=2), None)
        finished = collect(workers, 2)
        assert finished[0].outcome == Failure("the worker process was ended by SIGKILL (out of memory?)", None)
        assert isinstance(finished[1].outcome, Evaluation)
        assert workers.idle == 2
        workers.submit(2, task(mortal, seed=4), None)
        workers.submit(3, task(mortal, seed=6), None)
        assert all(isinstance(result.outcome, Evaluation) for result in collect(workers, 2).values())


def test_failures_say_what_failed_and_faults_say_where() -> None:
    with some_workers() as workers:
        workers.submit(0, task(search_fakes.evaluate_odd_seeds_diverge, seed=1), None)
        assert collect(workers, 1)[0].outcome == Failure("TrainingError: the loss of a network must be finite", None)
        workers.submit(0, task(search_fakes.evaluate_wrongly), None)
        fault = collect(workers, 1)[0].outcome
    assert isinstance(fault, Failure) and fault.message == "IndexError: list index out of range"
    assert fault.traceback is not None and "evaluate_wrongly" in fault.traceback


def test_leaving_stops_what_runs() -> None:
    with some_workers() as workers:
        workers.submit(0, task(search_fakes.evaluate_forever), None)
        collected = workers.wait(5.0)
        start = time.monotonic()
    assert collected == [] and time.monotonic() - start < 5.0


NO_GUARD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import search_fakes
from sparse_mcu.errors import RunError
from sparse_mcu.search.workers import Workers
try:
    with Workers(search_fakes.dataset(), "cpu", 1) as workers:
        while True:
            workers.wait(1.0)
except RunError as error:
    print(error)
"""


def test_workers_that_cannot_start_are_reported_once(tmp_path: Path) -> None:
    """A script without the guard that multiprocessing asks for runs again in the worker, and fails there."""
    script = tmp_path / "script.py"
    script.write_text(NO_GUARD)
    here = str(Path(__file__).parent)
    output = subprocess.run([sys.executable, script, here], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
    assert output.stdout.count("ended with status 1 while it started") == 1
    assert "if __name__ == '__main__':" in output.stdout


def test_a_temporary_directory_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(RunError, match="gone, but it cannot be written: No such file or directory"):
        some_workers()


ORPHANS = """
import functools
import sys
sys.path.insert(0, sys.argv[1])
import search_fakes
from sparse_mcu.deploy.boards import board
from sparse_mcu.search.candidate import Candidate
from sparse_mcu.search.workers import Workers
from sparse_mcu.space.suggest import suggest
if __name__ == "__main__":
    with Workers(search_fakes.dataset(), "cpu", 1) as workers:
        architecture = suggest(search_fakes.LIMITS, lambda dimension: dimension.at(0.3))
        candidate = Candidate(architecture, board("arduino-uno"), 0)
        workers.submit(0, functools.partial(search_fakes.evaluate_data, candidate), None)
        while not (finished := workers.wait(1.0)):
            pass
        print(finished[0].outcome.log["pid"], flush=True)
        while True:
            workers.wait(1.0)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_search_however_it_ends(tmp_path: Path, sent: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(ORPHANS)
    command = [sys.executable, script, str(Path(__file__).parent)]
    images = tmp_path / "images"
    images.mkdir()
    environment = os.environ | {"TMPDIR": str(images)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as search:
        assert search.stdout is not None
        worker = int(search.stdout.readline())
        assert any(images.iterdir())
        search.send_signal(sent)
        search.wait(PATIENCE_SECONDS)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while Path(f"/proc/{worker}").exists() and "zombie" not in Path(f"/proc/{worker}/status").read_text():
        assert time.monotonic() < deadline, "the worker outlived its search"
        time.sleep(0.05)
    assert not list(images.iterdir())
