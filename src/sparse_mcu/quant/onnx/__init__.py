"""ONNX files as folded networks: what a user trained elsewhere, in the float layers that quantisation starts from.

``model`` reads the file; ``operators`` turns its nodes one by one into layers, which ``builder`` appends; what passes from node
to node is a ``value``: it says where the elements of an ONNX tensor lie in what the layers write.
"""

from sparse_mcu.quant.onnx.model import read_model
from sparse_mcu.quant.onnx.operators import import_model

__all__ = ["import_model", "read_model"]
