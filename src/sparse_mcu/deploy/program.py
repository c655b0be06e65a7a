"""An integer graph as the steps that its C takes: a kernel, a descriptor and offsets in the arena for each operation.

Code generation writes a program down; prediction counts it. A step calls one kernel, ``convolve`` with another that sums up its
windows, or with code of the layer's own (unroll.py); the fields of its descriptor are those of the struct in c/kernels.c and mean
the same. The first steps may be streamed (stream.py): such a step computes a row of its output, from some rows of its input.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from sparse_mcu.deploy import unroll_avr
from sparse_mcu.deploy.access import item_bytes, tensor_bytes, twice
from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.encode import ON_ANY_CORE, EncodedWeights, Encoding, encode, encode_network, sum_bytes
from sparse_mcu.deploy.kernel_costs import KernelCosts, variant
from sparse_mcu.deploy.kernels import needed
from sparse_mcu.deploy.plan import MemoryPlan, plan
from sparse_mcu.deploy.stages import Stage
from sparse_mcu.deploy.stream import Line, running
from sparse_mcu.deploy.unroll import Block, blocks, form_of, loops, mean_kernel, reads_words
from sparse_mcu.errors import BoardError
from sparse_mcu.quant.graph import (
    Add,
    AveragePool2d,
    Conv2d,
    Convolution,
    DepthwiseConv2d,
    IntegerGraph,
    MaxPool2d,
    TensorType,
)
from sparse_mcu.quant.verify import verify

Fields = dict[str, "int | str | Fields"]  # a string is a C name
MAX_PLACE = 0xFFFF  # kernels count places within a tensor in 16 bits
MAX_PADDED = 0x7FFF  # of a map with padding: its places may lie before 0
MAX_BYTE = 255  # kernels count the rows of a window, strides and the windows of a pool behind a convolution in 8 bits
AVR_VARIABLE_BYTES = {False: 12, True: 30}  # of the variables of convolve in c/kernels.c, without and with padding
VARIABLE_BYTES = {False: 12, True: 32}  # on other cores
HEAD_BYTES = 8  # of a channel, with what aligns the next one; on an AVR a sum and two bytes
READ_BEHIND = 4  # bytes of the arena, one more than kernels that read words do behind a tensor, for the sake of alignment
MAX_LOOPS = 3  # around straight-line code, from which on their number does not show in its stack
PROGRESS_BYTES = 4  # of the variables of a line in c/kernels.c
MAX_AVR_TABLE = 32_767
MAX_AVR_CONSTANTS = 60_000  # leaves room for descriptors, interrupt vectors and the constants of the program around


@dataclass(frozen=True, slots=True)
class Step:
    """A stage. ``name`` is its own among the steps; behind a prefix (layer_, weights_, operands_) it is a C name."""

    stage: Stage
    name: str
    struct: str  # of the descriptor: conv, pool or add; empty: it needs none
    kernels: tuple[str, ...]  # called from the outside in: convolve and sums_..., a pool, or add; sections of c/kernels.c
    fields: Fields
    weights: EncodedWeights | None
    tensors: Mapping[str, TensorType]  # what it reads and writes, as it does: of a streamed tensor some rows
    calls: int = 1  # in an inference: rows of the output, if it is streamed
    blocks: tuple[Block, ...] = ()  # of a convolution as straight-line code

    @property
    def straight(self) -> bool:
        """Whether it is straight-line code, of functions that no other step calls."""
        return self.struct == ""


@dataclass(frozen=True, slots=True)
class Program:
    """A graph's steps in order, and where everything lies in the arena."""

    graph: IntegerGraph
    board: Board
    plan: MemoryPlan
    sum_bytes: int  # of a bias, and of a sum on an AVR: 4, or 3 where that is enough
    padded: bool  # whether any convolution is
    in_pairs: bool  # whether windows may be summed up two at a time
    steps: tuple[Step, ...]
    lines: tuple[Line, ...] = ()  # of the first steps, which are streamed

    @property
    def kernels(self) -> tuple[str, ...]:
        """The sections of c/kernels.c that the steps need, in the order of the file."""
        stream = ["stream"] if self.lines else []
        return needed(["prelude", *stream, *(kernel for step in self.steps for kernel in step.kernels)])

    @property
    def encodings(self) -> dict[str, Encoding]:
        """Of all convolutions by name, and of average pools that are straight-line code, as ``lower`` takes them."""
        found: dict[str, Encoding] = {
            step.stage.op.name: step.weights.encoding for step in self.steps if step.weights is not None
        }
        return found | {step.stage.op.name: "unrolled" for step in self.steps if step.straight}

    @property
    def paired(self) -> bool:
        """Whether any convolution sums up its windows in pairs."""
        return any(step.fields.get("paired") for step in self.steps)

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena: the plan's, and what kernels that read words may read behind them."""
        words = "sums_words" in self.kernels or ("unrolled" in self.kernels and reads_words(self.board))
        return self.plan.arena_bytes + (READ_BEHIND if words else 0)

    @property
    def variable_bytes(self) -> int:
        """Bytes of all variables: the arena, those of convolve, and those of the lines, the one behind the last included."""
        convolving = (AVR_VARIABLE_BYTES if self.board.is_avr else VARIABLE_BYTES)[self.padded]
        progress = PROGRESS_BYTES * (len(self.lines) + 1) if self.lines else 0
        return self.arena_bytes + progress + (convolving if "convolve" in self.kernels else 0)

    def variant(self, section: str) -> str:
        """Return the name of a section of c/kernels.c in the tables of costs."""
        return variant(section, self.sum_bytes, self.padded, self.paired)

    def chain(self, step: Step) -> str:
        """Return the name of the functions that ``step`` calls in the table of stacks; straight-line code has loops around it."""
        name = self.variant(step.kernels[-1])
        return f"{name}.{min(MAX_LOOPS, loops(step.stage, step.tensors[step.stage.name]))}" if step.blocks else name


def lower(
    graph: IntegerGraph,
    board: Board,
    costs: KernelCosts | None,
    in_pairs: bool = True,  # sum up windows two at a time where there are two: faster, and more code
    lines: Sequence[Line] = (),  # of the layers to stream: the first of those that stream.streamable returns
    encodings: Mapping[str, Encoding] | None = None,  # of all convolutions by name, and of average pools that are unrolled
    known: Sequence[Encoding] = ON_ANY_CORE,  # besides that of all weights, where no ``encodings`` are given
) -> Program:
    """Return ``graph`` as a program for ``board``.

    Unless ``encodings`` are given, its weights and their kernels take least flash, where ``costs`` are known.

    Raises BoardError where a tensor is too large for the kernels, GraphError if ``graph`` breaks a rule.
    """
    verify(graph)
    _check_places(graph)
    found = running(graph, lines)
    convolutions = [stage.op for stage in found if isinstance(stage.op, Convolution)]
    size, padded = sum_bytes(graph) if board.is_avr else 4, any(any(op.padding) for op in convolutions)
    tensors = [*(graph.tensors | line.slices(graph) for line in lines), *[graph.tensors] * (len(found) - len(lines))]
    calls = [*(line.outputs for line in lines), *[1] * (len(found) - len(lines))]
    head_bytes = size + 2 if board.is_avr else HEAD_BYTES
    if encodings is None:
        dense: Encoding = board.dense if in_pairs else "pairs"
        paired = in_pairs and _any_pairs(found, tensors, {op.name: dense for op in convolutions})
        code = {
            encoding: 0 if costs is None else costs.code[variant(f"sums_{encoding}", size, padded, paired)]
            for encoding in (dense, *known)
        }
        weights = encode_network(convolutions, head_bytes, code)
    else:
        paired = in_pairs and _any_pairs(found, tensors, encodings)
        weights = {op.name: _encoded(op, encodings[op.name], head_bytes) for op in convolutions}
    names = _identifiers(stage.name for stage in found)
    steps = [
        dataclasses.replace(_step(types, stage, names[stage.name], weights, padded, paired), calls=rows)
        for stage, types, rows in zip(found, tensors, calls, strict=True)
    ]
    unrolled = {name for name, encoding in (encodings or {}).items() if encoding == "unrolled"}
    steps = [_unrolled(step, board) if step.stage.op.name in unrolled else step for step in steps]
    places = plan(graph, paired, lines, unrolled, {step.stage.op.name: _early_bytes(step, board) for step in steps})
    return Program(graph, board, places, size, padded, in_pairs, tuple(steps), tuple(lines))


def check_constants(program: Program) -> None:
    """Raise BoardError where the core of the board cannot reach all weights.

    LPM of an AVR reads the first 64 KiB of flash, and avr-gcc makes no array whose size is not an int.
    """
    if not program.board.is_avr:
        return
    for step in program.steps:
        table = 0 if step.weights is None else sum(map(len, step.weights.lines))
        if table > MAX_AVR_TABLE:
            raise BoardError(
                f"the weights of a layer must take at most {MAX_AVR_TABLE} bytes on an AVR, but those of {step.stage.op.name} "
                f"take {table}; search with a smaller flash budget"
            )
    constants = sum(step.weights.size for step in program.steps if step.weights is not None)
    if constants > MAX_AVR_CONSTANTS:
        raise BoardError(
            f"weights must take at most {MAX_AVR_CONSTANTS} bytes on an AVR, but take {constants}; search with a "
            "smaller flash budget"
        )


def _encoded(op: Convolution, encoding: Encoding, head_bytes: int) -> EncodedWeights:
    weights = encode(op, (encoding,), head_bytes)
    assert weights is not None, f"{encoding} must be able to hold {op.name}"
    return weights


def _step(
    tensors: Mapping[str, TensorType],
    stage: Stage,
    name: str,
    network: Mapping[str, EncodedWeights],
    padded: bool,
    in_pairs: bool,
) -> Step:
    op, source, output = stage.op, tensors[stage.op.inputs[0]], tensors[stage.name]
    match op:
        case Add():
            return Step(stage, name, "add", ("add",), _add(op, name, output), None, tensors)
        case MaxPool2d():
            return Step(stage, name, "pool", ("max_pool",), _pool(op, source, output), None, tensors)
        case AveragePool2d():
            fields: Fields = _pool(op, source, output) | {"multiplier": op.multiplier, "shift": op.shift}
            return Step(stage, name, "pool", ("average_pool",), fields, None, tensors)
        case Conv2d() | DepthwiseConv2d():
            weights = network[op.name]
            kernel = f"sums_{weights.encoding}"
            fields = (
                {"sums": kernel, "weights": f"weights_{name}"}
                | _conv(stage, op, name, source, output, in_pairs)
                | (_padding(op, kernel, source) if padded else {})
            )
            fields["paired"] = int(in_pairs and _pairs(stage, tensors, weights.encoding))
            return Step(stage, name, "conv", ("convolve", kernel), fields, weights, tensors)
        case _:
            assert_never(op)


def _unrolled(step: Step, board: Board) -> Step:
    """Return ``step`` as straight-line code."""
    op = step.stage.op
    if isinstance(op, AveragePool2d):
        return dataclasses.replace(step, struct="", kernels=(mean_kernel(op),), fields={})
    assert isinstance(op, Convolution), f"a convolution or an average must be unrolled, but {op.name} is none"
    source, output = step.tensors[op.inputs[0]], step.tensors[step.stage.name]
    if not board.is_avr:
        found = blocks(op, board, math.prod(source.shape[1:]))
        return dataclasses.replace(step, struct="", kernels=("unrolled",), fields={}, blocks=found)
    found = unroll_avr.layer(step.stage, form_of(board), source, output).blocks
    weights = step.weights
    if weights is not None and not _wide(output):
        weights = dataclasses.replace(weights, heads=())  # they are operands
    return dataclasses.replace(step, struct="", kernels=("unrolled",), fields={}, weights=weights, blocks=found)


def _early_bytes(step: Step, board: Board) -> int:
    """Bytes of an output position that straight-line code writes before it reads its last input."""
    if not board.is_avr or step.stage.pool is not None or _wide(step.tensors[step.stage.name]):
        return 0
    return sum(block.channels for block in step.blocks[:-1])


def _conv(stage: Stage, op: Convolution, name: str, source: TensorType, output: TensorType, in_pairs: bool) -> Fields:
    height, width, out_channels = output.shape
    _, in_width, channels = source.shape
    right, down, taps = op.stride[1] * channels, op.stride[0] * in_width * channels, op.kernel[1] * channels
    pairs = (out_channels + 1) // 2
    return {
        "window": {
            "rows": op.kernel[0],
            "taps": taps,
            "skip": in_width * channels - taps & MAX_PLACE,
            "channels": out_channels,
            "pairs": pairs,
            "pitch": f"{2 * pairs} * sizeof(sum_t)" if twice(stage, output, in_pairs) else 0,
        },
        "heads": f"heads_{name}",
        "height": height,
        "width": width,
        "across": stage.windows[1] * right & MAX_PLACE,  # modulo, as the kernels compute: where it is larger nothing lies there
        "below": stage.windows[0] * down & MAX_PLACE,
        "right": right & MAX_PLACE,
        "down": down & MAX_PLACE,
        "pool_height": stage.windows[0],
        "pool_width": stage.windows[1],
        "wide": _wide(output),
    }


def _any_pairs(found: Sequence[Stage], tensors: Sequence[Mapping[str, TensorType]], encodings: Mapping[str, Encoding]) -> bool:
    """Whether any of the stages, with ``tensors`` as they read and write them, could sum up its windows two at a time."""
    return any(
        _pairs(stage, types, encodings[stage.op.name])
        for stage, types in zip(found, tensors, strict=True)
        if isinstance(stage.op, Conv2d)
    )


def _pairs(stage: Stage, tensors: Mapping[str, TensorType], encoding: Encoding) -> bool:
    """Whether a stage could sum up its windows two at a time. Only sums_pairs knows better than to sum up a single one twice."""
    if not isinstance(stage.op, Conv2d) or encoding == "unrolled":
        return False
    return encoding != "pairs" or math.prod(tensors[stage.name].shape[:2]) * math.prod(stage.windows) > 1


def _padding(op: Convolution, kernel: str, source: TensorType) -> Fields:
    in_height, in_width, channels = source.shape
    return {
        "top": op.padding[0],
        "left": op.padding[1],
        "in_height": in_height,
        "in_width": in_width,
        "stride_down": op.stride[0],
        "stride_right": op.stride[1],
        "columns": op.kernel[1],
        "weights_pixel": {"sums_pairs": 2 * channels, "sums_channels": channels}.get(kernel, 1),
        "pixel": channels,
    }


def _pool(op: MaxPool2d | AveragePool2d, source: TensorType, output: TensorType) -> Fields:
    height, width = op.window
    _, in_width, channels = source.shape
    return {
        "height": output.shape[0],
        "width": output.shape[1],
        "kernel_height": height,
        "kernel_width": width,
        "channels": channels,
        "taps": width * channels,
        "skip": (in_width - width) * channels,
    }


def _add(op: Add, name: str, output: TensorType) -> Fields:
    return {
        "operands": f"operands_{name}",
        "count": len(op.inputs),
        "elements": tensor_bytes(output) // item_bytes(output),
        "shift": op.shift,
        "wide": _wide(output),
    }


def _wide(output: TensorType) -> int:
    return int(output.dtype == "int16")


def _check_places(graph: IntegerGraph) -> None:
    for name, tensor in graph.tensors.items():
        size = tensor_bytes(tensor)
        if size > MAX_PLACE:
            raise BoardError(f"a feature map must have at most {MAX_PLACE} bytes, but {name} has {size}; downsample the input")
    for op in graph.ops:
        if isinstance(op, Convolution):
            _check_window(op, graph.tensors[op.inputs[0]])


def _check_window(op: Convolution, source: TensorType) -> None:
    longest = max(source.shape[:2])
    if any(op.padding) and longest > MAX_PADDED:
        raise BoardError(f"a padded map must have at most {MAX_PADDED} rows and columns, but that of {op.name} has {longest}")
    if max(op.kernel[0], *op.stride) > MAX_BYTE:
        raise BoardError(
            f"a kernel must have at most {MAX_BYTE} rows and steps as small, but {op.name} has {op.kernel[0]} rows and a stride "
            f"of {op.stride[0]}x{op.stride[1]}; downsample the input"
        )


def _identifiers(names: Iterable[str]) -> dict[str, str]:
    """Give every operation a name of its own that C can take behind a prefix."""
    given: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "unnamed"
        candidates = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        given[name] = next(candidate for candidate in candidates if candidate not in given.values())
    return given
