import dataclasses
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.boards import Board, board
from sparse_mcu.deploy.encode import CRUMB, CRUMBS, FEW_BITS, NIBBLE, Encoding, encode
from sparse_mcu.deploy.firmware import build_firmware
from sparse_mcu.deploy.generate import render
from sparse_mcu.deploy.host import host_logits
from sparse_mcu.deploy.kernel_costs import kernel_costs
from sparse_mcu.deploy.kernels import KERNELS, needed, sections
from sparse_mcu.deploy.predict import predict_program
from sparse_mcu.deploy.program import Program, lower
from sparse_mcu.deploy.simulators import simulate
from sparse_mcu.quant.graph import INPUT, Conv2d, Convolution, IntegerGraph, MaxPool2d, TensorType
from sparse_mcu.quant.interpreter import run
from sparse_mcu.quant.random_graph import random_graph, random_images

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-Wno-unused-function")  # nothing in it is called


def test_sections_are_the_file_without_its_head_and_their_opening_lines() -> None:
    text = KERNELS.read_text()
    body = re.sub(r"/\* kernel .*\*/\n", "", text[text.index("/* kernel prelude */") :])
    joined = "".join(section.text for section in sections().values())
    assert "".join(joined.split()) == "".join(body.split())


def test_each_section_uses_sections_that_come_before_it() -> None:
    names = list(sections())
    for position, section in enumerate(sections().values()):
        assert set(section.uses) <= set(names[:position])


def test_what_is_needed_comes_in_the_order_of_the_file() -> None:
    assert needed(["max_pool"]) == ("pool", "max_pool")
    assert needed(["sums_gaps", "sums_pairs"]) == ("scaled", "requantise", "keep", "convolve", "kept", "sums_pairs", "sums_gaps")
    assert needed([]) == ()


@pytest.mark.parametrize("sum_bytes", [3, 4])
@pytest.mark.parametrize("padded", [0, 1])
@pytest.mark.parametrize("paired", [0, 1])
def test_all_kernels_together_are_c99_without_a_warning(sum_bytes: int, padded: int, paired: int, tmp_path: Path) -> None:
    options = ("-std=c99", "-O2", f"-DSUM_BYTES={sum_bytes}", f"-DPADDED={padded}", f"-DPAIRED={paired}", *WARNINGS)
    subprocess.run(["cc", *options, "-c", KERNELS, "-o", tmp_path / "kernels.o"], check=True)


@pytest.mark.parametrize("name", [name for name in sections() if name not in ("prelude", "standalone")])
def test_a_section_and_what_it_needs_compile_alone(name: str, tmp_path: Path) -> None:
    source = tmp_path / "kernel.c"
    source.write_text("\n\n".join(sections()[section].text for section in ("prelude", "standalone", *needed([name]))) + "\n")
    subprocess.run(["cc", "-std=c99", *WARNINGS, "-c", source, "-o", tmp_path / "kernel.o"], check=True)


# Weights of four bits and of two, and bitmaps

CORES = ("attiny85", "arduino-uno", "arduino-mega", "microbit", "rp2040", "bluepill", "nucleo-f446", "ch32v003", "esp32-c3")
WITHOUT_MULTIPLIER = ("attiny85", "ch32v003")  # the time depends on the numbers multiplied
MEASURED = ("bitmap", *FEW_BITS)  # by tools/measure_encodings.py
BYTE = (-127, 127)
WIDE_BIAS = 1 << 23  # makes sums need four bytes on an AVR


def weights_for(encoding: Encoding, padding: int = 1, bias: int = 100) -> IntegerGraph:
    """A convolution with a pool behind it, one of odd windows and taps, a fully connected layer with gaps above 15."""
    rng = np.random.default_rng(padding)
    around = (padding,) * 4
    ops = (
        convolution_for(rng, encoding, "pooled", INPUT, (5, 3, 3, 3), bias, padding=around),
        MaxPool2d("pool", ("pooled",), (2, 2)),
        convolution_for(rng, encoding, "odd", "pool", (9, 2, 1, 5), bias),
        convolution_for(rng, encoding, "logits", "odd", (4, 2 + padding, 3 + padding, 9), bias, kept=0.1),
    )
    side = 6 + 2 * padding
    shapes = [(8, 8, 3), (side, side, 5), (side // 2, side // 2, 5), (side // 2 - 1, side // 2, 9)]
    types = [TensorType(shape, "uint8", 1.0) for shape in shapes] + [TensorType((1, 1, 4), "int16", 1.0)]
    return IntegerGraph(ops, dict(zip((INPUT, *(op.name for op in ops)), types, strict=True)))


def convolution_for(
    rng: np.random.Generator,
    encoding: Encoding,
    name: str,
    source: str,
    shape: tuple[int, int, int, int],
    bias: int,
    kept: float = 0.67,
    **geometry: tuple[int, ...],
) -> Conv2d:
    """Random weights, a share of them kept, the others zero; the first channel has the bias, scaled for outputs in between."""
    limits, exponent = (CRUMB, 7) if encoding in CRUMBS else (NIBBLE, 10) if encoding in FEW_BITS else (BYTE, 14)
    weights = (rng.integers(*limits, shape, endpoint=True) * (rng.random(shape) < kept)).astype(np.int8)
    biases, multiplier, shift = np.full((3, shape[0]), [[100], [150], [exponent]], np.int32)
    biases[0], multiplier[0], shift[0] = bias, *((1, 17) if bias == WIDE_BIAS else (150, exponent))
    return Conv2d(name, (source,), weights, biases, multiplier, shift, **geometry)  # type: ignore[arg-type]


def encoded(graph: IntegerGraph, on: Board, encoding: Encoding, in_pairs: bool = True) -> Program:
    """The convolutions whose weights fit, in that encoding; the others as bytes."""
    found = {op.name: encode(op, (encoding,), 0) or encode(op, ("pairs",), 0) for op in graph.ops if isinstance(op, Convolution)}
    return lower(graph, on, None, in_pairs, encodings={name: weights.encoding for name, weights in found.items() if weights})


@pytest.mark.parametrize("encoding", MEASURED)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), in_pairs=st.booleans())
def test_an_encoding_computes_what_the_interpreter_does(encoding: Encoding, seed: int, in_pairs: bool) -> None:
    rng = np.random.default_rng(seed)
    drawn = random_graph(rng)
    upper = {op.name: op.weights >> 4 for op in drawn.ops if isinstance(op, Convolution)}
    few = {name: np.sign(weights) for name, weights in upper.items()} if encoding in CRUMBS else upper
    held = few if encoding in FEW_BITS else {}
    ops = [dataclasses.replace(op, weights=held[op.name]) if op.name in held else op for op in drawn.ops]
    graph = IntegerGraph(tuple(ops), drawn.tensors)
    program = encoded(graph, board("microbit"), encoding, in_pairs)
    assert f"sums_{encoding}" in program.kernels
    images = random_images(rng, graph, 5)
    assert np.array_equal(host_logits(render(program, None), images, sanitize=True), run(graph, images))


@pytest.mark.parametrize("encoding", MEASURED)
@pytest.mark.parametrize("name", CORES)
def test_an_encoding_is_computed_and_predicted_on_every_core(name: str, encoding: Encoding) -> None:
    check(weights_for(encoding), board(name), encoding)


@pytest.mark.parametrize("encoding", MEASURED)
@pytest.mark.parametrize("name", ["attiny85", "arduino-uno"])
@pytest.mark.parametrize(("padding", "bias", "in_pairs"), [(0, 100, True), (0, 100, False), (1, WIDE_BIAS, True)])
def test_an_encoding_on_an_avr_has_every_variant(name: str, encoding: Encoding, padding: int, bias: int, in_pairs: bool) -> None:
    check(weights_for(encoding, padding, bias), board(name), encoding, in_pairs)


def check(graph: IntegerGraph, on: Board, encoding: Encoding, in_pairs: bool = True) -> None:
    if (reason := toolchain.obstacle(on)) is not None:
        pytest.skip(reason)
    program = encoded(graph, on, encoding, in_pairs)
    images = random_images(np.random.default_rng(0), graph, 5)
    firmware = build_firmware(render(program, None), on)
    simulation = simulate(firmware, images)
    expected = run(graph, images)
    assert len(np.unique(expected)) > 8  # neither constant nor clipped
    assert np.array_equal(simulation.logits, expected)
    prediction = predict_program(program, kernel_costs(on))
    assert abs(prediction.flash_bytes - firmware.flash_bytes) <= 32
    assert 0 <= prediction.ram_bytes - firmware.static_ram_bytes - simulation.stack_bytes <= 16
    assert prediction.least_ram_bytes <= prediction.ram_bytes
    if on.name not in WITHOUT_MULTIPLIER:
        assert prediction.cycles == pytest.approx(simulation.cycles.mean(), rel=0.12 if on.time_unit == "cycles" else 0.15)
