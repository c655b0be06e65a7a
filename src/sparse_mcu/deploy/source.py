"""The generated C of one network: what code generation hands to compilers, simulators and packages."""

from dataclasses import dataclass
from pathlib import Path

PREFIX = "model"  # of everything public in the generated C


@dataclass(frozen=True, slots=True)
class CSource:
    """Two files, ``{name}.h`` and ``{name}.c``, that need no other but the compiler's own headers (and avr-libc's on AVR).

    With NAME in capitals, the header declares the macros NAME_INPUT_SIZE (bytes of the image: uint8, height x width x channels,
    channels last), NAME_CLASSES and NAME_RAM_BYTES, and two functions:
    ``uint8_t *name_input(void)`` says where to write the image; ``const int16_t *name_run(void)`` returns NAME_CLASSES logits,
    which stay valid until the image is written again. The image does not survive a run.
    """

    name: str
    header: str
    source: str

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both files into ``folder`` and return the paths of the header and of the source."""
        header, source = folder / f"{self.name}.h", folder / f"{self.name}.c"
        header.write_text(self.header, encoding="utf-8")
        source.write_text(self.source, encoding="utf-8")
        return header, source

    @property
    def main_options(self) -> tuple[str, ...]:
        """Compiler options that tell a main program around the model its names: see c/host_main.c."""
        macros = self.name.upper()
        return (
            f"-DMODEL_INPUT={self.name}_input",
            f"-DMODEL_RUN={self.name}_run",
            f"-DINPUT_BYTES={macros}_INPUT_SIZE",
            f"-DCLASSES={macros}_CLASSES",
        )
