"""Where a child cannot begin with its parent's function, least squares bring it near.

Layer by layer, in the order in which they run, the weights that stay are moved so that on some training images the child's sums
are those that the layer had in its parent: a layer whose channels or taps have left, or that reads another map than before, makes
the best of what is left. The last layer is fitted to the parent's logits, whatever was before it. Where a child computes what its
parent does nothing moves.

For one output channel with inputs X (n, D) and inherited weights w, the change d is the least of |X d - r|² + λ |d|², r: what X w
lacks; both without their means, which go into the bias. λ is what serves best on samples that were held out.

References: He, Zhang, Sun, "Channel pruning for accelerating very deep neural networks", ICCV 2017, section 3.1
(reconstruction); Hoerl, Kennard, "Ridge regression", Technometrics 1970.
"""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_mcu.nn.inherit import inherit
from sparse_mcu.nn.kinship import NEW, Cells, IntArray, Kinship
from sparse_mcu.nn.modules import WeightedLayer
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.rounding import FULL_BITS
from sparse_mcu.nn.variational import keep
from sparse_mcu.space.layers import INPUT, LOGITS, Layer

IMAGES = 2048  # at most, and no more than keep the largest map of all of them below ACTIVATIONS numbers
ACTIVATIONS = 2**24
SAMPLES = 8192  # of the places of a map: more than enough to tell a few hundred weights
# λ as shares of the mean square of an input: which one, or whether to move at all, is decided by samples that were held out. A
# weaker one has to leave less than this share of what is lacking: else it comes a little nearer to the parent with large weights
# that cancel each other, which few bits cannot hold, and which training, whose steps are as long as ever, hardly moves.
RIDGES = (10.0, 1.0, 0.1, 0.01)
WEAKER_SHARE = 0.1
HELD_OUT = 0.25  # of the samples
SMALLEST_FACTOR = 1e-6  # of a channel behind its batch norm and scale: the sums of one below do not matter
LEAST_SPREAD = 1e-6  # of logits over images, as a share of the parent's: below it they are constant


def begin_as(
    child: Network,
    parent: Network,
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    seed: int,
) -> bool:
    """Let ``child`` inherit from ``parent`` and fit it to that one's function; both are left in eval mode, on the CPU.

    Where all that told the parent's images apart has left with the morph, nothing could bring it back, for what was pruned stays
    so: ``child`` keeps its fresh weights then, and the answer is False. The same seed picks the same images.
    """
    fresh = child.weights()
    inherit(child, parent)
    reconstruct(child, parent, images, seed)
    if _tells_apart(child, parent, images, seed):
        return True
    child.load(fresh)
    return False


@torch.no_grad()
def reconstruct(
    child: Network,
    parent: Network,
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    seed: int,
) -> None:
    """Fit the layers of ``child``, which has inherited from ``parent``, to the parent's. Both are left in eval mode, on the CPU.

    The same seed picks the same images.
    """
    child.eval()
    parent.eval()
    if child.layers == parent.layers:  # as where it is trained in another way, or polished
        return
    with _unrounded(child), _unrounded(parent):
        _fit_layers(child, parent, images, np.random.default_rng(seed))


@torch.no_grad()
def _tells_apart(child: Network, parent: Network, images: npt.NDArray[np.uint8], seed: int) -> bool:
    x = _sample(images, child, np.random.default_rng(seed))
    spread, parents_spread = (float(network(x).std(0, correction=0).max()) for network in (child, parent))
    return spread > LEAST_SPREAD * parents_spread


def _fit_layers(child: Network, parent: Network, images: npt.NDArray[np.uint8], rng: np.random.Generator) -> None:
    x = _sample(images, child, rng)
    kinship = Kinship(child, parent)
    wanted, logits = _targets(parent, x)
    *_, last = child.weighted()
    tensors = {INPUT: x}
    for layer, operation in zip(child.layers, child.operations, strict=True):
        inputs = [tensors[name] for name in layer.inputs]
        if operation is last:
            rest = [tensors[name] for name in child.layers[-1].inputs if name in tensors and child.layers[-1].op == "add"]
            _fit(last, inputs[0], logits - sum(rest), np.arange(layer.out_shape[0]), kinship.reads_others(layer), rng)
        elif isinstance(operation, WeightedLayer) and layer.name in kinship.twins:
            rows = kinship.rows(layer)
            target = _resampled(wanted[kinship.twins[layer.name].layer.name][:, rows], *kinship.written(layer), layer)
            _fit(operation, inputs[0], target, rows, kinship.reads_others(layer), rng)
        tensors[layer.name] = operation(*inputs)


@contextlib.contextmanager
def _unrounded(network: Network) -> Iterator[None]:
    """Let layers compute with what is behind their rounded weights: that is inherited, and moves."""
    bits = [module.bits for module in network.weighted()]
    for module in network.weighted():
        module.bits = FULL_BITS
    try:
        yield
    finally:
        for module, before in zip(network.weighted(), bits, strict=True):
            module.bits = before


def _sample(images: npt.NDArray[np.uint8], network: Network, rng: np.random.Generator) -> Tensor:  # (B, C, H, W)
    """Return some images as a network sees them."""
    largest = max(math.prod(layer.out_shape) for layer in network.layers)
    count = min(len(images), IMAGES, max(1, ACTIVATIONS // largest))
    return torch.from_numpy(images[rng.permutation(len(images))[:count]]).float() / 255


def _targets(parent: Network, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return what every layer with weights computes before its ReLU, and the logits (B, classes, 1, 1)."""
    wanted = {}
    tensors = {INPUT: x}
    for layer, operation in zip(parent.layers, parent.operations, strict=True):
        inputs = [tensors[name] for name in layer.inputs]
        if isinstance(operation, WeightedLayer):
            wanted[layer.name] = operation.before_relu(inputs[0])
            tensors[layer.name] = torch.relu(wanted[layer.name]) if layer.relu else wanted[layer.name]
        else:
            tensors[layer.name] = operation(*inputs)
    return wanted, tensors[LOGITS]


def _resampled(
    maps: Tensor,  # (B, O, H, W) of the parent
    ours: Cells,
    theirs: Cells,
    layer: Layer,
) -> Tensor:  # (B, O, H', W')
    """Return ``maps`` as the child's ``layer`` has them: interpolated at the middle of its cells."""
    rows, columns = (
        _interpolation(mine, layer.out_shape[axis], old, maps.shape[axis + 1])
        for axis, mine, old in zip((1, 2), ours, theirs, strict=True)
    )
    return torch.einsum("bohw,yh,xw->boyx", maps, rows, columns)


def _interpolation(ours: tuple[float, float], count: int, theirs: tuple[float, float], parents_count: int) -> Tensor:
    """Return (count, parents_count): the weights of the parent's cells in each of the child's, along one axis."""
    middles, parents_middles = (
        begin + width * (np.arange(cells) + 0.5) for (begin, width), cells in ((ours, count), (theirs, parents_count))
    )
    each = [np.interp(middles, parents_middles, unit) for unit in np.eye(parents_count)]
    return torch.from_numpy(np.stack(each, axis=1)).float()


def _fit(
    module: WeightedLayer,
    x: Tensor,  # (B, C, H, W) that the layer reads
    target: Tensor,  # (B, O, H', W') that it should compute before its ReLU
    rows: IntArray,  # (O,) NEW where there is no target
    every: bool,  # weight may move; else those that are not zero
    rng: np.random.Generator,
) -> None:
    """Move weights, and the bias or the mean of the batch norm."""
    layer = module.layer
    factor, bias = module.affine()
    X, Y = _samples(layer, module.scaled(x), target, rng)
    weight = module.effective_weight().double().reshape(len(factor), -1)
    offset = torch.zeros_like(bias)
    fitted = np.flatnonzero((rows != NEW) & (factor.abs() > SMALLEST_FACTOR).numpy())
    movable = torch.ones_like(weight, dtype=torch.bool) if every else weight != 0
    for channels, support in _alike(fitted, movable, separate=layer.op == "depthwise"):
        inputs = X[:, channels[0] if layer.op == "depthwise" else 0, support]
        lacking = (Y[:, channels] - bias[channels]) / factor[channels] - inputs @ weight[channels][:, support].T
        change, offset[channels] = _best_change(inputs, lacking)
        weight[np.ix_(channels, support)] += change.T
    module.weight.copy_(weight.reshape(module.weight.shape))
    if module.bias is not None:
        module.bias.add_(offset)
    elif module.mean is not None:
        module.mean.sub_(offset)
    if module.log_variance is not None and module.sparse:
        keep(module.weight, module.log_variance, module.weight != 0, module.threshold)


def _alike(channels: IntArray, stays: Tensor, separate: bool) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield channels that can be fitted at once, for of all the same weights stay, and which these are."""
    alike: dict[tuple[int, bytes], list[int]] = {}
    for channel in channels.tolist():
        alike.setdefault((channel if separate else 0, stays[channel].numpy().tobytes()), []).append(channel)
    for together in alike.values():
        support = np.flatnonzero(stays[together[0]].numpy())
        if len(support):
            yield np.array(together), support


def _samples(layer: Layer, x: Tensor, target: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return what ``layer`` reads and should compute at some places, float64: (n, groups, D) and (n, O)."""
    kernel = layer.in_shape[1:] if layer.op == "linear" else layer.kernel
    top, left, bottom, right = layer.padding
    padded = F.pad(x, (left, right, top, bottom))
    height, width = layer.out_shape[1:]
    places = min(height * width, math.ceil(SAMPLES / len(x)))
    place = torch.from_numpy(np.stack([rng.permutation(height * width)[:places] for _ in range(len(x))]))  # (B, places)
    row, column, image = place // width, place % width, torch.arange(len(x))[:, None]
    down = row[:, :, None] * layer.stride[0] + torch.arange(kernel[0])
    across = column[:, :, None] * layer.stride[1] + torch.arange(kernel[1])
    patches = padded[image[:, :, None, None], :, down[:, :, :, None], across[:, :, None, :]]  # (B, places, KH, KW, C)
    patches = patches.movedim(-1, 2).flatten(0, 1).double()
    groups = layer.in_shape[0] if layer.op == "depthwise" else 1
    return patches.reshape(len(patches), groups, -1), target[image, :, row, column].flatten(0, 1).double()


def _best_change(
    X: Tensor,  # (n, D)
    Y: Tensor,  # (n, m)
) -> tuple[Tensor, Tensor]:  # (D, m), (m,)
    """Return the change of the weights and of the bias of m channels that serves samples which it does not know.

    No change, or the one with the strongest ridge of which weaker ones are not much better.
    """
    known = len(X) - int(HELD_OUT * len(X))
    best = torch.zeros(X.shape[1], Y.shape[1], dtype=X.dtype), torch.zeros(Y.shape[1], dtype=X.dtype)
    wanted = float(Y[known:].square().sum())
    for change, offset in _ridge(X[:known], Y[:known]):
        lacking = float((Y[known:] - X[known:] @ change - offset).square().sum())
        if lacking < wanted:
            best, wanted = (change, offset), WEAKER_SHARE * lacking
    return best


def _ridge(
    X: Tensor,  # (n, D)
    Y: Tensor,  # (n, m)
) -> Iterator[tuple[Tensor, Tensor]]:  # (D, m), (m,)
    """Yield the weights and biases of ridge regression for each of RIDGES."""
    middle, mean = X.mean(0), Y.mean(0)
    X, Y = X - middle, Y - mean
    # The same solution by whichever system is the smaller.
    wide = len(X) < X.shape[1]
    gram, right = (X @ X.T, Y) if wide else (X.T @ X, X.T @ Y)
    for ridge in RIDGES:
        penalty = ridge * X.square().sum(0).mean() + torch.finfo(torch.float32).tiny
        solved = _solved(gram, penalty, right)
        change = X.T @ solved if wide else solved
        yield change, mean - middle @ change


def _solved(gram: Tensor, penalty: Tensor, right: Tensor) -> Tensor:
    solved: Tensor = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), right)
    return solved
