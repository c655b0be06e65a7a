import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest

from sparse_mcu.deploy import toolchain, verification
from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.predict import predict
from sparse_mcu.deploy.source import CSource
from sparse_mcu.deploy.target import Target
from sparse_mcu.deploy.verification import verify
from sparse_mcu.errors import BoardError, ToolchainError
from sparse_mcu.quant import interpreter
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.quant.macs import macs, nonzero_macs
from sparse_mcu.quant.random_graph import GraphSize, random_graph, random_images

UNO = board("arduino-uno")
ISSUE_KEYS = {
    *("test_accuracy", "mismatches", "flash_bytes", "ram_bytes", "cycles", "macs", "nonzero_macs"),
    *("predicted_flash_bytes", "predicted_ram_bytes", "predicted_cycles"),
}
SMALL = GraphSize(layers=4, extent=7, channels=5, classes=4)
HandWritten = Callable[..., CSource]


def example(seed: int, images: int = 6) -> tuple[IntegerGraph, np.ndarray, np.ndarray]:
    """A random graph, images, and labels of which the last is wrong."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, SMALL)
    pixels = random_images(rng, graph, images)
    labels = interpreter.run(graph, pixels).argmax(axis=1)
    labels[-1] = (labels[-1] + 1) % graph.classes
    return graph, pixels, labels


UNO_GRAPH, UNO_IMAGES, UNO_LABELS = example(0)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_do_on_the_board_what_was_predicted(seed: int) -> None:
    graph, images, labels = example(seed)
    found = verify(graph, Target(UNO), images, labels)
    measured = found.measured
    assert measured is not None and found.not_simulated is None
    assert found.mismatches == 0
    assert found.numpy_accuracy == found.host_accuracy == found.test_accuracy == measured.accuracy == 5 / 6
    assert 0 <= found.predicted_ram_bytes - measured.ram_bytes <= 32
    assert abs(found.predicted_flash_bytes / measured.flash_bytes - 1) <= 0.05
    assert measured.cycles <= measured.max_cycles
    assert measured.milliseconds == pytest.approx(measured.cycles / 16_000, rel=1e-3)
    assert (found.macs, found.nonzero_macs) == (macs(graph), nonzero_macs(graph))


def test_the_json_has_the_figures_that_scripts_read() -> None:
    found = verify(UNO_GRAPH, Target(UNO), UNO_IMAGES, UNO_LABELS)
    flat = json.loads(json.dumps(found.to_json()))
    assert flat.keys() >= ISSUE_KEYS
    assert flat["simulated"] is True and flat["not_simulated"] is None
    assert flat["compiler"].startswith("avr-gcc") and flat["simulator"].startswith("simavr")
    prediction = predict(UNO_GRAPH, Target(UNO))
    assert flat["predicted_cycles"] == prediction.cycles


def test_the_board_may_run_the_first_images_alone() -> None:
    found = verify(UNO_GRAPH, Target(UNO), UNO_IMAGES, UNO_LABELS, simulated=2)
    whole = verify(UNO_GRAPH, Target(UNO), UNO_IMAGES, UNO_LABELS)
    assert found.measured is not None and whole.measured is not None
    assert (found.images, found.measured.simulated_images, whole.measured.simulated_images) == (6, 2, 6)
    assert found.mismatches == 0 and found.test_accuracy == whole.test_accuracy == found.host_accuracy
    assert found.measured.accuracy == np.mean(interpreter.run(UNO_GRAPH, UNO_IMAGES[:2]).argmax(1) == UNO_LABELS[:2])
    assert found.to_json()["simulated_images"] == 2


def test_every_logit_that_differs_anywhere_counts_once(hand_written: HandWritten, monkeypatch: pytest.MonkeyPatch) -> None:
    """C that says 1, 0, 0... on the board and 0, 0, 0... on this machine."""
    body = "#ifdef __AVR__\n    logits[0] = 1;\n#endif"
    wrong = hand_written(body, input_bytes=UNO_IMAGES[0].size, classes=UNO_GRAPH.classes)
    monkeypatch.setattr(verification, "generate", lambda graph, target, reentrant: wrong)
    found = verify(UNO_GRAPH, Target(UNO), UNO_IMAGES, UNO_LABELS)
    reference = interpreter.run(UNO_GRAPH, UNO_IMAGES)
    differs = reference != 0
    differs[:, 0] = True  # the board or this machine is wrong, whatever the reference is
    assert found.mismatches == differs.sum()


def test_without_a_simulator_the_c_is_checked_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "obstacle", lambda target: "no simulator here")
    found = verify(UNO_GRAPH, Target(UNO), UNO_IMAGES, UNO_LABELS)
    assert found.measured is None and found.not_simulated == "no simulator here"
    assert found.mismatches == 0 and found.test_accuracy == found.host_accuracy == 5 / 6
    flat = found.to_json()
    assert flat.keys() >= ISSUE_KEYS
    assert flat["simulated"] is False and flat["flash_bytes"] is None and flat["predicted_flash_bytes"] > 0


def test_without_any_compiler_nothing_can_be_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolchainError, match="checking C on this machine needs cc.*apt-get install gcc"):
        verify(UNO_GRAPH, Target(UNO), UNO_IMAGES, UNO_LABELS)


@pytest.mark.parametrize("name", ["arduino-mega", "atmega1284p"])
def test_other_avrs_agree_too(name: str) -> None:
    found = verify(UNO_GRAPH, Target(board(name)), UNO_IMAGES, UNO_LABELS)
    assert found.measured is not None and found.mismatches == 0


@pytest.mark.parametrize(("memory", "title"), [("ram_bytes", "RAM"), ("flash_bytes", "flash")])
def test_a_network_that_does_not_fit_its_board_says_what_it_needs(memory: str, title: str) -> None:
    needed = getattr(predict(UNO_GRAPH, Target(UNO)), memory)
    small = dataclasses.replace(UNO, **{memory: needed - 1})
    with pytest.raises(BoardError, match=f"needs {needed} bytes of {title} and arduino-uno has {needed - 1}"):
        verify(UNO_GRAPH, Target(small), UNO_IMAGES, UNO_LABELS)


def test_a_network_that_just_fits_is_verified() -> None:
    just = dataclasses.replace(UNO, ram_bytes=predict(UNO_GRAPH, Target(UNO)).ram_bytes)
    assert verify(UNO_GRAPH, Target(just), UNO_IMAGES, UNO_LABELS).mismatches == 0


@pytest.mark.parametrize("name", ["microbit", "rp2040", "esp32-c3"])
def test_boards_in_qemu_agree_and_count_instructions(name: str) -> None:
    found = verify(UNO_GRAPH, Target(board(name)), UNO_IMAGES, UNO_LABELS)
    measured = found.measured
    assert measured is not None and found.mismatches == 0
    assert 0 <= found.predicted_ram_bytes - measured.ram_bytes <= 32
    assert abs(found.predicted_flash_bytes - measured.flash_bytes) <= 24
    flat = found.to_json()
    assert {"instructions", "max_instructions", "predicted_instructions"} <= flat.keys()
    assert flat["time_unit"] == "instructions"
    assert [key for key in flat if "cycles" in key] == ["core_cycles"]
    if name == "esp32-c3":  # whose timings no manual tells
        assert (flat["core_cycles"], flat["milliseconds"]) == (None, None)
    else:
        assert measured.cycles < flat["core_cycles"] < 3 * measured.cycles
        assert flat["milliseconds"] == pytest.approx(1e3 * flat["core_cycles"] / board(name).clock_hz, rel=1e-3)
    assert measured.cycles <= measured.max_cycles
    assert measured.simulator.startswith("QEMU")
