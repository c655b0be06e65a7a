"""The commands: what they take and what their help says. Each imports its work when called, so that --help answers at once."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from sparse_mcu.deploy.target import Optimise, parse_optimise
from sparse_mcu.errors import UserError
from sparse_mcu.units import Range, parse_bytes, parse_limits, parse_range, parse_seconds

T = TypeVar("T")


def _parser(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Let the message of ``parse`` name the option."""

    def parse_option(text: str) -> T:
        try:
            return parse(text)
        except UserError as error:
            raise typer.BadParameter(str(error)) from None

    return parse_option


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
data_app = typer.Typer(no_args_is_help=True, help="Named data sets, and what is wrong with yours, if anything.")
app.add_typer(data_app, name="data")

Data = Annotated[str, typer.Argument(metavar="DATA", help="A name, a folder of class folders of images, or an .npz file.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory that search made.")]
ModelName = Annotated[str, typer.Option(metavar="best|N", help="The most accurate model within the budget, or that of trial N.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
BYTES = _parser(parse_bytes)
SECONDS = _parser(parse_seconds)
RANGE = _parser(parse_range)
OptimiseFor = Annotated[
    Optimise | None,
    typer.Option(
        "--optimise",
        parser=_parser(parse_optimise),
        metavar="size|balanced|speed",
        show_default="balanced",
        help="What matters most: the least flash (size), or the fewest cycles that the flash has room for (speed).",
    ),
]
Reentrant = Annotated[
    bool,
    typer.Option(
        "--reentrant", help="All variables in a struct of the caller's, so that several can run at once: model_run(&state)."
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from sparse_mcu import __version__

        typer.echo(f"sparse-mcu {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find convolutional networks small enough for a microcontroller and write them as verified C."""


@app.command(epilog="Example: sparse-mcu boards")
def boards(as_json: AsJson = False) -> None:
    """List the boards: RAM, flash, clock, and which can be verified here."""
    from sparse_mcu.cli.boards import show

    show(as_json)


@data_app.command("list", epilog="Example: sparse-mcu data list")
def data_list(as_json: AsJson = False) -> None:
    """List the data sets that need no file."""
    from sparse_mcu.cli.data import show_built_in

    show_built_in(as_json)


@data_app.command("check", epilog="Example: sparse-mcu data check photos/")
def data_check(source: Data, as_json: AsJson = False) -> None:
    """Say what a data set holds and everything that is wrong with it; exit status 2 if it cannot be used."""
    from sparse_mcu.cli.data import show_check

    show_check(source, as_json)


@app.command(epilog="Example: sparse-mcu search digits --board arduino-uno --ram 1K --flash 8K --time 10m --out runs/digits")
def search(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="As for data check. Not needed with --resume.")] = None,
    board: Annotated[str | None, typer.Option(metavar="NAME", help="The board to search for; boards lists them.")] = None,
    time: Annotated[
        float | None,
        typer.Option(parser=SECONDS, metavar="TIME", show_default="10m", help="How long to search in total: 90s, 10m, 1h."),
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="How many networks to try in total, whatever time it takes.")] = None,
    ram: Annotated[
        int | None, typer.Option(parser=BYTES, metavar="SIZE", show_default="the board's", help="RAM budget: 1024, 1K.")
    ] = None,
    flash: Annotated[
        int | None, typer.Option(parser=BYTES, metavar="SIZE", show_default="the board's", help="Flash budget: 8192, 8K.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, show_default="0", help="Seed; a search with --trials and --workers 1 repeats exactly.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, show_default="the cores", help="Networks to train at once.")] = None,
    device: Annotated[str | None, typer.Option(metavar="auto|cpu|cuda", show_default="auto", help="Where to train.")] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            show_default="accuracy,flash,ram",
            help="What the front trades off: accuracy, and any of flash, ram, model_size, working_memory, macs, cycles.",
        ),
    ] = None,
    max_cycles: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Cycles (on Arm and RISC-V instructions) that an inference may take.")
    ] = None,
    max_ms: Annotated[float | None, typer.Option(metavar="MS", help="The same as a time, on boards that count cycles.")] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N", help="More that a network may have at most: model_size, working_memory, macs. Repeatable."
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default="sparse", help="The optimiser; to compare: random, nsga2, tpe, gp (Optuna's)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", show_default="runs/DATA", help="The run directory to make.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with this run: its data, board, budget, seed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search for networks that are accurate and small, and print the Pareto front.

    Ctrl-C stops cleanly; --resume goes on after it, after a kill, after a reboot. A resumed search ends at the time or the trials
    that it was started with, unless --time or --trials gives a new total.
    """
    if resume is not None:
        _refuse_fixed({"--board": board, "--ram": ram, "--flash": flash, "--max-cycles": max_cycles, "--max-ms": max_ms})
        _refuse_fixed({"--limit": limit or None, "--objectives": objectives, "--sampler": sampler, "--seed": seed, "--out": out})
        from sparse_mcu import run

        call = partial(run.resume, resume, source=data, time=time, trials=trials, workers=workers, device=device)
    elif data is None or board is None:
        raise UserError("a new search needs DATA and --board; --resume RUN goes on with an old one")
    else:
        from sparse_mcu import run

        call = partial(run.search, data, board=board, ram=ram, flash=flash, time=time, trials=trials, workers=workers, out=out)
        call = partial(call, seed=seed or 0, device=device or "auto", max_cycles=max_cycles, max_ms=max_ms)
        chosen = {"objectives": objectives and objectives.split(","), "sampler": sampler, "limits": parse_limits(limit or [])}
        call = partial(call, **{name: value for name, value in chosen.items() if value is not None})
    from sparse_mcu.cli.search import show

    show(call, as_json)


def _refuse_fixed(options: dict[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            raise UserError(f"a resumed search keeps its {name.removeprefix('--')}, but {name} is given; leave it out")


@app.command(epilog="Example: sparse-mcu front runs/digits")
def front(run: RunPath, as_json: AsJson = False) -> None:
    """Print the Pareto front of a run: the networks within its budget that no other beats in all of its objectives."""
    from sparse_mcu.cli.front import show

    show(run, as_json)


@app.command(epilog="Example: sparse-mcu export runs/digits --model best --format c --optimise speed --out build/")
def export(
    run: RunPath,
    model: ModelName = "best",
    format: Annotated[
        str, typer.Option(metavar="c|onnx", help="What to write: c is one .c and one .h file, onnx a quantised (QDQ) network.")
    ] = "c",
    out: Annotated[Path | None, typer.Option(metavar="DIR", show_default="RUN/export", help="Where to write.")] = None,
    optimise: OptimiseFor = None,
    reentrant: Reentrant = False,
    as_json: AsJson = False,
) -> None:
    """Write a network as source code, or for other tools."""
    from sparse_mcu.cli.export import export as command

    command(run, model, format, out, optimise or "balanced", reentrant, as_json)


@app.command(epilog="Example: sparse-mcu verify runs/digits --model best --board arduino-uno")
def verify(
    run: RunPath,
    model: ModelName = "best",
    board: Annotated[str | None, typer.Option(metavar="NAME", show_default="the run's", help="The board to verify on.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", show_default="the run's", help="Where the data lie, if they moved.")
    ] = None,
    optimise: OptimiseFor = None,
    reentrant: Reentrant = False,
    images: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            show_default="all",
            help="Simulate the board on the first N test images alone: a slow network takes long.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build a network, run the whole test split on the simulated board, and set what is measured beside what was predicted.

    Exit status 1 where any logit differs between the interpreter, the C on this machine and the C on the board.
    """
    from sparse_mcu.cli.verify import verify as command

    if not command(run, model, board, data, optimise or "balanced", images, reentrant, as_json):
        raise typer.Exit(1)


@app.command(
    epilog="Example: sparse-mcu compile net.onnx --calibrate mnist.npz --board arduino-uno --optimise speed --out build/"
)
def compile(
    network: Annotated[Path, typer.Argument(metavar="NET", help="An ONNX file, float or quantised (QDQ).")],
    calibrate: Annotated[str, typer.Option(metavar="DATA", help="Images like those it was trained on; DATA as for data check.")],
    board: Annotated[str, typer.Option(metavar="NAME", help="The board to compile for; boards lists them.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")] = Path("build"),
    input_range: Annotated[
        Range | None,
        typer.Option(
            parser=RANGE,
            metavar="LOW,HIGH",
            show_default="0,1",
            help="What the network takes for black and white, as 0,255 or -1,1.",
        ),
    ] = None,
    ram: Annotated[
        int | None,
        typer.Option(
            parser=BYTES,
            metavar="SIZE",
            show_default="the board's",
            help="RAM to keep within: 700, 1K. Where a whole image does not fit, the C takes it row by row.",
        ),
    ] = None,
    optimise: OptimiseFor = None,
    reentrant: Reentrant = False,
    verify: Annotated[bool, typer.Option("--verify", help="Also run 500 test images on the simulated board.")] = False,
    as_json: AsJson = False,
) -> None:
    """Quantise a network that was trained elsewhere and write it as source code.

    Exit status 1 where --verify finds that the interpreter, the C on this machine and the C on the board differ in any logit.
    """
    from sparse_mcu.cli.compile import compile as command

    target = (board, input_range or (0.0, 1.0), ram, optimise or "balanced", reentrant)
    if not command(network, calibrate, *target, out, verify, as_json):
        raise typer.Exit(1)
