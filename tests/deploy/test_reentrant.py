"""Reentrant C: as many networks at a time as there are states, in turns, in threads, and on an AVR one within another."""

import re
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.boards import Board, board
from sparse_mcu.deploy.firmware import build_firmware
from sparse_mcu.deploy.generate import generate, render
from sparse_mcu.deploy.host import SANITIZERS, WARNINGS, host_logits
from sparse_mcu.deploy.kernel_costs import kernel_costs
from sparse_mcu.deploy.predict import candidates
from sparse_mcu.deploy.program import lower
from sparse_mcu.deploy.simulators import simulate
from sparse_mcu.deploy.source import CSource
from sparse_mcu.deploy.stream import streamable
from sparse_mcu.deploy.target import OPTIMISE, Target
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.quant.interpreter import run
from sparse_mcu.quant.random_graph import GraphSize, random_graph, random_images

TALL = GraphSize(layers=6, extent=14, channels=6)
UNO = board("arduino-uno")

IN_TURNS = """
#include "model.h"
#include <stdio.h>
int main(void)
{
    static model_state states[2];
    const int16_t *scores[2];
    for (;;) {
        for (int which = 0; which < 2; which++) {
            if (fread(PLACE(&states[which]), 1, PART_BYTES, stdin) != PART_BYTES) {
                return ferror(stdin);
            }
        }
        for (int which = 0; which < 2; which++) {
            scores[which] = RUN(&states[which]);
        }
        for (int which = 0; which < 2; which++) {
            if (scores[which] != 0) {
                fwrite(scores[which], sizeof(int16_t), MODEL_CLASSES, stdout);
            }
        }
    }
}
"""

IN_THREADS = """
#include "model.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
static uint8_t images[2][IMAGES][PARTS][PART_BYTES];
static int16_t scores[2][IMAGES][MODEL_CLASSES];
static void *work(void *argument)
{
    static model_state states[2];
    long which = (long)argument;
    for (int image = 0; image < IMAGES; image++) {
        const int16_t *found = 0;
        for (int part = 0; part < PARTS; part++) {
            memcpy(PLACE(&states[which]), images[which][image][part], PART_BYTES);
            found = RUN(&states[which]);
        }
        memcpy(scores[which][image], found, sizeof scores[which][image]);
    }
    return 0;
}
int main(void)
{
    pthread_t threads[2];
    if (fread(images, 1, sizeof images, stdin) != sizeof images) {
        return 1;
    }
    for (long which = 0; which < 2; which++) {
        pthread_create(&threads[which], 0, work, (void *)which);
    }
    for (int which = 0; which < 2; which++) {
        pthread_join(threads[which], 0);
    }
    return fwrite(scores, 1, sizeof scores, stdout) != sizeof scores;
}
"""

# A model of two images: while the first one runs, the second one begins and ends before an output that is each time another one.
NESTED = """
#include <string.h>
static model_state outer, inner;
static uint8_t images[2 * MODEL_INPUT_SIZE];
static int16_t scores[2 * MODEL_CLASSES];
static unsigned runs, outputs, total = 1, nested;
uint8_t *both_input(void) { return images; }
static void interrupt(void)
{
    if (!nested && outputs++ == runs % total) {
        nested = 1;
        memcpy(model_input(&inner), images + MODEL_INPUT_SIZE, MODEL_INPUT_SIZE);
        memcpy(scores + MODEL_CLASSES, model_run(&inner), 2 * MODEL_CLASSES);
        nested = 0;
    }
}
const int16_t *both_run(void)
{
    outputs = 0;
    memcpy(model_input(&outer), images, MODEL_INPUT_SIZE);
    const int16_t *found = model_run(&outer);
    memcpy(scores, found, 2 * MODEL_CLASSES);
    total = outputs;
    runs++;
    return scores;
}
"""


def streamed_graph(rng: np.random.Generator) -> IntegerGraph:
    graph = random_graph(rng, TALL)
    while not streamable(graph):
        graph = random_graph(rng, TALL)
    return graph


def reentrant(graph: IntegerGraph, target: Board, streamed: bool) -> CSource:
    return render(lower(graph, target, None, lines=streamable(graph) if streamed else ()), None, reentrant=True)


def parts(images: npt.NDArray[np.uint8], source: CSource) -> npt.NDArray[np.uint8]:
    """Images (N, C, H, W) as the model takes them: (N, parts, bytes)."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)).reshape(len(images), source.rows, -1)


def output(main: str, source: CSource, pixels: bytes, folder: Path, *options: str) -> npt.NDArray[np.int16]:
    """Compile ``main`` with the model, and return what it says of ``pixels``."""
    source.write(folder)
    (folder / "main.c").write_text(main)
    place, run_model = source.functions
    size = "MODEL_INPUT_SIZE" if source.rows == 1 else "MODEL_ROW_SIZE"
    names = (f"-DPLACE={place}", f"-DRUN={run_model}", f"-DPART_BYTES={size}", f"-I{folder}")
    files = (folder / "main.c", folder / "model.c", "-o", folder / "main")
    toolchain.run(["cc", "-std=c99", "-O2", *WARNINGS, *names, *options, *files])
    done = subprocess.run([folder / "main"], input=pixels, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, np.int16)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_two_states_in_turns_give_what_each_gives_alone(seed: int, streamed: bool, tmp_path: Path) -> None:
    """Row by row where rows are streamed, under the address and undefined-behaviour sanitizers."""
    rng = np.random.default_rng(seed)
    graph = streamed_graph(rng)
    source = reentrant(graph, board("microbit"), streamed)
    first, second = (random_images(rng, graph, 5) for _ in range(2))
    in_turns = np.stack([parts(first, source), parts(second, source)], axis=2)  # (N, parts, 2, bytes)
    logits = output(IN_TURNS, source, in_turns.tobytes(), tmp_path, *SANITIZERS).reshape(5, 2, graph.classes)
    assert np.array_equal(logits[:, 0], run(graph, first))
    assert np.array_equal(logits[:, 1], run(graph, second))


@pytest.mark.parametrize("streamed", [False, True])
def test_two_threads_share_nothing(streamed: bool, tmp_path: Path) -> None:
    """Under the sanitizer that finds what threads read and write at once."""
    rng = np.random.default_rng(7)
    graph = streamed_graph(rng)
    source = reentrant(graph, board("microbit"), streamed)
    images = random_images(rng, graph, 60)
    options = ("-D_POSIX_C_SOURCE=200809L", "-pthread", "-fsanitize=thread", "-DIMAGES=30", f"-DPARTS={source.rows}")
    logits = output(IN_THREADS, source, parts(images, source).tobytes(), tmp_path, *options)
    assert np.array_equal(logits.reshape(60, graph.classes), run(graph, images))


def test_a_call_may_interrupt_another_in_the_middle_of_a_layer_on_an_avr() -> None:
    """Where the variables of a layer are not the state's."""
    rng = np.random.default_rng(3)
    graph = streamed_graph(rng)
    images = random_images(rng, graph, 24)
    model = reentrant(graph, UNO, streamed=False)
    pixels = images[0].size
    macros = f"#define BOTH_INPUT_SIZE {2 * pixels}\n#define BOTH_CLASSES {2 * graph.classes}\n"
    functions = "uint8_t *both_input(void);\nconst int16_t *both_run(void);\n"
    interrupted = re.sub(r"(?=\bconv->sums\()", "interrupt();\n", model.source)
    assert interrupted.count("interrupt();") == 2
    whole = interrupted.replace('#include "model.h"', '#include "both.h"\nstatic void interrupt(void);') + NESTED
    firmware = build_firmware(CSource("both", model.header + macros + functions, whole), UNO)
    two = images.transpose(0, 2, 3, 1).reshape(12, 2 * pixels, 1, 1)  # channels, which come last
    found = simulate(firmware, two).logits
    assert np.array_equal(found.reshape(24, graph.classes), run(graph, images))


@pytest.mark.parametrize("optimise", OPTIMISE)
def test_every_form_of_a_layer_gives_the_same_with_a_state(optimise: str) -> None:
    for seed, name in enumerate(("arduino-uno", "attiny85", "microbit", "nucleo-f446", "ch32v003", "esp32-c3")):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng)
        images = random_images(rng, graph, 4)
        target = Target(board(name), optimise=optimise)  # type: ignore[arg-type]
        for program in candidates(graph, target, kernel_costs(target.board), ()):
            source = render(program, None, reentrant=True).with_one_state()
            assert np.array_equal(host_logits(source, images, sanitize=True), run(graph, images))


@pytest.mark.parametrize("name", ["arduino-uno", "microbit", "esp32-c3"])
def test_boards_run_a_network_with_a_state(name: str) -> None:
    rng = np.random.default_rng(5)
    graph = streamed_graph(rng)
    images = random_images(rng, graph, 3)
    for streamed in (False, True):
        source = reentrant(graph, board(name), streamed)
        firmware = build_firmware(source.with_one_state(), board(name))
        assert np.array_equal(simulate(firmware, images).logits, run(graph, images))
        declared = int(source.header.partition("_RAM_BYTES ")[2].split()[0])
        convolving = 30 if "PADDED 1" in source.source else 12  # on an AVR, where the variables of a layer stay besides
        assert firmware.static_ram_bytes == declared + (convolving if name == "arduino-uno" else 0)


def test_two_networks_have_types_of_their_own(tmp_path: Path) -> None:
    graphs = [streamed_graph(np.random.default_rng(seed)) for seed in (1, 2)]
    for name, graph in zip(("eye", "ear"), graphs, strict=True):
        render(lower(graph, UNO, None, lines=streamable(graph)), None, name, reentrant=True).write(tmp_path)
    (tmp_path / "main.c").write_text('#include "eye.h"\n#include "ear.h"\nstruct { eye_state eye; ear_state ear; } states;\n')
    toolchain.run(["cc", "-std=c99", "-pedantic", *WARNINGS, "-c", tmp_path / "main.c", "-o", tmp_path / "main.o"])


def test_the_default_has_variables_of_its_own() -> None:
    graph = random_graph(np.random.default_rng(0))
    source = generate(graph, Target(UNO))
    assert "model_state" not in source.header + source.source
    assert source.with_one_state() is source
