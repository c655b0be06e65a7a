"""What a network costs: the paper's sizes, and true bytes and cycles predicted without compiling."""

from sparse_mcu.cost.estimate import Cost, cost
from sparse_mcu.cost.paper import LayerSizes, layer_sizes

__all__ = ["Cost", "LayerSizes", "cost", "layer_sizes"]
