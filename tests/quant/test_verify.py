"""Every rule of an integer graph: a graph that breaks it alone is refused with a message that names the rule."""

from dataclasses import replace

import numpy as np
import pytest

from sparse_mcu.quant.graph import INPUT, Add, AveragePool2d, Conv2d, DepthwiseConv2d, IntegerGraph, MaxPool2d, TensorType
from sparse_mcu.quant.verify import GraphError, verify


def int32(*values):
    return np.array(values, np.int32)


def conv(name, source, weights, **fields):
    channels = len(weights)
    defaults = {
        "bias": np.zeros(channels, np.int32),
        "multiplier": np.full(channels, 100, np.int32),
        "shift": np.full(channels, 12, np.int32),
    }
    return Conv2d(name, (source,), weights, **(defaults | fields))


def ones(*shape):
    return np.ones(shape, np.int8)


CONV, DEPTHWISE, MAX, AVERAGE, SIDE, ADD, LOGITS = range(7)


def network():
    """Every operation: conv, depthwise, max_pool, average_pool, a side convolution of its output, their sum, logits."""
    ops = (
        conv("conv", INPUT, ones(3, 3, 3, 2), padding=(1, 1, 1, 1)),
        DepthwiseConv2d("depthwise", ("conv",), ones(3, 3, 3), int32(0, 1, 2), int32(1, 2, 255), int32(0, 5, 31), stride=(1, 2)),
        MaxPool2d("max_pool", ("depthwise",), (2, 1)),
        AveragePool2d("average_pool", ("max_pool",), (1, 2), 1, 1),
        conv("side", "average_pool", ones(3, 1, 1, 3)),
        Add("add", ("average_pool", "side"), (3, 5), 3),
        conv("logits", "add", ones(4, 2, 1, 3)),
    )
    tensors = {
        INPUT: TensorType((6, 7, 2), "uint8", 1 / 255),
        "conv": TensorType((6, 7, 3), "uint8", 0.1),
        "depthwise": TensorType((4, 3, 3), "uint8", 0.2),
        "max_pool": TensorType((2, 3, 3), "uint8", 0.2),
        "average_pool": TensorType((2, 1, 3), "uint8", 0.2),
        "side": TensorType((2, 1, 3), "int16", 0.3),
        "add": TensorType((2, 1, 3), "uint8", 0.4),
        "logits": TensorType((1, 1, 4), "int16", 0.5),
    }
    return IntegerGraph(ops, tensors)


def with_op(graph, index, **fields):
    ops = list(graph.ops)
    ops[index] = replace(ops[index], **fields)
    return replace(graph, ops=tuple(ops))


def with_tensor(graph, name, **fields):
    return replace(graph, tensors=graph.tensors | {name: replace(graph.tensors[name], **fields)})


def without_tensor(graph, name):
    return replace(graph, tensors={key: value for key, value in graph.tensors.items() if key != name})


def wide_average():
    """A window of 400 pixels whose sum times 32767 leaves int32."""
    ops = (AveragePool2d("average_pool", (INPUT,), (20, 20), 32767, 0), conv("logits", "average_pool", ones(2, 1, 1, 1)))
    tensors = {
        INPUT: TensorType((20, 20, 1), "uint8", 1.0),
        "average_pool": TensorType((1, 1, 1), "uint8", 1.0),
        "logits": TensorType((1, 1, 2), "int16", 1.0),
    }
    return IntegerGraph(ops, tensors)


def test_the_network_itself_keeps_every_rule():
    verify(network())


BROKEN = [
    ("at least one operation", lambda g: IntegerGraph((), g.tensors)),
    ("written once, but 'conv' is written 2 times", lambda g: with_op(g, SIDE, name="conv")),
    ("written once, but 'input' is written 2 times", lambda g: with_op(g, SIDE, name=INPUT)),
    (r"differs in \['add'\]", lambda g: without_tensor(g, "add")),
    (r"differs in \['more'\]", lambda g: replace(g, tensors=g.tensors | {"more": g.tensors["add"]})),
    ("conv must read earlier tensors, but reads 'logits'", lambda g: with_op(g, CONV, inputs=("logits",))),
    ("conv must read earlier tensors, but reads 'conv'", lambda g: with_op(g, CONV, inputs=("conv",))),
    ("must read earlier tensors, but reads 'nothing'", lambda g: with_op(g, MAX, inputs=("nothing",))),
    (r"nothing reads \['side'\]", lambda g: with_op(g, ADD, inputs=("average_pool", "average_pool"))),
    (r"three positive integers .* add has \(2, 0, 3\)", lambda g: with_tensor(g, "add", shape=(2, 0, 3))),
    ("three positive integers", lambda g: with_tensor(g, "add", shape=(2, 3))),
    ("uint8 or int16, but add is int8", lambda g: with_tensor(g, "add", dtype="int8")),
    ("scale must be positive", lambda g: with_tensor(g, "add", scale=0.0)),
    ("scale must be positive", lambda g: with_tensor(g, "add", scale=float("nan"))),
    ("the input must be uint8", lambda g: with_tensor(g, INPUT, dtype="int16")),
    ("logits must be int16", lambda g: with_tensor(g, "logits", dtype="uint8")),
    (
        r"logits must have shape \(1, 1, classes\)",
        lambda g: with_tensor(with_op(g, LOGITS, weights=ones(4, 1, 1, 3)), "logits", shape=(2, 1, 4)),
    ),
    ("conv must read one tensor, but reads 2", lambda g: with_op(g, CONV, inputs=(INPUT, INPUT))),
    ("depthwise must read uint8, but conv is int16", lambda g: with_tensor(g, "conv", dtype="int16")),
    ("weights of conv must have 4 dimensions", lambda g: with_op(g, CONV, weights=ones(3, 3, 2))),
    ("weights of depthwise must have 3 dimensions", lambda g: with_op(g, DEPTHWISE, weights=ones(1, 3, 3, 3))),
    ("end with its 2 input channels", lambda g: with_op(g, CONV, weights=ones(3, 3, 3, 1))),
    ("end with its 3 input channels", lambda g: with_op(g, DEPTHWISE, weights=ones(3, 3, 2))),
    ("weights of conv must be int8", lambda g: with_op(g, CONV, weights=ones(3, 3, 3, 2).astype(np.int16))),
    ("must be -127..127", lambda g: with_op(g, CONV, weights=ones(3, 3, 3, 2) * np.int8(-128))),
    ("bias of conv must be int32", lambda g: with_op(g, CONV, bias=np.zeros(3, np.int64))),
    (r"bias of conv must have shape \(3,\)", lambda g: with_op(g, CONV, bias=int32(0, 0))),
    (r"multiplier of depthwise must have shape \(3,\)", lambda g: with_op(g, DEPTHWISE, multiplier=int32(1))),
    (r"shift of depthwise must have shape \(3,\)", lambda g: with_op(g, DEPTHWISE, shift=int32(1, 1, 1, 1))),
    ("multiplier of conv must be integers 1..255, but are 0..", lambda g: with_op(g, CONV, multiplier=int32(0, 1, 1))),
    ("multiplier of conv must be integers 1..255", lambda g: with_op(g, CONV, multiplier=int32(1, 1, 256))),
    ("shift of conv must be integers 0..31", lambda g: with_op(g, CONV, shift=int32(1, 1, 32))),
    ("shift of conv must be integers 0..31", lambda g: with_op(g, CONV, shift=int32(-1, 1, 1))),
    (
        r"below 2\*\*31, but conv channel 1 has \|sum\| up to 21479426 and shift 12",
        lambda g: with_op(g, CONV, bias=int32(0, 2**31 // 100, 0)),
    ),
    (r"below 2\*\*31, but conv channel 2", lambda g: with_op(g, CONV, bias=int32(0, 0, -(2**31) // 100))),
    ("stride must be two positive integers", lambda g: with_op(g, CONV, stride=(0, 1))),
    (r"padding must be 0 to kernel - 1", lambda g: with_op(g, CONV, padding=(3, 1, 1, 1))),
    (r"padding must be 0 to kernel - 1", lambda g: with_op(g, CONV, padding=(-1, 1, 1, 1))),
    ("kernel must fit its padded input, but logits", lambda g: with_op(g, LOGITS, weights=ones(4, 3, 1, 3))),
    (r"conv must write shape \(6, 7, 3\)", lambda g: with_tensor(g, "conv", shape=(6, 6, 3))),
    (r"conv must write shape \(6, 5, 3\)", lambda g: with_op(g, CONV, padding=(1, 0, 1, 0))),
    ("window must be two positive integers", lambda g: with_op(g, MAX, window=(0, 1))),
    ("pool must write uint8, but max_pool writes int16", lambda g: with_tensor(g, "max_pool", dtype="int16")),
    ("max pool must keep the scale 0.2", lambda g: with_tensor(g, "max_pool", scale=0.3)),
    ("kernel must fit its padded input, but max_pool", lambda g: with_op(g, MAX, window=(5, 1))),
    ("max_pool must write shape", lambda g: with_op(g, MAX, window=(1, 1))),
    ("multiplier of average_pool must be integers 1..32767", lambda g: with_op(g, AVERAGE, multiplier=0)),
    ("multiplier of average_pool must be integers 1..32767", lambda g: with_op(g, AVERAGE, multiplier=32768)),
    ("multiplier of average_pool must be integers", lambda g: with_op(g, AVERAGE, multiplier=1.5)),
    ("shift of average_pool must be integers 0..31", lambda g: with_op(g, AVERAGE, shift=32)),
    (r"below 2\*\*31, but average_pool", lambda g: wide_average()),
    ("two or more tensors, but add reads 1", lambda g: with_op(g, ADD, inputs=("side",), multiplier=(1,))),
    ("different tensors", lambda g: with_op(g, ADD, inputs=("average_pool", "side", "side"), multiplier=(1, 1, 1))),
    ("join equal shapes, but add is .* and max_pool is", lambda g: with_op(g, ADD, inputs=("max_pool", "side"))),
    ("multiplier per input, but add has 3 for 2", lambda g: with_op(g, ADD, multiplier=(1, 1, 1))),
    ("multiplier of add must be integers 0..32767", lambda g: with_op(g, ADD, multiplier=(1, -1))),
    ("multiplier of add must be integers 0..32767", lambda g: with_op(g, ADD, multiplier=(1, 32768))),
    ("shift of add must be integers 0..31", lambda g: with_op(g, ADD, shift=-1)),
    (r"below 2\*\*31, but add", lambda g: with_op(g, ADD, multiplier=(200, 32767), shift=31)),
]


@pytest.mark.parametrize(("message", "broken"), BROKEN, ids=[message for message, _ in BROKEN])
def test_a_broken_rule_is_refused(message, broken):
    with pytest.raises(GraphError, match=message):
        verify(broken(network()))


def test_the_largest_sum_that_fits_is_accepted():
    """|sum| * multiplier + half may be 2**31 - 1 and no more: channel 0 sums to at most 18 * 255 + bias."""
    graph = with_op(network(), CONV, multiplier=int32(1, 1, 1), shift=int32(0, 0, 0))
    verify(with_op(graph, CONV, bias=int32(2**31 - 1 - 18 * 255, 0, 0)))
    with pytest.raises(GraphError, match="below 2"):
        verify(with_op(graph, CONV, bias=int32(2**31 - 18 * 255, 0, 0)))
