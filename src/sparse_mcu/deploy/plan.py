"""The memory plan: one static arena in which every tensor and every scratch buffer of a graph has its offset.

Buffers that are never alive together overlap, and an output overlaps an input that is read for the last time as far as the order
of its kernel's accesses allows (access.py). So all rules between two buffers x, y have one form: y must not begin strictly
between ``gap(y, x)`` before x and ``gap(x, y)`` after it; gap(x, y) is how many bytes before y x must begin if it begins first.

Of a tensor that is streamed (stream.py) the arena has room for some rows alone, all of them alive as long as rows come. The last
of these rows is there only from the step that writes it to the step that reads it: scratch of other steps overlaps it. And the
last rows of the tensor that all this leads to are written when the first lines are no longer needed: they overlap these.

Placing buffers one by one, each at the lowest offset that the rules allow, reaches the smallest arena for some order of them:
lay those of an optimal plan down again such that each follows the buffers that hold it up, and none comes to lie higher than it
did. So the search is over orders: downhill from a few natural ones, then exhaustively as far as MAX_PLACEMENTS goes.
"""

import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sparse_mcu.deploy.access import SUM_BYTES, lead, scratch_bytes, tensor_bytes
from sparse_mcu.deploy.stream import Line, rows_before_the_end, running
from sparse_mcu.quant.graph import INPUT, IntegerGraph

MAX_PLACEMENTS = 4000  # of buffers, by the exhaustive search; small networks need fewer to be sure of the best plan
_EXACT_BUFFERS = 5  # alive at once, up to which all orders are tried for the lower bound


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Offsets in the arena in bytes: of tensors by name, of scratch by the tensor that is computed with it (some need none)."""

    arena_bytes: int
    tensors: dict[str, int]
    scratch: dict[str, int]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Bytes that are alive from the step ``first`` to the step ``last``, both included."""

    size: int
    first: int
    last: int
    alignment: int = 1

    def meets(self, other: "Buffer") -> bool:
        """Whether the two are ever alive together."""
        return self.first <= other.last and other.first <= self.last


Leads = dict[tuple[int, int], int]  # (x, y) by index -> how many bytes before y x must begin, where that is not x's size


def plan(
    graph: IntegerGraph,
    in_pairs: bool = True,
    lines: Sequence[Line] = (),
    alone: Collection[str] = (),
    early: Mapping[str, int] | None = None,
) -> MemoryPlan:
    """Return a plan for ``graph`` whose arena is the smallest, or near it for graphs with many tensors. Deterministic.

    ``in_pairs`` says whether convolutions, but for those named in ``alone``, sum up their windows two at a time, which changes
    the order of their accesses; ``early`` how many bytes of a position some write before they have read all that it needs. Of
    tensors with ``lines``, from the input on, the arena has room for the rows that are held.
    """
    steps = running(graph, lines)
    names = [INPUT, *(stage.name for stage in steps)]
    last = {source: step for step, stage in enumerate(steps) for source in stage.op.inputs} | {graph.output: len(steps)}
    buffers = [_tensor_buffer(graph, name, step, last[name], lines) for step, name in enumerate(names, start=-1)]
    index = {name: position for position, name in enumerate(names)}
    leads: Leads = {}
    scratches: dict[str, int] = {}
    for step, stage in enumerate(steps):
        streamed = step < len(lines)
        output = (lines[step].slices(graph) if streamed else graph.tensors)[stage.name]
        paired, early_bytes = in_pairs and stage.op.name not in alone, (early or {}).get(stage.op.name, 0)
        for source in stage.op.inputs:
            if last[source] == step and not streamed:
                leads[index[stage.name], index[source]] = lead(stage, graph.tensors[source], output, paired, early_bytes)
        if size := scratch_bytes(stage, output, paired):
            scratches[stage.name] = len(buffers)
            leads |= {(i, len(buffers)): _resting_bytes(graph, line) for i, line in enumerate(lines) if step not in (i - 1, i)}
            buffers.append(Buffer(size, step, step, SUM_BYTES))
    for i in range(len(lines) - 1):
        written = rows_before_the_end(lines[i:])
        leads[len(lines), i] = written * tensor_bytes(graph.tensors[lines[-1].stage.name]) // lines[-1].outputs
    offsets, height = _placed(tuple(buffers), tuple(sorted(leads.items())))
    return MemoryPlan(
        arena_bytes=-(-height // SUM_BYTES) * SUM_BYTES,  # the arena is aligned for sums, and so is what lies behind it
        tensors={name: offsets[index[name]] for name in names},
        scratch={name: offsets[position] for name, position in scratches.items()},
    )


def _tensor_buffer(graph: IntegerGraph, name: str, first: int, last: int, lines: Sequence[Line]) -> Buffer:
    tensor = graph.tensors[name]
    alignment = 2 if tensor.dtype == "int16" else 1
    if first + 1 < len(lines):
        return Buffer(tensor_bytes(lines[first + 1].slices(graph)[name]), -1, len(lines) - 1, alignment)
    born = -1 if first < len(lines) else first  # the last layer that is streamed writes rows from the beginning on
    return Buffer(tensor_bytes(tensor), born, last, alignment)


def _resting_bytes(graph: IntegerGraph, line: Line) -> int:
    """Bytes of ``line`` that hold rows while neither its own layer runs nor the one before it."""
    return (line.rows - 1) * tensor_bytes(graph.tensors[line.tensor]) // line.height


@functools.lru_cache(maxsize=256)  # programs that differ in the forms of their layers often have the same buffers
def _placed(buffers: tuple[Buffer, ...], leads: tuple[tuple[tuple[int, int], int], ...]) -> tuple[tuple[int, ...], int]:
    return place(buffers, dict(leads))


def place(buffers: Sequence[Buffer], leads: Leads) -> tuple[tuple[int, ...], int]:
    """Return an offset for each of the ``buffers``, and the height of the arena that holds them."""
    space = _Space(buffers, leads)
    bound = lower_bound(buffers, leads)
    by_size = sorted(range(len(buffers)), key=lambda b: -buffers[b].size)
    by_birth = sorted(range(len(buffers)), key=lambda b: (buffers[b].first, -buffers[b].size))
    for order in (by_size, by_birth, by_birth[::-1]):
        space.descend(order, bound)
    space.search(by_size, bound)
    return space.offsets, space.height


def lower_bound(buffers: Sequence[Buffer], leads: Leads) -> int:
    """Return a height that no arena undercuts: the best that the buffers of one step could have if the others were not."""
    steps = {b.first for b in buffers}  # whatever is alive together is so when the last of it is born
    return max(_step_bound(buffers, leads, [i for i, b in enumerate(buffers) if b.first <= step <= b.last]) for step in steps)


def _step_bound(buffers: Sequence[Buffer], leads: Leads, alive: list[int]) -> int:
    if len(alive) > _EXACT_BUFFERS:
        return max(buffers[i].size for i in alive)
    new = {old: position for position, old in enumerate(alive)}
    inner = {(new[out], new[source]): value for (out, source), value in leads.items() if out in new and source in new}
    space = _Space([buffers[i] for i in alive], inner)
    for order in itertools.permutations(range(len(alive))):
        space.try_order(order)
    return space.height


class _Space:
    """Buffers with the gaps between them, and the best plan found so far."""

    def __init__(self, buffers: Sequence[Buffer], leads: Leads) -> None:
        self.buffers = buffers
        self.gaps = {
            (x, y): leads.get((x, y), buffers[x].size)  # if x begins first: how far, at least, before y
            for x, y in itertools.permutations(range(len(buffers)), 2)
            if buffers[x].meets(buffers[y])
        }
        self.neighbours = [[y for y in range(len(buffers)) if (x, y) in self.gaps] for x in range(len(buffers))]
        self.placements = 0
        self.offsets: tuple[int, ...] = ()
        self.height = sum(b.size + b.alignment for b in buffers) + 1

    def try_order(self, order: Sequence[int]) -> int:
        """Place the buffers in this order, keep the plan if it is the best so far, and return its height."""
        offsets: dict[int, int] = {}
        for buffer in order:
            offsets[buffer] = self._lowest(buffer, offsets)
        height = max(offset + self.buffers[buffer].size for buffer, offset in offsets.items())
        if height < self.height:
            self._keep(offsets, height)
        return height

    def descend(self, order: Sequence[int], bound: int) -> None:
        """Move one buffer at a time to another place of the order as long as that lowers the arena; stop at ``bound``."""
        order = list(order)
        height = self.try_order(order)
        improved = True
        while improved and self.height > bound:
            improved = False
            for source, target in itertools.permutations(range(len(order)), 2):
                moved = order[:source] + order[source + 1 :]
                moved.insert(target, order[source])
                moved_height = self.try_order(moved)
                if moved_height < height:
                    order, height, improved = moved, moved_height, True

    def search(self, order: Sequence[int], bound: int) -> None:
        """Try all orders, depth first from ``order``, until one reaches ``bound`` or MAX_PLACEMENTS buffers have been placed."""
        self._extend({}, 0, list(order), bound)

    def _extend(self, offsets: dict[int, int], height: int, rest: list[int], bound: int) -> None:
        """Place each of ``rest`` next, in turn, and what remains after it."""
        if not rest:
            self._keep(offsets, height)
        for position, buffer in enumerate(rest):
            if self.height == bound or self.placements == MAX_PLACEMENTS:
                return
            self.placements += 1
            offset = self._lowest(buffer, offsets)
            reached = max(height, offset + self.buffers[buffer].size)
            if reached < self.height:
                self._extend(offsets | {buffer: offset}, reached, rest[:position] + rest[position + 1 :], bound)

    def _lowest(self, buffer: int, offsets: dict[int, int]) -> int:
        """Return the lowest offset that the rules allow beside the buffers already placed."""
        alignment = self.buffers[buffer].alignment
        taken = sorted(
            (offsets[other] - self.gaps[buffer, other], offsets[other] + self.gaps[other, buffer])
            for other in self.neighbours[buffer]
            if other in offsets
        )  # it must not begin strictly between the two
        offset = 0
        for low, high in taken:
            if low < offset < high:
                offset = -(-high // alignment) * alignment
        return offset

    def _keep(self, offsets: dict[int, int], height: int) -> None:
        self.offsets, self.height = tuple(offsets[b] for b in range(len(self.buffers))), height
