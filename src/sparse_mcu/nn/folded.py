"""A trained network ready for quantisation: pruned, batch norm folded, plain arrays. All of ``quant`` starts from it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparse_mcu.space.layers import Layer

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FoldedLayer:
    """A layer with its effective weights (``layer.weight_shape``, zeros where pruned) and bias (O,); None where it has none."""

    layer: Layer
    weight: Float32Array | None
    bias: Float32Array | None


FoldedNetwork = tuple[FoldedLayer, ...]
