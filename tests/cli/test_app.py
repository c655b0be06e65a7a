"""Exit statuses and streams of the command line, in this process; tests/e2e runs it as users do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_mcu.cli import _report_fault, run
from sparse_mcu.deploy.boards import boards

HEAVY = ("torch", "numpy", "optuna", "sklearn", "botorch", "gpytorch", "PIL", "jinja2")
COMMANDS = ("boards", "data list", "data check", "search", "front", "export", "verify")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["boards"], ["boards", "--json"], ["search", "--help"]])
def test_what_should_answer_at_once_imports_nothing_heavy(arguments: list[str]) -> None:
    script = f"import sys; from sparse_mcu.cli import run; run({arguments!r}); print([m for m in {HEAVY!r} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example_of_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    assert f"Example: sparse-mcu {command}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "No such command 'nope' (see sparse-mcu --help)"),
        (["front"], "Missing argument 'RUN' (see sparse-mcu front --help)"),
        (["front", "a", "b"], "Got unexpected extra argument(s) (b) (see sparse-mcu front --help)"),
        (["search", "digits", "--colour"], "No such option: --colour (Possible options: --out) (see sparse-mcu search --help)"),
        (["search", "digits"], "a new search needs DATA and --board; --resume RUN goes on with an old one"),
        (["search", "digits", "--board", "arduino-uno", "--limit", "macs"], "a limit is NAME=N such as model_size=2K"),
        (
            ["search", "--resume", "x", "--limit", "macs=9"],
            "a resumed search keeps its limit, but --limit is given; leave it out",
        ),
        (["search", "--resume", "x", "--seed", "1"], "a resumed search keeps its seed, but --seed is given; leave it out"),
        (
            ["search", "digits", "--ram", "3x"],
            "Invalid value for '--ram': a size is a whole number of bytes such as 1024, 2K or 2KB",
        ),
        (["search", "digits", "--time", "soon"], "Invalid value for '--time': a time is a number above zero and a unit"),
        (["search", "digits", "--trials", "0"], "Invalid value for '--trials': Input should be greater than or equal to 1"),
        (["data", "check", "digit"], "no data set is called 'digit'; did you mean digits?"),
    ],
)
def test_a_users_error_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("sparse-mcu: ")
    assert message in error


def test_no_command_prints_the_help_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    captured = capsys.readouterr()
    assert "Commands" in captured.out + captured.err
    assert "sparse-mcu:" not in captured.err


def test_a_fault_of_ours_names_the_file_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError("seventeen")
    except KeyError as error:
        _report_fault(KeyError, error, error.__traceback__)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "a fault of ours, not yours: KeyError: 'seventeen'" in line
    log = Path(line.split()[-1])
    assert "raise KeyError" in log.read_text()
    log.unlink()


def test_a_fault_on_a_full_disk_still_shows_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    _report_fault(KeyError, KeyError("seventeen"), None)
    assert "KeyError: 'seventeen'" in capsys.readouterr().err


def test_a_fault_ends_the_process_with_status_1(tmp_path: Path) -> None:
    script = "import sys, sparse_mcu.cli as c; sys.argv = ['sparse-mcu', 'boards']; c.run = lambda _: 1 // 0; c.main()"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env={"TMPDIR": str(tmp_path)}
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("sparse-mcu: a fault of ours, not yours: ZeroDivisionError")
    assert len(list(tmp_path.iterdir())) == 1


def test_boards_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["boards"]) == 0
    table = capsys.readouterr().out
    assert all(board.name in table for board in boards())
    assert "2 KB" in table
    assert run(["boards", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["ram_bytes"] for row in rows} == {board.name: board.ram_bytes for board in boards()}


def test_data_check_prints_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "check", "digits"]) == 0
    assert "8 x 8 pixels, 1 channel, 64 bytes" in capsys.readouterr().out
    assert run(["data", "check", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["classes"] == 10


def test_data_check_lists_problems_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "check", str(tmp_path), "--json"]) == 2
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["problems"]) >= 1
    assert captured.err.count("\n") == 1


def test_a_closed_pipe_is_no_fault() -> None:
    command = f"{sys.executable} -m sparse_mcu boards | true"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert ran.stderr == ""
