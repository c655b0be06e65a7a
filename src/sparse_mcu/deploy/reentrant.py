"""C whose variables are members of a struct of the caller's: the sections of c/kernels.c as a reentrant network has them.

The sections are written for variables of their own: the arena, the ``progress`` of streamed rows, and the ``window`` of the layer
that is being computed with its ``edge``. Here they become members of ``NAME_state``, and functions that use them take a pointer
to one, ``model``. Constants cannot point into a state: where they hold an address, they hold its distance from the arena's begin.

The assembly for AVRs reads ``window`` and ``edge`` at fixed addresses. There they stay variables, and a call keeps in its own
state what it found in them, so that a network may run in an interrupt of another: see templates/model.c.j2, where the macros
OWN, TAKE and GIVE are.
"""

import re
import textwrap
from collections.abc import Iterator

_COMMENTS = re.compile(r"(/\*.*?\*/)", re.DOTALL)
_FUNCTION = re.compile(r"^(?:KERNEL|INLINE) [^\n(]*?(\w+)\(.*?^\}", re.DOTALL | re.MULTILINE)
_PROGRESS = re.compile(r"^static struct progress \{\n(.*?)^\} progress\[LINES\];\n", re.DOTALL | re.MULTILINE)
_WINDOW = re.compile(r"^struct window \{\n(.*?)^\};\n", re.DOTALL | re.MULTILINE)
_EDGE = re.compile(r"^static struct \{\n(.*?)^\} edge;\n", re.DOTALL | re.MULTILINE)
_OF_A_LAYER = r"(?<!->)(?<!struct )(?<!struct window )(?<!\} )\b(window|edge)\b(?=[.);])"  # where they are used
_ADDRESSES = {
    "uint8_t *rows;": "uintptr_t rows; /* bytes of the arena before them */",
    "(uint8_t *)FIELD(line, rows)": "(arena.bytes + FIELD(line, rows))",
    "const uint8_t *tensor;": "uintptr_t tensor; /* bytes of the arena before it */",
    "(const uint8_t *)FIELD(operand, tensor)": "arena.bytes + FIELD(operand, tensor)",
}
_LAYER = re.compile(r"^static struct (?:window window;.*\n|\{\n(?:    .*\n)+\} edge;\n)", re.MULTILINE)
_FIRST_ARGUMENT = {"convolve": "GIVE ", "add": "model, "}


def members(kernels: str, name: str, lines: int, padded: bool) -> Iterator[str]:
    """Yield what the state of the model ``name`` has besides its arena; ``kernels`` are sections of c/kernels.c."""
    for pattern, tag, variable in (
        (_PROGRESS, f" {name}_progress", f"progress[{lines}]"),
        (_WINDOW, "", "window"),
        (_EDGE, "", "edge"),
    ):
        found = pattern.search(kernels)
        if found is not None and (padded or pattern is not _EDGE):
            yield textwrap.indent(f"struct{tag} {{\n{found[1]}}} {variable};", "    ")


def call_of_state(call: str) -> str:
    """Return the ``call`` of a kernel with what it takes of a state."""
    kernel, _, arguments = call.partition("(")
    return f"{kernel}({_FIRST_ARGUMENT.get(kernel, '')}{arguments}"


def constants_of_state(text: str) -> str:
    """Return ``text``, where a constant is the address of a place in the arena, with how far it is from the arena's begin."""
    return text.replace("arena.bytes + ", "")


def kernels_of_state(
    kernels: str,  # sections of c/kernels.c
    name: str,  # of the model
) -> str:
    """Return ``kernels`` for a network whose state is the caller's."""
    text = _PROGRESS.sub("", kernels)
    text = _LAYER.sub(lambda found: f"#ifdef __AVR__\n{found[0]}#endif\n", text)
    text = _in_code(r"\bstruct progress\b", f"struct {name}_progress", text)
    text = _passed(text, r"\bprogress\b|FIELD\(\w+, (?:rows|tensor)\)", f"{name}_state *model, ", "model, ")
    text = _passed(text, rf"{_OF_A_LAYER}|\bALONE\(", "TAKE ", "GIVE ")
    text = _in_code(r"(typedef void sums_kernel\(|\(\*sums\)\()", r"\1TAKE ", text)
    text = _in_code(r"(?<=->sums\()", "GIVE ", text)
    text = _in_code(_OF_A_LAYER, r"OWN(\1)", text)
    for variable, member in _ADDRESSES.items():
        text = text.replace(variable, member)
    return text


def _passed(text: str, variables: str, parameter: str, argument: str) -> str:
    """Let the functions that use ``variables``, be it by way of others, take ``parameter`` first, and give them ``argument``."""
    functions = [(found[1], _COMMENTS.sub("", found[0]).partition("\n{")[2]) for found in _FUNCTION.finditer(text)]
    users, known = {name for name, body in functions if re.search(variables, body)}, 0
    while len(users) > known:
        known = len(users)
        users |= {name for name, body in functions if set(re.findall(r"\b\w+(?=\()", body)) & users}
    if not users:
        return text
    names = "|".join(sorted(users))
    text = _in_code(rf"^((?:KERNEL|INLINE) [^\n(]*\b(?:{names})\()", rf"\1{parameter}", text)
    return _in_code(rf"(?<!\w)((?:{names})\()(?!{re.escape(parameter)})", rf"\1{argument}", text)


def _in_code(pattern: str, replacement: str, text: str) -> str:
    """Replace ``pattern`` where it is no part of a comment."""
    parts = _COMMENTS.split(text)
    parts[::2] = [re.sub(pattern, replacement, part, flags=re.MULTILINE) for part in parts[::2]]
    return "".join(parts)
