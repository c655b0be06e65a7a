import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for command_line, which pytest's importlib mode does not find by itself

from command_line import UNO, CommandLine, write_halves  # noqa: E402


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """The command line beside HALVES."""
    write_halves(tmp_path)
    return CommandLine(tmp_path)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """The command line beside ``run``, a finished search of a few trials on digits."""
    cli = CommandLine(tmp_path_factory.mktemp("digits"))
    cli.done("search", "digits", *UNO, "--trials", "4", "--workers", "2", "--seed", "1", "--out", "run")
    return cli
