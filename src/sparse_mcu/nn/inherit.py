"""A child begins with what its parent learnt: one mechanism for all morphs.

Weights are copied along the origins that ``kinship`` finds. A new channel has fresh weights in its rows and zeros in the columns
of those that read it, a new tap of a kernel is zero, a new layer passes on what it reads, a new summand is zero: so a wider,
deeper child with larger kernels computes exactly what its parent does. Others ``reconstruct`` brings near to it.

O, I: output and input channels; KH, KW: kernel. All weights here are (O, I, KH, KW), a linear layer's kernel is its whole map.

References: Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016; Wei, Wang, Rui, Chen, "Network morphism", ICML 2016.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sparse_mcu.errors import ArchitectureError
from sparse_mcu.nn.kinship import NEW, Cells, FloatArray, IntArray, Kinship
from sparse_mcu.nn.modules import BATCH_NORM_EPSILON, WeightedLayer
from sparse_mcu.nn.network import Network, Weights
from sparse_mcu.nn.variational import INITIAL_LOG_VARIANCE, KEPT_MARGIN, SQUARE_FLOOR
from sparse_mcu.space.layers import Layer

Parts = dict[str, FloatArray]  # of one layer, by their names in WeightedLayer


def inherit(child: Network, parent: Network) -> None:
    """Give ``child`` the weights, statistics and posteriors of a trained parent.

    Raises ArchitectureError where the two do not read the same input and tell the same number of classes.
    """
    ours, theirs = child.architecture, parent.architecture
    if (ours.input_shape, ours.classes) != (theirs.input_shape, theirs.classes):
        raise ArchitectureError(
            f"a child must have its parent's input and classes, but {ours.input_shape}, {ours.classes} "
            f"are not {theirs.input_shape}, {theirs.classes}"
        )
    child.load(_Inheritance(child, parent).weights())


class _Inheritance:
    """The child's weights, from its own fresh ones and the parent's."""

    def __init__(self, child: Network, parent: Network) -> None:
        self.child, self.fresh = child, child.weights()
        self.kinship = Kinship(child, parent)
        self.ends = {layer.inputs[-1] for layer in child.layers if layer.op == "add"}

    def weights(self) -> Weights:
        """Return all parts of all layers, for ``child.load``."""
        result = {}
        for module in self.child.weighted():
            name = module.layer.name
            fresh = {part: self.fresh[f"{name}.{part}"] for part in module.state_dict()}
            parts = self._inherited(module, fresh) if name in self.kinship.twins else self._added(module, fresh)
            result.update({f"{name}.{part}": value.astype(np.float32) for part, value in parts.items()})
        return result

    def _inherited(self, module: WeightedLayer, fresh: Parts) -> Parts:
        """Return the parts of a layer that lives on."""
        layer = module.layer
        parent = self.kinship.twins[layer.name]
        parts = _converted(parent, module)
        # A depthwise layer's kernels have one column, their rows are their channels.
        one = np.zeros(1, dtype=np.intp)
        rows, columns = self.kinship.rows(layer), one if layer.op == "depthwise" else self.kinship.columns(layer)
        result = {part: value for part, value in fresh.items() if part.startswith("input_scale.")}
        for part, value in parts.items():
            if part in ("weight", "log_variance"):
                fill = 0.0 if part == "weight" else INITIAL_LOG_VARIANCE
                resized = _resized(layer, parent.layer, self.kinship.read(layer), value, fill)
                if part == "log_variance" and self.kinship.reads_others(layer):  # its posterior begins anew
                    resized = np.full_like(resized, INITIAL_LOG_VARIANCE)
                result[part] = _gathered(resized, rows, columns, _four(layer, fresh[part]), fill).reshape(fresh[part].shape)
            elif part.startswith("input_scale."):
                places = (-1, math.prod(layer.kernel))
                taken = value.reshape(places)[columns]
                result[part] = np.where(_column(columns == NEW, taken), fresh[part].reshape(places), taken).ravel()
            else:
                result[part] = np.where(rows == NEW, fresh[part], value[rows])
        _stay(result, module)
        return result

    def _added(self, module: WeightedLayer, fresh: Parts) -> Parts:
        """Return the parts of a layer that the parent does not have: zero as a summand, else the identity where it can be."""
        layer = module.layer
        origin, before = (self.kinship.origin(name) for name in (layer.name, layer.inputs[0]))
        if origin.space is None:
            return fresh
        if layer.op == "linear" or layer.name in self.ends:  # something else already tells what the sum is
            return fresh | {"weight": np.zeros_like(fresh["weight"])}
        if origin.space != before.space:
            return fresh
        weight = np.zeros(fresh["weight"].shape)
        centre = _centre(layer.kernel)
        same = origin.channels[:, None] == (before.channels[None, :] if layer.op == "conv" else origin.channels[:, None])
        weight[:, :, *centre] = same
        weight = np.where(_column(origin.channels == NEW, weight), fresh["weight"], weight)
        parts = fresh | {"weight": weight}
        if "gamma" in parts:  # with the statistics 0 and 1 of a fresh layer
            parts["gamma"] = np.where(origin.channels == NEW, fresh["gamma"], math.sqrt(1.0 + BATCH_NORM_EPSILON))
        return parts


def _converted(parent: WeightedLayer, child: WeightedLayer) -> Parts:
    """Return the parent's layer in the child's parts, at the parent's shape (weights as (O, I, KH, KW)); it computes the same.

    Pruned weights are 0. Scales of channels go into the batch norm, and that into the weights, where the child has none. Scales
    of inputs go into the weights where the child has none or reads a map of another size.
    """
    parts = {part: tensor.double().numpy() for part, tensor in parent.state_dict().items()}
    with torch.no_grad():
        weight = parent.effective_weight().double().numpy()
        scale = None if parent.scale is None else parent.scale.effective().double().numpy()
        inputs = None if parent.input_scale is None else parent.input_scale.effective().double().numpy()
    log_variance = parts.get("log_variance", np.full(weight.shape, INITIAL_LOG_VARIANCE))
    keeps_inputs = child.input_scale is not None and child.layer.kernel == parent.layer.kernel
    if inputs is not None and not keeps_inputs:
        weight, log_variance = weight * inputs, _rescaled(log_variance, inputs)
    norm = _norm(parts)
    if scale is not None and child.scale is None:
        norm |= {"gamma": norm["gamma"] * scale, "beta": norm["beta"] * scale}
    if child.bias is not None:
        factor = norm["gamma"] / np.sqrt(norm["variance"] + BATCH_NORM_EPSILON)
        norm = {"bias": norm["beta"] - norm["mean"] * factor}
        weight = weight * _column(factor, weight)
        log_variance = _rescaled(log_variance, _column(factor, weight))
    result = {"weight": _four(parent.layer, weight)} | norm
    if child.log_variance is not None:
        result["log_variance"] = _four(parent.layer, log_variance)
    if child.scale is not None:
        result["scale.mean"] = np.ones(len(weight)) if scale is None else scale
        result["scale.log_variance"] = parts.get("scale.log_variance", np.full(len(weight), INITIAL_LOG_VARIANCE))
    if inputs is not None and keeps_inputs:
        result |= {"input_scale.mean": inputs, "input_scale.log_variance": parts["input_scale.log_variance"]}
    return result


def _rescaled(log_variance: FloatArray, factor: npt.NDArray[Any]) -> FloatArray:
    """Return the log variances of weights times ``factor``: α stays."""
    return np.asarray(log_variance + 2 * np.log(np.abs(factor) + SQUARE_FLOOR))


def _norm(parts: Parts) -> Parts:
    """Return the batch norm of a layer, or one that does what its bias does."""
    if "gamma" in parts:
        return {part: parts[part] for part in ("gamma", "beta", "mean", "variance")}
    ones = np.ones_like(parts["bias"])
    return {"gamma": ones * math.sqrt(1.0 + BATCH_NORM_EPSILON), "beta": parts["bias"], "mean": 0.0 * ones, "variance": ones}


def _stay(parts: Parts, child: WeightedLayer) -> None:
    """Shrink variances, in place, where a weight or channel that the parent has would leave by the child's threshold."""
    pairs = [(f"{name}.mean", f"{name}.log_variance") for name in ("scale", "input_scale")]
    pairs += [("weight", "log_variance")] if child.sparse else []
    for mean, log_variance in pairs:
        if log_variance in parts:
            largest = np.log(parts[mean] ** 2 + SQUARE_FLOOR) + child.threshold - KEPT_MARGIN
            parts[log_variance] = np.where(parts[mean] != 0, np.minimum(parts[log_variance], largest), parts[log_variance])


def _gathered(values: FloatArray, rows: IntArray, columns: IntArray, fresh: FloatArray, fill: float) -> FloatArray:
    """Return values[rows][:, columns] with ``fill`` in NEW columns and ``fresh`` in NEW rows."""
    taken = values[rows][:, columns]
    taken[:, columns == NEW] = fill
    return np.where(_column(rows == NEW, taken), fresh, taken)


def _resized(layer: Layer, twin: Layer, cells: tuple[Cells, Cells], values: FloatArray, fill: float) -> FloatArray:
    """Return (O, I, KH, KW) values of the parent's ``twin`` for the child's kernel: cropped or filled around the same centre.

    A linear layer's map, and a kernel whose map is coarser or finer now, are resampled instead, each weight shared out to those
    that see the same part of the input: where a feature map is constant there the sums stay, and a global average and a linear
    layer become exactly one linear layer. ``cells`` are those of the maps that the two read.
    """
    same_scale = all(math.isclose(ours[1], theirs[1]) for ours, theirs in zip(*cells, strict=True))
    if layer.kernel == twin.kernel and (same_scale or layer.op == "linear" or layer.kernel == (1, 1)):
        return values
    if layer.op == "linear" or not same_scale:
        if fill:  # log variances
            return np.full((*values.shape[:2], *layer.kernel), fill)
        ours, theirs = (_edges(each, seen) for each, seen in zip((layer, twin), cells, strict=True))
        rows, columns = (_shares(new, old) for new, old in zip(ours, theirs, strict=True))
        return np.asarray(np.einsum("oihw,yh,xw->oiyx", values, rows, columns))
    result = np.full((*values.shape[:2], *layer.kernel), fill)
    pairs = zip(_centre(layer.kernel), _centre(twin.kernel), layer.kernel, twin.kernel, strict=True)
    kept, taken = zip(*(_overlap(c - p, new, old) for c, p, new, old in pairs), strict=True)
    result[:, :, *kept] = values[:, :, *taken]
    return result


def _overlap(shift: int, new: int, old: int) -> tuple[slice, slice]:
    """Where ``old`` taps shifted by ``shift`` lie among ``new`` ones, and which of the old they are."""
    start, stop = max(0, -shift), min(old, new - shift)
    return slice(start + shift, stop + shift), slice(start, stop)


def _edges(layer: Layer, cells: Cells) -> list[FloatArray]:
    """Return where the rows and columns of a kernel begin, and the last of them ends: in the input, or around its centre."""
    begins = [begin for begin, _ in cells]
    if layer.op != "linear":
        begins = [-(tap + 0.5) * width for tap, (_, width) in zip(_centre(layer.kernel), cells, strict=True)]
    sizes = zip(begins, layer.kernel, cells, strict=True)
    return [begin + width * np.arange(count + 1) for begin, count, (_, width) in sizes]


def _shares(new: FloatArray, old: FloatArray) -> FloatArray:
    """Return (new, old): the share of each old cell that lies in each new one, given their edges; none is lost at the rim."""
    edges = new.copy()
    edges[0], edges[-1] = min(new[0], old[0]), max(new[-1], old[-1])
    start = np.maximum(edges[:-1, None], old[None, :-1])
    stop = np.minimum(edges[1:, None], old[None, 1:])
    return np.asarray(np.maximum(stop - start, 0.0) / (old[1:] - old[:-1]))


def _centre(kernel: tuple[int, int]) -> tuple[int, int]:
    """The tap that reads the output's own place, by the padding of ``space.layers``."""
    return (kernel[0] - 1) // 2, (kernel[1] - 1) // 2


def _four(layer: Layer, values: FloatArray) -> FloatArray:
    """View weights as (O, I, KH, KW)."""
    return values.reshape(len(values), -1, *layer.kernel)


def _column(values: npt.NDArray[np.generic], like: FloatArray) -> npt.NDArray[np.generic]:
    """Give (O,) values the dimensions of ``like``, to multiply or choose rows with."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
