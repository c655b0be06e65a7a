import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.boards import board, boards
from sparse_mcu.deploy.encode import BITMAPS, CRUMBS, GAPS, WORD_TAPS
from sparse_mcu.deploy.events import events
from sparse_mcu.deploy.firmware import build_firmware
from sparse_mcu.deploy.generate import generate
from sparse_mcu.deploy.kernel_costs import kernel_costs, measured_costs
from sparse_mcu.deploy.predict import candidates, fitted, flash_bytes, predict
from sparse_mcu.deploy.program import Program, Step, lower
from sparse_mcu.deploy.simulators import simulate
from sparse_mcu.deploy.stages import stages
from sparse_mcu.deploy.target import Optimise, Target
from sparse_mcu.deploy.verification import verify
from sparse_mcu.errors import BoardError, UserError
from sparse_mcu.quant.graph import INPUT, Add, AveragePool2d, Conv2d, DepthwiseConv2d, IntegerGraph, MaxPool2d, TensorType
from sparse_mcu.quant.random_graph import GraphSize, random_graph, random_images

WITHOUT_MULTIPLIER = ("avr25", "rv32ec")
SIMULATED = [row.name for row in boards() if row.simulator is not None]


@pytest.mark.skipif(toolchain.obstacle(board("arduino-uno")) is not None, reason="needs avr-gcc and simavr")
@pytest.mark.parametrize("name", SIMULATED)
@pytest.mark.parametrize("seed", [100, 101])
def test_predictions_are_what_the_board_shows(name: str, seed: int) -> None:
    target = board(name)
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, GraphSize(layers=3, extent=8, channels=4))
    prediction = predict(graph, Target(target))
    firmware = build_firmware(generate(graph, Target(target)), target)
    simulation = simulate(firmware, random_images(rng, graph, 8))
    assert abs(prediction.flash_bytes - firmware.flash_bytes) <= 32
    assert 0 <= prediction.ram_bytes - firmware.static_ram_bytes - simulation.stack_bytes <= 16
    assert prediction.least_ram_bytes <= prediction.ram_bytes
    assert prediction.least_flash_bytes <= prediction.flash_bytes
    if target.core not in WITHOUT_MULTIPLIER:  # else the time depends on the numbers multiplied
        assert prediction.cycles == pytest.approx(simulation.cycles.mean(), rel=0.12 if target.time_unit == "cycles" else 0.15)


@pytest.mark.parametrize("name", SIMULATED)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_everything_that_a_graph_can_have_is_in_the_table(name: str, seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed))
    prediction = predict(graph, Target(board(name)))
    assert prediction.flash_bytes > sum(part.flash_bytes for part in prediction.parts) > 0
    assert [part.name for part in prediction.parts] == [stage.name for stage in stages(graph)]
    assert prediction.cycles >= sum(part.cycles for part in prediction.parts)


SETTINGS = ("arduino-uno", "microbit", "nucleo-f446", "attiny85")


@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), room=st.integers(0, 20_000))
def test_size_takes_the_least_flash_and_speed_the_fewest_cycles_that_flash_has_room_for(name: str, seed: int, room: int) -> None:
    graph = random_graph(np.random.default_rng(seed), GraphSize(layers=4, extent=8, channels=8))
    target = Target(board(name), ram_bytes=1 << 20)
    balanced = predict(graph, target)
    assert predict(graph, dataclasses.replace(target, optimise="size")).flash_bytes <= balanced.flash_bytes
    fast = dataclasses.replace(target, optimise="speed", flash_bytes=balanced.flash_bytes + room)
    limited, free = predict(graph, fast), predict(graph, dataclasses.replace(fast, flash_bytes=1 << 20))
    assert limited.flash_bytes <= balanced.flash_bytes + room
    assert free.cycles <= limited.cycles <= balanced.cycles


@pytest.mark.parametrize("optimise", ["size", "speed"])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("seed", [102, 103])
def test_predictions_hold_for_every_setting(name: str, seed: int, optimise: Optimise) -> None:
    target = Target(board(name), optimise=optimise)
    if (reason := toolchain.obstacle(target.board)) is not None:
        pytest.skip(reason)
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, GraphSize(layers=3, extent=8, channels=4))
    images = random_images(rng, graph, 4)
    found = verify(graph, target, images, np.zeros(4, np.int64))
    assert found.measured is not None and found.mismatches == 0
    assert 0 <= found.predicted_ram_bytes - found.measured.ram_bytes <= 16
    assert abs(found.predicted_flash_bytes - found.measured.flash_bytes) <= max(64, 0.03 * found.measured.flash_bytes)


def half_empty(zeros: float) -> IntegerGraph:
    """A convolution of 24 channels of 5x5x12 taps, a share of them zero, and two logits."""
    rng = np.random.default_rng(0)
    weights = rng.integers(8, 100, (24, 5, 5, 12)) * (rng.random((24, 5, 5, 12)) >= zeros)
    ops = tuple(
        Conv2d(name, (source,), kept.astype(np.int8), *(np.full(len(kept), value, np.int32) for value in (1, 128, 20)))
        for name, source, kept in (("conv", INPUT, weights), ("logits", "conv", np.ones((2, 8, 8, 24))))
    )
    types = ((INPUT, (12, 12, 12), "uint8"), ("conv", (8, 8, 24), "uint8"), ("logits", (1, 1, 2), "int16"))
    return IntegerGraph(ops, {name: TensorType(shape, dtype, 1.0) for name, shape, dtype in types})


@pytest.mark.parametrize(
    ("name", "zeros", "expected"), [("arduino-uno", 0.5, True), ("nucleo-f446", 0.8, False), ("ch32v003", 0.8, True)]
)
def test_balanced_takes_bitmaps_where_they_cost_little_time(name: str, zeros: float, expected: bool) -> None:
    """The least flash has them on all of these; the Cortex-M4 takes twice the time with them for a sixteenth of the flash."""
    graph, target = half_empty(zeros), Target(board(name), ram_bytes=1 << 20)
    costs = kernel_costs(target.board)
    least = min(candidates(graph, target, costs, ()), key=lambda program: flash_bytes(program, costs))
    assert least.encodings["conv"] == "bitmap"
    assert (fitted(graph, target, costs).encodings["conv"] == "bitmap") is expected


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(UserError, match="no aim of optimising is called 'fast'; known: balanced, size, speed"):
        Target(board("arduino-uno"), optimise="fast")  # type: ignore[arg-type]


def test_every_core_that_is_simulated_was_measured() -> None:
    for row in boards():
        assert (row.simulator is None) == (measured_costs(row) is None)


def test_a_core_that_was_not_measured_is_named() -> None:
    graph = random_graph(np.random.default_rng(0))
    with pytest.raises(BoardError, match=r"avr5.*bluepill has a cortex-m33"):
        predict(graph, Target(dataclasses.replace(board("bluepill"), core="cortex-m33")))


def counted(program: Program, step: Step) -> Counter[str]:
    """What happens in a step, counted one by one as the kernels' loops go."""
    op, tensors = step.stage.op, program.graph.tensors
    output = tensors[step.stage.name]
    found = Counter[str]()
    if isinstance(op, Add):
        found["add"] += 1
        for _ in range(math.prod(output.shape)):
            found[f"add.element.{output.dtype}"] += 1
            for name in op.inputs:
                found[f"add.{tensors[name].dtype}"] += 1
            shifted(found, op.shift)
    elif isinstance(op, MaxPool2d | AveragePool2d):
        pooled(found, op, output)
    else:
        Convolving(program, step, op).run(found)
    return found


def pooled(found: Counter[str], op: MaxPool2d | AveragePool2d, output: TensorType) -> None:
    name = "max" if isinstance(op, MaxPool2d) else "average"
    found[name] += 1
    for _ in range(output.shape[0] * output.shape[1]):
        found[f"{name}.place"] += 1
        for _ in range(output.shape[2]):
            found[f"{name}.output"] += 1
            for _ in range(op.window[0]):
                found[f"{name}.row"] += 1
                found[f"{name}.tap"] += op.window[1]
            if isinstance(op, AveragePool2d):
                found["average.multiplied"] += op.multiplier != 1
                shifted(found, op.shift)


class Convolving:
    """A convolution as convolve() of c/kernels.c goes through it."""

    def __init__(self, program: Program, step: Step, op: Conv2d | DepthwiseConv2d) -> None:
        assert step.weights is not None
        self.program, self.step, self.op = program, step, op
        self.encoding = step.weights.encoding
        self.output = program.graph.tensors[step.stage.name]
        self.source = program.graph.tensors[op.inputs[0]]
        self.pending = False
        self.kind = f"{'.padded' if program.padded else ''}{'' if program.paired else '.single'}"

    def run(self, found: Counter[str]) -> None:
        height, width, channels = self.output.shape
        down, across = self.step.stage.windows
        both = bool(self.step.fields["window"]["pitch"])  # type: ignore[index]
        found[f"convolve{self.kind}"] += 1
        found[f"convolve{self.kind}.row"] += height
        for place in range(height * width):
            found[f"convolve{self.kind}.output"] += 1
            y, x = divmod(place, width)
            for window_y in range(y * down, (y + 1) * down):
                for window_x in range(x * across, (x + 1) * across):
                    self.visit(found, window_y, window_x)
            if self.pending and (not both or place % 2 == 1 or place == height * width - 1):
                self.pending = False
                found["odd"] += 1
                self.sum(found, "pair", *([True] * extent for extent in self.op.kernel))
            for channel in range(channels):
                found[f"requantise{self.program.sum_bytes}.{self.output.dtype}"] += 1
                if self.output.dtype == "int16":
                    shifted(found, int(self.op.shift[channel]))

    @property
    def alone(self) -> str:
        return f"{self.encoding}{self.program.sum_bytes}.alone{self.kind}"

    @property
    def pair(self) -> str:
        padded = ".padded" if self.program.padded and self.encoding in BITMAPS else ""
        return f"{self.encoding}{self.program.sum_bytes}.pair{padded}"

    def visit(self, found: Counter[str], y: int, x: int) -> None:
        found[f"window{self.kind}"] += 1
        rows, columns = self.inside(y, 0), self.inside(x, 1)
        if not self.step.fields["paired"] or not all(rows + columns):
            found["clip"] += self.program.padded
            self.sum(found, "alone", rows, columns)
        elif self.pending:
            self.pending = False
            self.sum(found, "pair", rows, columns)
        else:
            self.pending = True

    def inside(self, window: int, axis: int) -> list[bool]:
        begin = window * self.op.stride[axis] - self.op.padding[axis]
        return [0 <= place < self.source.shape[axis] for place in range(begin, begin + self.op.kernel[axis])]

    def sum(self, found: Counter[str], what: str, rows: list[bool], columns: list[bool]) -> None:
        pixel, channels = self.source.shape[2], len(self.op.bias)
        name = self.alone if what == "alone" else self.pair
        found[name] += 1
        together = 2 if self.encoding in ("pairs", "words") else 1
        groups = -(-channels // together)
        found["larger"] += groups if self.step.stage.pool is not None else 0
        if self.encoding in BITMAPS:  # bits of taps outside are read as well
            rows, columns = ([True] * extent for extent in self.op.kernel)
        if self.encoding in (*BITMAPS, *CRUMBS):
            kept = np.count_nonzero(self.op.weights.reshape(channels, *self.op.kernel, pixel), axis=(0, 3))
            found[f"{name}.weight"] += int(kept[rows][:, columns].sum())
        if self.encoding in GAPS:
            self.sum_gaps(found, name, rows, columns)
            return
        taps = sum(columns) * (1 if self.encoding == "depthwise" else pixel)
        if self.encoding == "words" and what == "pair":
            taps = -(-taps // WORD_TAPS)
        for _ in range(groups):
            found[f"{name}.channel"] += 1
            for _ in range(sum(rows)):
                found[f"{name}.row"] += 1
                found[f"{name}.tap"] += taps

    def sum_gaps(self, found: Counter[str], name: str, rows: list[bool], columns: list[bool]) -> None:
        assert self.step.weights is not None
        for line in self.step.weights.lines:
            found[f"{name}.channel"] += 1
            stream = iter(line)
            for row in rows:
                found[f"{name}.row"] += 1
                read = self.halves(stream) if self.encoding == "crumb_gaps" else self.entries(stream)
                for taps in read:
                    found[f"{name}.tap"] += 1
                    if name == self.alone:
                        found[f"{name}.inside.row"] += len(taps) * row
                        found[f"{name}.inside.tap"] += sum(row and columns[tap // self.source.shape[2]] for tap in taps)

    def entries(self, stream: Iterator[int]) -> Iterator[list[int]]:
        """The taps of each weight, or pair of weights, of a row."""
        tap = 0
        for _ in range(next(stream)):
            gaps = next(stream)
            taps = [tap + (gaps & 15)]
            if self.encoding == "gaps":
                taps.append(taps[0] + (gaps >> 4))
                next(stream), next(stream)
            yield taps
            tap = taps[-1]

    def halves(self, stream: Iterator[int]) -> Iterator[list[int]]:
        """The tap of each half of a byte of a row, none where it only goes on; without the one that fills up a byte."""
        read = [half for byte in itertools.islice(stream, next(stream)) for half in (byte & 15, byte >> 4)]
        tap = -1
        for half in read[:-1] if read and read[-1] == 0 else read:
            tap += half & 7 or 7
            yield [tap] if half & 7 else []


def shifted(found: Counter[str], shift: int) -> None:
    if shift == 0:
        found["shift.none"] += 1
        return
    shift -= 1
    while shift >= 8:
        found["shift.byte"] += 1
        shift -= 8
    found["shift.bit"] += shift


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(["arduino-uno", "microbit", "nucleo-f446"]),
    in_pairs=st.booleans(),
)
def test_events_are_those_of_the_loops(seed: int, name: str, in_pairs: bool) -> None:
    graph = random_graph(np.random.default_rng(seed), GraphSize(layers=4, extent=8, channels=5))
    program = lower(graph, board(name), None, in_pairs)
    for step in program.steps:
        found, expected = events(program, step), counted(program, step)
        assert found == expected  # a count of 0 is as good as none
