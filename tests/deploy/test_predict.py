import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.boards import board, boards
from sparse_mcu.deploy.firmware import build_firmware
from sparse_mcu.deploy.generate import generate
from sparse_mcu.deploy.kernel_costs import measured_costs
from sparse_mcu.deploy.predict import events, predict
from sparse_mcu.deploy.program import Step, lower
from sparse_mcu.deploy.simulators import simulate
from sparse_mcu.errors import BoardError
from sparse_mcu.quant.graph import Add, AveragePool2d, Conv2d, DepthwiseConv2d, MaxPool2d, TensorType
from sparse_mcu.quant.random_graph import GraphSize, random_graph, random_images

SIMULATED = [row.name for row in boards() if row.simulator is not None]


@pytest.mark.skipif(toolchain.obstacle(board("arduino-uno")) is not None, reason="needs avr-gcc and simavr")
@pytest.mark.parametrize("name", SIMULATED)
@pytest.mark.parametrize("seed", [100, 101])
def test_predictions_are_what_the_board_shows(name: str, seed: int) -> None:
    target = board(name)
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, GraphSize(layers=3, extent=8, channels=4))
    prediction = predict(graph, target)
    firmware = build_firmware(generate(graph, target), target)
    simulation = simulate(firmware, random_images(rng, graph, 8))
    assert abs(prediction.flash_bytes - firmware.flash_bytes) <= 24
    assert 0 <= prediction.ram_bytes - firmware.static_ram_bytes - simulation.stack_bytes <= 32
    assert prediction.cycles == pytest.approx(simulation.cycles.mean(), rel=0.1 if target.time_unit == "cycles" else 0.3)


@pytest.mark.parametrize("name", [row.name for row in boards() if measured_costs(row) is not None])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_everything_that_a_graph_can_have_is_in_the_table(name: str, seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed))
    prediction = predict(graph, board(name))
    assert prediction.flash_bytes > sum(part.flash_bytes for part in prediction.parts) > 0
    assert [part.name for part in prediction.parts] == [op.name for op in graph.ops]
    assert prediction.cycles >= sum(part.cycles for part in prediction.parts)


def test_every_core_that_is_simulated_was_measured() -> None:
    for row in boards():
        assert (row.simulator is None) == (measured_costs(row) is None)


def test_a_core_that_was_not_measured_is_named() -> None:
    graph = random_graph(np.random.default_rng(0))
    with pytest.raises(BoardError, match=r"avr5.*bluepill has a cortex-m33"):
        predict(graph, dataclasses.replace(board("bluepill"), core="cortex-m33"))


def counted(step: Step, tensors: dict[str, TensorType]) -> Counter[str]:
    """What happens in a step, counted one by one as the kernels' loops go."""
    op, output = step.op, tensors[step.op.name]
    found = Counter[str]()
    if isinstance(op, Add):
        found["add"] += 1
        for _ in range(math.prod(output.shape)):
            found["add.element"] += 1
            for name in op.inputs:
                found[f"add.{tensors[name].dtype}"] += 1
            requantised(found, output, op.shift)
        return found
    source = tensors[op.inputs[0]]
    found["run"] += 1
    for y in range(output.shape[0]):
        found["run.row"] += 1
        for x in range(output.shape[1]):
            found[step.kernels[0]] += 1
            if isinstance(op, MaxPool2d | AveragePool2d):
                pooled(found, op, output)
            else:
                convolved(found, step, op, source, output, y, x)
    return found


def pooled(found: Counter[str], op: MaxPool2d | AveragePool2d, output: TensorType) -> None:
    name = "max" if isinstance(op, MaxPool2d) else "average"
    for _ in range(output.shape[2]):
        found[f"{name}.output"] += 1
        for _ in range(op.window[0]):
            found[f"{name}.row"] += 1
            found[f"{name}.tap"] += op.window[1]
        if isinstance(op, AveragePool2d):
            requantised(found, output, op.shift)


def convolved(
    found: Counter[str], step: Step, op: Conv2d | DepthwiseConv2d, source: TensorType, output: TensorType, y: int, x: int
) -> None:
    depthwise = isinstance(op, DepthwiseConv2d)
    for group in range(output.shape[2] if depthwise else 1):
        if step.kernels[0] == "window_gathered":
            found["gather"] += 1
            for row in range(y * op.stride[0] - op.padding[0], y * op.stride[0] - op.padding[0] + op.kernel[0]):
                found["gather.row"] += 1
                for column in range(x * op.stride[1] - op.padding[1], x * op.stride[1] - op.padding[1] + op.kernel[1]):
                    inside = 0 <= row < source.shape[0] and 0 <= column < source.shape[1]
                    found["gather.inside" if inside else "gather.outside"] += 1 if depthwise else source.shape[2]
        found[step.kernels[1]] += 1
        for channel in [group] if depthwise else range(output.shape[2]):
            taps = op.weights[:, :, channel].reshape(-1) if depthwise else op.weights[channel].reshape(-1)
            summed(found, step.kernels[1].removeprefix("rows_"), [int(tap) for tap in taps])
            requantised(found, output, int(op.shift[channel]))


def summed(found: Counter[str], encoding: str, taps: list[int]) -> None:
    found[f"{encoding}.output"] += 1
    if encoding == "dense":
        found["dense.tap"] += len(taps)
        return
    for first in range(0, len(taps), 8):
        weights = sum(tap != 0 for tap in taps[first : first + 8])
        found["bitmap.byte" if weights else "bitmap.empty"] += 1
        if weights:
            found["bitmap.weight"] += weights
            found["bitmap.zero"] += 8 - weights


def requantised(found: Counter[str], output: TensorType, shift: int) -> None:
    found[f"requantise.{output.dtype}"] += 1
    if shift == 0:
        found["shift.none"] += 1
        return
    shift -= 1
    while shift >= 8:
        found["shift.byte"] += 1
        shift -= 8
    found["shift.bit"] += shift


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_events_are_those_of_the_loops(seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed), GraphSize(layers=4, extent=8, channels=5))
    for step in lower(graph, None).steps:
        assert +events(step, graph.tensors) == +counted(step, graph.tensors)
