"""Measures the kernels that read weights of four bits or two, or with a bitmap, and adds them to the table.

    python tools/measure_encodings.py [--families nibbles crumbs bitmaps] [--boards BOARD ...] [--probes 200] [--check 40]

measure_kernels.py does the same among all else; alone, this keeps what the table has. Random networks are measured, each with
one encoding of a family, which all its weights fit. What the table says of the other kernels is taken off, and the rest fitted
in the same way.
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
from sparse_mcu.deploy.encode import BITMAPS, CRUMBS, NIBBLES, Encoding
from sparse_mcu.deploy.kernel_costs import KernelCosts, variant
from sparse_mcu.deploy.predict import steps_stack
from sparse_mcu.deploy.program import Program, lower
from sparse_mcu.deploy.simulation import FirmwareFault
from sparse_mcu.errors import BoardError
from sparse_mcu.quant.graph import Conv2d, Int8Array, IntegerGraph

PROBES = 200
FAMILIES: dict[str, tuple[Encoding, ...]] = {"nibbles": ("nibbles", "nibble_gaps"), "crumbs": CRUMBS, "bitmaps": BITMAPS}
SHARED = {"nibbles": ("nibble",), "crumbs": ("bits", "crumb"), "bitmaps": ("bits", "nibble", "bitmap")}  # sections
SECTIONS = {family: (*shared, *(f"sums_{encoding}" for encoding in FAMILIES[family])) for family, shared in SHARED.items()}
TERNARY_STEP = 85  # of random weights of eight bits, of which a third become 0
Value = TypeVar("Value")


def with_family(target: Board, costs: KernelCosts, family: str, count: int = PROBES) -> KernelCosts:
    """Return ``costs`` of ``target`` with those of the kernels of a family; ValueError where a variant is in no probe."""
    stream = probes(target, family, seed=2)
    found = [next(stream) for _ in range(count)]
    tables = usual(
        {section: code_bytes(section, probe) for section in probe.sections if _reads(section, family)} for probe in found
    )
    missing = {
        variant(name, *dataclasses.astuple(kind)) for name in SECTIONS[family] for kind in variants(target)
    } - tables.keys()
    if missing:
        raise ValueError(f"every variant must occur in a probe, but {sorted(missing)} do not; measure more probes")
    present = {section: [probe.helpers for probe in found if section in probe.sections] for section in tables}
    known = {name for name in costs.cycles if not name.startswith(FAMILIES[family])}
    return dataclasses.replace(
        costs,
        code=_joined(costs.code, tables),
        helpers=_joined(costs.helpers, {name: probe.symbols[name] for probe in found for name in probe.helpers}),
        uses=_joined(costs.uses, {name: tuple(sorted(frozenset.intersection(*sets))) for name, sets in present.items()}),
        stack=_joined(costs.stack, _stack(found, costs, family)),
        cycles=_joined(costs.cycles, fitted_cycles(found, {name: costs.cycles[name] for name in known})),
    )


def _reads(section: str, family: str) -> bool:
    return section.partition(".")[0] in SECTIONS[family]


def _joined(known: dict[str, Value], new: dict[str, Value]) -> dict[str, Value]:
    return dict(sorted((known | new).items()))


def probes(target: Board, family: str, seed: int) -> Iterator[Probe]:
    """Yield measured random networks in the encodings of a family that fit ``target``, without end; every variant in turn."""
    rng = np.random.default_rng(seed)
    kinds = [(kind, encoding) for kind in variants(target) for encoding in FAMILIES[family]]
    while True:
        for kind, encoding in kinds:
            program = None
            while program is None or not kind.holds(program):
                graph = with_small_weights(plain_graph(rng, target, kind.padded), encoding)
                if target.is_avr and kind.sum_bytes == 4:
                    graph = with_wide_bias(graph)
                program = with_encoding(graph, target, encoding, kind.paired)
            try:
                yield measured(program, rng)
            except (BoardError, FirmwareFault):
                continue  # too large for the board: variables, or variables and stack


def with_small_weights(graph: IntegerGraph, encoding: Encoding) -> IntegerGraph:
    """Return ``graph`` with all weights of full convolutions in as many bits as ``encoding`` holds: -8..7, -1..1, or all."""
    ops = (dataclasses.replace(op, weights=_small(op.weights, encoding)) if isinstance(op, Conv2d) else op for op in graph.ops)
    return IntegerGraph(tuple(ops), graph.tensors)


def _small(weights: Int8Array, encoding: Encoding) -> Int8Array:
    if encoding in CRUMBS:
        return np.rint(weights / TERNARY_STEP).astype(np.int8)
    return weights >> 4 if encoding in NIBBLES else weights


def with_encoding(graph: IntegerGraph, target: Board, encoding: Encoding, paired: bool) -> Program | None:
    """Return ``graph`` with that encoding of all convolutions, None where it cannot hold one."""
    chosen = smallest(graph, (encoding,))
    whole = all(op.name in chosen for op in graph.ops if isinstance(op, Conv2d))
    return lower(graph, target, None, paired, encodings=chosen) if whole else None


def _stack(found: list[Probe], costs: KernelCosts, family: str) -> dict[str, int]:
    """The stack by chain: what probes with no other chain keep within; of other kernels, less than known if a probe shows it."""
    shown = {chain: [probe for probe in found if chain in chains([probe])] for chain in chains(found)}
    least = {chain: min(probe.stack_bytes for probe in shown[chain]) for chain in shown}
    for chain in least:
        if _reads(chain, family):
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
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="of encodings")
    parser.add_argument("--boards", nargs="+", choices=BOARDS, default=BOARDS)
    parser.add_argument("--probes", type=int, default=PROBES, help="networks to measure for each core")
    parser.add_argument("--check", type=int, default=40, help="other networks whose predictions are compared with measurements")
    options = parser.parse_args()
    tables = dict(kernel_costs.tables())
    for target, family in itertools.product(map(board, options.boards), options.families):
        costs = tables[target.core] = with_family(target, tables[target.core], family, options.probes)
        TABLE.write_text(HEAD + "".join(to_toml(core, tables[core]) for core in CORES if core in tables), encoding="utf-8")
        stream = probes(target, family, seed=3)
        report(target, costs, [next(stream) for _ in range(options.check)])


if __name__ == "__main__":
    main()
