"""Measures what row streaming takes besides the layers (c/kernels.c, "stream"), and adds it to kernel_costs.toml.

    python tools/measure_streaming.py [--boards BOARD ...] [--probes 24]

measure_kernels.py does the same after all else; alone, this keeps what the table has. Random networks are measured twice, with
some layers streamed and with none. The differences, less those that the layers themselves are predicted to make, are fitted. The
stack is that of other networks, with any encodings: what each kind of step takes at most, and what no network exceeds.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from probes import NO_MULTIPLIER, SIZES, smallest
from scipy.optimize import nnls  # type: ignore[import-untyped]

from sparse_mcu.deploy import kernel_costs
from sparse_mcu.deploy.boards import Board, board
from sparse_mcu.deploy.encode import ON_ANY_CORE, Encoding
from sparse_mcu.deploy.events import stream_events
from sparse_mcu.deploy.firmware import build_firmware
from sparse_mcu.deploy.generate import render
from sparse_mcu.deploy.kernel_costs import KernelCosts
from sparse_mcu.deploy.predict import predict_program, stack_of_rows
from sparse_mcu.deploy.program import Program, lower
from sparse_mcu.deploy.simulation import FirmwareFault
from sparse_mcu.deploy.simulators import simulate
from sparse_mcu.deploy.stream import streamable
from sparse_mcu.deploy.unroll import can_unroll
from sparse_mcu.errors import BoardError
from sparse_mcu.quant.random_graph import GraphSize, random_graph, random_images

PROBES = 24
STACK_PROBES = 90
STRAIGHT = (0.0, 0.5, 1.0)  # shares of the layers that are straight-line code
IMAGES = 2
SIZE = GraphSize(layers=3, extent=14, channels=4)  # narrow: little time in layers
EVENTS = ("push", "row", "row.kept", "row.zero")  # of predict.stream_events
STRAIGHT_STACKS = (".straight.rows", ".straight.whole")  # behind those of LINES; of stack_of_rows
LINES = ("stack.line", "stack.lines")
STACKS = (*LINES, *map("".join, itertools.product(LINES, STRAIGHT_STACKS)))
NOTHING = dict.fromkeys(("code", "line", *STACKS, *EVENTS), 0.0)


@dataclass(frozen=True)
class Figures:
    """Bytes and time of a program: what it takes on a board beyond what is predicted of its layers."""

    flash_bytes: int
    cycles: float


@dataclass(frozen=True)
class Probe:
    """A program some of whose layers are streamed, and the same with none."""

    program: Program
    rows: Figures
    whole: Figures


def streaming_costs(target: Board, costs: KernelCosts, count: int = PROBES) -> dict[str, float]:
    """Return what streaming takes on ``target``, where its layers take ``costs``."""
    known = dataclasses.replace(costs, streaming=NOTHING)
    found = list(itertools.islice(probes(target, known), count))
    lines = np.array([[1, len(probe.program.lines) + 1] for probe in found], float)
    flash = np.array([probe.rows.flash_bytes - probe.whole.flash_bytes for probe in found], float)
    code, line = np.linalg.lstsq(lines, flash, rcond=None)[0]
    events = np.array([[stream_events(probe.program)[event] for event in EVENTS] for probe in found], float)
    cycles, _ = nnls(events, np.array([probe.rows.cycles - probe.whole.cycles for probe in found]))
    table = {"code": code, "line": line, **streaming_stack(target, costs), **dict(zip(EVENTS, cycles, strict=True))}
    return {name: round(float(value), 2) for name, value in table.items()}


def streaming_stack(target: Board, costs: KernelCosts, count: int = STACK_PROBES) -> dict[str, float]:
    """Return the stack that a step takes in a program with streamed layers beyond that of its kernels: none shows more.

    What calls a kernel takes the same for all but a little; straight-line code is called otherwise, and as a part of its caller.
    """
    found = [
        ([(costs.stack[program.chain(step)], stack_of_rows(program, step)) for step in program.steps], stack)
        for program, stack in itertools.islice(stack_probes(target), count)
    ]
    table: dict[str, float] = {}
    for lines in LINES:
        kernels = [(steps, stack) for steps, stack in found if all(kind == lines for _, kind in steps)]
        table[lines] = max([0, *(stack - max(steps)[0] for steps, stack in kernels)])
        table |= dict.fromkeys((lines + straight for straight in STRAIGHT_STACKS), table[lines])
    # Those with one kind of straight-line code first: they tell what it is that takes more.
    for steps, stack in sorted(found, key=lambda probe: len({kind for _, kind in probe[0]})):
        deepest, kind = max((chain + table[kind], kind) for chain, kind in steps)
        table[kind] += max(0, stack - deepest)
    table = {
        kind: max(taken, table[next(lines for lines in LINES[::-1] if kind.startswith(lines))]) for kind, taken in table.items()
    }
    errors = [max(chain + table[kind] for chain, kind in steps) - stack for steps, stack in found]
    print(f"  stack with rows: predicted less measured {min(errors):+} to {max(errors):+} bytes")
    return table


def stack_probes(target: Board) -> Iterator[tuple[Program, int]]:
    """Yield random programs with streamed layers, any of them as straight-line code, and their stack; without end."""
    rng = np.random.default_rng(2)
    while True:
        graph = random_graph(rng, SIZES[rng.integers(len(SIZES))])
        lines = streamable(graph)
        if not lines:
            continue
        lines = lines[: rng.integers(1, len(lines) + 1)]
        others: list[Encoding] = list(rng.permutation(ON_ANY_CORE)[: rng.integers(len(ON_ANY_CORE) + 1)])
        in_pairs, straight = bool(rng.random() < 0.7), STRAIGHT[rng.integers(len(STRAIGHT))]
        program = lower(graph, target, None, in_pairs, lines, smallest(graph, [target.dense if in_pairs else "pairs", *others]))
        if target.core not in NO_MULTIPLIER:
            chosen = [step for step in program.steps if rng.random() < straight]
            able = [step.stage.op.name for step in chosen if can_unroll(step.stage.op, target, program.sum_bytes, step.tensors)]
            change: dict[str, Encoding] = dict.fromkeys(able, "unrolled")
            program = lower(graph, target, None, in_pairs, lines, program.encodings | change)
        try:
            firmware = build_firmware(render(program, None), target)
            yield program, simulate(firmware, random_images(rng, graph, IMAGES)).stack_bytes
        except (BoardError, FirmwareFault):
            continue  # as below


def probes(target: Board, known: KernelCosts) -> Iterator[Probe]:
    """Yield measured random networks that can be streamed and fit ``target``, without end."""
    rng = np.random.default_rng(1)
    while True:
        graph = random_graph(rng, SIZE)
        lines = streamable(graph)
        if not lines:
            continue
        lines = lines[: rng.integers(1, len(lines) + 1)]
        images = random_images(rng, graph, IMAGES)
        rows, whole = lower(graph, target, known, lines=lines), lower(graph, target, known)
        try:
            yield Probe(rows, figures(rows, target, known, images), figures(whole, target, known, images))
        except (BoardError, FirmwareFault):
            continue  # too large for the board: variables, or variables and stack


def figures(program: Program, target: Board, known: KernelCosts, images: np.ndarray) -> Figures:
    """Measure ``program``, and take off what is predicted."""
    predicted = predict_program(program, known)
    firmware = build_firmware(render(program, None), target)
    simulation = simulate(firmware, images)
    return Figures(
        firmware.flash_bytes - predicted.flash_bytes,
        float(simulation.cycles.mean()) - predicted.cycles,
    )


def main() -> None:
    """Measure, and write the table anew."""
    from measure_kernels import BOARDS, CORES, HEAD, TABLE, to_toml  # here: it imports this file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", nargs="+", choices=BOARDS, default=BOARDS)
    parser.add_argument("--probes", type=int, default=PROBES, help="networks to measure for each core")
    options = parser.parse_args()
    tables = dict(kernel_costs.tables())
    for target in map(board, options.boards):
        found = streaming_costs(target, tables[target.core], options.probes)
        tables[target.core] = dataclasses.replace(tables[target.core], streaming=found)
        TABLE.write_text(HEAD + "".join(to_toml(core, tables[core]) for core in CORES if core in tables), encoding="utf-8")
        print(target.name, found, flush=True)


if __name__ == "__main__":
    main()
