"""Measures the kernels that read weights of four bits or two ("nibble", "crumb" of c/kernels.c), and adds them to the table.

    python tools/measure_few_bits.py [--bits 2 4] [--boards BOARD ...] [--probes 200] [--check 40]

measure_kernels.py does the same among all else; alone, this keeps what the table has. Random networks whose weights all fit
so many bits are measured, each with one of the two encodings. What the table says of the other kernels is taken off, and the
rest fitted in the same way.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from probes import Probe, chains, code_bytes, fitted_cycles, measured, plain_graph, smallest, usual, variants, with_wide_bias

from sparse_mcu.deploy import kernel_costs
from sparse_mcu.deploy.boards import Board, board
from sparse_mcu.deploy.encode import CRUMBS, NIBBLES, Encoding
from sparse_mcu.deploy.kernel_costs import KernelCosts, variant
from sparse_mcu.deploy.predict import steps_stack
from sparse_mcu.deploy.program import Program, lower
from sparse_mcu.deploy.simulation import FirmwareFault
from sparse_mcu.errors import BoardError
from sparse_mcu.quant.graph import Conv2d, Int8Array, IntegerGraph

PROBES = 200
ENCODINGS = {2: CRUMBS, 4: NIBBLES}  # by the bits of a weight
SECTIONS = {
    bits: (shared, *(f"sums_{encoding}" for encoding in ENCODINGS[bits])) for bits, shared in ((2, "crumb"), (4, "nibble"))
}
TERNARY_STEP = 85  # of random weights of eight bits, of which a third become 0
Value = TypeVar("Value")


def with_few_bits(target: Board, costs: KernelCosts, bits: int, count: int = PROBES) -> KernelCosts:
    """Return ``costs`` of ``target`` with those of the kernels of so many bits; ValueError where a variant is in no probe."""
    stream = probes(target, bits, seed=2)
    found = [next(stream) for _ in range(count)]
    tables = usual(
        {section: code_bytes(section, probe) for section in probe.sections if _reads(section, bits)} for probe in found
    )
    missing = {variant(name, *dataclasses.astuple(kind)) for name in SECTIONS[bits] for kind in variants(target)} - tables.keys()
    if missing:
        raise ValueError(f"every variant must occur in a probe, but {sorted(missing)} do not; measure more probes")
    present = {section: [probe.helpers for probe in found if section in probe.sections] for section in tables}
    known = {name for name in costs.cycles if not name.startswith(ENCODINGS[bits])}
    return dataclasses.replace(
        costs,
        code=_joined(costs.code, tables),
        helpers=_joined(costs.helpers, {name: probe.symbols[name] for probe in found for name in probe.helpers}),
        uses=_joined(costs.uses, {name: tuple(sorted(frozenset.intersection(*sets))) for name, sets in present.items()}),
        stack=_joined(costs.stack, _stack(found, costs, bits)),
        cycles=_joined(costs.cycles, fitted_cycles(found, {name: costs.cycles[name] for name in known})),
    )


def _reads(section: str, bits: int) -> bool:
    return section.partition(".")[0] in SECTIONS[bits]


def _joined(known: dict[str, Value], new: dict[str, Value]) -> dict[str, Value]:
    return dict(sorted((known | new).items()))


def probes(target: Board, bits: int, seed: int) -> Iterator[Probe]:
    """Yield measured random networks with weights of so many bits that fit ``target``, without end; every variant in turn."""
    rng = np.random.default_rng(seed)
    kinds = [(kind, encoding) for kind in variants(target) for encoding in ENCODINGS[bits]]
    while True:
        for kind, encoding in kinds:
            program = None
            while program is None or not kind.holds(program):
                graph = with_small_weights(plain_graph(rng, target, kind.padded), bits)
                if target.is_avr and kind.sum_bytes == 4:
                    graph = with_wide_bias(graph)
                program = with_encoding(graph, target, encoding, kind.paired)
            try:
                yield measured(program, rng)
            except (BoardError, FirmwareFault):
                continue  # too large for the board: variables, or variables and stack


def with_small_weights(graph: IntegerGraph, bits: int) -> IntegerGraph:
    """Return ``graph`` with all weights of full convolutions in so many bits: -8..7, or -1..1."""
    ops = tuple(dataclasses.replace(op, weights=_small(op.weights, bits)) if isinstance(op, Conv2d) else op for op in graph.ops)
    return IntegerGraph(ops, graph.tensors)


def _small(weights: Int8Array, bits: int) -> Int8Array:
    return np.rint(weights / TERNARY_STEP).astype(np.int8) if bits == 2 else weights >> 8 - bits


def with_encoding(graph: IntegerGraph, target: Board, encoding: Encoding, paired: bool) -> Program | None:
    """Return ``graph`` with that encoding of all convolutions, None where it cannot hold one."""
    chosen = smallest(graph, (encoding,))
    whole = all(op.name in chosen for op in graph.ops if isinstance(op, Conv2d))
    return lower(graph, target, None, paired, encodings=chosen) if whole else None


def _stack(found: list[Probe], costs: KernelCosts, bits: int) -> dict[str, int]:
    """The stack by chain: what probes with no other chain keep within; of other kernels, less than known if a probe shows it."""
    shown = {chain: [probe for probe in found if chain in chains([probe])] for chain in chains(found)}
    least = {chain: min(probe.stack_bytes for probe in shown[chain]) for chain in shown}
    for chain in least:
        if _reads(chain, bits):
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
    parser.add_argument("--bits", nargs="+", type=int, choices=ENCODINGS, default=list(ENCODINGS), help="of a weight")
    parser.add_argument("--boards", nargs="+", choices=BOARDS, default=BOARDS)
    parser.add_argument("--probes", type=int, default=PROBES, help="networks to measure for each core")
    parser.add_argument("--check", type=int, default=40, help="other networks whose predictions are compared with measurements")
    options = parser.parse_args()
    tables = dict(kernel_costs.tables())
    for target, bits in itertools.product(map(board, options.boards), options.bits):
        costs = tables[target.core] = with_few_bits(target, tables[target.core], bits, options.probes)
        TABLE.write_text(HEAD + "".join(to_toml(core, tables[core]) for core in CORES if core in tables), encoding="utf-8")
        stream = probes(target, bits, seed=3)
        report(target, costs, [next(stream) for _ in range(options.check)])


if __name__ == "__main__":
    main()
