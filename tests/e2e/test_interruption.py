"""What a search keeps when it is stopped, killed, or finds no room."""

import json
import os
import signal

import pytest
from command_line import UNO, CommandLine, Process, complete, limit_files


def test_a_killed_search_goes_on_with_all_that_was_finished(cli: CommandLine) -> None:
    search = cli.begin("search", "digits", *UNO, "--trials", "6", "--workers", "1", "--out", "run")
    cli.wait_for_trials(search, "run", 2)
    search.kill()
    search.communicate()
    before = complete(cli.trials("run"))

    cli.done("search", "--resume", "run")
    after = cli.trials("run")
    assert {number: complete(after)[number] for number in before} == before
    assert [trial.state for trial in after].count("interrupted") == 1
    assert sum(trial.state in ("complete", "failed") for trial in after) == 6


def press_ctrl_c(search: Process) -> None:
    """Interrupt as a terminal does: the whole process group, workers included."""
    os.killpg(search.pid, signal.SIGINT)


@pytest.mark.parametrize("stop", [press_ctrl_c, Process.terminate])
def test_a_stopped_search_prints_its_front_and_how_to_go_on(cli: CommandLine, stop) -> None:
    search = cli.begin("search", "digits", *UNO, "--time", "10m", "--workers", "1", "--out", "run", "--json")
    cli.wait_for_trials(search, "run", 1)
    assert "in use by another" in cli.refused("search", "--resume", "run")
    assert cli.json("front", "run")["board"] == "arduino-uno"  # reading is open to all meanwhile
    stop(search)
    output, errors = search.communicate(timeout=30)
    assert search.returncode == 0, errors
    assert "sparse-mcu search --resume run goes on" in errors
    assert json.loads(output) == cli.json("front", "run")
    assert "running" not in {trial.state for trial in cli.trials("run")}


def test_a_full_disk_loses_nothing_and_the_search_goes_on(cli: CommandLine) -> None:
    asked = ("search", "digits", *UNO, "--trials", "4", "--workers", "1", "--out", "run")
    line = cli.refused(*asked, preexec_fn=lambda: limit_files(150_000))
