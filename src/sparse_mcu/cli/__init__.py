"""The command line: parse, call, print.

Exit status: 0 done; 2 a user's error, one line on stderr; 1 a fault of ours, with the traceback in a file that the line names.
"""

import sys
import tempfile
import traceback
from types import TracebackType

import typer

from sparse_mcu.cli.app import app
from sparse_mcu.errors import UserError

PROGRAM = "sparse-mcu"


def main() -> None:
    """Run the command that the process's arguments name and exit with its status."""
    sys.excepthook = _report_fault
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status; an exception that leaves this function is a fault of ours."""
    try:
        status = typer.main.get_command(app).main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        return _refuse_usage(error)
    except UserError as error:
        return _refuse(str(error))
    return status if isinstance(status, int) else 0


def _refuse_usage(error: typer.TyperException) -> int:
    message = error.format_message()
    if not message:  # no command given: Typer has printed the help instead
        return 2
    context = getattr(error, "ctx", None)  # of the command whose use was wrong, where Typer knows it
    command = PROGRAM if context is None else context.command_path
    return _refuse(f"{message.rstrip('.')} (see {command} --help)")


def _refuse(message: str) -> int:
    one_line = " ".join(message.split())
    print(f"{PROGRAM}: {one_line}", file=sys.stderr)
    return 2


def _report_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one line what went wrong and where the traceback is; Python then exits with status 1."""
    text = "".join(traceback.format_exception(kind, error, trace))
    try:
        with tempfile.NamedTemporaryFile("w", prefix=f"{PROGRAM}-", suffix=".log", delete=False) as log:
            log.write(text)
    except OSError:  # a full disk must not hide the fault
        print(text, file=sys.stderr)
        return
    print(
        f"{PROGRAM}: a fault of ours, not yours: {kind.__name__}: {error}; please report it with {log.name}",
        file=sys.stderr,
    )
