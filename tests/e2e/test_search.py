"""What a search does when it ends, is stopped, is killed, or finds no room."""

import json
import os
import signal
from collections.abc import Callable

import pytest
from command_line import HALVES, UNO, CommandLine, Process, complete, limit_files

SEARCH = ("search", HALVES, *UNO, "--workers", "1")


def test_the_same_seed_with_one_worker_finds_the_same_front(cli: CommandLine) -> None:
    first, second = (cli.json(*SEARCH, "--trials", "3", "--seed", "7", "--out", name) for name in ("one", "two"))
    assert first["front"] == second["front"]
    assert len(first["front"]) >= 1


def test_a_killed_search_goes_on_with_all_that_was_finished(cli: CommandLine) -> None:
    search = cli.begin(*SEARCH, "--trials", "3", "--out", "run")
    cli.wait_for_trials(search, "run", 1)
    search.kill()
    search.communicate()
    before = complete(cli.trials("run"))

    cli.done("search", "--resume", "run")
    after = cli.trials("run")
    assert {number: complete(after)[number] for number in before} == before
    assert [trial.state for trial in after].count("interrupted") == 1
    assert sum(trial.state in ("complete", "failed") for trial in after) == 3


def press_ctrl_c(search: Process) -> None:
    """Interrupt as a terminal does: the whole process group, workers included."""
    os.killpg(search.pid, signal.SIGINT)


@pytest.mark.parametrize("stop", [press_ctrl_c, Process.terminate])
def test_a_stopped_search_prints_its_front_and_how_to_go_on(cli: CommandLine, stop: Callable[[Process], None]) -> None:
    search = cli.begin(*SEARCH, "--time", "1m", "--out", "run", "--json")
    cli.wait_for_trials(search, "run", 1)
    assert "in use by another" in cli.refused("search", "--resume", "run")
    assert cli.json("front", "run")["board"] == "arduino-uno"  # reading is open to all meanwhile
    stop(search)
    output, errors = search.communicate(timeout=30)
    assert search.returncode == 0, errors
    assert "sparse-mcu search --resume run goes on" in errors
    assert json.loads(output) == cli.json("front", "run")
    assert "running" not in {trial.state for trial in cli.trials("run")}


def test_a_disk_that_fills_up_is_one_line_and_loses_nothing(cli: CommandLine) -> None:
    room = 700_000  # bytes in a file: enough for the study to begin, not for the log of its trials
    full = cli.run(*SEARCH, "--trials", "2", "--out", "run", preexec_fn=lambda: limit_files(room))
    assert full.returncode == 2, full.stderr
    assert full.stderr.splitlines()[-1].startswith("sparse-mcu: a search writes to its run directory, but run cannot be written")
    before = complete(cli.trials("run"))

    cli.done("search", "--resume", "run")
    after = complete(cli.trials("run"))
    assert {number: after[number] for number in before} == before
    assert len(after) == 2


def test_a_disk_without_room_at_all_leaves_the_directory_free(cli: CommandLine) -> None:
    assert "cannot be written" in cli.refused(*SEARCH, "--out", "run", preexec_fn=lambda: limit_files(20_000))
    assert [path.name for path in (cli.cwd / "run").iterdir()] == [".lock"]


def test_a_budget_that_nothing_meets_says_what_binds_and_leaves_no_run(cli: CommandLine) -> None:
    line = cli.refused("search", "digits", "--board", "arduino-uno", "--ram", "60", "--trials", "2", "--out", "run")
    assert "60" in line
    assert not (cli.cwd / "run" / "run.json").exists()
