import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.firmware import Firmware, build_firmware
from sparse_mcu.deploy.source import CSource
from sparse_mcu.errors import BoardError, ToolchainError

UNO = board("arduino-uno")
HandWritten = Callable[..., CSource]
Naked = Callable[[str], CSource]
CLEAR_BSS_BYTES = 16  # __do_clear_bss of avr-libc, which comes with the first variable
CONSTANTS = """
#include <avr/pgmspace.h>
static const uint8_t table[{size}] PROGMEM = {{ 1 }};
"""


def measured(firmware: Firmware) -> Firmware:
    """All but the file, which names its symbols."""
    return dataclasses.replace(firmware, elf=b"")


def test_instructions_count_in_flash_and_the_harness_does_not(naked: Naked) -> None:
    """model_input and model_run are ldi, ldi, ret each: 12 bytes, and 2 for every nop."""
    ten, thirty = (build_firmware(naked("\n".join(["nop"] * count)), UNO) for count in (10, 30))
    assert thirty.flash_bytes - ten.flash_bytes == 40
    assert ten.flash_bytes == 12 + 2 * 10 + CLEAR_BSS_BYTES


@pytest.mark.parametrize("size", [1, 1000])
def test_constants_count_in_flash_and_variables_in_ram(hand_written: HandWritten, size: int) -> None:
    body = "logits[0] = pgm_read_byte(&table[input[0]]);"
    small = build_firmware(hand_written(body, CONSTANTS.format(size=2)), UNO)
    large = build_firmware(hand_written(body, CONSTANTS.format(size=2 + 2 * size), input_bytes=1 + size), UNO)
    assert large.flash_bytes - small.flash_bytes == 2 * size
    assert large.static_ram_bytes - small.static_ram_bytes == size
    assert small.static_ram_bytes == 1 + 2  # input and logits
    assert (large.input_bytes, large.classes) == (1 + size, 1)


def test_initialised_variables_count_in_flash_and_in_ram(hand_written: HandWritten) -> None:
    body = "logits[0] = start[input[0]]++;"
    small, large = (build_firmware(hand_written(body, f"static uint8_t start[{n}] = {{ 1 }};"), UNO) for n in (10, 40))
    assert large.flash_bytes - small.flash_bytes == large.static_ram_bytes - small.static_ram_bytes == 30


def test_what_is_not_reached_takes_nothing(hand_written: HandWritten) -> None:
    unused = "static int16_t spare[50]; int16_t twice(int16_t x); int16_t twice(int16_t x) { return spare[x] * 2; }"
    bare, spare = build_firmware(hand_written(), UNO), build_firmware(hand_written(functions=unused), UNO)
    assert (bare.flash_bytes, bare.static_ram_bytes) == (spare.flash_bytes, spare.static_ram_bytes)


def test_the_name_of_the_model_is_free(hand_written: HandWritten) -> None:
    model = hand_written(input_bytes=3, classes=5)
    renamed = CSource(
        "digits", *(text.replace("model", "digits").replace("MODEL", "DIGITS") for text in (model.header, model.source))
    )
    assert measured(build_firmware(renamed, UNO)) == measured(build_firmware(model, UNO))


def test_the_same_source_gives_the_same_firmware(hand_written: HandWritten) -> None:
    assert build_firmware(hand_written("logits[0] = 3;"), UNO) == build_firmware(hand_written("logits[0] = 3;"), UNO)


def test_a_program_that_does_not_fit_names_the_memory(hand_written: HandWritten) -> None:
    with pytest.raises(BoardError, match="bytes of RAM for variables and arduino-uno has 2048"):
        build_firmware(hand_written(input_bytes=2047), UNO)
    body = "logits[0] = pgm_read_byte(&table[input[0]]);"
    with pytest.raises(BoardError, match="bytes of flash and arduino-uno has 32768"):
        build_firmware(hand_written(body, CONSTANTS.format(size=32700)), UNO)
    assert build_firmware(hand_written(input_bytes=2047), board("arduino-mega")).static_ram_bytes == 2049


def test_c_that_does_not_compile_gives_its_first_error_and_leaves_nothing_behind(
    hand_written: HandWritten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"^avr-gcc failed with status 1: .*error: .nowhere. undeclared"):
        build_firmware(hand_written("logits[0] = nowhere;"), UNO)
    assert list(tmp_path.iterdir()) == []


def test_warnings_are_errors(hand_written: HandWritten) -> None:
    with pytest.raises(ToolchainError, match="unused variable"):
        build_firmware(hand_written("int16_t unused;"), UNO)


def test_no_compiler_names_the_packages(hand_written: HandWritten, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolchainError, match="building for arduino-uno needs avr-gcc, avr-nm, avr-size.*gcc-avr binutils-avr"):
        build_firmware(hand_written(), UNO)
