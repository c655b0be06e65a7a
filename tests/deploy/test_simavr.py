import dataclasses
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparse_mcu.deploy import simavr
from sparse_mcu.deploy.boards import Board, board
from sparse_mcu.deploy.firmware import build_firmware
from sparse_mcu.deploy.simavr import simulate
from sparse_mcu.deploy.simulation import CHUNK, FirmwareFault, Simulation
from sparse_mcu.deploy.source import CSource
from sparse_mcu.errors import ToolchainError

UNO = board("arduino-uno")
ONE_IMAGE = np.zeros((1, 1, 1, 1), np.uint8)

HandWritten = Callable[..., CSource]
Naked = Callable[[str], CSource]


def run(source: CSource, on: Board = UNO, images: np.ndarray = ONE_IMAGE, cycle_limit: int = 1_000_000) -> Simulation:
    return simulate(build_firmware(source, on), images, cycle_limit=cycle_limit)


def without_relaxation(on: Board) -> Board:
    """So that a call stays a call: the linker may turn it into an rcall, one cycle faster."""
    return dataclasses.replace(on, flags=tuple(flag for flag in on.flags if flag != "-mrelax"))


# Cycles


@pytest.mark.parametrize(
    ("name", "cycles", "stack_bytes"),
    [
        ("arduino-uno", 4 + 1 + 1 + 4, 2),  # call, ldi, ldi, ret
        ("atmega1284p", 4 + 1 + 1 + 4, 2),
        ("arduino-mega", 5 + 1 + 1 + 5, 3),  # a return address of three bytes
        ("attiny85", 3 + 1 + 1 + 4, 2),  # rcall: it has no call
    ],
)
def test_an_empty_model_takes_its_call_and_return_and_nothing_else(
    naked: Naked, name: str, cycles: int, stack_bytes: int
) -> None:
    simulation = run(naked(""), without_relaxation(board(name)))
    assert simulation.cycles.tolist() == [cycles]
    assert simulation.stack_bytes == stack_bytes


def test_a_loop_takes_the_cycles_counted_by_hand(naked: Naked) -> None:
    # ldi 1; 200 x (nop 1, dec 1, brne 2) less 1 for the last brne, which is not taken
    simulation = run(naked("ldi r18, 200\n1: nop\ndec r18\nbrne 1b"), without_relaxation(UNO))
    assert simulation.cycles.tolist() == [10 + 1 + 200 * 4 - 1]


# As the data sheet of the ATmega328P counts them (instruction set summary). X points to RAM, Z to the instructions themselves.
INSTRUCTIONS = {
    "nop": 1,
    "add r18, r19": 1,
    "adc r18, r19": 1,
    "movw r18, r20": 1,
    "mul r18, r19": 2,
    "muls r18, r19": 2,
    "mulsu r18, r19": 2,
    "fmul r18, r19": 2,
    "adiw r24, 1": 2,
    "sbiw r24, 1": 2,
    "asr r18": 1,
    "swap r18": 1,
    "ldi r18, 7": 1,
    "lds r18, logits": 2,
    "sts logits, r18": 2,
    "ld r18, X": 2,
    "ld r18, X+": 2,
    "ld r18, -X": 2,
    "ldd r18, Z+3": 2,
    "st X, r18": 2,
    "std Z+3, r18": 2,
    "lpm r18, Z": 3,
    "lpm r18, Z+": 3,
    "push r18\npop r18": 2 + 2,
    "rjmp .+0": 2,
    "jmp 1f\n1:": 3,
    "rcall 1f\nrjmp 2f\n1: ret\n2:": 3 + 4 + 2,
    "sez\nbrne .+0": 1 + 1,
    "sez\nbreq .+0": 1 + 2,
    "clr r18\nsbrs r18, 0\nnop": 1 + 1 + 1,
    "clr r18\nsbrc r18, 0\nnop": 1 + 2,
    "clr r18\nsbrc r18, 0\nlds r19, logits": 1 + 3,
    "cpse r18, r18\nnop": 2,
    "cpse r18, r18\nlds r19, logits": 3,
    "in r18, 0x3f": 1,
    "out 0x3f, r18": 1,
    "bst r18, 0\nbld r19, 0": 1 + 1,
}


def test_every_instruction_takes_the_cycles_of_the_data_sheet(hand_written: HandWritten) -> None:
    """The model runs 20 copies of the instruction that the image names; image 0 runs none, through the same dispatch."""
    repeat = 20
    pointers = "ldi r26, lo8(logits)\nldi r27, hi8(logits)\nldi r30, lo8(logits)\nldi r31, hi8(logits)\n"
    cases = ["", *("\n".join([text] * repeat) for text in INSTRUCTIONS)]
    functions = [
        f"__attribute__((naked)) static void case{i}(void) {{ __asm__ volatile({quote(pointers, case, 'clr r1', 'ret')}); }}"
        for i, case in enumerate(cases)
    ]
    table = ", ".join(f"case{i}" for i in range(len(cases)))
    functions.append(f"static void (*const cases[])(void) = {{ {table} }};")
    images = np.arange(len(cases), dtype=np.uint8).reshape(-1, 1, 1, 1)
    simulation = run(hand_written("cases[input[0]]();", "\n".join(functions), classes=16), without_relaxation(UNO), images)
    none, *cycles = simulation.cycles.astype(int).tolist()
    assert {text: (total - none) / repeat for text, total in zip(INSTRUCTIONS, cycles, strict=True)} == INSTRUCTIONS


def quote(*lines: str) -> str:
    """Assembly as a C string literal."""
    return '"' + "".join(line.strip() + r"\n" for text in lines for line in text.splitlines()) + '"'


# Stack


def test_saved_registers_count_with_the_return_address(naked: Naked) -> None:
    assert run(naked("\n".join(["push r18"] * 10 + ["pop r18"] * 10))).stack_bytes == 2 + 10


# Y = SP - 0x120, written as avr-gcc does: high byte first. In between the stack pointer is a page too low.
RESERVE = """
in r28, 0x3d
in r29, 0x3e
subi r28, lo8(0x120)
sbci r29, hi8(0x120)
out 0x3e, r29
out 0x3d, r28
"""
RELEASE = """
subi r28, lo8(-0x120)
sbci r29, hi8(-0x120)
out 0x3e, r29
out 0x3d, r28
"""


def test_a_frame_that_is_reserved_and_never_written_counts_exactly(naked: Naked) -> None:
    assert run(naked(RESERVE + RELEASE)).stack_bytes == 2 + 0x120


def test_what_is_written_below_the_stack_pointer_counts(naked: Naked) -> None:
    simulation = run(naked("in r26, 0x3d\nin r27, 0x3e\nsbiw r26, 9\nclr r18\nst X, r18"))
    assert simulation.stack_bytes == 2 + 10


def test_the_deepest_image_decides(hand_written: HandWritten) -> None:
    recursion = """
static __attribute__((noinline)) int16_t depth(uint8_t n) { return n == 0 ? 0 : (int16_t)(1 + depth(n - 1)); }
"""
    source = hand_written("logits[0] = depth(input[0]);", recursion)
    flags = (*UNO.flags, "-fno-optimize-sibling-calls")
    images = np.array([1, 50, 3], np.uint8).reshape(3, 1, 1, 1)
    board_ = dataclasses.replace(UNO, flags=flags)
    together = run(source, board_, images)
    assert together.logits[:, 0].tolist() == [1, 50, 3]
    assert together.stack_bytes == run(source, board_, images[1:2]).stack_bytes > run(source, board_, images[2:]).stack_bytes


# Results


def test_a_convolution_written_by_hand_gives_what_numpy_gives(hand_written: HandWritten) -> None:
    """Two channels, 5x4, every position of a 2x3 kernel a logit: the order of channels, rows and bytes all show."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 2, 5, 4), dtype=np.uint8)
    kernel = rng.integers(-100, 100, (2, 3, 2))  # (KH, KW, C)
    body = """
    int16_t *out = logits;
    for (uint8_t y = 0; y < 4; y++)
        for (uint8_t x = 0; x < 2; x++, out++) {
            *out = 0;
            for (uint8_t i = 0; i < 2; i++)
                for (uint8_t j = 0; j < 6; j++)
                    *out += input[((y + i) * 4 + x) * 2 + j] * kernel[i * 6 + j];
        }
"""
    constants = f"static const int8_t kernel[] = {{ {', '.join(map(str, kernel.ravel()))} }};"
    source = hand_written(body, constants, input_bytes=40, classes=8)

    windows = np.lib.stride_tricks.sliding_window_view(images.astype(int), (2, 3), axis=(2, 3))  # (N, C, 4, 2, KH, KW)
    expected = np.einsum("ncyxij,ijc->nyx", windows, kernel).astype(np.int16).reshape(7, 8)
    for name in ("arduino-uno", "arduino-mega", "atmega1284p"):
        np.testing.assert_array_equal(run(source, board(name), images).logits, expected)


def test_images_come_back_in_order_and_progress_ends_at_all_of_them(hand_written: HandWritten) -> None:
    count = 2 * CHUNK + 5
    images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
    seen: list[tuple[int, int]] = []
    firmware = build_firmware(hand_written("logits[0] = input[0] - 7;"), UNO)
    found = simulate(firmware, images, lambda done, total: seen.append((done, total)))
    assert found.logits[:, 0].tolist() == [i - 7 for i in range(count)]
    assert seen == [(CHUNK, count), (2 * CHUNK, count), (count, count)]


def test_an_image_of_another_size_is_refused(hand_written: HandWritten) -> None:
    firmware = build_firmware(hand_written(input_bytes=4), UNO)
    with pytest.raises(ValueError, match="4 bytes"):
        simulate(firmware, ONE_IMAGE)


# Faults of the program


@pytest.mark.parametrize(
    ("assembly", "message"),
    [
        ("1: rjmp 1b", "1000000 cycles, but the program is still running"),
        (".word 0x0001", "Invalid Opcode"),
        ("ldi r26, 0xff\nldi r27, 0x7f\nst X, r18", "Invalid write address"),
        ("sleep", "stopped at address"),
        ("jmp 0", "reset vector"),
        ("jmp 0x7ffe", "the program crashed"),
        ("1: rcall 1b", "the stack must stay above the variables"),
        ("clr r18\nout 0x3e, r18\nout 0x3d, r18", "the stack must stay above the variables"),
        ("jmp harness_stop", "must leave the stack as it was, but moved it by -2 bytes"),
        ("clr r24\nclr r25\nret", "logits must lie in RAM"),
    ],
)
def test_a_program_that_goes_astray_is_reported(naked: Naked, assembly: str, message: str) -> None:
    with pytest.raises(FirmwareFault, match=message):
        run(naked(assembly))


def test_the_message_names_the_image(hand_written: HandWritten) -> None:
    images = np.zeros((CHUNK + 9, 1, 1, 1), np.uint8)
    images[CHUNK + 6] = 1
    with pytest.raises(FirmwareFault, match=f"^image {CHUNK + 6} on the simulated atmega328p: "):
        run(hand_written("while (input[0]) {}"), images=images)


def test_logits_before_the_last_row_are_reported(hand_written: HandWritten) -> None:
    whole = hand_written("logits[0] = 1;")
    names = {"input(": "row(", "run(": "push_row(", "INPUT_SIZE": "ROW_SIZE"}
    texts = [
        functools.reduce(lambda text, name: text.replace(name, names[name]), names, text) for text in (whole.header, whole.source)
    ]
    rows = CSource(whole.name, *texts, rows=2)
    with pytest.raises(FirmwareFault, match="no logits before the last row"):
        run(rows, images=np.zeros((1, 1, 2, 1), np.uint8))


# The runner


def test_two_processes_may_build_the_runner_at_once(tmp_path: Path) -> None:
    script = "from sparse_mcu.deploy.simavr import runner; print(runner())"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    paths = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    (path,) = paths
    assert [entry.name for entry in (tmp_path / "sparse-mcu").iterdir()] == [Path(path.strip()).name]
    assert subprocess.run([path.strip()], capture_output=True, text=True).stderr.startswith("usage: ")


def test_a_cache_that_cannot_be_written_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with pytest.raises(
        ToolchainError, match=r"/dev/null/sparse-mcu, which cannot be written \(Not a directory\); set XDG_CACHE_HOME"
    ):
        simavr.runner()


def test_the_runner_has_no_warnings(tmp_path: Path) -> None:
    strict = ["-Wconversion", "-Wshadow", "-fsanitize=undefined,address"]
    command = ["cc", *simavr.RUNNER_OPTIONS, *strict, simavr.RUNNER_SOURCE, "-o", tmp_path / "runner", "-lsimavr"]
    assert subprocess.run(command, capture_output=True, text=True).stderr == ""


def test_reports_name_the_simulator() -> None:
    assert re.fullmatch(r"simavr \d+\.\d+", simavr.version())
