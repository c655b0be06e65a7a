"""Pareto fronts and their hypervolume, every objective minimised. F: (n, k) objectives in one unit per column."""

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


def non_dominated(
    F: Float64Array,  # (n, k)
) -> npt.NDArray[np.bool_]:  # (n,)
    """Say which rows no other row dominates (is at most equal in all columns and less in one); equal rows all stay."""
    kept = np.zeros(len(F), dtype=np.bool_)
    # In lexicographic order only an earlier row can dominate a later one, and if one does, then one of the front.
    for index in np.lexsort(F.T[::-1]):
        front = F[kept]
        kept[index] = not ((front <= F[index]).all(axis=1) & (front < F[index]).any(axis=1)).any()
    return kept


def hypervolume(
    F: Float64Array,  # (n, k)
    reference: Float64Array,  # (k,)
) -> float:
    """Return the volume that the rows of ``F`` dominate below ``reference``; rows beyond it in any column add nothing."""
    inside = F[np.less(F, reference).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - inside.min())
    import torch  # here: who reads a front needs no BoTorch
    from botorch.utils.multi_objective.box_decompositions import DominatedPartitioning

    # BoTorch maximises: both signs change.
    boxes = DominatedPartitioning(ref_point=-torch.from_numpy(reference), Y=-torch.from_numpy(inside))
    return float(boxes.compute_hypervolume())
