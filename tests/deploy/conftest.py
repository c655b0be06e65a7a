"""Models written by hand, to test compilers and simulators without the code generator."""

from collections.abc import Callable

import pytest

from sparse_mcu.deploy.source import CSource

HEADER = """\
#include <stdint.h>
#define MODEL_INPUT_SIZE {input_bytes}
#define MODEL_CLASSES {classes}
uint8_t *model_input(void);
const int16_t *model_run(void);
"""

SOURCE = """\
#include "model.h"
uint8_t input[MODEL_INPUT_SIZE];
int16_t logits[MODEL_CLASSES];
uint8_t *model_input(void) {{ return input; }}
{functions}
const int16_t *model_run(void)
{{
{body}
    return logits;
}}
"""

HandWritten = Callable[..., CSource]
Naked = Callable[[str], CSource]


def quote(assembly: str) -> str:
    """Assembly as a C string literal."""
    return '"' + "".join(line.strip() + r"\n" for line in assembly.splitlines()) + '"'


@pytest.fixture(scope="session")
def hand_written() -> HandWritten:
    """A model whose ``model_run`` consists of C statements over ``input`` and ``logits``."""

    def write(body: str = "", functions: str = "", input_bytes: int = 1, classes: int = 1) -> CSource:
        header = HEADER.format(input_bytes=input_bytes, classes=classes)
        return CSource("model", header, SOURCE.format(functions=functions, body=body))

    return write


@pytest.fixture(scope="session")
def naked(hand_written: HandWritten) -> Naked:
    """A model that consists of AVR instructions, two more that load the address of the logits, and the return."""

    def write(assembly: str) -> CSource:
        model = hand_written()
        functions = model.source[: model.source.index("const int16_t *model_run")]
        whole = quote(f"{assembly}\nldi r24, lo8(logits)\nldi r25, hi8(logits)\nret")
        run = f"__attribute__((naked)) const int16_t *model_run(void)\n{{\n    __asm__ volatile({whole});\n}}\n"
        return CSource(model.name, model.header, functions + run)

    return write
