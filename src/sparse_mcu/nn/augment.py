"""Training images a little turned, scaled and moved, or mirrored, so that what a network learns of few holds for others."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Standard deviations at strength 1: small enough to keep the class of a digit, a sign, or a window of a signal.
TURN = 0.1  # radians
SCALE = 0.05  # of the logarithm
SHIFT = 0.03  # of the extent


def augment(
    x: Tensor,  # (B, C, H, W)
    strength: float,
) -> Tensor:  # (B, C, H, W)
    """Transform each image by an affine map of its own, drawn from the global generator; what comes in repeats the edge.

    A signal (H = 1) is stretched and moved along its one axis.
    """
    count, _, height, width = x.shape
    turn, scale, down, right = (strength * torch.randn(4, count, device=x.device)).unbind()
    flat = min(height, width) == 1
    turn = TURN * turn * (0.0 if flat else 1.0)
    scale = torch.exp(SCALE * scale)
    # affine_grid's coordinates run from -1 to 1 along each axis.
    down, right = (2 * SHIFT * shift * (extent > 1) for shift, extent in ((down, height), (right, width)))
    ratio = height / width
    rows = [scale * turn.cos(), -scale * turn.sin() * ratio, right, scale * turn.sin() / ratio, scale * turn.cos(), down]
    maps = torch.stack(rows, dim=1).reshape(count, 2, 3)
    grid = F.affine_grid(maps, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def mirror(
    x: Tensor,  # (B, C, H, W)
) -> Tensor:  # (B, C, H, W)
    """Turn left and right round in about every other image, as the global generator decides."""
    turned = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(turned, x.flip(3), x).contiguous(memory_format=torch.channels_last)
