"""A model as a program for a board: linked around a harness, and measured against the same harness without a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sparse_mcu.deploy import machines, toolchain
from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.source import CSource
from sparse_mcu.errors import BoardError

C = Path(__file__).with_name("c")
WARNINGS = ("-Wall", "-Wextra", "-Werror")
# Every function and table in a section of its own, so that the linker drops what the program does not reach.
SECTIONS = ("-ffunction-sections", "-fdata-sections")


@dataclass(frozen=True, slots=True)
class Firmware:
    """A linked program, what the model takes in it, and where its simulator meets it."""

    board: Board
    elf: bytes
    flash_bytes: int  # code and constants of the model, and whatever of the libraries it pulls in
    static_ram_bytes: int  # variables of the model, its input buffer among them
    symbols: Mapping[str, int]  # addresses and sizes that the harness and the linker name
    rows: int = 1  # parts in which the model takes an image, see CSource

    @property
    def input_bytes(self) -> int:
        """Bytes of an image, or of each of its ``rows``."""
        return self.symbols["harness_input_bytes"]

    @property
    def classes(self) -> int:
        """How many logits the model gives."""
        return self.symbols["harness_classes"]


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What makes a program of a model."""

    harness: Path
    compiling: tuple[str, ...] = ()  # options for the harness alone
    linking: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Size:
    flash_bytes: int
    ram_bytes: int


def build_firmware(source: CSource, board: Board) -> Firmware:
    """Compile ``source`` for ``board``; raise BoardError where it does not fit, ToolchainError where it cannot be compiled."""
    toolchain.require(toolchain.BUILD[board.compiler], f"building for {board.name}", "the C can be checked on this machine only")
    around = _surroundings(board)
    with toolchain.workspace() as folder:
        model, harness = _compile(source, board, around, folder)
        elf = _link(board, around, folder / "firmware.elf", harness, model)
        empty = _link(board, around, folder / "empty.elf", harness, *_model_at_zero(source))
        size, empty_size = _size(elf, board), _size(empty, board)
        _check_fit(size, board)
        return Firmware(
            board=board,
            elf=elf.read_bytes(),
            flash_bytes=size.flash_bytes - empty_size.flash_bytes,
            static_ram_bytes=size.ram_bytes - empty_size.ram_bytes,
            symbols=_symbols(elf, board),
            rows=source.rows,
        )


def _surroundings(board: Board) -> _Surroundings:
    """The harness that goes with ``board``. Programs have room: where one does not fit, the sizes say by how much."""
    if board.simulator == "qemu":
        return _Surroundings(
            harness=C / "qemu_harness.c",
            # Else it would call memcpy and memset, which would then cost a model nothing.
            compiling=(f"-DTIMER={machines.machine(board).timer}", "-fno-tree-loop-distribute-patterns"),
            linking=("-nostdlib", f"-Wl,--script={C / 'qemu.ld'}", *machines.link_options(board)),
            libraries=("-lgcc",),
        )
    return _Surroundings(
        harness=C / "avr_harness.c",
        linking=("-Wl,--defsym=__TEXT_REGION_LENGTH__=0x400000", "-Wl,--defsym=__DATA_REGION_LENGTH__=0xff00"),
    )


def _compile(source: CSource, board: Board, around: _Surroundings, folder: Path) -> tuple[Path, Path]:
    """Compile the model and the harness; return their object files."""
    header, model = source.write(folder)
    model_object, harness_object = folder / "model.o", folder / "harness.o"
    compiler = (board.compiler, *board.flags, "-std=c99", *WARNINGS, *SECTIONS, "-c")
    toolchain.run([*compiler, model, "-o", model_object])
    toolchain.run([*compiler, "-include", header, *source.main_options, *around.compiling, around.harness, "-o", harness_object])
    return model_object, harness_object


def _model_at_zero(source: CSource) -> tuple[str, ...]:
    """Linker options that satisfy the harness's two calls without any code."""
    return tuple(f"-Wl,--defsym={function}=0" for function in source.functions)


def _link(board: Board, around: _Surroundings, elf: Path, *parts: Path | str) -> Path:
    linker = (board.compiler, *board.flags, "-Wl,--gc-sections", *around.linking)
    toolchain.run([*linker, *parts, *around.libraries, "-o", elf])
    return elf


def _size(elf: Path, board: Board) -> _Size:
    """Initialised variables lie in both: their first values are copied from flash at start."""
    lines = toolchain.run([toolchain.binutil(board, "size"), elf]).splitlines()
    text, data, bss = map(int, lines[1].split()[:3])
    return _Size(flash_bytes=text + data, ram_bytes=data + bss)


def _symbols(elf: Path, board: Board) -> dict[str, int]:
    """Address (or absolute value) by name of what the harness and the end of the variables are called in ``elf``."""
    lines = toolchain.run([toolchain.binutil(board, "nm"), "--defined-only", elf]).splitlines()
    found = {name: int(value, 16) for value, _, name in map(str.split, lines)}
    return {name: value for name, value in found.items() if name.startswith("harness_") or name == "_end"}


def _check_fit(size: _Size, board: Board) -> None:
    for what, taken, available in (
        ("flash", size.flash_bytes, board.flash_bytes),
        ("RAM for variables", size.ram_bytes, board.ram_bytes),
    ):
        if taken > available:
            raise BoardError(f"a program must fit its board, but needs {taken} bytes of {what} and {board.name} has {available}")
