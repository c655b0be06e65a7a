"""An integer graph as C: one source and one header, without dependencies, that read as if written by hand."""

import functools
import math
import re
import textwrap
from collections.abc import Iterable, Iterator
from importlib import resources
from importlib.metadata import version

import jinja2

from sparse_mcu.deploy import unroll_avr
from sparse_mcu.deploy.access import tensor_bytes
from sparse_mcu.deploy.kernel_costs import kernel_costs, measured_costs
from sparse_mcu.deploy.kernels import sections
from sparse_mcu.deploy.predict import Prediction, fitted, predict_program
from sparse_mcu.deploy.program import Fields, Program, Step, check_constants, lower
from sparse_mcu.deploy.reentrant import call_of_state, constants_of_state, kernels_of_state, members
from sparse_mcu.deploy.source import PREFIX, CSource
from sparse_mcu.deploy.stages import Stage
from sparse_mcu.deploy.target import Target
from sparse_mcu.deploy.unroll import convolution, form_name, form_of, means, reads_words
from sparse_mcu.errors import UserError
from sparse_mcu.quant.graph import (
    INPUT,
    Add,
    AveragePool2d,
    Conv2d,
    DepthwiseConv2d,
    IntegerGraph,
    MaxPool2d,
    TensorType,
    digest,
)

LINE = 110  # columns of a line of numbers


def generate(graph: IntegerGraph, target: Target, name: str = PREFIX, reentrant: bool = False) -> CSource:
    """Return C for ``graph``, with predictions for ``target`` in its head; everything public in it begins with ``name``.

    Any C99 compiler takes it. The board decides which encodings of the weights are smallest, and so what the code does not. Where
    a whole image does not fit in RAM, rows are streamed. A ``reentrant`` network keeps its variables in a struct of the caller's.
    """
    costs = measured_costs(target.board) if target.optimise == "balanced" else kernel_costs(target.board)
    program = lower(graph, target.board, None) if costs is None else fitted(graph, target, costs)
    check_constants(program)
    return render(program, None if costs is None else predict_program(program, costs), name, reentrant)


def render(program: Program, prediction: Prediction | None, name: str = PREFIX, reentrant: bool = False) -> CSource:
    """Return ``program`` as C; the head of the source says what is predicted."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"the name of a model must be a lower-case C identifier, but is {name!r}")
    values = {
        "name": name,
        "NAME": name.upper(),
        "banner": _banner(program, prediction, reentrant),
        **_values(program, name, reentrant),
    }
    templates = _templates()
    return CSource(
        name=name,
        header=templates.get_template("model.h.j2").render(values),
        source=templates.get_template("model.c.j2").render(values),
        rows=program.graph.tensors[INPUT].shape[0] if program.lines else 1,
        reentrant=reentrant,
    )


@functools.cache
def _templates() -> jinja2.Environment:
    folder = resources.files(__package__).joinpath("templates")
    texts = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".j2")}
    return jinja2.Environment(
        loader=jinja2.DictLoader(texts),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _values(program: Program, name: str, reentrant: bool) -> dict[str, object]:
    """What the templates need of ``program``."""
    graph, offsets = program.graph, program.plan.tensors
    shape = graph.tensors[INPUT].shape
    steps = [_step_values(program, step, reentrant) for step in program.steps]
    kernels = "\n\n".join(sections()[kernel].text for kernel in program.kernels)
    lines = _line_rows(program)
    return {
        "input_size": math.prod(shape),
        "input_shape": _shape(shape),
        "classes": graph.classes,
        "arena_bytes": program.arena_bytes,
        "variable_bytes": program.variable_bytes,
        "sum_bytes": program.sum_bytes,
        "padded": int(program.padded),
        "paired": int(program.paired),
        "form": form_name(program.board) if "unrolled" in program.kernels else None,
        "kernels": kernels_of_state(kernels, name) if reentrant else kernels,
        "layers": steps,
        "lines": list(map(constants_of_state, lines)) if reentrant else lines,
        "streamed": steps[: len(program.lines)],
        "steps": steps[len(program.lines) :],
        "row_size": math.prod(shape[1:]),
        "rows": shape[0],
        "input_offset": offsets[INPUT],
        "logits_offset": offsets[graph.output],
        "reentrant": reentrant,
        "taken": f"{name}_state *model" if reentrant else "void",
        "given": "model, " if reentrant else "",
        "members": list(members(kernels, name, len(lines), program.padded)) if reentrant else [],
        "convolving": "convolve" in program.kernels,
        "avr": program.board.is_avr,
    }


def _step_values(program: Program, step: Step, reentrant: bool) -> dict[str, object]:
    tables, call = _tables(program, step), _call(program, step)
    return {
        "title": _title(step.stage, program.graph.tensors),
        "tables": list(map(constants_of_state, tables)) if reentrant else tables,
        "call": call_of_state(call) if reentrant else call,
        "name": step.name,
        "streamed": step.calls > 1,
    }


def _line_rows(program: Program) -> list[str]:
    """The initialisers of the lines, and of the one behind the last, which takes the rows of a whole tensor."""
    if not program.lines:
        return []
    tensors = program.graph.tensors
    found: list[dict[str, str | int]] = []
    for line in program.lines:
        row_bytes = _row_bytes(tensors[line.tensor])
        found.append(
            {
                "rows": _place(program, line.tensor),
                "row_bytes": row_bytes,
                "first": line.above * row_bytes,
                "full": line.rows * row_bytes,
                "kept": (line.rows - line.step) * row_bytes,
                "height": line.height,
                "total": line.height + line.below,
            }
        )
    last = program.lines[-1].stage.name
    found.append({"rows": _place(program, last), "row_bytes": _row_bytes(tensors[last])})
    return ["{" + ", ".join(f".{key} = {value}" for key, value in line.items()) + "}," for line in found]


def _row_bytes(tensor: TensorType) -> int:
    return tensor_bytes(tensor) // tensor.shape[0]


def _banner(program: Program, prediction: Prediction | None, reentrant: bool) -> str:
    board = program.board
    lines = [
        f"Generated by sparse-mcu {version('sparse-mcu')}; do not edit.",
        "",
        f"Network  {digest(program.graph)} (SHA-256)",
        f"Board    {board.title} at {board.clock_hz / 1e6:g} MHz; {board.compiler} {' '.join(board.flags)}",
    ]
    if prediction is not None:
        variables = program.variable_bytes
        held = "rows of the image" if program.lines else "the image"
        stack = prediction.ram_bytes - variables
        milliseconds = board.milliseconds(prediction.cycles)
        lines += [
            f"Flash    {prediction.flash_bytes:,} bytes predicted, code and constants",
            f"RAM      {prediction.ram_bytes:,} bytes predicted: variables {variables:,} ({held} included), stack {stack}",
            f"Time     {prediction.cycles:,} {board.time_unit} predicted"
            + ("" if milliseconds is None else f", {milliseconds:,.1f} ms"),
        ]
        if reentrant:
            lines.append("         all three of the network with static variables; a state of the caller's takes a little more")
    return "\n".join(["/*", *(f" * {line}".rstrip() for line in lines), " */"])


def _title(stage: Stage, tensors: dict[str, TensorType]) -> str:
    """What a step does, for people."""
    op, source, output = stage.op, tensors[stage.op.inputs[0]].shape, tensors[stage.name]
    match op:
        case Conv2d() if tensors[op.name].shape[:2] == (1, 1) and op.kernel == source[:2]:
            what = "fully connected"
        case Conv2d():
            what = f"convolution {op.kernel[0]}x{op.kernel[1]}"
        case DepthwiseConv2d():
            what = f"depthwise convolution {op.kernel[0]}x{op.kernel[1]}"
        case MaxPool2d():
            what = f"max pool {op.window[0]}x{op.window[1]}"
        case AveragePool2d():
            what = f"average pool {op.window[0]}x{op.window[1]}"
        case Add():
            what = f"sum of {len(op.inputs)}"
    if stage.pool is not None:
        what += f" and max pool {stage.pool.window[0]}x{stage.pool.window[1]}"
    name = re.sub(r"[^ -~]|\*/", "?", stage.name)  # a name may not end the comment
    return f"{name}: {what}, {_shape(source)} -> {_shape(output.shape)} {output.dtype}"


def _tables(program: Program, step: Step) -> list[str]:
    """The constants of a step, and its functions if it is straight-line code."""
    tables = []
    if step.weights is not None:
        if not step.blocks:
            lines = [line for part in step.weights.lines for line in _lines(part)]
            tables.append(_table("uint8_t", f"weights_{step.name}", lines))
        heads = [f"{{{bias}, {multiplier}, {shift}}}" for bias, multiplier, shift in step.weights.heads]
        tables += [_table("struct head", f"heads_{step.name}", _lines(heads))] if heads else []
    if isinstance(step.stage.op, Add):
        tables.append(_table("struct operand", f"operands_{step.name}", _operands(program, step.stage.op)))
    if step.straight:
        return [*tables, *_functions(program, step)]
    return [*tables, f"static const struct {step.struct} layer_{step.name} FLASH = {_initialiser(step.fields)};"]


def _functions(program: Program, step: Step) -> list[str]:
    """What a step as straight-line code calls, after all that this calls."""
    source, output = step.tensors[step.stage.op.inputs[0]], step.tensors[step.stage.name]
    if isinstance(step.stage.op, AveragePool2d):
        return [
            _function(
                f"average_{step.name}(const uint8_t *in, uint8_t *out)",
                textwrap.wrap(means(step.stage.op, source, output), LINE, subsequent_indent="    "),
            )
        ]
    convolve = f"convolve_{step.name}(const uint8_t *in, uint8_t *out, sum_t *sums)"
    if program.board.is_avr:
        return [
            _function(convolve, list(_wrapped(unroll_avr.body(step.stage, step.name, form_of(program.board), source, output))))
        ]
    lines, tables = [], []
    if reads_words(program.board):
        words = [f"0x{word:08x}u" for block in step.blocks for word in block.words]
        tables.append(_table("uint32_t", f"weights_{step.name}", _lines(words or ["0"])))
        lines += [f"const uint32_t *weights = weights_{step.name};", "(void)weights;"]
    for block in step.blocks:
        lines += [f"SUMS({block.channels},", *(f"    {line}" for line in _wrapped(block.commands)), ")"]
    return [
        *tables,
        _function(f"unrolled_{step.name}(const uint8_t *a, sum_t *sums, uint8_t larger)", lines),
        _function(convolve, [convolution(step.stage, step.name, source, output)]),
    ]


def _wrapped(lines: Iterable[str]) -> Iterator[str]:
    """Lines of commands, the long ones broken between two of them."""
    for line in lines:
        held = line.replace(", ", ",\0")  # what a break must not part
        yield from (part.replace(",\0", ", ") for part in textwrap.wrap(held, LINE, subsequent_indent="    "))


def _function(head: str, lines: Iterable[str]) -> str:
    return "\n".join([f"KERNEL void {head}", "{", *(f"    {line}" for line in lines), "}"])


def _table(kind: str, name: str, lines: list[str]) -> str:
    return "\n".join([f"static const {kind} {name}[] FLASH = {{", *(f"    {line}" for line in lines), "};"])


def _operands(program: Program, op: Add) -> list[str]:
    return [
        f"{{{_place(program, source)}, {multiplier}, {int(program.graph.tensors[source].dtype == 'int16')}}},"
        for source, multiplier in zip(op.inputs, op.multiplier, strict=True)
    ]


def _initialiser(fields: Fields, indent: str = "") -> str:
    """A designated initialiser; a nested struct takes lines of its own, numbers share them."""
    inner = indent + "    "
    nested = [f"{inner}.{key} = {_initialiser(value, inner)}," for key, value in fields.items() if isinstance(value, dict)]
    plain = [f".{key} = {value}" for key, value in fields.items() if not isinstance(value, dict)]
    return "\n".join(["{", *nested, *(inner + line for line in _lines(plain)), indent + "}"])


def _lines(items: Iterable[object]) -> list[str]:
    """Items with commas, as many as fit on a line; none is broken."""
    lines = [""]
    for item in items:
        if len(lines[-1]) + len(str(item)) > LINE:
            lines.append("")
        lines[-1] += f"{item}, "
    return [line.rstrip() for line in lines]


def _call(program: Program, step: Step) -> str:
    """The line of the step in its function."""
    output = "out" if step.calls > 1 else _place(program, step.stage.name)
    if isinstance(step.stage.op, Add):
        return f"add(&layer_{step.name}, {output});"
    source = _place(program, step.stage.op.inputs[0])
    kernel, places = (f"{step.kernels[0]}", f"&layer_{step.name}, {source}, {output}")
    if step.straight:
        kernel, places = f"{'average' if step.weights is None else 'convolve'}_{step.name}", f"{source}, {output}"
    if step.weights is None:
        return f"{kernel}({places});"
    return f"{kernel}({places}, (sum_t *)(void *)({_place_at(program.plan.scratch[step.stage.name])}));"


def _place(program: Program, tensor: str) -> str:
    return _place_at(program.plan.tensors[tensor])


def _place_at(offset: int) -> str:
    return f"arena.bytes + {offset}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
