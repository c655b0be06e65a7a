"""Measures c/kernels.c on every core that can be simulated here, and rewrites src/sparse_mcu/deploy/kernel_costs.toml.

    python tools/measure_kernels.py [--boards BOARD ...] [--probes 120] [--check 60]

Random networks (probes) are compiled and run on a board of each core. Sizes of code, descriptors and the compiler's helpers are
read off the symbols of the programs, and must agree among them. The stack of a chain of kernels is the smallest that a probe with
the chain shows, and a margin with which no probe takes more. Cycles are fitted to the events that predict.py counts: the least
squares of the relative errors, with no negative cost; where the simulator counts instructions, these take the place of cycles.
What the table then predicts of other random networks is printed beside what they take.
"""

import argparse
import dataclasses
import itertools
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
from scipy.optimize import nnls  # type: ignore[import-untyped]

from sparse_mcu.deploy import kernel_costs, toolchain
from sparse_mcu.deploy.boards import Board, board
from sparse_mcu.deploy.firmware import Firmware, build_firmware
from sparse_mcu.deploy.generate import render
from sparse_mcu.deploy.kernel_costs import KernelCosts, variant
from sparse_mcu.deploy.kernels import sections
from sparse_mcu.deploy.predict import Events, events, flash_bytes, predict_program
from sparse_mcu.deploy.program import Program, lower
from sparse_mcu.deploy.simulation import FirmwareFault
from sparse_mcu.deploy.simulators import simulate
from sparse_mcu.errors import BoardError
from sparse_mcu.quant.graph import Add, Convolution, IntegerGraph
from sparse_mcu.quant.random_graph import GraphSize, random_graph, random_images

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
SIZES = (GraphSize(layers=4), GraphSize(layers=2, extent=20, channels=14), GraphSize(layers=8, extent=9, channels=6))
BIASES = (0, 1 << 15, 0, 1 << 23)  # of 2, 3 and 4 bytes; 0 leaves a network as it is
IMAGES = 8
SHORTER_CALLS = 12  # bytes that the linker for RISC-V takes out of a kernel whose callees happen to lie near
HEAD = "# What the kernels take on each core. Written by tools/measure_kernels.py: do not edit, run it again.\n"


@dataclass(frozen=True)
class Probe:
    """A random network as it was measured."""

    program: Program
    flash_bytes: int
    stack_bytes: int
    cycles: float
    symbols: dict[str, int]  # bytes by name, of what the model brings into the program

    @property
    def sections(self) -> list[str]:
        """Sections of the program, as the table names them."""
        return [variant(section, self.program.bias_bytes) for section in self.program.kernels]

    @property
    def helpers(self) -> frozenset[str]:
        """Functions of the compiler's library; the one that clears variables comes with every model."""
        named = (name for name in self.symbols if name.startswith("__") or name in ("memcpy", "memset"))
        return frozenset(named) - {"__do_clear_bss"}

    @property
    def events(self) -> Events:
        """What happens in a run."""
        tensors = self.program.graph.tensors
        return reduce(Counter.__add__, (events(step, tensors) for step in self.program.steps), Counter({"base": 1}))


def main() -> None:
    """Measure and write the table, then print how far its predictions are off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=int, default=120, help="networks to measure for each core")
    parser.add_argument("--check", type=int, default=60, help="other networks whose predictions are compared with measurements")
    parser.add_argument(
        "--boards", nargs="+", choices=BOARDS, default=BOARDS, help="measure the cores of these, keep the others' tables"
    )
    options = parser.parse_args()
    tables = dict(kernel_costs.tables())
    for target in map(board, options.boards):
        stream = probes(target, seed=1)
        costs = fit(target, [next(stream) for _ in range(options.probes)])
        tables[target.core] = costs
        TABLE.write_text(HEAD + "".join(to_toml(core, tables[core]) for core in CORES if core in tables), encoding="utf-8")
        report(target, costs, [next(stream) for _ in range(options.check)])


def probes(target: Board, seed: int) -> Iterator[Probe]:
    """Yield measured random networks that fit ``target``, without end."""
    rng = np.random.default_rng(seed)
    for number, size in enumerate(itertools.cycle(SIZES)):
        graph = with_bias(random_graph(rng, size), BIASES[number % len(BIASES)])
        program = lower(graph, None)
        try:
            firmware = build_firmware(render(program, target, None), target)
            simulation = simulate(firmware, random_images(rng, graph, IMAGES))
        except (BoardError, FirmwareFault):
            continue  # too large for the board: variables, or variables and stack
        yield Probe(program, firmware.flash_bytes, simulation.stack_bytes, float(simulation.cycles.mean()), symbols(firmware))


def with_bias(graph: IntegerGraph, bias: int) -> IntegerGraph:
    """Give the first channel of the last convolution this bias at least, so that biases of all sizes are met."""
    index, last = [(index, op) for index, op in enumerate(graph.ops) if isinstance(op, Convolution)][-1]
    arrays = {name: getattr(last, name).copy() for name in ("bias", "multiplier", "shift")}
    if abs(arrays["bias"]).max() >= bias:
        return graph
    for name, value in (("bias", bias), ("multiplier", 1), ("shift", 16)):
        arrays[name][0] = value
    changed = dataclasses.replace(last, **arrays)
    return IntegerGraph((*graph.ops[:index], changed, *graph.ops[index + 1 :]), graph.tensors)


def symbols(firmware: Firmware) -> dict[str, int]:
    """Return the bytes of every function and table of a program by name."""
    with tempfile.NamedTemporaryFile(suffix=".elf") as file:
        file.write(firmware.elf)
        file.flush()
        lines = toolchain.run([toolchain.binutil(firmware.board, "nm"), "--print-size", "--defined-only", file.name]).splitlines()
    return {name: int(size, 16) for _, size, _, name in (line.split() for line in lines if len(line.split()) == 4)}


def fit(target: Board, found: list[Probe]) -> KernelCosts:
    """Return the costs that explain what was measured; raise ValueError where probes contradict each other."""
    missing = {variant(section, size) for section in sections() if section != "standalone" for size in (2, 3, 4)} - {
        section for probe in found for section in probe.sections
    }
    if missing:
        raise ValueError(f"every section must occur in a probe, but {sorted(missing)} do not; measure more probes")
    code = same(({section: _code_bytes(section, probe) for section in probe.sections} for probe in found), SHORTER_CALLS)
    structs = same(_struct_bytes(probe) for probe in found)
    helpers = same({name: probe.symbols[name] for name in probe.helpers} for probe in found)
    present = {section: [probe.helpers for probe in found if section in probe.sections] for section in code}
    uses = {section: tuple(sorted(frozenset.intersection(*sets))) for section, sets in present.items()}
    known = KernelCosts("", 0, code, helpers, uses, {"run": 0, "add": 0}, structs, {}, {})
    base, call = _calls(found, known)
    return KernelCosts(
        compiler=toolchain.version(target.compiler),
        base_bytes=base,
        code=code,
        helpers=helpers,
        uses=uses,
        call=call,
        structs=structs,
        stack=_stack(found),
        cycles=_cycles(found),
    )


def same(tables: Iterable[dict[str, int]], slack: int = 0) -> dict[str, int]:
    """Join tables that must not contradict each other by more than ``slack`` bytes: the largest holds."""
    joined: dict[str, int] = {}
    for table in tables:
        for name, value in table.items():
            known = joined.get(name, value)
            if abs(known - value) > slack:
                raise ValueError(f"{name} must take the same bytes in every network, but takes {known} and {value}")
            joined[name] = max(known, value)
    return dict(sorted(joined.items()))


def chains(found: list[Probe]) -> list[str]:
    """Return the chains of kernels that the steps of the probes call."""
    return sorted({" ".join(step.kernels) for probe in found for step in probe.program.steps})


def _stack(found: list[Probe]) -> dict[str, int]:
    """The deepest stack by chain: the least that a probe with the chain shows, and a margin with which no probe takes more.

    A probe shows its deepest chain, so the least is that of the chain itself, called by the smallest function of a network. Where
    that function takes more for a larger network, as it does on Arm, the margin is how much.
    """
    stack = {chain: min(probe.stack_bytes for probe in found if chain in chains([probe])) for chain in chains(found)}
    margin = max(probe.stack_bytes - max(stack[chain] for chain in chains([probe])) for probe in found)
    return {chain: least + margin for chain, least in stack.items()}


def _code_bytes(section: str, probe: Probe) -> int:
    """Bytes of the functions that a section defines and the compiler kept."""
    functions = re.findall(r"^KERNEL [^(]*?(\w+)\(", sections()[section.partition(".")[0]].text, re.MULTILINE)
    return sum(probe.symbols[name] for name in functions)


def _struct_bytes(probe: Probe) -> dict[str, int]:
    found = {step.struct: probe.symbols[f"layer_{step.name}"] for step in probe.program.steps}
    for step in probe.program.steps:
        if isinstance(step.op, Add):
            found["operand"] = probe.symbols[f"operands_{step.name}"] // len(step.op.inputs)
    return found


def _calls(found: list[Probe], known: KernelCosts) -> tuple[int, dict[str, int]]:
    """What is left of the flash once kernels and tables are taken off: a base, and the calls of run and add."""
    adds = [sum(isinstance(step.op, Add) for step in probe.program.steps) for probe in found]
    runs = [len(probe.program.steps) - count for probe, count in zip(found, adds, strict=True)]
    rest = [probe.flash_bytes - flash_bytes(probe.program, known) for probe in found]
    columns = np.column_stack([np.ones(len(found)), runs, adds])
    base, run, add = (round(value) for value in np.linalg.lstsq(columns, np.array(rest), rcond=None)[0])
    return base, {"run": run, "add": add}


def _cycles(found: list[Probe]) -> dict[str, float]:
    names = sorted({name for probe in found for name in probe.events})
    counts = np.array([[probe.events[name] for name in names] for probe in found], float)
    measured = np.array([probe.cycles for probe in found])
    values, _ = nnls(counts / measured[:, None], np.ones(len(found)), maxiter=100 * len(names))
    return {name: round(float(value), 2) for name, value in zip(names, values, strict=True)}


def report(target: Board, costs: KernelCosts, found: list[Probe]) -> None:
    """Print how far predictions are from what was measured."""
    predictions = [predict_program(probe.program, costs) for probe in found]
    measured = [(probe.flash_bytes, probe.program.plan.arena_bytes + probe.stack_bytes, probe.cycles) for probe in found]
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
    for name in ("code", "helpers", "uses", "call", "structs", "stack", "cycles"):
        lines += ["", f"[{core}.{name}]"]
        for key, value in getattr(costs, name).items():
            lines.append(f'"{key}" = {list(value) if isinstance(value, tuple) else value}'.replace("'", '"'))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
