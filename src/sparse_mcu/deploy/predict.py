"""Flash, RAM and cycles of a network on a board, predicted without compiling anything.

The code of kernels and their stack are constants of a core, and so is the time of every event that their loops repeat: a window,
a tap, a weight that is zero (``events``). tools/measure_kernels.py measures them. Weights and descriptors are counted exactly.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sparse_mcu.deploy.encode import BITMAPS, ON_ANY_CORE, WITHOUT_BITMAPS, Encoding, encode
from sparse_mcu.deploy.events import events, stream_events, unrolled_parts
from sparse_mcu.deploy.kernel_costs import KernelCosts, kernel_costs
from sparse_mcu.deploy.program import Program, Step, check_constants, lower
from sparse_mcu.deploy.stream import Line, streamable
from sparse_mcu.deploy.target import Optimise, Target
from sparse_mcu.deploy.unroll import can_unroll, reads_words
from sparse_mcu.quant.graph import (
    Add,
    AveragePool2d,
    Conv2d,
    Convolution,
    IntegerGraph,
)

WORD_BYTES = 4  # of the table of straight-line code
TIME_WEIGHT = 0.25  # of "balanced": half the cycles are worth a sixth of the flash


@dataclass(frozen=True, slots=True)
class Part:
    """What one operation takes: its tables and its call in flash, and its time."""

    name: str
    flash_bytes: int
    cycles: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """A network on a board: ``parts`` by operation; what they share (kernels) makes up the rest of the flash."""

    flash_bytes: int
    least_flash_bytes: int  # of any network of the same layers with as many weights or more: other kernels may suit those better
    ram_bytes: int  # variables, the image included, and the deepest stack
    least_ram_bytes: int  # the same whatever the weights: kernels differ in stack
    cycles: int  # of an inference
    parts: tuple[Part, ...]


def predict(graph: IntegerGraph, target: Target) -> Prediction:
    """Return what ``graph`` takes on ``target``, as ``fitted`` makes it; raise BoardError if its core has not been measured."""
    costs = kernel_costs(target.board)
    program = fitted(graph, target, costs)
    check_constants(program)
    return predict_program(program, costs)


def whole_image_predictions(graph: IntegerGraph, target: Target) -> list[Prediction]:
    """Return what each program that comes into question for ``target`` takes, where there is RAM for whole images.

    Raises BoardError if the core of the board has not been measured.
    """
    costs = kernel_costs(target.board)
    return [predict_program(program, costs) for program in candidates(graph, target, costs, ())]


def fitted(graph: IntegerGraph, target: Target, costs: KernelCosts) -> Program:
    """Return the program for ``graph`` that suits ``target`` best of those within its RAM.

    That is the fastest for ``speed``, the smallest for ``size``, and in between for ``balanced``. It takes whole images if that
    fits, else rows. If nothing fits, it is the one that takes least RAM.
    """
    whole = [(program, predict_program(program, costs)) for program in candidates(graph, target, costs, ())]
    fits = [found for found in whole if found[1].ram_bytes <= target.ram_limit]
    if not fits:
        chain = streamable(graph)
        ways = (chain[:count] for count in range(1, len(chain) + 1))
        rows = [
            (program, predict_program(program, costs)) for lines in ways for program in candidates(graph, target, costs, lines)
        ]
        fits = [found for found in rows if found[1].ram_bytes <= target.ram_limit]
        if not fits:
            return min([*whole, *rows], key=lambda found: found[1].ram_bytes)[0]
    return min(fits, key=lambda found: _price(found[1], target.optimise))[0]


def _price(prediction: Prediction, optimise: Optimise) -> float:
    """Return what is to be as little as possible."""
    match optimise:
        case "size":
            return prediction.flash_bytes
        case "balanced":
            return float(prediction.flash_bytes * prediction.cycles**TIME_WEIGHT)
        case "speed":
            return prediction.cycles


def candidates(graph: IntegerGraph, target: Target, costs: KernelCosts, lines: Sequence[Line]) -> Iterable[Program]:
    """Yield the programs that come into question for ``target`` where layers with ``lines`` are streamed."""
    paired = [lower(graph, target.board, costs, lines=lines)]
    if target.optimise == "size":
        single = lower(graph, target.board, costs, in_pairs=False, lines=lines)
        yield from (*paired, single, *(_with_means(program, costs) for program in (*paired, single)))
        return
    if not set(BITMAPS).isdisjoint(paired[0].encodings.values()):  # few bytes, but most cores take their time with them
        paired.append(lower(graph, target.board, costs, lines=lines, known=WITHOUT_BITMAPS))
    if target.optimise == "balanced":
        yield from paired
        return
    for number, program in enumerate(paired):
        if number == 0 or predict_program(program, costs).flash_bytes <= target.flash_limit:
            yield _faster(program, target, costs)


def _with_means(program: Program, costs: KernelCosts) -> Program:
    """Return ``program`` with its average pools as straight-line code, which is often less than the kernel for all of them."""
    means: dict[str, Encoding] = {
        op.name: "unrolled"
        for step in program.steps
        if isinstance(op := step.stage.op, AveragePool2d)
        if costs.unrolled and can_unroll(op, program.board, program.sum_bytes, step.tensors)
    }
    return _changed(program, means)


def _faster(program: Program, target: Target, costs: KernelCosts) -> Program:
    """Return ``program`` with other encodings of its layers, as far as the memory of ``target`` allows.

    Changes are tried one by one, those first that save most cycles for a byte of flash.
    """
    before = predict_program(program, costs)
    flash_limit, ram_limit = max(target.flash_limit, before.flash_bytes), max(target.ram_limit, before.ram_bytes)

    def gain(change: dict[str, Encoding]) -> float:
        after = predict_program(_changed(program, change), costs)
        return (before.cycles - after.cycles) / max(1, after.flash_bytes - before.flash_bytes)

    best = before
    for change in sorted(_changes(program, costs), key=gain, reverse=True):
        changed = _changed(program, change)
        found = predict_program(changed, costs)
        if found.cycles < best.cycles and found.flash_bytes <= flash_limit and found.ram_bytes <= ram_limit:
            program, best = changed, found
    return program


def _changed(program: Program, change: dict[str, Encoding]) -> Program:
    encodings = program.encodings | change
    return lower(program.graph, program.board, None, program.in_pairs, lines=program.lines, encodings=encodings)


def _changes(program: Program, costs: KernelCosts) -> Iterator[dict[str, Encoding]]:
    """Yield every other encoding of every layer that its board's kernels read."""
    for step in program.steps:
        op = step.stage.op
        known: list[Encoding] = (
            ["unrolled"] if costs.unrolled and can_unroll(op, program.board, program.sum_bytes, step.tensors) else []
        )
        if isinstance(op, Conv2d):
            known += [program.board.dense, *ON_ANY_CORE]
        if isinstance(op, Convolution):
            known = [name for name in known if encode(op, (name,), 0) is not None]
        yield from ({op.name: name} for name in known)


def predict_program(program: Program, costs: KernelCosts) -> Prediction:
    """Return what ``program`` takes where kernels take ``costs``."""
    parts = tuple(_part(program, step, costs) for step in program.steps)
    streaming = sum(costs.streaming[event] * count for event, count in stream_events(program).items())
    either = [f"sums_{encoding}" for encoding in (program.board.dense if program.paired else "pairs", *ON_ANY_CORE)]
    leaner = min(either, key=lambda kernel: costs.stack[program.variant(kernel)])
    return Prediction(
        flash_bytes=flash_bytes(program, costs),
        least_flash_bytes=flash_bytes(program, costs) - _spare_bytes(program, costs, set(either)),
        ram_bytes=program.variable_bytes + _stack_bytes(program, costs, {}),
        least_ram_bytes=program.variable_bytes + _stack_bytes(program, costs, dict.fromkeys(either, leaner)),
        cycles=round(costs.cycles["base"] + streaming) + sum(part.cycles for part in parts),
        parts=parts,
    )


def _stack_bytes(program: Program, costs: KernelCosts, instead: Mapping[str, str]) -> int:
    """The deepest stack if other kernels ran ``instead`` of some."""
    chains = {
        step.name: costs.stack[program.variant(instead[step.kernels[-1]]) if step.kernels[-1] in instead else program.chain(step)]
        for step in program.steps
    }
    if not program.lines:
        return max(chains.values()) + steps_stack(costs, len(program.steps))
    return math.ceil(max(chains[step.name] + costs.streaming[stack_of_rows(program, step)] for step in program.steps))


def stack_of_rows(program: Program, step: Step) -> str:
    """Return the name in the table of what ``step`` takes, in a program with streamed layers, beyond the stack of its kernels."""
    lines = "stack.line" if len(program.lines) == 1 else "stack.lines"
    if not step.blocks:
        return lines
    return f"{lines}.straight.{'rows' if step.calls > 1 else 'whole'}"


def steps_stack(costs: KernelCosts, count: int) -> int:
    """Return the bytes of stack that the function of a network with ``count`` steps takes beyond the smallest one's."""
    return max(taken for steps, taken in costs.steps.items() if int(steps) <= count)


def _part(program: Program, step: Step, costs: KernelCosts) -> Part:
    cycles = sum(costs.cycles[event] * count for event, count in events(program, step).items())
    return Part(step.stage.name, _step_bytes(program, step, costs), round(cycles))


def flash_bytes(program: Program, costs: KernelCosts) -> int:
    """Return the bytes of ``program`` in flash: its steps, kernels, and what the compiler links to them."""
    sections = [program.variant(section) for section in program.kernels if section != "stream"]
    helpers = {helper for section in sections for helper in costs.uses.get(section, ())}
    shared = sum(costs.code[section] for section in sections) + sum(costs.helpers[helper] for helper in helpers)
    lines = 0  # with what moves their rows
    if program.lines:
        lines = round(costs.streaming["code"] + costs.streaming["line"] * (len(program.lines) + 1))
    return costs.base_bytes + shared + lines + sum(_step_bytes(program, step, costs) for step in program.steps)


def _spare_bytes(program: Program, costs: KernelCosts, either: set[str]) -> int:
    """How much less code there may be if sums have another size, and weights another of the two kernels: as the one is now."""
    other = replace(program, sum_bytes=3 if program.sum_bytes == 4 else 4)

    def spare(section: str) -> int:
        code = costs.code[program.variant(section)]
        return max(0, code - costs.code.get(other.variant(section), code))

    sections = set(program.kernels) - {"stream"}
    chosen = max(map(spare, either)) if sections & either else 0
    # Weights are encoded for the least code of kernels, without what the compiler links to them.
    helpers = {helper for kernel in sections & either for helper in costs.uses.get(program.variant(kernel), ())}
    return chosen + sum(map(spare, sections - either)) + sum(costs.helpers[helper] for helper in helpers)


def _step_bytes(program: Program, step: Step, costs: KernelCosts) -> int:
    """Bytes of the call, the descriptor and the weights of a step."""
    call = costs.call[step.kernels[0]]
    weights = 0 if step.weights is None else step.weights.size
    if step.straight:
        return call + weights + straight_bytes(program, step, costs)
    if step.weights is not None:
        return call + weights + costs.structs["conv.padded" if program.padded else "conv"]
    operands = len(step.stage.op.inputs) * costs.structs["operand"] if isinstance(step.stage.op, Add) else 0
    return call + costs.structs[step.struct] + operands


def straight_bytes(program: Program, step: Step, costs: KernelCosts) -> int:
    """Return the bytes of the straight-line code of ``step``, with the weights in it and in its table; 0 where it has none."""
    words = max(1, sum(len(block.words) for block in step.blocks)) if step.blocks and reads_words(program.board) else 0
    return WORD_BYTES * words + round(sum(costs.unrolled[part] * count for part, count in unrolled_parts(step).items()))
