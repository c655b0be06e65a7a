"""Architectures as points for the surrogate: coordinates in [0, 1], and which of them take part.

An ordered dimension is one coordinate, its place in the list of the limits; a range is one, its place by logarithm; an unordered
choice of two values is one, of more a coordinate per value (one-hot). Coordinates of inactive dimensions are 0 and marked so.
Two architectures within the limits have equal codes only if they are equal, but for ranges' values that differ by rounding alone.
"""

import numpy as np
import numpy.typing as npt

from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.dimensions import dimensions
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.suggest import assignment


def encode(
    limits: SpaceLimits, architecture: Architecture
) -> tuple[
    npt.NDArray[np.float64],  # values (D,)
    npt.NDArray[np.bool_],  # active (D,)
]:
    """Return the coordinates of ``architecture`` and which are active; D depends on the limits alone.

    Raises ArchitectureError where ``architecture`` lies outside ``limits``.
    """
    chosen = assignment(limits, architecture)
    values: list[float] = []
    active: list[bool] = []
    for dimension in dimensions(limits):
        is_active = dimension.name in chosen
        values += dimension.coordinates(chosen[dimension.name]) if is_active else [0.0] * dimension.width
        active += [is_active] * dimension.width
    return np.array(values), np.array(active)
