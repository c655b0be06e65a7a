import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.firmware import build_firmware
from sparse_mcu.deploy.generate import render
from sparse_mcu.deploy.host import host_logits
from sparse_mcu.deploy.kernel_costs import kernel_costs
from sparse_mcu.deploy.predict import candidates, predict, predict_program
from sparse_mcu.deploy.program import lower
from sparse_mcu.deploy.simulators import simulate
from sparse_mcu.deploy.stages import Stage, stages
from sparse_mcu.deploy.stream import Line, rows_before_the_end, running, streamable
from sparse_mcu.deploy.target import OPTIMISE, Optimise, Target
from sparse_mcu.quant.graph import INPUT, Add, Conv2d, IntegerGraph, MaxPool2d, TensorType
from sparse_mcu.quant.interpreter import IntegerArray, run, run_op
from sparse_mcu.quant.random_graph import GraphSize, random_graph, random_images

UNO = board("arduino-uno")
TALL = GraphSize(layers=6, extent=14, channels=6)
seeds = st.integers(0, 2**32 - 1)


def conv(name: str, source: str, shape: tuple[int, int, int, int], **geometry: tuple[int, ...]) -> Conv2d:
    one = np.ones(shape[0], np.int32)
    return Conv2d(name, (source,), np.ones(shape, np.int8), one, one, one, **geometry)  # type: ignore[arg-type]


def uint8(*shape: int) -> TensorType:
    return TensorType((shape[0], shape[1], shape[2]), "uint8", 1.0)


def padded_chain() -> IntegerGraph:
    """A padded convolution with a max pool behind it, a strided one, logits."""
    ops = (
        conv("first", INPUT, (4, 3, 3, 1), padding=(1, 1, 1, 1)),
        MaxPool2d("pool", ("first",), (2, 2)),
        conv("second", "pool", (6, 3, 3, 4), stride=(2, 2)),
        conv("logits", "second", (10, 2, 2, 6)),
    )
    tensors = {
        INPUT: uint8(10, 10, 1),
        "first": uint8(10, 10, 4),
        "pool": uint8(5, 5, 4),
        "second": uint8(2, 2, 6),
        "logits": TensorType((1, 1, 10), "int16", 1.0),
    }
    return IntegerGraph(ops, tensors)


def tall_chain() -> IntegerGraph:
    """A large image, a pool, two convolutions and logits: most of its bytes are the image."""
    ops = (
        MaxPool2d("pool", (INPUT,), (2, 2)),
        conv("first", "pool", (4, 3, 3, 1), stride=(2, 2)),
        conv("second", "first", (6, 3, 3, 4)),
        conv("logits", "second", (10, 5, 5, 6)),
    )
    tensors = {
        INPUT: uint8(32, 32, 1),
        "pool": uint8(16, 16, 1),
        "first": uint8(7, 7, 4),
        "second": uint8(5, 5, 6),
        "logits": TensorType((1, 1, 10), "int16", 1.0),
    }
    return IntegerGraph(ops, tensors)


def test_lines_hold_the_rows_of_an_output_row_and_stop_where_all_rows_are_needed() -> None:
    graph = padded_chain()
    assert [geometry(line) for line in streamable(graph)] == [
        {"tensor": INPUT, "rows": 4, "step": 2, "above": 1, "below": 1, "height": 10, "outputs": 5},
        {"tensor": "pool", "rows": 3, "step": 2, "above": 0, "below": 0, "height": 5, "outputs": 2},
    ]


def geometry(line: Line) -> dict[str, object]:
    return {field.name: getattr(line, field.name) for field in dataclasses.fields(Line) if field.name != "stage"}


def test_a_signal_and_what_is_read_twice_are_not_streamed() -> None:
    row = IntegerGraph(
        (conv("conv", INPUT, (2, 1, 3, 1)), conv("logits", "conv", (3, 1, 8, 2))),
        {INPUT: uint8(1, 10, 1), "conv": uint8(1, 8, 2), "logits": TensorType((1, 1, 3), "int16", 1.0)},
    )
    assert streamable(row) == ()
    shortcut = IntegerGraph(
        (
            conv("stem", INPUT, (2, 1, 1, 1)),
            conv("same", "stem", (2, 1, 1, 2)),
            Add("add", ("stem", "same"), (1, 1), 1),
            conv("logits", "add", (3, 4, 4, 2)),
        ),
        {INPUT: uint8(4, 4, 1)} | {name: uint8(4, 4, 2) for name in ("stem", "same", "add")} | {"logits": row.tensors["logits"]},
    )
    assert [line.tensor for line in streamable(shortcut)] == [INPUT]


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_every_row_follows_from_the_rows_of_its_line(seed: int) -> None:
    """Rows taken from whole tensors, zeros above and below, one at a time through the interpreter."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, TALL)
    values = whole_tensors(graph, random_images(rng, graph, 2))
    for line in streamable(graph):
        assert line.step <= line.rows and line.above < line.rows
        source = np.pad(values[line.tensor], ((0, 0), (line.above, line.below), (0, 0), (0, 0)))
        for row in range(line.outputs):
            rows = source[:, row * line.step :][:, : line.rows]
            assert rows.shape[1] == line.rows
            assert np.array_equal(through(line.stage, graph, rows), values[line.stage.name][:, row : row + 1])


def whole_tensors(graph: IntegerGraph, images: np.ndarray) -> dict[str, IntegerArray]:
    """All tensors of ``graph`` for images (N, C, H, W), by name."""
    values: dict[str, IntegerArray] = {INPUT: images.transpose(0, 2, 3, 1)}
    for op in graph.ops:
        values[op.name] = run_op(op, values, graph.tensors)
    return values


def through(stage: Stage, graph: IntegerGraph, rows: IntegerArray) -> IntegerArray:
    """What ``stage`` makes of so many rows of its input."""
    values: dict[str, IntegerArray] = {stage.op.inputs[0]: rows}
    values[stage.op.name] = run_op(stage.op, values, graph.tensors)
    return values[stage.op.name] if stage.pool is None else run_op(stage.pool, values, graph.tensors)[:, :1]


@settings(max_examples=12, deadline=None)
@given(seed=seeds)
def test_streamed_c_computes_what_the_interpreter_does(seed: int) -> None:
    """Chains of any length, image after image, under the address and undefined-behaviour sanitizers."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, TALL)
    while not streamable(graph):
        graph = random_graph(rng, TALL)
    images = random_images(rng, graph, 6)
    lines = streamable(graph)[: rng.integers(1, len(streamable(graph)) + 1)]
    source = render(lower(graph, board("microbit"), None, lines=lines), None)
    assert np.array_equal(host_logits(source, images, sanitize=True), run(graph, images))


@pytest.mark.parametrize("name", ["arduino-uno", "attiny85", "microbit", "esp32-c3"])
def test_streamed_rows_give_the_same_on_boards(name: str) -> None:
    target = board(name)
    if (obstacle := toolchain.obstacle(target)) is not None:
        pytest.skip(obstacle)
    graph = padded_chain()
    images = random_images(np.random.default_rng(1), graph, 5)
    program = lower(graph, target, None, lines=streamable(graph))
    firmware = build_firmware(render(program, None), target)
    simulation = simulate(firmware, images)
    assert np.array_equal(simulation.logits, run(graph, images))
    assert 0 <= program.variable_bytes - firmware.static_ram_bytes < 4  # what aligns one variable behind another


@pytest.mark.parametrize("optimise", OPTIMISE)
@pytest.mark.parametrize("name", ["arduino-uno", "attiny85", "microbit", "nucleo-f446", "ch32v003", "esp32-c3"])
def test_no_program_with_rows_takes_more_ram_than_predicted(name: str, optimise: Optimise) -> None:
    target = Target(board(name), optimise=optimise)
    if (obstacle := toolchain.obstacle(target.board)) is not None:
        pytest.skip(obstacle)
    costs = kernel_costs(target.board)
    rng = np.random.default_rng(7)
    graphs = [padded_chain(), *(random_graph(rng, GraphSize(layers=3, extent=9, channels=4)) for _ in range(6))]
    streamed = [graph for graph in graphs if streamable(graph)]
    assert len(streamed) > 2
    for graph in streamed:
        for program in candidates(graph, target, costs, streamable(graph)[:2]):
            simulation = simulate(build_firmware(render(program, None), target.board), random_images(rng, graph, 2))
            taken = program.variable_bytes + simulation.stack_bytes
            assert 0 <= predict_program(program, costs).ram_bytes - taken <= 16


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_rows_before_the_end_are_those_of_the_schedule(seed: int) -> None:
    lines = streamable(random_graph(np.random.default_rng(seed), TALL))
    events = schedule(lines)
    assert [sum(event == ("computes", i) for event in events) for i in range(len(lines))] == [line.outputs for line in lines]
    for i in range(len(lines) - 1):
        end = max(number for number, (_, which) in enumerate(events) if which == i)
        written = sum(event == ("computes", len(lines) - 1) for event in events[:end])
        assert written <= rows_before_the_end(lines[i:])
        if events[end] == ("computes", i):  # no row comes behind those that are read
            assert written == rows_before_the_end(lines[i:])


def schedule(lines: tuple[Line, ...]) -> list[tuple[str, int]]:
    """What happens to an image, in order: a line takes a row; the layer that reads a line computes one."""
    events: list[tuple[str, int]] = []
    come = [0] * len(lines)
    held = [line.above for line in lines]

    def take(which: int) -> None:
        if which == len(lines):
            return
        line = lines[which]
        events.append(("takes", which))
        come[which] += 1
        held[which] += 1
        assert held[which] <= line.rows
        if held[which] == line.rows:
            events.append(("computes", which))
            held[which] -= line.step
            take(which + 1)
        if line.height <= come[which] < line.height + line.below:
            take(which)

    for _ in range(lines[0].height if lines else 0):
        take(0)
    return events


def test_the_fastest_program_within_the_ram_is_chosen() -> None:
    graph = tall_chain()
    costs = kernel_costs(UNO)
    programs = [lower(graph, UNO, costs, lines=streamable(graph)[:count]) for count in range(len(streamable(graph)) + 1)]
    found = [predict_program(program, costs) for program in programs]
    for budget in sorted({prediction.ram_bytes for prediction in found}):
        chosen = predict(graph, Target(UNO, budget))
        within = [prediction for prediction in found if prediction.ram_bytes <= budget]
        if found[0] in within:
            assert chosen == found[0]
        else:
            assert chosen.ram_bytes <= budget and chosen.cycles == min(prediction.cycles for prediction in within)
    assert predict(graph, Target(UNO, 1)).ram_bytes == min(prediction.ram_bytes for prediction in found)
    assert predict(graph, Target(UNO, 1)).ram_bytes < 0.6 * found[0].ram_bytes


def test_the_stages_behind_the_lines_run_as_ever() -> None:
    graph = padded_chain()
    lines = streamable(graph)
    first, *rest = running(graph, lines[:1])
    assert first is lines[0].stage and tuple(rest) == stages(graph)[1:]
    assert running(graph, ()) == stages(graph)
