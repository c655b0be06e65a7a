"""Measures c/kernels.c on every core that can be simulated here, and rewrites src/sparse_mcu/deploy/kernel_costs.toml.

    python tools/measure_kernels.py [--boards BOARD ...] [--probes 300] [--check 60]

Networks (probes) are compiled and run on a board of each core: most of them are a layer or two, whose shape sets apart what the
loops of each kernel take; the others are, by turns, random graphs, with every operation and edge, and architectures drawn from Ω
with random weights, some of them zero, as large as a search makes them. Sizes of code, descriptors and the compiler's helpers are
read off the symbols of the programs; those of descriptors and helpers must agree among them. The stack of a chain of kernels is
the smallest that a probe with the chain shows; what the network's own function adds to it grows with the number of its steps.
Cycles are fitted to the events that predict.py counts: the least squares of the relative errors, with no negative cost; where the
simulator counts instructions, these take the place of cycles. What the table then predicts of other random networks is printed
beside what they take.
"""

import argparse
import dataclasses
import itertools
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import measure_streaming
import numpy as np
from scipy.optimize import nnls  # type: ignore[import-untyped]

from sparse_mcu.deploy import kernel_costs, toolchain
from sparse_mcu.deploy.boards import Board, board
from sparse_mcu.deploy.encode import DENSE
from sparse_mcu.deploy.events import Events, events, unrolled_parts
from sparse_mcu.deploy.firmware import Firmware, build_firmware
from sparse_mcu.deploy.generate import render
from sparse_mcu.deploy.kernel_costs import KernelCosts, variant
from sparse_mcu.deploy.kernels import sections
from sparse_mcu.deploy.predict import flash_bytes, predict_program
from sparse_mcu.deploy.program import MAX_LOOPS, Program, Step, lower
from sparse_mcu.deploy.simulation import FirmwareFault
from sparse_mcu.deploy.simulators import simulate
from sparse_mcu.deploy.unroll import can_unroll
from sparse_mcu.errors import BoardError
from sparse_mcu.nn.network import Network
from sparse_mcu.quant.graph import (
    INPUT,
    Add,
    AveragePool2d,
    Conv2d,
    Convolution,
    DepthwiseConv2d,
    IntegerGraph,
    MaxPool2d,
    Op,
    TensorType,
)
from sparse_mcu.quant.quantise import quantise
from sparse_mcu.quant.random_graph import GraphSize, random_graph, random_images
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.suggest import sample

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
UNPADDED = GraphSize(layers=3, extent=14)  # small, or hardly a random network is without padding
SPACE = {"ram_bytes": 2048, "flash_bytes": 16384}  # at most, of networks of Ω
INPUTS = ((1, 8, 8), (1, 16, 16), (3, 12, 12), (2, 1, 40))
UNROLLED = {True: 0.6, False: 1.0}  # share of the layers that are straight-line code in every other probe, if any is paired
NO_MULTIPLIER = ("avr25", "rv32ec")  # cores for which it is not made
SMALL_FUNCTION = 500  # bytes, from which on relative errors count
WIDE_BIAS = 1 << 23  # makes sums need four bytes
CALLS = ("convolve", "unrolled", "max_pool", "average_pool", "mean", "scaled_mean", "add")  # kernels that a step calls
IMAGES = 4
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
        return [self.program.variant(section) for section in self.program.kernels]

    @property
    def helpers(self) -> frozenset[str]:
        """Functions of the compiler's library; the one that clears variables comes with every model."""
        named = (name for name in self.symbols if name.startswith("__") or name in ("memcpy", "memset"))
        return frozenset(named) - {"__do_clear_bss"}

    @property
    def events(self) -> Events:
        """What happens in a run."""
        found = (events(self.program, step) for step in self.program.steps)
        return reduce(Counter.__add__, found, Counter({"base": 1}))


def main() -> None:
    """Measure and write the table, then print how far its predictions are off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=int, default=300, help="networks to measure for each core")
    parser.add_argument("--check", type=int, default=60, help="other networks whose predictions are compared with measurements")
    parser.add_argument(
        "--boards", nargs="+", choices=BOARDS, default=BOARDS, help="measure the cores of these, keep the others' tables"
    )
    options = parser.parse_args()
    tables = dict(kernel_costs.tables())
    for target in map(board, options.boards):
        stream = probes(target, seed=1)
        costs = fit(target, [next(stream) for _ in range(options.probes)])
        tables[target.core] = dataclasses.replace(costs, streaming=measure_streaming.streaming_costs(target, costs))
        TABLE.write_text(HEAD + "".join(to_toml(core, tables[core]) for core in CORES if core in tables), encoding="utf-8")
        report(target, costs, [next(stream) for _ in range(options.check)])


@dataclass(frozen=True)
class Variant:
    """Of the kernels: bytes of a sum, with padding, windows in pairs."""

    sum_bytes: int
    padded: bool
    paired: bool

    def holds(self, program: Program) -> bool:
        """Whether this is what a program needs."""
        return self == Variant(program.sum_bytes, program.padded, program.paired)


def variants(target: Board) -> list[Variant]:
    """Return what the kernels are compiled as for a board, sums of three bytes oftener than the rare ones of four."""
    return [Variant(*kind) for kind in itertools.product((3, 3, 4) if target.is_avr else (4,), (False, True), (True, False))]


def probes(target: Board, seed: int) -> Iterator[Probe]:
    """Yield measured random networks that fit ``target``, without end."""
    rng = np.random.default_rng(seed)
    kinds = variants(target)
    for number in itertools.count():
        draw = (plain_graph, plain_graph, small_graph, plain_graph, plain_graph, graph_of_space)[number % 6]
        kind = kinds[number // 6 % len(kinds)]
        unrolled = UNROLLED[kind.paired or kind.padded] if number % 2 == 1 and target.core not in NO_MULTIPLIER else 0
        program = random_program(rng, target, kind, draw, unrolled)
        try:
            firmware = build_firmware(render(program, None), target)
            simulation = simulate(firmware, random_images(rng, program.graph, IMAGES))
        except (BoardError, FirmwareFault):
            continue  # too large for the board: variables, or variables and stack
        yield Probe(program, firmware.flash_bytes, simulation.stack_bytes, float(simulation.cycles.mean()), symbols(firmware))


Draw = Callable[[np.random.Generator, Board, bool], IntegerGraph]  # the last says whether a convolution is to be padded


def random_program(rng: np.random.Generator, target: Board, kind: Variant, draw: Draw, unrolled: float) -> Program:
    """Draw until a network needs this variant of the kernels; a share of its layers is ``unrolled``."""
    while True:
        graph = draw(rng, target, kind.padded)
        if target.is_avr and kind.sum_bytes == 4:
            graph = with_wide_bias(graph)
        program = lower(graph, target, None, kind.paired)
        if unrolled:
            chosen = [step.stage.op for step in program.steps if rng.random() < unrolled]
            change = {op.name: "unrolled" for op in chosen if can_unroll(op, target, program.sum_bytes, graph.tensors)}
            program = lower(graph, target, None, kind.paired, encodings=program.encodings | change)
        if kind.holds(program):
            return program


def small_graph(rng: np.random.Generator, _: Board, padded: bool) -> IntegerGraph:
    """Return a random graph of every operation."""
    return random_graph(rng, SIZES[rng.integers(len(SIZES))] if padded else UNPADDED)


def plain_graph(rng: np.random.Generator, target: Board, padded: bool) -> IntegerGraph:
    """Return a classifier, mostly with one layer before it; extents and channels of any ratio."""
    shape = (target.ram_bytes, 1, 1)
    while math.prod(shape) > target.ram_bytes // 3:
        shape = (up_to(rng, 24), up_to(rng, 24), up_to(rng, 16))
    tensors = {INPUT: TensorType(shape, "uint8", 1.0)}
    kind = rng.choice(["conv", "pooled", "depthwise"] if padded else ["none", "conv", "pooled", "depthwise", "pool", "add"])
    ops = plain_layers(rng, str(kind), shape, padded)
    for op in ops:
        shape = extents(op, shape)
        tensors[op.name] = TensorType(shape, "uint8", 1.0)
    logits = convolution(rng, "logits", list(tensors)[-1], (up_to(rng, 12), *shape))
    return IntegerGraph((*ops, logits), tensors | {"logits": TensorType((1, 1, len(logits.bias)), "int16", 1.0)})


def plain_layers(rng: np.random.Generator, kind: str, shape: tuple[int, int, int], padded: bool) -> list[Op]:
    """Return a layer that reads the input, or a convolution and the max pool behind it."""
    height, width = (min(up_to(rng, 5), extent) for extent in shape[:2])
    around = (height // 2, width // 2) * 2 if padded else (0, 0, 0, 0)
    match kind:
        case "conv" | "pooled":
            strides = (up_to(rng, 2), up_to(rng, 2))
            conv = convolution(rng, "conv", INPUT, (up_to(rng, 16), height, width, shape[2]), stride=strides, padding=around)
            rows, columns, _ = extents(conv, shape)
            pool = MaxPool2d("max", ("conv",), (min(2, rows), min(up_to(rng, 3), columns)))
            return [conv, pool] if kind == "pooled" else [conv]
        case "depthwise":
            full = convolution(rng, "depthwise", INPUT, (shape[2], height, width, 1))
            weights = full.weights[..., 0].transpose(1, 2, 0).copy()
            fields = (full.bias, full.multiplier, full.shift)
            return [DepthwiseConv2d("depthwise", (INPUT,), weights, *fields, padding=around)]
        case "pool":
            multiplier, shift = ((1, (height * width - 1).bit_length()), ((1 << 14) // (height * width) | 1, 14))[rng.integers(2)]
            average = AveragePool2d("pool", (INPUT,), (height, width), multiplier, shift)
            return [average, MaxPool2d("pool", (INPUT,), (height, width))][rng.integers(2) :][:1]
        case "add":
            copy = MaxPool2d("copy", (INPUT,), (1, 1))
            return [copy, Add("add", (INPUT, "copy"), (100, 100), int(rng.integers(6, 10)))]
    return []


def convolution(
    rng: np.random.Generator,
    name: str,
    source: str,
    shape: tuple[int, int, int, int],  # (O, KH, KW, I)
    **geometry: tuple[int, ...],
) -> Conv2d:
    """Return a convolution of which all weights, a half or few are not zero."""
    weights = np.where(rng.random(shape) < rng.choice([1.0, 0.5, 0.1]), rng.integers(-127, 128, shape), 0).astype(np.int8)
    taps = math.prod(shape[1:])
    shift = np.full(shape[0], round(13 + math.log2(taps) / 2), np.int32)
    multiplier = np.minimum(rng.integers(128, 256, shape[0]), (1 << 30) // (255 * 127 * taps)).astype(np.int32)  # no overflow
    return Conv2d(name, (source,), weights, np.zeros(shape[0], np.int32), multiplier, shift, **geometry)  # type: ignore[arg-type]


def extents(op: Op, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the shape of what ``op`` makes of an input of ``shape``."""
    match op:
        case Conv2d() | DepthwiseConv2d():
            around = (op.padding[0] + op.padding[2], op.padding[1] + op.padding[3])
            rows, columns = ((shape[axis] + around[axis] - op.kernel[axis]) // op.stride[axis] + 1 for axis in (0, 1))
            return rows, columns, len(op.bias)
        case MaxPool2d() | AveragePool2d():
            return shape[0] // op.window[0], shape[1] // op.window[1], shape[2]
    return shape


def up_to(rng: np.random.Generator, limit: int) -> int:
    """Draw from 1 to ``limit``; by turns any number is as likely, and any order of magnitude."""
    return int(rng.integers(1, limit + 1) if rng.random() < 0.5 else np.exp(rng.uniform(0, np.log(limit + 1))))


def graph_of_space(rng: np.random.Generator, target: Board, _: bool) -> IntegerGraph:
    """Return a network of Ω with random weights, of which none, half or most are zero."""
    shape = INPUTS[rng.integers(len(INPUTS))]
    ram_bytes, flash_bytes = min(SPACE["ram_bytes"], target.ram_bytes), min(SPACE["flash_bytes"], target.flash_bytes)
    architecture = sample(SpaceLimits.for_input(shape, 10, ram_bytes, flash_bytes), rng)
    folded = Network(architecture, int(rng.integers(1 << 30))).eval().fold()
    kept = rng.choice([1.0, 0.5, 0.15])
    thinned = tuple(
        layer
        if layer.weight is None
        else dataclasses.replace(layer, weight=layer.weight * (rng.random(layer.weight.shape) < kept))
        for layer in folded
    )
    return quantise(thinned, rng.integers(0, 256, (8, *shape), dtype=np.uint8))


def with_wide_bias(graph: IntegerGraph) -> IntegerGraph:
    """Give the first channel of the last convolution a bias of four bytes."""
    index, last = [(index, op) for index, op in enumerate(graph.ops) if isinstance(op, Convolution)][-1]
    arrays = {name: getattr(last, name).copy() for name in ("bias", "multiplier", "shift")}
    for name, value in (("bias", WIDE_BIAS), ("multiplier", 1), ("shift", 16)):
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
    missing = expected(target) - {name for probe in found for name in [*probe.sections, *chains([probe])]}
    if missing:
        raise ValueError(f"every section must occur in a probe, but {sorted(missing)} do not; measure more probes")
    code = usual({section: _code_bytes(section, probe) for section in probe.sections} for probe in found)
    structs = same(_struct_bytes(probe) for probe in found)
    helpers = same({name: probe.symbols[name] for name in probe.helpers} for probe in found)
    present = {section: [probe.helpers for probe in found if section in probe.sections] for section in code}
    uses = {section: tuple(sorted(frozenset.intersection(*sets))) for section, sets in present.items()}
    known = KernelCosts("", 0, code, helpers, uses, dict.fromkeys(CALLS, 0), structs, {}, {}, {}, _unrolled(found), {})
    base, call = _calls(found, known)
    stack = _stack(found)
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
        cycles=_cycles(found),
        unrolled=_unrolled(found),
        streaming={},
    )


def expected(target: Board) -> set[str]:
    """Return the sections that a network for ``target`` can need, as the table names them."""
    foreign = {"standalone", "stream", *(f"sums_{dense}" for dense in DENSE if dense not in ("pairs", target.dense))}
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


def usual(tables: Iterable[dict[str, int]]) -> dict[str, int]:
    """Join tables by what is most frequent: the linker shortens calls whose target is near, by two bytes each."""
    seen: dict[str, Counter[int]] = {}
    for table in tables:
        for name, value in table.items():
            seen.setdefault(name, Counter())[value] += 1
    return {name: counts.most_common(1)[0][0] for name, counts in sorted(seen.items())}


def chains(found: list[Probe]) -> list[str]:
    """Return the innermost kernels that the steps of the probes call, as the table names them."""
    return sorted({probe.program.chain(step) for probe in found for step in probe.program.steps})


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


def _code_bytes(section: str, probe: Probe) -> int:
    """Bytes of the functions that a section defines and the compiler kept."""
    functions = re.findall(r"^KERNEL [^(]*?(\w+)\(", sections()[section.partition(".")[0]].text, re.MULTILINE)
    return sum(probe.symbols.get(name, 0) for name in functions)  # some are there for padding only


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


def _cycles(found: list[Probe]) -> dict[str, float]:
    names = sorted({name for probe in found for name in probe.events})
    counts = np.array([[probe.events[name] for name in names] for probe in found], float)
    measured = np.array([probe.cycles for probe in found])
    values, _ = nnls(counts / measured[:, None], np.ones(len(found)), maxiter=100 * len(names))
    return {name: round(float(value), 2) for name, value in zip(names, values, strict=True)}


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
