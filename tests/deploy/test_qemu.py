"""Programs of a core count instructions by its own instruction set: the loops below are counted by hand."""

import dataclasses
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sparse_mcu.deploy import qemu, toolchain
from sparse_mcu.deploy.boards import Board, board
from sparse_mcu.deploy.firmware import build_firmware
from sparse_mcu.deploy.generate import generate
from sparse_mcu.deploy.qemu import core_cycles, instructions, simulate, version
from sparse_mcu.deploy.simulation import CHUNK, FirmwareFault, Simulation
from sparse_mcu.deploy.source import CSource
from sparse_mcu.deploy.target import Target
from sparse_mcu.errors import BoardError, ToolchainError
from sparse_mcu.quant import interpreter
from sparse_mcu.quant.random_graph import GraphSize, random_graph, random_images

HandWritten = Callable[..., CSource]
CORES = ("microbit", "bluepill", "nucleo-f446", "ch32v003", "esp32-c3")
BOARDS = {name: board(name) for name in CORES}
MICROBIT, ESP32, CH32 = BOARDS["microbit"], BOARDS["esp32-c3"], BOARDS["ch32v003"]
ONE_IMAGE = np.zeros((1, 1, 1, 1), np.uint8)

pytestmark = [
    pytest.mark.skipif(line is not None, reason=str(line))
    for line in map(toolchain.obstacle, (MICROBIT, ESP32))
    if line is not None
]


def run(source: CSource, on: Board = MICROBIT, images: np.ndarray = ONE_IMAGE) -> Simulation:
    return simulate(build_firmware(source, on), images, time_limit_s=60)


def assembly(hand_written: HandWritten, arm: str, riscv: str) -> CSource:
    """A model that consists of instructions, one or two more for the address of the logits, and the return: see ``around``."""
    lines = {
        "__arm__": f".syntax unified\n{arm}\nldr r0, =logits\nbx lr\n.pool",
        "__riscv": f"{riscv}\nlui a0, %hi(logits)\naddi a0, a0, %lo(logits)\nret",
    }
    model = hand_written()
    functions = model.source[: model.source.index("const int16_t *model_run")]
    bodies = "\n".join(f"#ifdef {macro}\n__asm__ volatile({quote(text)});\n#endif" for macro, text in lines.items())
    run = f"__attribute__((naked)) const int16_t *model_run(void)\n{{\n{bodies}\n}}\n"
    return CSource(model.name, model.header, functions + run)


def around(on: Board) -> int:
    """Instructions of such a model besides its own: the call, the address, the return."""
    return 1 + {"arm-none-eabi-gcc": 1, "riscv64-unknown-elf-gcc": 2}[on.compiler] + 1


def quote(text: str) -> str:
    return '"' + "".join(line.strip() + r"\n" for line in text.splitlines()) + '"'


# Instructions


@pytest.mark.parametrize("name", CORES)
def test_an_empty_model_takes_its_call_and_its_return(hand_written: HandWritten, name: str) -> None:
    simulation = run(assembly(hand_written, "", ""), BOARDS[name])
    assert simulation.cycles.tolist() == [around(BOARDS[name])]
    assert simulation.stack_bytes == 0


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("turns", [1, 100_000, 20_000_000])
def test_a_loop_takes_the_instructions_counted_by_hand(hand_written: HandWritten, name: str, turns: int) -> None:
    """Two instructions a turn; two more to load the register, on Arm from a literal that must be jumped over."""
    arm = f"ldr r1, 1f\n2: subs r1, #1\nbne 2b\nb 3f\n.align 2\n1: .word {turns}\n3:"
    riscv = f"lui t0, %hi({turns})\naddi t0, t0, %lo({turns})\n2: addi t0, t0, -1\nbnez t0, 2b"
    simulation = run(assembly(hand_written, arm, riscv), BOARDS[name])
    assert simulation.cycles.tolist() == [around(BOARDS[name]) + 2 + 2 * turns]


@pytest.mark.parametrize("per_instruction", [Fraction(256, 125), Fraction(16, 5), Fraction(1)])
def test_a_tick_more_or_less_does_not_change_the_count(per_instruction: Fraction) -> None:
    counts = np.array([2, 3, 1000, 999_999, 1_000_000_007], np.uint64)
    exact = [(int(count) + 1) * per_instruction for count in counts]  # the one that reads the timer is in it
    slack = 0 if per_instruction == 1 else 1
    for off in range(-slack, slack + 1):
        # A timer shows whole ticks: those begun when it is read less those begun before.
        ticks = np.array([int(ticks) + off for ticks in exact], np.uint32)
        if off >= 0:
            assert instructions(ticks, per_instruction).tolist() == counts.tolist()


# Cycles by the manuals: a call (blx), the address of the logits (a load), and the return (bx) are around what is counted by hand.

AROUND = {"microbit": 3 + 2 + 3, "rp2040": 2 + 2 + 2, "bluepill": 3 + 2 + 3, "nucleo-f446": 3 + 2 + 3}
BOTH = ("bluepill", "nucleo-f446")
COUNTED_BY_HAND: list[tuple[str, dict[str, int]]] = [
    ("", dict.fromkeys(AROUND, 0)),
    ("movs r1, #1\nadds r1, r1, r1\nmuls r1, r1, r1\nuxtb r1, r1\ncmp r1, #3", dict.fromkeys(AROUND, 5)),
    # A branch that is taken nine times of ten, and one that always is.
    (
        "movs r1, #10\n2: subs r1, #1\nbne 2b\nb 3f\nnop\n3: nop",
        {"microbit": 1 + 10 + 9 * 3 + 1 + 3 + 1, "rp2040": 1 + 10 + 9 * 2 + 1 + 2 + 1} | dict.fromkeys(BOTH, 1 + 10 + 28 + 3 + 1),
    ),
    # A function that keeps two registers: call 4, push 1 + 2, move 1, pop 4 + 2.
    (
        "mov r3, lr\nbl 2f\nmov lr, r3\nb 3f\n2: push {r4, lr}\nmovs r1, #1\npop {r4, pc}\n3: nop",
        {"microbit": 1 + 4 + 3 + 1 + 6 + 1 + 3 + 1, "rp2040": 1 + 3 + 3 + 1 + 5 + 1 + 2 + 1}
        | dict.fromkeys(BOTH, 1 + 3 + 3 + 1 + 5 + 1 + 3 + 1),
    ),
    # Two loads, of which the second waits for the first or does not; a store at a constant and one at a register.
    ("mov r1, sp\nldr r2, [r1]\nldr r3, [r1, #4]\nnop", {"microbit": 6, "rp2040": 6} | dict.fromkeys(BOTH, 1 + 2 + 1 + 1)),
    (
        "mov r1, sp\nstr r1, [r1]\nldr r2, [r1]\nldr r3, [r2]\nnop",
        {"microbit": 8, "rp2040": 8} | dict.fromkeys(BOTH, 1 + 1 + 1 + 2 + 1),
    ),
    ("mov r1, sp\nmovs r2, #0\nstr r2, [r1, r2]", {"microbit": 4, "rp2040": 4} | dict.fromkeys(BOTH, 1 + 1 + 2)),
    ("push {r1, r2}\nmov r1, sp\nldm r1!, {r2, r3}\nadd sp, #8", {"microbit": 8, "rp2040": 8} | dict.fromkeys(BOTH, 8)),
    # What only the larger cores have.
    ("movs r1, #7\nmovs r2, #9\nmla r3, r1, r2, r1", {"bluepill": 2 + 2, "nucleo-f446": 2 + 1}),
    ("movs r1, #7\nmovs r2, #9\numull r2, r3, r1, r2", {"bluepill": 2 + 5, "nucleo-f446": 2 + 1}),
    ("movs r1, #7\nmovs r2, #9\nudiv r3, r1, r2", dict.fromkeys(BOTH, 2 + 12)),
    ("movs r1, #1\ncbz r1, 3f\ncbnz r1, 3f\nnop\n3: nop", dict.fromkeys(BOTH, 1 + 1 + 3 + 1)),
    ("movs r1, #1\nmovs r2, #2\nsmlad r3, r1, r2, r1\nsmlabb r3, r1, r2, r1", {"nucleo-f446": 4}),
]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [(name, text, cycles) for text, by_board in COUNTED_BY_HAND for name, cycles in by_board.items()],
)
def test_cycles_are_those_of_the_cores_manual(hand_written: HandWritten, name: str, text: str, expected: int) -> None:
    firmware = build_firmware(assembly(hand_written, text, ""), board(name))
    images = np.zeros((2, 1, 1, 1), np.uint8)
    cycles = core_cycles(firmware, images)
    assert cycles is not None and cycles.tolist() == [AROUND[name] + expected] * 2


def test_of_other_cores_no_cycles_are_known(hand_written: HandWritten) -> None:
    firmware = build_firmware(assembly(hand_written, "", ""), ESP32)
    assert core_cycles(firmware, ONE_IMAGE) is None


def test_where_qemu_takes_no_plugin_no_cycles_are_known(
    hand_written: HandWritten, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.c"
    broken.write_text("int qemu_plugin_version = 1000;\n")
    monkeypatch.setattr(qemu, "PLUGIN", broken)
    firmware = build_firmware(assembly(hand_written, "", ""), MICROBIT)
    assert core_cycles(firmware, ONE_IMAGE) is None


# Stack


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("words", [1, 100])
def test_what_is_pushed_counts_and_nothing_else(hand_written: HandWritten, name: str, words: int) -> None:
    arm = "push {r4}\n" * words + f"add sp, #{4 * words}"
    riscv = "addi sp, sp, -4\nsw t0, 0(sp)\n" * words + f"addi sp, sp, {4 * words}"
    assert run(assembly(hand_written, arm, riscv), BOARDS[name]).stack_bytes == 4 * words


def test_the_deepest_image_decides(hand_written: HandWritten) -> None:
    recursion = (
        "static __attribute__((noinline)) int16_t depth(volatile uint8_t n) { return n == 0 ? 0 : (int16_t)(1 + depth(n - 1)); }"
    )
    source = hand_written("logits[0] = depth(input[0]);", recursion)
    images = np.array([1, 50, 3], np.uint8).reshape(3, 1, 1, 1)
    together = run(source, images=images)
    assert together.logits[:, 0].tolist() == [1, 50, 3]
    assert together.stack_bytes == run(source, images=images[1:2]).stack_bytes > run(source, images=images[2:]).stack_bytes


# Sizes


@pytest.mark.parametrize("name", CORES)
def test_variables_and_constants_count_byte_by_byte(hand_written: HandWritten, name: str) -> None:
    body, constants = "logits[0] = table[input[0]];", "static const uint8_t table[{}] = {{ 1 }};"
    small = build_firmware(hand_written(body, constants.format(4), input_bytes=4), BOARDS[name])
    large = build_firmware(hand_written(body, constants.format(404), input_bytes=104), BOARDS[name])
    assert large.flash_bytes - small.flash_bytes == 400
    assert large.static_ram_bytes - small.static_ram_bytes == 100
    assert small.static_ram_bytes in (4 + 2, 4 + 4)  # input and logits, which begin at a whole word on RISC-V
    assert (large.input_bytes, large.classes) == (104, 1)


@pytest.mark.parametrize("name", CORES)
def test_what_the_compiler_calls_counts_as_the_models(hand_written: HandWritten, name: str) -> None:
    """memcpy is in no program but those whose model calls it; a division is in libgcc where the core has none."""
    source = hand_written("__builtin_memcpy(logits, input, sizeof logits);", input_bytes=400, classes=200)
    copying = build_firmware(source, BOARDS[name]).flash_bytes
    moving = build_firmware(hand_written("logits[0] = input[0];", input_bytes=400, classes=200), BOARDS[name]).flash_bytes
    assert 12 <= copying - moving <= 60
    simulation = simulate(build_firmware(source, BOARDS[name]), np.full((1, 1, 20, 20), 3, np.uint8))
    assert (simulation.logits == 0x303).all()


def test_a_program_that_does_not_fit_names_the_memory(hand_written: HandWritten) -> None:
    with pytest.raises(BoardError, match="needs 2052 bytes of RAM for variables and ch32v003 has 2048"):
        build_firmware(hand_written(input_bytes=2048), CH32)


def test_the_small_risc_v_uses_the_small_register_file(tmp_path: Path) -> None:
    """QEMU lets a program of RV32E have all 32 registers, so the compiler is looked at instead."""
    rng = np.random.default_rng(0)
    _, model = generate(random_graph(rng), Target(CH32)).write(tmp_path)
    listing = toolchain.run([CH32.compiler, *CH32.flags, "-S", model, "-o", "-"])
    registers = set(re.findall(r"\b[ast]\d+\b", listing))
    assert {"a0", "a5", "s0", "t0"} <= registers
    assert not registers & {"a6", "a7", *(f"s{n}" for n in range(2, 12)), *(f"t{n}" for n in range(3, 7))}


def test_the_small_risc_v_has_no_multiplier(hand_written: HandWritten) -> None:
    source = assembly(hand_written, "", ".option arch, +m\nmul a1, a1, a1")
    assert run(source, ESP32).cycles.tolist() == [around(ESP32) + 1]
    with pytest.raises(FirmwareFault, match="the program crashed"):
        run(source, CH32)


# Results


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("seed", range(2))
def test_random_networks_give_what_the_interpreter_gives(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, GraphSize(layers=4, extent=8, channels=5))
    images = random_images(rng, graph, 8)
    simulation = simulate(build_firmware(generate(graph, Target(BOARDS[name])), BOARDS[name]), images)
    np.testing.assert_array_equal(simulation.logits, interpreter.run(graph, images))


def test_images_come_back_in_order_and_progress_ends_at_all_of_them(hand_written: HandWritten) -> None:
    count = CHUNK + 5
    images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
    seen: list[tuple[int, int]] = []
    firmware = build_firmware(hand_written("logits[0] = input[0] - 7;"), ESP32)
    found = simulate(firmware, images, lambda done, total: seen.append((done, total)))
    assert found.logits[:, 0].tolist() == [i - 7 for i in range(count)]
    assert seen == [(CHUNK, count), (count, count)]


def test_an_image_of_another_size_is_refused(hand_written: HandWritten) -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        simulate(build_firmware(hand_written(input_bytes=4), MICROBIT), ONE_IMAGE)


# Faults of the program


@pytest.mark.parametrize("on", [MICROBIT, BOARDS["bluepill"], ESP32, CH32], ids=lambda on: on.name)
@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("__builtin_trap();", "the program crashed"),
        ("*(volatile uint32_t *)0x90000000 = 1;", "the program crashed"),
        ("((void (*)(void))0x90000001)();", "the program crashed"),
    ],
)
def test_a_program_that_goes_astray_is_reported(hand_written: HandWritten, on: Board, statement: str, message: str) -> None:
    with pytest.raises(FirmwareFault, match=f"^image 0 on the simulated .*: {message}"):
        run(hand_written(statement), dataclasses.replace(on, ram_bytes=2048))


@pytest.mark.parametrize("on", [MICROBIT, BOARDS["bluepill"], ESP32, CH32], ids=lambda on: on.name)
def test_a_stack_that_reaches_the_variables_is_reported(hand_written: HandWritten, on: Board) -> None:
    """1,002 bytes of variables and 1,200 of stack, where there are 2,048."""
    deep = "volatile uint32_t deep[300]; for (int i = 300; i-- > 0;) deep[i] = 1; logits[0] = (int16_t)deep[input[0]];"
    firmware = build_firmware(hand_written(deep, input_bytes=1000), dataclasses.replace(on, ram_bytes=2048))
    with pytest.raises(FirmwareFault, match="^image 0 on the simulated .*: the stack must stay above the variables"):
        simulate(firmware, np.zeros((1, 1, 1, 1000), np.uint8))


def test_a_program_that_hangs_is_stopped_and_the_image_named(hand_written: HandWritten) -> None:
    images = np.zeros((3, 1, 1, 1), np.uint8)
    images[2] = 1
    firmware = build_firmware(hand_written("while (input[0]) {}"), MICROBIT)
    with pytest.raises(
        FirmwareFault, match=r"^image 2 on the simulated microbit: 2 s have passed, but the program is still running"
    ):
        simulate(firmware, images, time_limit_s=2)


def test_without_qemu_the_package_is_named(hand_written: HandWritten, monkeypatch: pytest.MonkeyPatch) -> None:
    firmware = build_firmware(hand_written(), ESP32)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolchainError, match="simulating esp32-c3 needs qemu-system-riscv32, .*apt-get install qemu-system-misc"):
        simulate(firmware, ONE_IMAGE)


def test_reports_name_qemu_and_the_machine() -> None:
    assert re.fullmatch(r"QEMU emulator version \d.*, machine microbit", version(MICROBIT))
