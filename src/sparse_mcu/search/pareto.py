"""Pareto fronts and their hypervolume, every objective minimised. F: (n, k) objectives in one unit per column.

BoTorch does the work and is imported by the first call: workers and the command line's other verbs never need it.
"""

from typing import cast

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


def non_dominated(
    F: Float64Array,  # (n, k)
) -> npt.NDArray[np.bool_]:  # (n,)
    """Say which rows no other row dominates (is at most equal in all columns and less in one); equal rows all stay."""
    import torch
    from botorch.utils.multi_objective import is_non_dominated

    mask = is_non_dominated(torch.from_numpy(F), maximize=False, deduplicate=False)
    return cast(npt.NDArray[np.bool_], mask.numpy())


def hypervolume(
    F: Float64Array,  # (n, k)
    reference: Float64Array,  # (k,)
) -> float:
    """Return the volume that the rows of ``F`` dominate below ``reference``; rows beyond it in any column add nothing."""
    inside = F[np.less(F, reference).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    import torch
    from botorch.utils.multi_objective.box_decompositions import DominatedPartitioning

    # BoTorch maximises: both signs change.
    boxes = DominatedPartitioning(ref_point=-torch.from_numpy(reference), Y=-torch.from_numpy(inside))
    return float(boxes.compute_hypervolume())
