"""Measures c/kernels.c on every core that can be simulated here, and rewrites src/sparse_mcu/deploy/kernel_costs.toml.

    python tools/measure_kernels.py [--boards BOARD ...] [--probes 360] [--check 60]

Random networks (probes.py) are compiled and run on a board of each core. Sizes of code, descriptors and the compiler's helpers
are read off the symbols of the programs; those of descriptors and helpers must agree among them. The stack of a chain of kernels
is the smallest that a probe with the chain shows; what the network's own function adds to it grows with the number of its steps.
Cycles are fitted to the events that events.py counts, but for those that by the core's manual take as many whatever the data;
where the simulator counts instructions, these take the place of cycles.
What the table then predicts of other random networks is printed beside what they take.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Iterable
from pathlib import Path

import measure_encodings
import measure_streaming
import numpy as np
from probes import NO_MULTIPLIER, Probe, chains, code_bytes, fitted_cycles, probes, usual, variants

from sparse_mcu.deploy import kernel_costs, toolchain
from sparse_mcu.deploy.boards import Board, board
from sparse_mcu.deploy.encode import DENSE
from sparse_mcu.deploy.events import unrolled_parts
from sparse_mcu.deploy.kernel_costs import KernelCosts, variant
from sparse_mcu.deploy.kernels import sections
from sparse_mcu.deploy.predict import flash_bytes, predict_program
from sparse_mcu.deploy.program import MAX_LOOPS, Step
from sparse_mcu.deploy.unroll_avr import CYCLES
from sparse_mcu.quant.graph import Add

BOARDS = (
    "arduino-uno",
    "arduino-mega",
    "attiny85",
    "microbit",
    "rp2040",
    "bluepill",
    "nucleo-f446",
    "ch32v003",
    "esp32-c3",
)  # of each core
CORES = tuple(board(name).core for name in BOARDS)
TABLE = Path(kernel_costs.__file__).with_name("kernel_costs.toml")
SMALL_FUNCTION = 500  # bytes, from which on relative errors count
CALLS = ("convolve", "unrolled", "max_pool", "average_pool", "mean", "scaled_mean", "add")  # kernels that a step calls
HEAD = "# What the kernels take on each core. Written by tools/measure_kernels.py: do not edit, run it again.\n"


def main() -> None:
    """Measure and write the table, then print how far its predictions are off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=int, default=360, help="networks to measure for each core")
    parser.add_argument("--check", type=int, default=60, help="other networks whose predictions are compared with measurements")
    parser.add_argument(
        "--boards", nargs="+", choices=BOARDS, default=BOARDS, help="measure the cores of these, keep the others' tables"
    )
    options = parser.parse_args()
    tables = dict(kernel_costs.tables())
    for target in map(board, options.boards):
        stream = probes(target, seed=1)
        costs = fit(target, [next(stream) for _ in range(options.probes)])
        for family in measure_encodings.FAMILIES:
            costs = measure_encodings.with_family(target, costs, family)
        tables[target.core] = dataclasses.replace(costs, streaming=measure_streaming.streaming_costs(target, costs))
        TABLE.write_text(HEAD + "".join(to_toml(core, tables[core]) for core in CORES if core in tables), encoding="utf-8")
        report(target, costs, [next(stream) for _ in range(options.check)])


def fit(target: Board, found: list[Probe]) -> KernelCosts:
    """Return the costs that explain what was measured; raise ValueError where probes contradict each other."""
    missing = expected(target) - {name for probe in found for name in [*probe.sections, *chains([probe])]}
    if missing:
        raise ValueError(f"every section must occur in a probe, but {sorted(missing)} do not; measure more probes")
    code = usual({section: code_bytes(section, probe) for section in probe.sections} for probe in found)
    structs = same(_struct_bytes(probe) for probe in found)
    helpers = same({name: probe.symbols[name] for name in probe.helpers} for probe in found)
    present = {section: [probe.helpers for probe in found if section in probe.sections] for section in code}
    uses = {section: tuple(sorted(frozenset.intersection(*sets))) for section, sets in present.items()}
    known = KernelCosts("", 0, code, helpers, uses, dict.fromkeys(CALLS, 0), structs, {}, {}, {}, _unrolled(found), {})
    base, call = _calls(found, known)
    stack = _stack(found)
    exact = CYCLES if target.is_avr and target.core not in NO_MULTIPLIER else {}
    return KernelCosts(
        compiler=toolchain.version(target.compiler),
        base_bytes=base,
        code=code,
        helpers=helpers,
        uses=uses,
        call=call,
        structs=structs,
        stack=stack,
        steps=_steps(found, stack),
        cycles=dict(sorted((fitted_cycles(found, exact) | exact).items())),
        unrolled=_unrolled(found),
        streaming={},
    )


def expected(target: Board) -> set[str]:
    """Return the sections that a network for ``target`` with all bytes or gaps can need, as the table names them."""
    foreign = {"standalone", "stream", *itertools.chain(*measure_encodings.SECTIONS.values())}
    foreign |= {f"sums_{dense}" for dense in DENSE if dense not in ("pairs", target.dense)}
    straight = "" if target.core in NO_MULTIPLIER else variant("unrolled", 3 if target.is_avr else 4, padded=False, paired=False)
    chained = {f"{straight}.{count}" for count in range(MAX_LOOPS + 1)} if straight else set()
    return chained | {
        variant(section, kind.sum_bytes, kind.padded, kind.paired)
        for section, kind in itertools.product(sections(), variants(target))
        if section not in foreign
        if not (section == "sums_pairs" and kind.paired and target.dense != "pairs")
        if not (section == f"sums_{target.dense}" and not kind.paired and target.dense != "pairs")
        if section not in ("unrolled", "mean", "scaled_mean") or target.core not in NO_MULTIPLIER
        if not (section == "unrolled" and target.is_avr and kind.sum_bytes == 4)
    }


def same(tables: Iterable[dict[str, int]]) -> dict[str, int]:
    """Join tables that must not contradict each other."""
    joined: dict[str, int] = {}
    for table in tables:
        for name, value in table.items():
            if joined.setdefault(name, value) != value:
                raise ValueError(f"{name} must take the same bytes in every network, but takes {joined[name]} and {value}")
    return dict(sorted(joined.items()))


def _stack(found: list[Probe]) -> dict[str, int]:
    """The stack by chain, the least that a probe with the chain shows.

    A probe shows its deepest chain, so the least is that of the chain itself, called by the smallest function of a network. Only
    the functions of straight-line code differ a little from layer to layer: of these it is the most that a probe shows whose
    others have fewer loops. An average as such code takes less than any other chain, but occurs in no probe without others.
    """
    least = {chain: min(probe.stack_bytes for probe in found if chain in chains([probe])) for chain in chains(found)}
    least |= {chain: min(least.values()) for chain in ("mean", "scaled_mean") if chain in least}
    straight = [probe for probe in found if all(step.straight for step in probe.program.steps)]
    deepest = [(max(chain for chain in chains([probe]) if chain.startswith("unrolled")), probe.stack_bytes) for probe in straight]
    if missing := {chain for chain in least if chain.startswith("unrolled")} - {chain for chain, _ in deepest}:
        raise ValueError(f"a probe must show {sorted(missing)} without deeper chains, but none does; measure more probes")
    return least | {chain: max(stack for name, stack in deepest if name <= chain) for chain, _ in deepest}


def _steps(found: list[Probe], stack: dict[str, int]) -> dict[str, int]:
    """What the function of a network takes beyond that, by the number of its steps: as much as no probe with so many exceeds."""
    most = 0
    table: dict[str, int] = {}
    for probe in sorted(found, key=lambda probe: len(probe.program.steps)):
        excess = probe.stack_bytes - max(stack[chain] for chain in chains([probe]))
        if excess > most or not table:
            most = max(most, excess)
            table[str(len(probe.program.steps))] = most
    return table


def _struct_bytes(probe: Probe) -> dict[str, int]:
    found = {}
    for step in probe.program.steps:
        if step.straight:
            continue
        padded = step.struct == "conv" and probe.program.padded
        found[step.struct + (".padded" if padded else "")] = probe.symbols[f"layer_{step.name}"]
        if isinstance(step.stage.op, Add):
            found["operand"] = probe.symbols[f"operands_{step.name}"] // len(step.stage.op.inputs)
    return found


def _unrolled(found: list[Probe]) -> dict[str, float]:
    """Bytes by what straight-line code consists of: the least squares over all functions, large ones by their relative errors."""
    functions = [(unrolled_parts(step), _function_bytes(probe, step)) for probe in found for step in probe.program.steps]
    functions = [(parts, size) for parts, size in functions if parts]
    names = sorted({name for parts, _ in functions for name in parts})
    if not names:
        return {}
    counts = np.array([[parts[name] for name in names] for parts, _ in functions], float)
    sizes = np.array([size for _, size in functions], float)
    weights = 1 / (SMALL_FUNCTION + sizes)
    values = np.linalg.lstsq(counts * weights[:, None], sizes * weights, rcond=None)[0]
    errors = counts @ values - sizes
    print(f"  straight-line code: {errors.min():+.0f} to {errors.max():+.0f} bytes, over {len(functions)} functions")
    return {name: round(float(value), 2) for name, value in zip(names, values, strict=True)}


def _function_bytes(probe: Probe, step: Step) -> int:
    names = (f"{prefix}_{step.name}" for prefix in ("average", "unrolled", "convolve"))
    return sum(probe.symbols.get(name, 0) for name in names)


def _calls(found: list[Probe], known: KernelCosts) -> tuple[int, dict[str, int]]:
    """What is left of the flash once kernels and tables are taken off: a base, and the calls of kernels."""
    counts = [[sum(step.kernels[0] == call for step in probe.program.steps) for call in CALLS] for probe in found]
    rest = [probe.flash_bytes - flash_bytes(probe.program, known) for probe in found]
    columns = np.column_stack([np.ones(len(found)), counts])
    base, *calls = (round(value) for value in np.linalg.lstsq(columns, np.array(rest), rcond=None)[0])
    return base, dict(zip(CALLS, calls, strict=True))


def report(target: Board, costs: KernelCosts, found: list[Probe]) -> None:
    """Print how far predictions are from what was measured."""
    predictions = [predict_program(probe.program, costs) for probe in found]
    measured = [(probe.flash_bytes, probe.program.variable_bytes + probe.stack_bytes, probe.cycles) for probe in found]
    predicted = [(prediction.flash_bytes, prediction.ram_bytes, prediction.cycles) for prediction in predictions]
    print(f"{target.name}: {len(found)} networks")
    for name, unit, column in (("flash", "bytes", 0), ("RAM", "bytes", 1), ("time", target.time_unit, 2)):
        truth = np.array(measured)[:, column]
        errors = np.array(predicted)[:, column] - truth
        share = 100 * errors / truth
        print(
            f"  {name:5} {truth.min():,.0f} to {truth.max():,.0f} {unit}; predicted minus measured {errors.min():+,.0f} to "
            f"{errors.max():+,.0f}, {share.min():+.1f} to {share.max():+.1f} %, {np.abs(share).mean():.2f} % on average"
        )


def to_toml(core: str, costs: KernelCosts) -> str:
    """Return the table of a core as TOML."""
    lines = ["", f"[{core}]", f'compiler = "{costs.compiler}"', f"base_bytes = {costs.base_bytes}"]
    for name in ("code", "helpers", "uses", "call", "structs", "stack", "steps", "cycles", "unrolled", "streaming"):
        lines += ["", f"[{core}.{name}]"]
        for key, value in getattr(costs, name).items():
            lines.append(f'"{key}" = {list(value) if isinstance(value, tuple) else value}'.replace("'", '"'))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
