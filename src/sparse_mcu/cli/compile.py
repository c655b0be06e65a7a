"""``sparse-mcu compile``: an ONNX file as C for a board."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sparse_mcu.cli.output import print_json, print_lines, print_table
from sparse_mcu.cli.verify import print_verification, shown
from sparse_mcu.deploy.target import Optimise
from sparse_mcu.errors import ToolchainError
from sparse_mcu.run.compile import Compiled, compile_network


def compile(
    network: Path,
    data: str,
    board: str,
    input_range: tuple[float, float],
    ram_bytes: int | None,
    optimise: Optimise,
    reentrant: bool,
    out: Path,
    check: bool,
    as_json: bool,
) -> bool:
    """Compile ``network`` for ``board`` into ``out``, print its figures; return False where ``check`` finds logits that differ.

    Raises ToolchainError, after the figures, where ``board`` should be checked but cannot be simulated here.
    """
    compiled = compile_network(network, data, board, input_range, ram_bytes, optimise, reentrant)
    files = compiled.write(out)
    if not check:
        _show(compiled, files, as_json)
        return True
    with shown() as progress:
        verification = compiled.verify(progress)
    if as_json:
        print_json({**_json(compiled, files), "verification": verification.to_json()})
    else:
        _show(compiled, files, as_json)
        print_lines([""])
        print_verification(verification, network.name)
    if verification.not_simulated is not None:
        raise ToolchainError(verification.not_simulated)
    return verification.mismatches == 0


def _show(compiled: Compiled, files: Sequence[Path], as_json: bool) -> None:
    if as_json:
        print_json(_json(compiled, files))
        return
    print_lines(_lines(compiled, files))
    found, target = compiled.prediction, compiled.target
    board = target.board
    if found is None:
        print_lines([f"bytes and cycles are not predicted: the kernels have not been measured for {board.title} yet"])
        return
    milliseconds = board.milliseconds(found.cycles)
    rows = [
        ("flash bytes", f"{found.flash_bytes:,}", f"{board.flash_bytes:,}"),
        ("RAM bytes", f"{found.ram_bytes:,}", f"{target.ram_limit:,}"),
        (board.time_unit, f"{found.cycles:,}", "" if milliseconds is None else f"{milliseconds:,.1f} ms"),
    ]
    print_lines([""])
    print_table(("", ">predicted", f">{board.name}"), rows)
    if compiled.source.reentrant:
        print_lines(["", "predicted for static variables: a state of the caller's takes a little more (docs/compile.md)"])
    if not compiled.fits:
        within = f" within {target.ram_limit:,} bytes of RAM" if target.ram_limit != board.ram_bytes else ""
        print_lines(["", f"it does NOT fit {board.title}{within}"])


def _json(compiled: Compiled, files: Sequence[Path]) -> dict[str, object]:
    return {**compiled.to_json(), "files": [str(file) for file in files]}


def _lines(compiled: Compiled, files: Sequence[Path]) -> Iterator[str]:
    yield from (f"wrote {file}" for file in files)
    yield (
        f"test accuracy on {len(compiled.dataset.test):,} images: {compiled.accuracy:.2%} in 8 bits, "
        f"{compiled.float_accuracy:.2%} in float; they agree on {compiled.agreement:.2%}"
    )
