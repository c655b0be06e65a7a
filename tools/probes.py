"""Random networks (probes) that are compiled and run on a board, to learn from them what kernels take there.

Most are a layer or two, whose shape sets apart what the loops of each kernel take; the others are, by turns, random graphs, with
every operation and edge, and architectures drawn from Ω with random weights, some of them zero, as large as a search makes them.
"""

import dataclasses
import itertools
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
from scipy.optimize import nnls  # type: ignore[import-untyped]

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.encode import Encoding, encode
from sparse_mcu.deploy.events import Events, events
from sparse_mcu.deploy.firmware import Firmware, build_firmware
from sparse_mcu.deploy.generate import render
from sparse_mcu.deploy.kernels import sections
from sparse_mcu.deploy.program import Program, lower
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

SIZES = (GraphSize(layers=4), GraphSize(layers=2, extent=20, channels=14), GraphSize(layers=8, extent=9, channels=6))
UNPADDED = GraphSize(layers=3, extent=14)  # small, or hardly a random network is without padding
SPACE = {"ram_bytes": 2048, "flash_bytes": 16384}  # at most, of networks of Ω
INPUTS = ((1, 8, 8), (1, 16, 16), (3, 12, 12), (2, 1, 40))
UNROLLED = {True: 0.6, False: 1.0}  # share of the layers that are straight-line code in every other probe, if any is paired
NO_MULTIPLIER = ("avr25", "rv32ec")  # cores for which it is not made
WIDE_BIAS = 1 << 23  # makes sums need four bytes
IMAGES = 4


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
    """Yield measured random networks with weights of 8 bits that fit ``target``, without end."""
    rng = np.random.default_rng(seed)
    kinds = variants(target)
    for number in itertools.count():
        draw = (plain_graph, plain_graph, small_graph, plain_graph, plain_graph, graph_of_space)[number % 6]
        kind = kinds[number // 6 % len(kinds)]
        unrolled = UNROLLED[kind.paired or kind.padded] if number % 2 == 1 and target.core not in NO_MULTIPLIER else 0
        program = random_program(rng, target, kind, draw, unrolled)
        try:
            yield measured(program, rng)
        except (BoardError, FirmwareFault):
            continue  # too large for the board: variables, or variables and stack


def measured(program: Program, rng: np.random.Generator) -> Probe:
    """Run ``program`` on random images. Raises BoardError or FirmwareFault where it does not fit its board."""
    firmware = build_firmware(render(program, None), program.board)
    simulation = simulate(firmware, random_images(rng, program.graph, IMAGES))
    return Probe(program, firmware.flash_bytes, simulation.stack_bytes, float(simulation.cycles.mean()), symbols(firmware))


Draw = Callable[[np.random.Generator, Board, bool], IntegerGraph]  # the last says whether a convolution is to be padded


def random_program(rng: np.random.Generator, target: Board, kind: Variant, draw: Draw, unrolled: float) -> Program:
    """Draw until a network needs this variant of the kernels; a share of its layers is ``unrolled``."""
    while True:
        graph = draw(rng, target, kind.padded)
        if target.is_avr and kind.sum_bytes == 4:
            graph = with_wide_bias(graph)
        bytewise = smallest(graph, (target.dense if kind.paired else "pairs", "gaps"))
        program = lower(graph, target, None, kind.paired, encodings=bytewise)
        if unrolled:
            chosen = [step.stage.op for step in program.steps if rng.random() < unrolled]
            change = {op.name: "unrolled" for op in chosen if can_unroll(op, target, program.sum_bytes, graph.tensors)}
            program = lower(graph, target, None, kind.paired, encodings=program.encodings | change)
        if kind.holds(program):
            return program


def smallest(graph: IntegerGraph, encodings: Collection[Encoding]) -> dict[str, Encoding]:
    """Return the smallest of the ``encodings`` for every convolution of ``graph`` that one of them can hold."""
    found = (encode(op, encodings, head_bytes=0) for op in graph.ops if isinstance(op, Convolution))
    names = (op.name for op in graph.ops if isinstance(op, Convolution))
    return {name: weights.encoding for name, weights in zip(names, found, strict=True) if weights is not None}


def small_graph(rng: np.random.Generator, _: Board, padded: bool) -> IntegerGraph:
    """Return a random graph of every operation."""
    return random_graph(rng, SIZES[rng.integers(len(SIZES))] if padded else UNPADDED)


def plain_graph(rng: np.random.Generator, target: Board, padded: bool) -> IntegerGraph:
    """Return a classifier, mostly with one layer before it; extents and channels of any ratio."""
    shape = (target.ram_bytes, 1, 1)
    while math.prod(shape) > target.ram_bytes // 3:
        shape = (up_to(rng, 24), up_to(rng, 24), up_to(rng, 16))
    tensors = {INPUT: TensorType(shape, "uint8", 1.0)}
    kind = rng.choice(
        ["conv", "pooled", "depthwise"] if padded else ["none", "conv", "pooled", "depthwise", "pool", "pool", "add"]
    )
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
            return [average, average, MaxPool2d("pool", (INPUT,), (height, width))][rng.integers(3) :][:1]
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


def fitted_cycles(found: list[Probe], known: dict[str, float]) -> dict[str, float]:
    """Return what the events of the probes take, but for ``known`` ones: the least squares of relative errors, none negative.

    Kernels that are compiled in several ways are told apart only as far as probes do: that an event takes what it does in the
    mean over all ways weighs as much as one probe in which it happens.
    """
    names = sorted({name for probe in found for name in probe.events} - known.keys())
    measured = np.array([probe.cycles for probe in found])
    counts = np.array([[probe.events[name] for name in names] for probe in found], float) / measured[:, None]
    explained = [sum(known.get(name, 0) * count for name, count in probe.events.items()) for probe in found]
    rest = 1 - np.array(explained) / measured
    groups = [re.sub(r"\.(padded|single)\b", "", name) for name in names]
    of_group = np.array([[group == other for other in sorted(set(groups))] for group in groups], float)
    common = of_group @ nnls(counts @ of_group, rest, maxiter=100 * len(names))[0]
    weights = np.sqrt((counts**2).sum(axis=0) / (counts > 0).sum(axis=0))
    rows, goals = np.vstack([counts, np.diag(weights)]), np.concatenate([rest, weights * common])
    values, _ = nnls(rows, goals, maxiter=100 * len(names))
    return {name: round(float(value), 2) for name, value in zip(names, values, strict=True)}


def symbols(firmware: Firmware) -> dict[str, int]:
    """Return the bytes of every function and table of a program by name."""
    with tempfile.NamedTemporaryFile(suffix=".elf") as file:
        file.write(firmware.elf)
        file.flush()
        lines = toolchain.run([toolchain.binutil(firmware.board, "nm"), "--print-size", "--defined-only", file.name]).splitlines()
    return {name: int(size, 16) for _, size, _, name in (line.split() for line in lines if len(line.split()) == 4)}


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


def code_bytes(section: str, probe: Probe) -> int:
    """Bytes of the functions that a section defines and the compiler kept."""
    functions = re.findall(r"^KERNEL [^(]*?(\w+)\(", sections()[section.partition(".")[0]].text, re.MULTILINE)
    return sum(probe.symbols.get(name, 0) for name in functions)  # some are there for padding only
