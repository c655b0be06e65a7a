import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.firmware import build_firmware
from sparse_mcu.deploy.generate import render
from sparse_mcu.deploy.program import lower
from sparse_mcu.deploy.simulators import simulate
from sparse_mcu.deploy.stages import Stage
from sparse_mcu.deploy.unroll import form_of
from sparse_mcu.deploy.unroll_avr import layer, ways
from sparse_mcu.quant import interpreter
from sparse_mcu.quant.graph import INPUT, Conv2d, Convolution, DepthwiseConv2d, DType, IntegerGraph, MaxPool2d, TensorType
from sparse_mcu.quant.random_graph import random_images

UNO = board("arduino-uno")
BYTE, TWO_BYTES, THREE_BYTES = 0xFF, 0xFFFF, 0xFFFFFF


def convolution(rng: np.random.Generator, depthwise: bool) -> Convolution:
    height, width, pixel = (int(rng.integers(1, limit)) for limit in (4, 4, 30))
    channels = pixel if depthwise else int(rng.integers(1, 30))
    shape = (height, width, channels) if depthwise else (channels, height, width, pixel)
    limit = int(rng.choice([1, 7, 127]))
    weights = np.where(rng.random(shape) < rng.choice([1.0, 0.2, 0.0]), rng.integers(-limit, limit + 1, shape), 0).astype(np.int8)
    bias = rng.integers(-(10 ** rng.integers(1, 6, channels)), 10 ** rng.integers(1, 6, channels)).astype(np.int32)
    ones = np.ones(channels, np.int32)
    return (DepthwiseConv2d if depthwise else Conv2d)("conv", (INPUT,), weights, bias, ones, 15 * ones)


def stage_of(op: Convolution, width: int, window: tuple[int, int] | None, dtype: DType) -> tuple[Stage, TensorType, TensorType]:
    height, columns, pixel = op.weights.shape if isinstance(op, DepthwiseConv2d) else op.weights.shape[1:]
    source = TensorType((height + 3, columns + width, pixel), "uint8", 1.0)
    pool = None if window is None else MaxPool2d("pool", ("conv",), window)
    rows, places = (1, 1) if window is None else window
    return Stage(op, pool), source, TensorType((4 // rows, (width + 1) // places, len(op.bias)), dtype, 1.0)


def summed(commands: str, image: np.ndarray, place: int) -> tuple[list[int], int]:
    """What a block does, in registers of two bytes and one: its sums, and the place that it ends at."""
    low: dict[int, int] = {}
    high: dict[int, int] = {}
    tap = product = 0
    for command, text in re.findall(r"\b([A-Z]+[23]?)\((-?\d+(?:, -?\d+)*)", commands):
        first, *rest = map(int, text.split(", "))
        match command:
            case "AHEAD" | "BACK":
                place += first if command == "AHEAD" else -first
            case "BIAS2" | "BIAS3":
                low[first] = rest[0] & TWO_BYTES
                high[first] = rest[0] >> 16 & BYTE if command == "BIAS3" else -1
            case "TAP":
                tap = int(image[place + first])
            case "TIMES":
                product = first * tap
            case "PLUS" | "PLUS2" | "MINUS" | "MINUS2" | "MORE" | "MORE2" | "LESS" | "LESS2":
                change = (product if command[0] in "PM" and "MORE" not in command else tap) * (
                    -1 if command[0:2] in ("MI", "LE") else 1
                )
                total = low[first] + change
                low[first] = total & TWO_BYTES
                if not command.endswith("2"):
                    assert high[first] >= 0
                    high[first] = high[first] + (total >> 16) & BYTE
    return [value if high[channel] < 0 else value | high[channel] << 16 for channel, value in low.items()], place


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    depthwise=st.booleans(),
    kind=st.sampled_from([(None, "uint8"), ((2, 2), "uint8"), ((1, 3), "uint8"), (None, "int16")]),
)
def test_the_commands_sum_up_a_window_in_as_few_bytes_as_are_enough(
    seed: int, depthwise: bool, kind: tuple[tuple[int, int] | None, DType]
) -> None:
    rng = np.random.default_rng(seed)
    op = convolution(rng, depthwise)
    stage, source, output = stage_of(op, int(rng.integers(2, 30)), *kind)
    found = layer(stage, form_of(UNO), source, output)
    for image in (
        rng.integers(0, 256, source.shape),
        rng.integers(0, 2, source.shape) * 255,
        np.full(source.shape, 255),
        np.zeros(source.shape, int),
    ):
        window = image[: op.kernel[0], : op.kernel[1]]
        expected = (op.weights * window).sum(axis=(0, 1) if depthwise else (1, 2, 3))
        expected = expected + (0 if kind[1] == "int16" else op.bias)
        sums: list[int] = []
        place = 0
        for block in found.blocks:
            some, place = summed(" ".join(block.commands), image.reshape(-1), place)
            bits = [THREE_BYTES if f"BIAS3({channel}," in block.commands[0] else TWO_BYTES for channel in range(block.channels)]
            true = expected[len(sums) :][: block.channels]
            assert some == [int(value) & mask for value, mask in zip(true, bits, strict=True)]
            assert all(-0x8000 <= value <= TWO_BYTES for value, mask in zip(true, bits, strict=True) if mask == TWO_BYTES)
            sums += some
        assert place == found.place and len(sums) == len(op.bias)


@pytest.mark.parametrize("window", [None, (2, 2), (1, 3), (2, 1)])
@pytest.mark.parametrize("width", [1, 2, 9])
def test_the_loops_begin_every_window_where_it_is(window: tuple[int, int] | None, width: int) -> None:
    op = dataclasses.replace(convolution(np.random.default_rng(3), False), stride=(1, 2))
    stage, source, output = stage_of(op, width, window, "uint8")
    output = dataclasses.replace(output, shape=(output.shape[0], max(1, output.shape[1] // 2), output.shape[2]))
    moves = [eval(move.replace("AHEAD", "+").replace("BACK", "-") or "0") for move in ways(stage, source, output, 5)]
    rows, columns = stage.windows
    begins, place = [], 0
    for _ in range(output.shape[0]):
        for _ in range(output.shape[1]):
            for _ in range(rows):
                for _ in range(columns):
                    begins.append(place)
                    place += 5 + (moves[0] if columns > 1 else 0)
                place += moves[1] if rows > 1 else 0
            place += moves[2] if output.shape[1] > 1 else 0
        place += moves[3] if output.shape[0] > 1 else 0
    row, pixel = source.shape[1] * source.shape[2], source.shape[2]
    assert begins == [
        (y * rows + v) * row + (x * columns + u) * 2 * pixel
        for y in range(output.shape[0])
        for x in range(output.shape[1])
        for v in range(rows)
        for u in range(columns)
    ]


def test_zeros_take_no_code() -> None:
    ones = np.ones(3, np.int32)
    op = Conv2d("conv", (INPUT,), np.zeros((3, 2, 2, 5), np.int8), ones, ones, 15 * ones)
    op.weights[1, 0, 1, 2], op.weights[2, 0, 1, 2] = -7, 1
    (block,) = layer(*(lambda stage, *types: (stage, form_of(UNO), *types))(*stage_of(op, 6, None, "uint8"))).blocks
    assert block.commands[1] == "TAP(7) MORE2(2) TIMES(7) MINUS2(1)"
    assert (block.parts["load"], block.parts["times"], block.parts["product"]) == (1, 1, 2)


@pytest.mark.parametrize("window", [None, (1, 1), (2, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_every_shift_rounds_as_the_interpreter_does(window: tuple[int, int] | None, seed: int) -> None:
    if (reason := toolchain.obstacle(UNO)) is not None:
        pytest.skip(reason)
    rng = np.random.default_rng(seed)
    channels = 32
    shift = np.arange(channels, dtype=np.int32)
    magnitude = np.minimum(2.0 ** (shift + 1), 2.0**22) * rng.uniform(
        0.3, 1, channels
    )  # of sums, so that outputs use their range
    weights = (rng.integers(-127, 128, (channels, 1, 1, 4)) * np.minimum(1, magnitude / 32_385)[:, None, None, None]).astype(
        np.int8
    )
    bias = (magnitude * rng.uniform(-0.5, 1, channels)).astype(np.int32)
    multiplier = np.minimum(rng.integers(1, 256, channels), 2**30 / (abs(bias) + 130_000)).astype(np.int32)
    ops = [Conv2d("conv", (INPUT,), weights, bias, multiplier, shift)]
    tensors = {INPUT: TensorType((4, 4, 4), "uint8", 1.0), "conv": TensorType((4, 4, channels), "uint8", 1.0)}
    if window is not None:
        ops.append(MaxPool2d("pool", ("conv",), window))
        tensors["pool"] = TensorType((4 // window[0], 4 // window[1], channels), "uint8", 1.0)
    last = ops[-1].name
    rows, columns, _ = tensors[last].shape
    one = np.zeros((channels, rows, columns, channels), np.int8)
    one[np.arange(channels), rng.integers(0, rows, channels), rng.integers(0, columns, channels), np.arange(channels)] = 1
    zeros, ones = np.zeros(channels, np.int32), np.ones(channels, np.int32)
    ops.append(Conv2d("logits", (last,), one, zeros, ones, zeros))
    graph = IntegerGraph(tuple(ops), tensors | {"logits": TensorType((1, 1, channels), "int16", 1.0)})
    program = lower(graph, UNO, None, encodings={"conv": "unrolled", "logits": "unrolled"})
    assert program.sum_bytes == 3
    images = random_images(rng, graph, 24)
    simulation = simulate(build_firmware(render(program, None), UNO), images)
    assert np.array_equal(simulation.logits, interpreter.run(graph, images))
