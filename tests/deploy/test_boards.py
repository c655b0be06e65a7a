import subprocess
import sys

import pytest

from sparse_mcu.deploy.boards import board, boards
from sparse_mcu.errors import BoardError

DESIGNED = {
    "attiny85",
    "arduino-uno",
    "arduino-mega",
    "ch32v003",
    "microbit",
    "rp2040",
    "bluepill",
    "nucleo-f446",
    "nano33ble",
    "esp32-c3",
}


def test_all_boards_of_the_design_are_there_once() -> None:
    names = [row.name for row in boards()]
    assert set(names) >= DESIGNED
    assert len(set(names)) == len(names)


def test_arduino_uno_is_as_its_data_sheet_says() -> None:
    uno = board("arduino-uno")
    assert (uno.ram_bytes, uno.flash_bytes, uno.clock_hz) == (2048, 32768, 16_000_000)
    assert uno.compiler == "avr-gcc"
    assert "-mmcu=atmega328p" in uno.flags
    assert uno.milliseconds(16_000) == pytest.approx(1.0)


def test_every_row_is_complete_and_sensible() -> None:
    for row in boards():
        assert 0 < row.ram_bytes < row.flash_bytes
        assert 1_000_000 <= row.clock_hz <= 1_000_000_000
        assert row.packages and row.flags
        assert not any("{" in flag for flag in row.flags)


def test_boards_of_one_core_share_compiler_and_optimisation() -> None:
    for one in boards():
        for other in boards():
            if one.core == other.core:
                assert one.compiler == other.compiler
                assert one.flags[1:] == other.flags[1:]


@pytest.mark.parametrize(("typed", "meant"), [("arduino-un", "arduino-uno"), ("bluepil", "bluepill"), ("micro:bit", "microbit")])
def test_an_unknown_board_offers_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(BoardError, match=meant):
        board(typed)


def test_importing_boards_imports_nothing_heavy() -> None:
    code = "import sys; from sparse_mcu.deploy.boards import boards; boards(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "torch", "jinja2"} & set(modules)
