"""Generated C against the interpreter over random integer graphs: on this machine under sanitizers, and on simulated boards.

Graphs have every operation, odd sizes and extreme values; of those that can be streamed row by row, any number of layers is; they
are optimised for size, balance or speed, or have any encoding of weights that can hold them. Each is drawn from its own seed, so
that `--seeds N` alone repeats one that differed. Results go line by line to a file; a run that is stopped goes on from there, and
starts anew once the code that they are results of (src/sparse_mcu/deploy) has changed. Graphs too large for a board are counted,
but not as run.

    python benchmarks/fuzz_deploy.py [--host 3000] [--board 200] [--boards arduino-uno ...] [--jobs 2] [--out FILE]
    python benchmarks/fuzz_deploy.py --seeds 17 --boards microbit

Exit status 1 where an integer differs, a sanitizer stops the C, or a simulated program goes astray or takes more RAM than
predicted.
"""

import argparse
import functools
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np

from sparse_mcu import deploy
from sparse_mcu.deploy.boards import Board, board
from sparse_mcu.deploy.encode import ON_ANY_CORE, Encoding, encode
from sparse_mcu.deploy.firmware import build_firmware
from sparse_mcu.deploy.generate import render
from sparse_mcu.deploy.host import HostFault, host_logits
from sparse_mcu.deploy.kernel_costs import kernel_costs
from sparse_mcu.deploy.predict import candidates, predict_program
from sparse_mcu.deploy.program import Program, check_constants, lower
from sparse_mcu.deploy.simulation import FirmwareFault
from sparse_mcu.deploy.simulators import simulate
from sparse_mcu.deploy.stream import streamable
from sparse_mcu.deploy.target import OPTIMISE, Target
from sparse_mcu.errors import BoardError
from sparse_mcu.quant import interpreter
from sparse_mcu.quant.graph import Convolution, IntegerGraph
from sparse_mcu.quant.random_graph import GraphSize, random_graph, random_images

HOST = "host"  # this machine, under sanitizers
BOARDS = ("arduino-uno", "atmega1284p", "attiny85", "microbit", "bluepill", "nucleo-f446", "ch32v003", "esp32-c3")
SIZES = (GraphSize(layers=4), GraphSize(layers=2, extent=20, channels=14), GraphSize(layers=8, extent=9, channels=6))
IMAGES = 4
TOO_LARGE = "too large"


@dataclass(frozen=True)
class Result:
    """What a graph did on a target: ``fault`` is empty where it ran to its end."""

    code: str  # digest of the code under test
    target: str
    seed: int
    integers: int  # compared
    differing: int
    fault: str = ""
    spare_ram: int = 0  # bytes predicted less those of variables and the painted stack, on a board


def main() -> int:
    """Run what has no result yet, print the counts; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", type=int, default=3000, help="graphs to run on this machine")
    parser.add_argument("--board", type=int, default=200, help="graphs to run on each board")
    parser.add_argument("--boards", nargs="*", choices=BOARDS, default=BOARDS)
    parser.add_argument("--seeds", nargs="*", type=int, help="only these, on every target, whether they have a result or not")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz_deploy.jsonl"))
    options = parser.parse_args()
    targets = dict.fromkeys(options.boards, options.board) | {HOST: options.host}
    with ProcessPoolExecutor(options.jobs) as pool:
        if options.seeds:
            found = list(pool.map(run, *zip(*((target, seed) for target in targets for seed in options.seeds), strict=True)))
        else:
            found = [result for target, wanted in targets.items() for result in resume(pool, options.out, target, wanted)]
    return report(found)


def resume(pool: ProcessPoolExecutor, path: Path, target: str, wanted: int) -> list[Result]:
    """Return the results of the first seeds until ``wanted`` graphs were run on ``target``; new ones are added to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {result.seed: result for result in read(path) if (result.code, result.target) == (code(), target)}
    found: list[Result] = []
    with path.open("a", encoding="utf-8") as file:
        seeds = count()
        while (missing := wanted - sum(result.fault != TOO_LARGE for result in found)) > 0:
            batch = list(islice(seeds, missing))
            new = pool.map(run, [target] * len(batch), [seed for seed in batch if seed not in known])
            for seed in batch:
                result = known.get(seed) or next(new)
                found.append(result)
                if seed not in known:
                    file.write(json.dumps(asdict(result)) + "\n")
                    file.flush()
                if result.differing or result.fault not in ("", TOO_LARGE):
                    print(f"{target}, seed {seed}: {result.differing} integers differ; {result.fault}", flush=True)
                if result.spare_ram < 0:
                    print(f"{target}, seed {seed}: {-result.spare_ram} bytes of RAM more than predicted", flush=True)
    return found


def read(path: Path) -> Iterator[Result]:
    """Yield the results in the file; a last line that was cut off is taken out of it."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    for line in whole.splitlines():
        yield Result(**json.loads(line))


def run(target: str, seed: int) -> Result:
    """Draw the graph of ``seed`` and compare what it gives on ``target`` with the interpreter."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, SIZES[seed % len(SIZES)])
    images = random_images(rng, graph, IMAGES)
    expected = interpreter.run(graph, images)
    spare_ram = 0
    try:
        if target == HOST:
            logits = host_logits(render(drawn_program(rng, graph, board("microbit")), None), images, sanitize=True)
        else:
            program = drawn_program(rng, graph, board(target))
            simulation = simulate(build_firmware(render(program, None), board(target)), images)
            logits = simulation.logits
            predicted = predict_program(program, kernel_costs(board(target))).ram_bytes
            spare_ram = predicted - program.variable_bytes - simulation.stack_bytes
    except BoardError:
        return Result(code(), target, seed, 0, 0, TOO_LARGE)
    except (HostFault, FirmwareFault) as fault:
        return Result(code(), target, seed, 0, 0, str(fault))
    return Result(code(), target, seed, expected.size, int((logits != expected).sum()), spare_ram=spare_ram)


def drawn_program(rng: np.random.Generator, graph: IntegerGraph, target: Board) -> Program:
    """Return ``graph`` for ``target``, made one way of all, with any number of layers streamed of those that can be."""
    lines = streamable(graph)
    lines = lines[: rng.integers(0, len(lines) + 1)]
    aim = Target(target, optimise=OPTIMISE[rng.integers(len(OPTIMISE))])
    costs = kernel_costs(target)
    programs = list(candidates(graph, aim, costs, lines))
    if rng.random() < 0.5:  # most graphs are too small for kernels that read few bits to pay for themselves
        in_pairs = bool(rng.random() < 0.7)
        programs = [lower(graph, target, None, in_pairs, lines, drawn_encodings(rng, graph, target, in_pairs))]
    program = programs[rng.integers(len(programs))]
    check_constants(program)
    if predict_program(program, costs).ram_bytes > target.ram_bytes:  # with its stack; the variables alone may fit
        raise BoardError(f"the program of a graph must fit in the RAM of {target.name}, but does not")
    return program


def drawn_encodings(rng: np.random.Generator, graph: IntegerGraph, target: Board, in_pairs: bool) -> dict[str, Encoding]:
    """Return for every convolution any of the encodings that can hold it, rarer ones rather."""
    encodings: tuple[Encoding, ...] = (target.dense if in_pairs else "pairs", *ON_ANY_CORE)
    drawn: dict[str, Encoding] = {}
    for op in graph.ops:
        if isinstance(op, Convolution):
            able = [found.encoding for name in encodings if (found := encode(op, (name,), head_bytes=0)) is not None]
            drawn[op.name] = able[int(len(able) * rng.random() ** 0.5)]  # those of fewer bits come last
    return drawn


@functools.cache
def code() -> str:
    """Return a digest of the code whose results are compared."""
    folder = Path(deploy.__file__).parent
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".c", ".ld", ".j2", ".toml"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def report(found: list[Result]) -> int:
    """Print the counts of every target; return 1 where anything is wrong."""
    wrong = 0
    for target in dict.fromkeys(result.target for result in found):
        results = [result for result in found if result.target == target]
        kinds = Counter(result.fault if result.fault in ("", TOO_LARGE) else "faults" for result in results)
        integers, differing = (sum(getattr(result, name) for result in results) for name in ("integers", "differing"))
        print(
            f"{target}: {kinds['']} graphs run, {kinds['faults']} faults, {differing} of {integers:,} integers differ; "
            f"{kinds[TOO_LARGE]} more graphs were too large; seeds 0 to {max(result.seed for result in results)}"
        )
        spare = [result.spare_ram for result in results]
        if target != HOST:
            print(f"  RAM predicted less measured: {min(spare):+} to {max(spare):+} bytes")
        wrong += differing + kinds["faults"] + sum(value < 0 for value in spare)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
