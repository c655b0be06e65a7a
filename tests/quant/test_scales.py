"""Scales against brute force, and which layers may be signed."""

import numpy as np
import pytest

from sparse_mcu.nn.folded import FoldedLayer
from sparse_mcu.quant.scales import INPUT_SCALE, rounding_scale, signed_scale, tensor_types
from sparse_mcu.space.layers import Layer


def rounding_error(values, scale):
    return np.square(np.minimum(np.rint(values / scale), 255) * scale - values).mean()


@pytest.mark.parametrize("draw", ["exponential", "uniform", "lognormal", "outlier"])
def test_no_scale_rounds_much_better_than_the_chosen_one(draw):
    rng = np.random.default_rng(0)
    values = {
        "exponential": rng.exponential(2.0, 20_000),
        "uniform": rng.uniform(0, 3.0, 20_000),
        "lognormal": rng.lognormal(0, 1, 20_000),
        "outlier": np.append(rng.uniform(0, 1.0, 20_000), 1.8),
    }[draw] * (rng.random(20_000 + (draw == "outlier")) < 0.5)
    candidates = values.max() / 255 * np.linspace(0.5, 1.1, 200)
    best = min(rounding_error(values, scale) for scale in candidates)
    assert rounding_error(values, rounding_scale(values)) <= 1.03 * best


def test_a_long_tail_is_clipped_and_a_short_one_is_not():
    rng = np.random.default_rng(0)
    body = rng.uniform(0, 1.0, 100_000)
    assert rounding_scale(body) * 255 == pytest.approx(body.max(), rel=0.01)
    assert rounding_scale(np.append(body, 1.5)) * 255 < 1.4


def test_zeros_do_not_count():
    values = np.random.default_rng(0).exponential(1.0, 5000)
    assert rounding_scale(np.append(values, np.zeros(50_000))) == rounding_scale(values)
    assert rounding_scale(np.zeros(10)) == signed_scale(np.zeros(10)) == 0.0


def test_signed_scale_holds_twice_the_largest_magnitude():
    assert signed_scale(np.array([1.0, -3.0]), np.array([2.0])) * 32767 == pytest.approx(6.0)


def linear(name, source, relu=False):
    layer = Layer(name, "linear", (source,), (2, 1, 1), (2, 1, 1), relu=relu)
    return FoldedLayer(layer, np.eye(2, dtype=np.float32), np.zeros(2, np.float32))


def pool(name, source, op):
    return FoldedLayer(Layer(name, op, (source,), (2, 1, 2), (2, 1, 1), kernel=(1, 2), stride=(1, 2)), None, None)


def add(name, *inputs, relu=False):
    return FoldedLayer(Layer(name, "add", inputs, (2, 1, 1), (2, 1, 1), relu=relu), None, None)


def reference(**values):
    return {name: np.array(value, np.float32).reshape(-1, 1, 1, 2) for name, value in values.items()}


def test_summands_of_the_logits_have_the_scale_of_the_logits():
    network = (linear("a", "input"), linear("b", "input"), add("logits", "a", "b"))
    types = tensor_types(network, reference(input=[0, 1], a=[-1, 4], b=[2, -8], logits=[1, -4]))
    assert {types[name].dtype for name in ("a", "b", "logits")} == {"int16"}
    assert types["a"].scale == types["b"].scale == types["logits"].scale == pytest.approx(2 * 8 / 32767)
    assert types["input"].scale == INPUT_SCALE


def test_summands_behind_a_relu_have_the_sums_scale_times_a_power_of_two():
    network = (linear("a", "input"), linear("b", "input"), add("hidden", "a", "b", relu=True), linear("logits", "hidden"))
    types = tensor_types(network, reference(input=[0, 1], a=[-1, 3], b=[2, -7], hidden=[1, 0], logits=[1, 0]))
    assert types["hidden"].dtype == "uint8"
    ratio = types["a"].scale / types["hidden"].scale
    assert types["a"].scale == types["b"].scale
    assert np.log2(ratio) == round(np.log2(ratio))
    assert 2 * 7 / 32767 <= types["a"].scale < 2 * 2 * 7 / 32767


def test_a_max_pool_keeps_the_scale_and_an_average_pool_halves_it_while_its_means_fit():
    network = (linear("a", "input", relu=True), pool("m", "a", "max_pool"), pool("p", "a", "average_pool"))
    types = tensor_types(network, reference(input=[0, 1], a=[0, 16], m=[0, 16], p=[1, 3]))
    assert types["m"].scale == types["a"].scale
    assert types["p"].scale == types["a"].scale / 4
    assert types["p"].scale * 255 >= 3


def test_a_residual_sum_of_what_is_never_negative_is_uint8():
    network = (linear("a", "input", relu=True), add("sum", "input", "a"), linear("logits", "sum"))
    types = tensor_types(network, reference(input=[0, 1], a=[0, 3], sum=[0, 4], logits=[-1, 1]))
    assert [types[name].dtype for name in ("a", "sum", "logits")] == ["uint8", "uint8", "int16"]


def test_what_is_always_zero_has_the_scale_of_its_input():
    network = (linear("a", "input", relu=True), linear("logits", "a"))
    types = tensor_types(network, reference(input=[0, 1], a=[0, 0], logits=[0, 0]))
    assert types["a"].scale == types["logits"].scale == INPUT_SCALE
