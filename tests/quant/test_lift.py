"""Lifted networks compute what they did, and nothing that a convolution or a pool reads is signed."""

import numpy as np
import pytest

from sparse_mcu.nn.folded import FoldedLayer
from sparse_mcu.quant.floating import float_tensors
from sparse_mcu.quant.lift import lift
from sparse_mcu.quant.scales import signed_layers
from sparse_mcu.space.layers import INPUT, Layer

SAME = (1, 1, 1, 1)


class Chain:
    """Layers on 3 maps of 6x6, each kept in shape, with random weights."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.layers = []

    def append(self, name, op, *inputs, padding=(0, 0, 0, 0), kernel=(1, 1), relu=False):
        layer = Layer(name, op, inputs, (3, 6, 6), (3, 6, 6), kernel, padding=padding, relu=relu)
        shape = layer.weight_shape
        weight = None if shape is None else self.rng.normal(0, 0.5, shape).astype(np.float32)
        bias = None if shape is None else self.rng.normal(0, 0.5, 3).astype(np.float32)
        self.layers.append(FoldedLayer(layer, weight, bias))

    def logits(self, source, op="linear"):
        layer = Layer("logits", op, (source,), (3, 6, 6), (4, 1, 1), (6, 6))
        self.layers.append(FoldedLayer(layer, self.rng.normal(0, 0.1, (4, 108)).astype(np.float32), None))


def padded_by(op):
    chain = Chain()
    chain.append("signed", "conv", INPUT)
    chain.append("padded", op, "signed", padding=SAME, kernel=(3, 3), relu=True)
    chain.logits("padded")
    return tuple(chain.layers)


def read_twice():
    chain = Chain()
    chain.append("signed", "depthwise", INPUT)
    chain.append("padded", "conv", "signed", padding=SAME, kernel=(3, 3))
    chain.append("sum", "add", "signed", "padded", relu=True)
    chain.logits("sum")
    return tuple(chain.layers)


def signed_sum():
    chain = Chain()
    chain.append("one", "conv", INPUT)
    chain.append("two", "conv", INPUT)
    chain.append("sum", "add", "one", "two")
    chain.append("padded", "depthwise", "sum", padding=SAME, kernel=(3, 3))
    chain.append("last", "add", "padded", "sum")
    chain.logits("last")
    return tuple(chain.layers)


@pytest.mark.parametrize(
    "network", [padded_by("conv"), padded_by("depthwise"), read_twice(), signed_sum()], ids=["conv", "depthwise", "twice", "sum"]
)
def test_logits_stay_and_signs_go(network):
    images = np.random.default_rng(1).integers(0, 256, (20, 3, 6, 6), dtype=np.uint8)
    reference = float_tensors(network, images)
    lifted = lift(network, reference)
    values = float_tensors(lifted, images)
    np.testing.assert_allclose(values["logits"], reference["logits"], rtol=1e-4, atol=1e-5)
    signed = signed_layers([folded.layer for folded in lifted])
    assert not signed.intersection(name for folded in lifted if folded.layer.op != "add" for name in folded.layer.inputs)


def test_a_network_without_signs_is_left_alone():
    chain = Chain()
    chain.append("one", "conv", INPUT, relu=True)
    chain.append("two", "conv", "one")  # read by an addition only
    chain.append("sum", "add", "one", "two", relu=True)
    chain.logits("sum")
    network = tuple(chain.layers)
    images = np.zeros((1, 3, 6, 6), np.uint8)
    assert lift(network, float_tensors(network, images)) is network
