import dataclasses
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.events import events, unrolled_parts
from sparse_mcu.deploy.firmware import build_firmware
from sparse_mcu.deploy.generate import render
from sparse_mcu.deploy.host import host_logits
from sparse_mcu.deploy.program import Program, lower
from sparse_mcu.deploy.simulators import simulate
from sparse_mcu.deploy.stream import streamable
from sparse_mcu.deploy.unroll import TAPS, Block, blocks, can_unroll
from sparse_mcu.quant import interpreter
from sparse_mcu.quant.graph import INPUT, AveragePool2d, Conv2d, Convolution, DepthwiseConv2d, IntegerGraph, TensorType
from sparse_mcu.quant.random_graph import GraphSize, random_graph, random_images

OTHERS = ("microbit", "bluepill", "nucleo-f446", "esp32-c3")  # boards of all instructions that code is written for, but AVRs
FORMS = ("arduino-uno", *OTHERS)
SIZE = GraphSize(layers=4, extent=8, channels=8)


def unrolled(graph: IntegerGraph, name: str, layers: int = 0) -> Program:
    """Return a program with all straight-line code that there can be, and ``layers`` streamed if so many can be."""
    target, lines = board(name), streamable(graph)[:layers]
    plain = lower(graph, target, None, lines=lines)
    names = [step.stage.op.name for step in plain.steps if can_unroll(step.stage.op, target, plain.sum_bytes, step.tensors)]
    return lower(graph, target, None, lines=lines, encodings=plain.encodings | dict.fromkeys(names, "unrolled"))


def convolution(rng: np.random.Generator, depthwise: bool) -> Convolution:
    height, width, pixel = (int(rng.integers(1, limit)) for limit in (4, 4, 20))
    channels = pixel if depthwise else int(rng.integers(1, 20))
    shape = (height, width, channels) if depthwise else (channels, height, width, pixel)
    weights = np.where(rng.random(shape) < rng.choice([1.0, 0.3, 0.0]), rng.integers(-127, 128, shape), 0).astype(np.int8)
    ones = np.ones(channels, np.int32)
    return (DepthwiseConv2d if depthwise else Conv2d)("conv", (INPUT,), weights, ones, ones, ones)


def summed(found: tuple[Block, ...], window: np.ndarray) -> list[int]:
    """What the commands do, one by one; with the weights of the table where they have one."""
    sums: list[int] = []
    place = tap = 0
    for block in found:
        channels, words = [0] * block.channels, iter(block.words)
        for command, text in re.findall(r"(\w+)\(([-\d, ]+)\)", " ".join(block.commands)):
            first, *weights = map(int, text.split(","))
            match command:
                case "AHEAD":
                    place += first
                case "BACK":
                    place -= first
                case "TAP":
                    tap = int(window[place + first])
                case "WORD":
                    taps = [int(value) for value in window[place + first : place + first + TAPS]]
                case "PLUS" | "MINUS":
                    channels[first] += weights[0] * tap if command == "PLUS" else -weights[0] * tap
                case "QUAD" | "EVEN" | "ODD":
                    chosen = {"QUAD": (0, 1), "EVEN": (0,), "ODD": (1,)}[command]
                    table = [halves(next(words)) for _ in chosen]
                    assert sorted(weights) == sorted(weight for pair in table for weight in pair)
                    channels[first] += sum(
                        pair[half] * taps[begin + 2 * half] for begin, pair in zip(chosen, table, strict=True) for half in (0, 1)
                    )
        assert next(words, None) is None
        sums += channels
    return sums


def halves(word: int) -> tuple[int, int]:
    low, high = np.array([word & 0xFFFF, word >> 16], np.uint16).astype(np.int16)
    return int(low), int(high)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(OTHERS), depthwise=st.booleans())
def test_the_commands_sum_up_a_window(seed: int, name: str, depthwise: bool) -> None:
    rng = np.random.default_rng(seed)
    op = convolution(rng, depthwise)
    height, width, pixel = op.weights.shape if depthwise else op.weights.shape[1:]
    image = rng.integers(0, 256, (height, width + int(rng.integers(0, 30)), pixel))
    window = image[:, :width]
    expected = (op.weights * window).sum(axis=(0, 1) if depthwise else (1, 2, 3))
    found = blocks(op, board(name), image[0].size)
    assert summed(found, np.append(image.reshape(-1), np.zeros(TAPS, int))) == expected.tolist()
    assert sum(block.channels for block in found) == len(op.bias)


def test_zeros_take_no_code() -> None:
    ones = np.ones(3, np.int32)
    op = Conv2d("conv", (INPUT,), np.zeros((3, 2, 2, 5), np.int8), ones, ones, ones)
    op.weights[1, 0, 1, 2] = -7
    (block,) = blocks(op, board("microbit"), 40)
    assert block.commands == ("TAP(7) MINUS(1, 7)",)
    assert block.parts == Counter({"load": 1, "product": 1, "product.long": 0, "block": 1, "channel": 3})


def test_only_whole_windows_of_sums_that_registers_hold_are_straight_line_code() -> None:
    uno, microbit = board("arduino-uno"), board("microbit")
    op = convolution(np.random.default_rng(1), False)
    padded = dataclasses.replace(op, padding=(0, 1, 0, 0))
    tensors = {"conv": TensorType((255, 255, 3), "uint8", 1.0)}
    assert can_unroll(op, uno, 3, tensors) and can_unroll(op, microbit, 4, tensors)
    assert not can_unroll(op, uno, 4, tensors)
    assert not can_unroll(padded, uno, 3, tensors) and not can_unroll(padded, microbit, 4, tensors)
    assert not can_unroll(op, uno, 3, {"conv": TensorType((256, 1, 3), "uint8", 1.0)})


@pytest.mark.parametrize(
    ("window", "multiplier", "shift", "can"),
    [((4, 4), 1, 4, True), ((3, 3), 1, 3, False), ((4, 5), 1, 5, False), ((3, 3), 3641, 15, True), ((2, 2), 1, 9, False)],
)
def test_only_averages_that_need_no_clamp_are_straight_line_code(
    window: tuple[int, int], multiplier: int, shift: int, can: bool
) -> None:
    pool = AveragePool2d("pool", (INPUT,), window, multiplier, shift)
    assert can_unroll(pool, board("arduino-uno"), 3, {"pool": TensorType((2, 2, 1), "uint8", 1.0)}) == can


@settings(max_examples=12, deadline=None)
@example(seed=422245561, name="arduino-uno", layers=0)  # with a layer whose weights are all zero
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(FORMS), layers=st.integers(0, 3))
def test_any_compiler_takes_the_code_of_any_board(seed: int, name: str, layers: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, SIZE)
    images = random_images(rng, graph, 4)
    source = render(unrolled(graph, name, layers), None)
    assert max(map(len, source.source.splitlines())) <= 140
    logits = host_logits(source, images, sanitize=True)
    assert np.array_equal(logits, interpreter.run(graph, images))


@pytest.mark.parametrize("name", [*FORMS, "arduino-mega", "rp2040"])
@pytest.mark.parametrize("seed", range(4))
def test_straight_line_code_computes_the_same_on_the_board(name: str, seed: int) -> None:
    target = board(name)
    if (reason := toolchain.obstacle(target)) is not None:
        pytest.skip(reason)
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, SIZE)
    images = random_images(rng, graph, 4)
    simulation = simulate(build_firmware(render(unrolled(graph, name, layers=seed % 3), None), target), images)
    assert np.array_equal(simulation.logits, interpreter.run(graph, images))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(FORMS))
def test_every_window_runs_all_of_the_code(seed: int, name: str) -> None:
    program = unrolled(random_graph(np.random.default_rng(seed), SIZE), name)
    for step in program.steps:
        if not step.blocks:
            continue
        windows = 1
        for extent in (*step.tensors[step.stage.name].shape[:2], *step.stage.windows):
            windows *= extent
        found, parts = events(program, step), unrolled_parts(step)
        assert found["unrolled.window"] == windows
        assert all(found[f"unrolled.{part}"] == windows * parts[part] for part in ("block", "channel", "load", "move"))
        nonzero = int(np.count_nonzero(step.stage.op.weights))  # type: ignore[union-attr]
        if name != "nucleo-f446":
            assert parts["product"] == nonzero
        else:
            assert parts["quad"] + parts["half"] <= nonzero <= 4 * parts["quad"] + 2 * parts["half"]
