"""Which layers of a parent live on in a child, found by aligning their two lists (Needleman and Wunsch, 1970).

The order of matched layers is kept, a layer that was added or removed costs one, and layers that differ in shape or place can
match at a price below that of removing one and adding the other. So one mechanism serves every morph, and several at once.
"""

from dataclasses import dataclass

from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.layers import INPUT, LOGITS, Layer, layers

GAP = 1.0
DIFFERENCE = 0.2  # for each of at most 8 differences: all of them together cost less than two gaps
OTHER_NAME = 1e-3  # decides between alignments that are equally good


def match(child: Architecture, parent: Architecture) -> dict[str, str]:
    """Return the parent's layer for each of the child's layers with weights that has one; names of layers."""
    ours, theirs = _Roles.of(child), _Roles.of(parent)
    matched = _align(ours, theirs)
    if (child.head.hidden is None) != (parent.head.hidden is None):
        return matched  # what the routed outputs are summed to means something else
    if child.head.hidden is not None:
        matched[LOGITS] = LOGITS
    return matched | _match_branches(ours, theirs, matched)


@dataclass(frozen=True, slots=True)
class _Roles:
    """The layers with weights of a network, by what they are for."""

    trunk: tuple[Layer, ...]  # convolutions, full and depthwise, in order
    branches: dict[str, str]  # linear layer that reads a block -> the last of the trunk before it; in order
    shortcuts: frozenset[str]  # tensors where a residual connection starts
    ends: frozenset[str]  # the last layer that a residual connection spans

    @classmethod
    def of(cls, architecture: Architecture) -> "_Roles":
        network = layers(architecture)
        trunk = tuple(layer for layer in network if layer.op in ("conv", "depthwise"))
        latest, branches = INPUT, dict[str, str]()
        for layer in network:
            if layer.op in ("conv", "depthwise"):
                latest = layer.name
            elif layer.op == "linear" and not (layer.name == LOGITS and architecture.head.hidden is not None):
                branches[layer.name] = latest
        residual = [layer.inputs for layer in network if layer.op == "add" and layer.inputs[0] not in branches]
        return cls(trunk, branches, frozenset(i[0] for i in residual), frozenset(i[1] for i in residual))


def _align(child: _Roles, parent: _Roles) -> dict[str, str]:
    """Return the cheapest alignment of the two trunks: child's layer -> parent's layer."""
    rows, columns = len(child.trunk) + 1, len(parent.trunk) + 1
    best: list[list[tuple[float, tuple[int, int]]]] = [[(0.0, (0, 0))] * columns for _ in range(rows)]
    for i in range(rows):
        for j in range(columns):
            steps = []
            if i and j and child.trunk[i - 1].op == parent.trunk[j - 1].op:
                price = _price(child.trunk[i - 1], parent.trunk[j - 1], child, parent)
                steps.append((best[i - 1][j - 1][0] + price, (i - 1, j - 1)))
            if i:
                steps.append((best[i - 1][j][0] + GAP, (i - 1, j)))
            if j:
                steps.append((best[i][j - 1][0] + GAP, (i, j - 1)))
            if steps:
                best[i][j] = min(steps)
    matched, i, j = {}, rows - 1, columns - 1
    while i or j:
        before = best[i][j][1]
        if before == (i - 1, j - 1):
            matched[child.trunk[i - 1].name] = parent.trunk[j - 1].name
        i, j = before
    return matched


def _price(ours: Layer, theirs: Layer, child: _Roles, parent: _Roles) -> float:
    """Price of matching two layers of the same operation."""
    differences = (
        ours.in_shape[0] != theirs.in_shape[0],
        ours.out_shape[0] != theirs.out_shape[0],
        ours.in_shape[1:] != theirs.in_shape[1:],
        ours.out_shape[1:] != theirs.out_shape[1:],
        ours.kernel != theirs.kernel,
        ours.stride != theirs.stride,
        (ours.inputs[0] in child.shortcuts) != (theirs.inputs[0] in parent.shortcuts),
        (ours.name in child.ends) != (theirs.name in parent.ends),
    )
    return DIFFERENCE * sum(differences) + OTHER_NAME * (ours.name != theirs.name)


def _match_branches(child: _Roles, parent: _Roles, matched: dict[str, str]) -> dict[str, str]:
    """Match the last branches, then others that read what the same layer wrote. A branch of the parent lives on once."""
    *ours, last = child.branches
    *theirs, parents_last = parent.branches
    found = {last: parents_last}
    by_source = {parent.branches[name]: name for name in theirs}
    source = INPUT  # of the parent, at the child's latest layer that lives on
    sources = {INPUT: INPUT}
    for layer in child.trunk:
        source = matched.get(layer.name, source)
        sources[layer.name] = source
    for name in ours:
        twin = by_source.pop(sources[child.branches[name]], None)
        if twin is not None:
            found[name] = twin
    return found
