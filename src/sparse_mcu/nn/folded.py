"""A trained network ready for quantisation: pruned, batch norm folded, plain arrays. All of ``quant`` starts from it."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparse_mcu.space.layers import Layer

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FoldedLayer:
    """A layer with its effective weights (``layer.weight_shape``, zeros where pruned) and bias (O,); None where it has none.

    ``ceiling`` is where its ReLU stops rising (6 of a ReLU6). Where the network was trained with them, ``scale`` is the real
    value of a step of its 8-bit output, and ``step`` (O,) that of which the weights of each output channel are whole multiples;
    a quantiser chooses what is None.
    """

    layer: Layer
    weight: Float32Array | None
    bias: Float32Array | None
    ceiling: float = math.inf
    scale: float | None = None
    step: Float32Array | None = None


FoldedNetwork = tuple[FoldedLayer, ...]
