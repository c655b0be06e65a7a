"""The command line as users run it: a process of its own, in a directory of its own."""

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparse_mcu.search.ledger import Ledger
from sparse_mcu.search.records import TrialRecord

PROGRAM = str(Path(sys.executable).with_name("sparse-mcu"))
TIMEOUT_SECONDS = 300.0  # a machine may be busy
HALVES = "halves.npz"
UNO = ("--board", "arduino-uno", "--ram", "1K", "--flash", "8K")

Process = subprocess.Popen[str]


@dataclass(frozen=True)
class CommandLine:
    """Runs sparse-mcu in the directory ``cwd``."""

    cwd: Path

    def run(self, *arguments: str | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run one command to its end."""
        command = [PROGRAM, *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.cwd, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS, **options
        )

    def done(self, *arguments: str | Path) -> str:
        """Run a command that must succeed; return what it printed."""
        ran = self.run(*arguments)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def json(self, *arguments: str | Path) -> Any:
        """Run a command that must succeed and print JSON and nothing else; return it parsed."""
        return json.loads(self.done(*arguments, "--json"))

    def refused(self, *arguments: str | Path, **options: Any) -> str:
        """Run a command that must end as a user's error, with status 2 and exactly one line; return the line."""
        ran = self.run(*arguments, **options)
        assert ran.returncode == 2, ran.stderr
        assert ran.stderr.startswith("sparse-mcu: ")
        assert ran.stderr.count("\n") == 1, ran.stderr
        return ran.stderr

    def begin(self, *arguments: str | Path) -> Process:
        """Start a command in a process group of its own, as a shell does."""
        command = [PROGRAM, *map(str, arguments)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.cwd, text=True, start_new_session=True, **streams)

    def trials(self, run: str) -> list[TrialRecord]:
        """Return the trials of ``run``."""
        with Ledger.open(self.cwd / run) as ledger:
            return ledger.records()

    def wait_for_trials(self, search: Process, run: str, count: int) -> None:
        """Wait until ``search`` has completed ``count`` trials in ``run``."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not (self.cwd / run / "run.json").exists() or len(complete(self.trials(run))) < count:
            assert search.poll() is None, search.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)


def write_halves(folder: Path) -> None:
    """Write an archive of few and easy images, bright in the left or in the right half: a network trains in no time."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 2
    images = rng.integers(0, 100, (90, 8, 8))
    images[labels == 0, :, :4] += 100
    images[labels == 1, :, 4:] += 100
    np.savez(folder / HALVES, x_train=images.astype(np.uint8), y_train=labels)


def complete(trials: list[TrialRecord]) -> dict[int, TrialRecord]:
    """Return the complete ones of ``trials`` by number."""
    return {trial.number: trial for trial in trials if trial.state == "complete"}


def limit_files(size: int) -> None:
    """Let this process and its children write no file longer than ``size`` bytes, which looks to them like a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
