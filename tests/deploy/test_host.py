from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.generate import generate
from sparse_mcu.deploy.host import HostFault, host_logits
from sparse_mcu.deploy.source import CSource
from sparse_mcu.deploy.target import Target
from sparse_mcu.errors import ToolchainError
from sparse_mcu.quant.interpreter import run
from sparse_mcu.quant.random_graph import random_graph, random_images

HandWritten = Callable[..., CSource]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_generated_c_computes_what_the_interpreter_does(seed: int) -> None:
    """Every operation, encoding and plan, under the address and undefined-behaviour sanitizers."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    images = random_images(rng, graph, 10)
    logits = host_logits(generate(graph, Target(board("arduino-uno"))), images, sanitize=True)
    assert np.array_equal(logits, run(graph, images))


def test_images_are_read_channels_last(hand_written: HandWritten) -> None:
    copy = hand_written("for (int i = 0; i < 6; i++) logits[i] = input[i];", input_bytes=6, classes=6)
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 1, 3)  # two channels of three columns
    assert host_logits(copy, image).tolist() == [[0, 3, 1, 4, 2, 5]]


def test_a_crash_is_a_fault(hand_written: HandWritten) -> None:
    crash = hand_written("__builtin_trap();")
    with pytest.raises(HostFault, match="ended with status"):
        host_logits(crash, np.zeros((1, 1, 1, 1), np.uint8))


def test_a_sanitizer_stops_at_what_c_does_not_define(hand_written: HandWritten) -> None:
    stray = hand_written("logits[input[0]] = 1;", classes=2)
    image = np.full((1, 1, 1, 1), 2, np.uint8)
    with pytest.raises(HostFault, match="out of bounds"):
        host_logits(stray, image, sanitize=True)


def test_a_missing_compiler_is_named_with_its_package(hand_written: HandWritten, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolchainError, match="gcc"):
        host_logits(hand_written(), np.zeros((1, 1, 1, 1), np.uint8))
