"""A model as a program for an AVR: linked around avr_harness.c, and measured against the same harness without a model."""

from dataclasses import dataclass
from pathlib import Path

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.source import CSource
from sparse_mcu.errors import BoardError

HARNESS = Path(__file__).with_name("c") / "avr_harness.c"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
# Every function and table in a section of its own, so that the linker drops what the program does not reach.
SECTIONS = ("-ffunction-sections", "-fdata-sections")
# Room for any program: where one does not fit, the sizes say by how much, and the linker would not.
ROOM = ("-Wl,--defsym=__TEXT_REGION_LENGTH__=0x400000", "-Wl,--defsym=__DATA_REGION_LENGTH__=0xff00")
DATA_SPACE = 0x800000  # avr-gcc numbers data addresses from here, to tell them from flash


@dataclass(frozen=True, slots=True)
class Firmware:
    """A linked program, what the model takes in it, and where the simulator meets it (see avr_harness.c)."""

    mcu: str
    elf: bytes
    flash_bytes: int  # code and constants of the model, and whatever of the libraries it pulls in
    static_ram_bytes: int  # variables of the model, its input buffer among them
    start: int  # flash address in bytes
    stop: int  # flash address in bytes
    stack_floor: int  # first data address after the variables
    input_bytes: int
    classes: int


@dataclass(frozen=True, slots=True)
class _Size:
    flash_bytes: int
    ram_bytes: int


def build_firmware(source: CSource, board: Board) -> Firmware:
    """Compile ``source`` for ``board``; raise BoardError where it does not fit, ToolchainError where it cannot be compiled."""
    toolchain.require(toolchain.AVR, f"building for {board.name}", "the C can be checked on this machine only")
    with toolchain.workspace() as folder:
        model, harness = _compile(source, board, folder)
        elf = _link(board, folder / "firmware.elf", harness, model)
        empty = _link(board, folder / "empty.elf", harness, *_model_at_zero(source))
        size, empty_size, symbols = _size(elf), _size(empty), _symbols(elf)
        _check_fit(size, board)
        return Firmware(
            mcu=board.mcu,
            elf=elf.read_bytes(),
            flash_bytes=size.flash_bytes - empty_size.flash_bytes,
            static_ram_bytes=size.ram_bytes - empty_size.ram_bytes,
            start=symbols["harness_start"],
            stop=symbols["harness_stop"],
            stack_floor=symbols["_end"] - DATA_SPACE,
            input_bytes=symbols["harness_input_bytes"],
            classes=symbols["harness_classes"],
        )


def _compile(source: CSource, board: Board, folder: Path) -> tuple[Path, Path]:
    """Compile the model and the harness; return their object files."""
    header, model = source.write(folder)
    model_object, harness_object = folder / "model.o", folder / "harness.o"
    compiler = (board.compiler, *board.flags, "-std=c99", *WARNINGS, *SECTIONS, "-c")
    toolchain.run([*compiler, model, "-o", model_object])
    toolchain.run([*compiler, "-include", header, *source.main_options, HARNESS, "-o", harness_object])
    return model_object, harness_object


def _model_at_zero(source: CSource) -> tuple[str, str]:
    """Linker options that satisfy the harness's two calls without any code."""
    return (f"-Wl,--defsym={source.name}_input=0", f"-Wl,--defsym={source.name}_run=0")


def _link(board: Board, elf: Path, *parts: Path | str) -> Path:
    toolchain.run([board.compiler, *board.flags, "-Wl,--gc-sections", *ROOM, *parts, "-o", elf])
    return elf


def _size(elf: Path) -> _Size:
    """Initialised variables lie in both: their first values are copied from flash at start."""
    text, data, bss = map(int, toolchain.run(["avr-size", elf]).splitlines()[1].split()[:3])
    return _Size(flash_bytes=text + data, ram_bytes=data + bss)


def _symbols(elf: Path) -> dict[str, int]:
    """Address (or absolute value) by name of the symbols that ``elf`` defines."""
    lines = toolchain.run(["avr-nm", "--defined-only", elf]).splitlines()
    return {name: int(value, 16) for value, _, name in map(str.split, lines)}


def _check_fit(size: _Size, board: Board) -> None:
    for what, taken, available in (
        ("flash", size.flash_bytes, board.flash_bytes),
        ("RAM for variables", size.ram_bytes, board.ram_bytes),
    ):
        if taken > available:
            raise BoardError(f"a program must fit its board, but needs {taken} bytes of {what} and {board.name} has {available}")
