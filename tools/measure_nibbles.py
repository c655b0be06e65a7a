"""Measures the kernels that read weights of four bits (c/kernels.c, "nibble"), and adds them to kernel_costs.toml.

    python tools/measure_nibbles.py [--boards BOARD ...] [--probes 200] [--check 40]

measure_kernels.py does the same among all else; alone, this keeps what the table has. Random networks whose weights all fit
four bits are measured, each with one of the two encodings. What the table says of the other kernels is taken off, and the rest
fitted in the same way.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from probes import Probe, chains, code_bytes, fitted_cycles, measured, plain_graph, smallest, usual, variants, with_wide_bias

from sparse_mcu.deploy import kernel_costs
from sparse_mcu.deploy.boards import Board, board
from sparse_mcu.deploy.encode import NIBBLES, Encoding
from sparse_mcu.deploy.kernel_costs import KernelCosts, variant
from sparse_mcu.deploy.predict import steps_stack
from sparse_mcu.deploy.program import Program, lower
from sparse_mcu.deploy.simulation import FirmwareFault
from sparse_mcu.errors import BoardError
from sparse_mcu.quant.graph import Conv2d, IntegerGraph

PROBES = 200
KERNELS = tuple(f"sums_{encoding}" for encoding in NIBBLES)
SECTIONS = ("nibble", *KERNELS)
Value = TypeVar("Value")


def with_nibbles(target: Board, costs: KernelCosts, count: int = PROBES) -> KernelCosts:
    """Return ``costs`` of ``target`` with those of the kernels of nibbles; ValueError where a variant is in no probe."""
    stream = probes(target, seed=2)
    found = [next(stream) for _ in range(count)]
    tables = usual({section: code_bytes(section, probe) for section in probe.sections if _reads(section)} for probe in found)
    missing = {variant(name, *dataclasses.astuple(kind)) for name in SECTIONS for kind in variants(target)} - tables.keys()
    if missing:
        raise ValueError(f"every variant must occur in a probe, but {sorted(missing)} do not; measure more probes")
    present = {section: [probe.helpers for probe in found if section in probe.sections] for section in tables}
    known = {name for name in costs.cycles if not name.startswith(NIBBLES)}
    return dataclasses.replace(
        costs,
        code=_joined(costs.code, tables),
        helpers=_joined(costs.helpers, {name: probe.symbols[name] for probe in found for name in probe.helpers}),
        uses=_joined(costs.uses, {name: tuple(sorted(frozenset.intersection(*sets))) for name, sets in present.items()}),
        stack=_joined(costs.stack, _stack(found, costs)),
        cycles=_joined(costs.cycles, fitted_cycles(found, {name: costs.cycles[name] for name in known})),
    )


def _reads(section: str) -> bool:
    return section.partition(".")[0] in SECTIONS


def _joined(known: dict[str, Value], new: dict[str, Value]) -> dict[str, Value]:
    return dict(sorted((known | new).items()))


def probes(target: Board, seed: int) -> Iterator[Probe]:
    """Yield measured random networks with weights of four bits that fit ``target``, without end; every variant in turn."""
    rng = np.random.default_rng(seed)
    kinds = [(kind, encoding) for kind in variants(target) for encoding in NIBBLES]
    while True:
        for kind, encoding in kinds:
            program = None
            while program is None or not kind.holds(program):
                graph = with_small_weights(plain_graph(rng, target, kind.padded))
                if target.is_avr and kind.sum_bytes == 4:
                    graph = with_wide_bias(graph)
                program = with_encoding(graph, target, encoding, kind.paired)
            try:
                yield measured(program, rng)
            except (BoardError, FirmwareFault):
                continue  # too large for the board: variables, or variables and stack


def with_small_weights(graph: IntegerGraph) -> IntegerGraph:
    """Return ``graph`` with all weights of full convolutions in -8..7."""
    ops = tuple(dataclasses.replace(op, weights=op.weights >> 4) if isinstance(op, Conv2d) else op for op in graph.ops)
    return IntegerGraph(ops, graph.tensors)


def with_encoding(graph: IntegerGraph, target: Board, encoding: Encoding, paired: bool) -> Program | None:
    """Return ``graph`` with that encoding of all convolutions, None where it cannot hold one."""
    chosen = smallest(graph, (encoding,))
    whole = all(op.name in chosen for op in graph.ops if isinstance(op, Conv2d))
    return lower(graph, target, None, paired, encodings=chosen) if whole else None


def _stack(found: list[Probe], costs: KernelCosts) -> dict[str, int]:
    """The stack by chain: what probes with no other chain keep within; of other kernels, less than known if a probe shows it."""
    shown = {chain: [probe for probe in found if chain in chains([probe])] for chain in chains(found)}
    least = {chain: min(probe.stack_bytes for probe in shown[chain]) for chain in shown}
    for chain in least:
        if _reads(chain):
            alone = [probe for probe in shown[chain] if chains([probe]) == [chain]]
            least[chain] = max(
                least[chain], *(probe.stack_bytes - steps_stack(costs, len(probe.program.steps)) for probe in alone)
            )
        else:
            least[chain] = min(least[chain], costs.stack[chain])
    return least


def main() -> None:
    """Measure and write the table, then print how far its predictions are off."""
    from measure_kernels import BOARDS, CORES, HEAD, TABLE, report, to_toml  # here: it imports this file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", nargs="+", choices=BOARDS, default=BOARDS)
    parser.add_argument("--probes", type=int, default=PROBES, help="networks to measure for each core")
    parser.add_argument("--check", type=int, default=40, help="other networks whose predictions are compared with measurements")
    options = parser.parse_args()
    tables = dict(kernel_costs.tables())
    for target in map(board, options.boards):
        costs = tables[target.core] = with_nibbles(target, tables[target.core], options.probes)
        TABLE.write_text(HEAD + "".join(to_toml(core, tables[core]) for core in CORES if core in tables), encoding="utf-8")
        stream = probes(target, seed=3)
        report(target, costs, [next(stream) for _ in range(options.check)])


if __name__ == "__main__":
    main()
