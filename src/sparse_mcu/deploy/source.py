"""The generated C of one network: what code generation hands to compilers, simulators and packages."""

import dataclasses
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

    Where the image comes in ``rows`` > 1, row by row, these are NAME_ROW_SIZE (bytes of a row), NAME_ROWS, ``name_row`` and
    ``name_push_row``, which returns 0 before the last row.

    Where it is ``reentrant``, all of these functions take a pointer to a ``name_state``, which is the caller's and
    all zeros in the beginning.
    """

    name: str
    header: str
    source: str
    rows: int = 1  # parts in which the image is written
    reentrant: bool = False
    caller: str = ""  # what the names of the functions begin with that a main program calls

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both files into ``folder`` and return the paths of the header and of the source."""
        header, source = folder / f"{self.name}.h", folder / f"{self.name}.c"
        header.write_text(self.header, encoding="utf-8")
        source.write_text(self.source, encoding="utf-8")
        return header, source

    @property
    def functions(self) -> tuple[str, str]:
        """The function that says where the image or a row of it goes, and the one that takes it in."""
        names = ("input", "run") if self.rows == 1 else ("row", "push_row")
        return f"{self.caller}{self.name}_{names[0]}", f"{self.caller}{self.name}_{names[1]}"

    def with_one_state(self) -> "CSource":
        """Return C whose functions take no state: where this is reentrant, others around them, for the only state there is."""
        if not self.reentrant:
            return self
        state, returned = "state_of_the_only", ("uint8_t *", "const int16_t *")
        heads = [f"{kind}only_{function}(void)" for kind, function in zip(returned, self.functions, strict=True)]
        calls = [f"{head}\n{{\n    return {name}(&{state});\n}}\n" for head, name in zip(heads, self.functions, strict=True)]
        return dataclasses.replace(
            self,
            header=self.header + "".join(f"{head};\n" for head in heads),
            source="\n".join([self.source, f"static {self.name}_state {state};\n", *calls]),
            reentrant=False,
            caller="only_",
        )

    @property
    def main_options(self) -> tuple[str, ...]:
        """Compiler options that tell a main program around the model its names: see c/host_main.c."""
        macros = self.name.upper()
        place, run = self.functions
        return (
            f"-DMODEL_INPUT={place}",
            f"-DMODEL_RUN={run}",
            f"-DINPUT_BYTES={macros}_{'INPUT' if self.rows == 1 else 'ROW'}_SIZE",
            f"-DCLASSES={macros}_CLASSES",
        )
