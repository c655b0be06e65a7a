import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy.access import SUM_BYTES, lead, scratch_bytes, tensor_bytes
from sparse_mcu.deploy.plan import Buffer, Leads, lower_bound, place, plan
from sparse_mcu.deploy.stages import stages
from sparse_mcu.quant.graph import INPUT, Add, Conv2d, IntegerGraph, MaxPool2d, TensorType
from sparse_mcu.quant.random_graph import GraphSize, random_graph


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Buffer], Leads]:
    """Up to four buffers of a few bytes; each pair (output, input) of neighbours in time may have a lead."""
    count = draw(st.integers(1, 4))
    buffers = []
    for _ in range(count):
        first = draw(st.integers(0, 3))
        buffers.append(
            Buffer(draw(st.integers(1, 5)), first, draw(st.integers(first, 3)), alignment=draw(st.sampled_from([1, 1, 2])))
        )
    leads = {}
    for x, y in itertools.permutations(range(count), 2):
        if buffers[x].meets(buffers[y]) and (y, x) not in leads and draw(st.booleans()):
            leads[x, y] = draw(st.integers(-buffers[y].size, buffers[x].size))
    return buffers, leads


def is_allowed(buffers: list[Buffer], leads: Leads, offsets: tuple[int, ...]) -> bool:
    """The rules of a plan, pair by pair."""
    for x, y in itertools.combinations(range(len(buffers)), 2):
        apart = offsets[x] + buffers[x].size <= offsets[y] or offsets[y] + buffers[y].size <= offsets[x]
        led = any((a, b) in leads and offsets[a] + leads[a, b] <= offsets[b] for a, b in ((x, y), (y, x)))
        if buffers[x].meets(buffers[y]) and not apart and not led:
            return False
    return all(offset % b.alignment == 0 for offset, b in zip(offsets, buffers, strict=True))


def smallest_height(buffers: list[Buffer], leads: Leads) -> int:
    """Brute force over all offsets."""
    most = sum(b.size + 1 for b in buffers)
    choices = itertools.product(*(range(most - b.size + 1) for b in buffers))
    return min(
        max(offset + b.size for offset, b in zip(offsets, buffers, strict=True))
        for offsets in choices
        if is_allowed(buffers, leads, offsets)
    )


@settings(max_examples=25, deadline=None)
@given(problem=problems())
def test_small_problems_are_solved_to_the_optimum(problem: tuple[list[Buffer], Leads]) -> None:
    buffers, leads = problem
    offsets, height = place(buffers, leads)
    assert is_allowed(buffers, leads, offsets)
    assert height == max(offset + b.size for offset, b in zip(offsets, buffers, strict=True))
    best = smallest_height(buffers, leads)
    assert height == best
    assert lower_bound(buffers, leads) <= best


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), in_pairs=st.booleans())
def test_plans_of_random_graphs_keep_the_rules(seed: int, in_pairs: bool) -> None:
    check_plan(seed, in_pairs)


def test_plans_of_most_random_graphs_come_near_the_bound() -> None:
    # Not of all: the bound lets every overlap happen at once, and some exclude each other.
    near = [height <= 1.3 * bound + 8 for height, bound in map(check_plan, range(40))]
    assert sum(near) >= 36


def check_plan(seed: int, in_pairs: bool = True) -> tuple[int, int]:
    """Hold the plan of a random graph to the rules; return its height and the lower bound."""
    graph = random_graph(np.random.default_rng(seed), GraphSize(layers=9))
    memory = plan(graph, in_pairs)
    steps = stages(graph)
    names = [INPUT, *(stage.name for stage in steps)]
    last = {name: max([s for s, stage in enumerate(steps) if name in stage.op.inputs], default=len(steps)) for name in names}
    buffers = [
        Buffer(tensor_bytes(graph.tensors[name]), step, last[name], 2 if graph.tensors[name].dtype == "int16" else 1)
        for step, name in enumerate(names, start=-1)
    ]
    leads = {
        (step + 1, names.index(source)): lead(stage, graph.tensors[source], graph.tensors[stage.name], in_pairs)
        for step, stage in enumerate(steps)
        for source in stage.op.inputs
        if last[source] == step
    }
    offsets = [memory.tensors[name] for name in names]
    for step, stage in enumerate(steps):
        if size := scratch_bytes(stage, graph.tensors[stage.name], in_pairs):
            buffers.append(Buffer(size, step, step, SUM_BYTES))
            offsets.append(memory.scratch[stage.name])
    assert len(memory.scratch) == len(buffers) - len(names)
    assert is_allowed(buffers, leads, tuple(offsets))
    height = max(offset + b.size for offset, b in zip(offsets, buffers, strict=True))
    assert memory.arena_bytes == -(-height // SUM_BYTES) * SUM_BYTES
    return height, lower_bound(buffers, leads)


def chain(*shapes: tuple[int, int, int]) -> IntegerGraph:
    """Pools from shape to shape, then logits."""
    tensors = {INPUT: TensorType(shapes[0], "uint8", 1.0)}
    ops: list[MaxPool2d | Conv2d] = []
    for number, (before, after) in enumerate(itertools.pairwise(shapes)):
        ops.append(MaxPool2d(f"pool{number}", (list(tensors)[-1],), (before[0] // after[0], before[1] // after[1])))
        tensors[f"pool{number}"] = TensorType(after, "uint8", 1.0)
    one = np.ones(10, np.int32)
    ops.append(Conv2d("logits", (list(tensors)[-1],), np.ones((10, *shapes[-1]), np.int8), one, one, one))
    return IntegerGraph(tuple(ops), tensors | {"logits": TensorType((1, 1, 10), "int16", 1.0)})


def test_a_chain_of_pools_needs_no_byte_beyond_its_image() -> None:
    assert plan(chain((16, 16, 3), (8, 8, 3), (4, 4, 3))).arena_bytes == 16 * 16 * 3


def test_logits_overlap_all_but_what_their_layer_reads() -> None:
    memory = plan(chain((4, 4, 3), (2, 2, 3)))
    # 12 inputs are read before the first logit is written; 10 sums lie in front of both: 40 + 20 bytes.
    assert memory.arena_bytes == 60


def test_a_tensor_read_again_keeps_its_place() -> None:
    graph = chain((4, 4, 3), (2, 2, 3))
    pool, logits = graph.ops
    again = Add("add", ("pool0", "twice"), (1, 1), 0)
    twice = MaxPool2d("twice", ("pool0",), (1, 1))
    last = Conv2d("logits", ("add",), logits.weights, logits.bias, logits.multiplier, logits.shift)  # type: ignore[union-attr]
    small = graph.tensors["pool0"]
    memory = plan(IntegerGraph((pool, twice, again, last), graph.tensors | {"twice": small, "add": small}))
    assert abs(memory.tensors["pool0"] - memory.tensors["twice"]) >= 12


def test_a_plan_is_the_same_every_time() -> None:
    graph = random_graph(np.random.default_rng(7), GraphSize(layers=12))
    assert plan(graph) == plan(graph)
