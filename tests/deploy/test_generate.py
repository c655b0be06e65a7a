"""The C of reference networks is compared with tests/deploy/golden. After an intended change run this file to rewrite them."""

import dataclasses
import math
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.generate import generate
from sparse_mcu.deploy.host import host_logits
from sparse_mcu.deploy.predict import predict
from sparse_mcu.deploy.target import Target
from sparse_mcu.errors import BoardError, UserError
from sparse_mcu.quant.graph import INPUT, Add, AveragePool2d, Conv2d, DepthwiseConv2d, IntegerGraph, MaxPool2d, TensorType, digest
from sparse_mcu.quant.interpreter import run
from sparse_mcu.quant.random_graph import random_graph, random_images

GOLDEN = Path(__file__).with_name("golden")
UNO = board("arduino-uno")


def weights(shape: tuple[int, ...], every: int) -> np.ndarray:
    """Numbers of either sign, of which one in ``every`` is not zero; the same on every machine."""
    index = np.arange(math.prod(shape))
    return np.where(index % every == 0, index * 37 % 201 - 100, 0).astype(np.int8).reshape(shape)


def channels(count: int, taps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Biases, multipliers and shifts that keep the outputs of so many taps in range."""
    index = np.arange(count, dtype=np.int32)
    return index * 700 - 900, 128 + index * 9 % 120, np.full(count, round(13 + math.log2(taps) / 2), np.int32)


def conv(name: str, source: str, shape: tuple[int, int, int, int], every: int = 1, **geometry: tuple[int, ...]) -> Conv2d:
    return Conv2d(name, (source,), weights(shape, every), *channels(shape[0], math.prod(shape[1:]) / every), **geometry)  # type: ignore[arg-type]


def uint8(*shape: int) -> TensorType:
    return TensorType((shape[0], shape[1], shape[2]), "uint8", 0.05)


def int16(count: int) -> TensorType:
    return TensorType((1, 1, count), "int16", 0.01)


def digits() -> IntegerGraph:
    """A padded convolution, a pool, a sparse 1x1 convolution, a fully connected layer."""
    return IntegerGraph(
        (
            conv("block0.conv0", INPUT, (6, 3, 3, 1), padding=(1, 1, 1, 1)),
            MaxPool2d("block0.pool", ("block0.conv0",), (2, 2)),
            conv("block1.conv0", "block0.pool", (8, 1, 1, 6), every=4),
            conv("logits", "block1.conv0", (10, 4, 4, 8), every=3),
        ),
        {
            INPUT: uint8(8, 8, 1),
            "block0.conv0": uint8(8, 8, 6),
            "block0.pool": uint8(4, 4, 6),
            "block1.conv0": uint8(4, 4, 8),
            "logits": int16(10),
        },
    )


def residual() -> IntegerGraph:
    """A residual connection around a depthwise and a 1x1 convolution, a global average."""
    depthwise = DepthwiseConv2d("depthwise", ("stem",), weights((3, 3, 5), 1), *channels(5, 9), padding=(1, 1, 1, 1))
    return IntegerGraph(
        (
            conv("stem", INPUT, (5, 2, 2, 3), stride=(2, 2)),
            depthwise,
            conv("pointwise", "depthwise", (5, 1, 1, 5)),
            Add("add", ("stem", "pointwise"), (100, 180), 8),
            AveragePool2d("average", ("add",), (5, 5), 164, 12),
            conv("logits", "average", (3, 1, 1, 5)),
        ),
        {
            INPUT: uint8(10, 10, 3),
            "stem": uint8(5, 5, 5),
            "depthwise": uint8(5, 5, 5),
            "pointwise": uint8(5, 5, 5),
            "add": uint8(5, 5, 5),
            "average": uint8(1, 1, 5),
            "logits": int16(3),
        },
    )


def signal() -> IntegerGraph:
    """Convolutions along time, the outputs of two blocks summed, a bias that needs four bytes."""
    first = conv("first", INPUT, (4, 1, 5, 2))
    first.bias[0] = 1 << 23
    first.multiplier[0], first.shift[0] = 1, 20
    return IntegerGraph(
        (
            first,
            MaxPool2d("pool", ("first",), (1, 2)),
            conv("second", "pool", (4, 1, 3, 4), padding=(0, 1, 0, 1), stride=(1, 2)),
            conv("early", "first", (3, 1, 20, 4), every=7),
            conv("late", "second", (3, 1, 5, 4), every=9),
            Add("logits", ("early", "late"), (20000, 12345), 15),
        ),
        {
            INPUT: uint8(1, 24, 2),
            "first": uint8(1, 20, 4),
            "pool": uint8(1, 10, 4),
            "second": uint8(1, 5, 4),
            "early": int16(3),
            "late": int16(3),
            "logits": int16(3),
        },
    )


REFERENCES = {"digits": digits, "residual": residual, "signal": signal}


def generated(name: str) -> dict[str, str]:
    """The golden files of a reference network by file name, without the version of sparse-mcu."""
    source = generate(REFERENCES[name](), Target(UNO), name)
    texts = {f"{name}.h": source.header, f"{name}.c": source.source}
    return {file: text.replace(f"sparse-mcu {version('sparse-mcu')}", "sparse-mcu VERSION") for file, text in texts.items()}


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_networks_are_generated_as_ever(name: str) -> None:
    for file, text in generated(name).items():
        assert text == (GOLDEN / file).read_text(), f"{file} has changed; if that is meant, run tests/deploy/test_generate.py"


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_networks_compute_what_the_interpreter_does(name: str) -> None:
    graph = REFERENCES[name]()
    images = random_images(np.random.default_rng(0), graph, 10)
    logits = run(graph, images)
    assert len(np.unique(logits)) > 10  # neither constant nor clipped
    assert np.array_equal(host_logits(generate(graph, Target(UNO), name), images, sanitize=True), logits)


def test_the_references_together_use_every_kernel() -> None:
    texts = "".join(generate(REFERENCES[name](), Target(UNO)).source for name in REFERENCES)
    for kernel in ("sums_pairs", "sums_bitmap", "sums_depthwise", "requantise", "average_pool", "add"):
        assert re.search(rf"^KERNEL [^(]*\b{kernel}\(", texts, re.MULTILINE)


def test_only_needed_kernels_are_pasted() -> None:
    source = generate(digits(), Target(UNO)).source
    assert "average_pool" not in source
    assert "KERNEL void add(" not in source


def test_the_head_tells_what_was_made_and_what_it_takes() -> None:
    graph = digits()
    prediction = predict(graph, Target(UNO))
    head = generate(graph, Target(UNO)).source.partition("*/")[0]
    assert f"sparse-mcu {version('sparse-mcu')}; do not edit" in head
    assert digest(graph) in head
    assert "ATmega328P" in head
    for figure in (prediction.flash_bytes, prediction.ram_bytes, prediction.cycles):
        assert f"{figure:,}" in head


def test_the_header_offers_three_sizes_and_two_functions() -> None:
    header = generate(digits(), Target(UNO), "digits").header
    macros = dict(re.findall(r"#define (DIGITS_[A-Z_]+) (\d+)", header))
    assert macros.keys() == {"DIGITS_INPUT_SIZE", "DIGITS_CLASSES", "DIGITS_RAM_BYTES"}
    assert (macros["DIGITS_INPUT_SIZE"], macros["DIGITS_CLASSES"]) == ("64", "10")
    assert re.findall(r"(\w+)\(void\);", header) == ["digits_input", "digits_run"]


def test_a_board_that_was_not_measured_gets_the_same_code_without_predictions() -> None:
    measured = board("bluepill")
    source = generate(residual(), Target(dataclasses.replace(measured, core="cortex-m33"))).source
    assert "predicted" not in source
    with pytest.raises(BoardError, match="bluepill has a cortex-m33"):
        generate(residual(), Target(dataclasses.replace(measured, core="cortex-m33"), optimise="size"))
    assert source.partition("*/")[2] == generate(residual(), Target(measured)).source.partition("*/")[2]


@pytest.mark.parametrize("name", ["", "Model", "2nd", "my-model", "a b", "übung"])
def test_a_name_that_c_would_not_take_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="C identifier"):
        generate(digits(), Target(UNO), name)


def test_no_line_is_too_long_to_read() -> None:
    for seed in range(5):
        source = generate(random_graph(np.random.default_rng(seed)), Target(UNO))
        assert max(map(len, source.source.splitlines())) <= 140
        assert "\t" not in source.source


if __name__ == "__main__":
    for reference in REFERENCES:
        for golden_file, golden_text in generated(reference).items():
            (GOLDEN / golden_file).write_text(golden_text)
