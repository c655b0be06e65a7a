import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.nn.operations import apply_fixed, apply_weights, padded
from sparse_mcu.space.layers import Layer


def by_loops(layer, x, weight, bias):
    """The definition of a convolution, output by output; x: (C, H, W) and weight (O, I, KH, KW) as arrays."""
    top, left, bottom, right = layer.padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    y = np.empty(layer.out_shape)
    for o, i, j in itertools.product(*map(range, layer.out_shape)):
        window = x[:, i * layer.stride[0] :, j * layer.stride[1] :][:, : layer.kernel[0], : layer.kernel[1]]
        y[o, i, j] = bias[o] + (weight[o] * (window[o : o + 1] if layer.op == "depthwise" else window)).sum()
    return y


@given(
    st.sampled_from(["conv", "depthwise"]),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_convolutions_are_their_definition(op, kernel, stride, same, seed):
    rng = np.random.default_rng(seed)
    height, width = (int(rng.integers(k, k + 5)) for k in kernel)
    (kh, kw), outputs = kernel, 2 if op == "depthwise" else 3
    padding = ((kh - 1) // 2, (kw - 1) // 2, kh // 2, kw // 2) if same else (0, 0, 0, 0)
    out = tuple((n + same * (k - 1) - k) // s + 1 for n, k, s in zip((height, width), kernel, stride, strict=True))
    layer = Layer("x", op, ("input",), (2, height, width), (outputs, *out), kernel, stride, padding)
    x, weight, bias = rng.normal(size=layer.in_shape), rng.normal(size=layer.weight_shape), rng.normal(size=outputs)
    y = apply_weights(layer, padded(layer, torch.tensor(x)[None]), torch.tensor(weight), torch.tensor(bias))
    np.testing.assert_allclose(y[0].numpy(), by_loops(layer, x, weight, bias), atol=1e-12)


def test_a_linear_layer_reads_its_map_channel_by_channel_and_row_by_row():
    layer = Layer("x", "linear", ("input",), (2, 2, 3), (1, 1, 1), (2, 3))
    x = torch.arange(12.0).reshape(1, 2, 2, 3)
    assert apply_weights(layer, x, 10.0 ** -torch.arange(12.0)[None]).item() == pytest.approx(0.12345679011, rel=1e-5)


@pytest.mark.parametrize(("op", "expected"), [("max_pool", [5.0, 11.0]), ("average_pool", [2.5, 8.5])])
def test_pools_drop_what_does_not_fill_a_window(op, expected):
    layer = Layer("x", op, ("input",), (1, 5, 3), (1, 2, 1), (2, 3), (2, 3))
    assert apply_fixed(layer, [torch.arange(15.0).reshape(1, 1, 5, 3)]).flatten().tolist() == expected


@pytest.mark.parametrize(("relu", "expected"), [(False, [-3.0, 6.0]), (True, [0.0, 6.0])])
def test_a_sum_has_any_number_of_inputs(relu, expected):
    layer = Layer("x", "add", ("a", "b", "c"), (2, 1, 1), (2, 1, 1), relu=relu)
    x = torch.tensor([-1.0, 2.0]).reshape(1, 2, 1, 1)
    assert apply_fixed(layer, [x, x, x]).flatten().tolist() == expected
