import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.nn.modules import WeightedLayer
from sparse_mcu.nn.variational import (
    NOISE_POOL,
    Noise,
    log_uniform_kl,
    standard_normal_kl,
    suggested_bits,
)
from sparse_mcu.space.architecture import Pruning
from sparse_mcu.space.layers import Layer


def kl_at(log_alpha):
    """The divergence of a weight with mean 1, whose log α is its log variance."""
    return log_uniform_kl(torch.ones((), dtype=torch.float64), torch.tensor(log_alpha, dtype=torch.float64)).item()


@given(st.floats(-12, 8))
def test_log_uniform_kl_is_the_published_approximation(value):
    k1, k2, k3 = 0.63576, 1.87320, 1.48695  # Molchanov et al., 2017, equation 14
    minus_kl = k1 / (1 + math.exp(-(k2 + k3 * value))) - 0.5 * math.log1p(math.exp(-value)) - k1
    assert kl_at(value) == pytest.approx(-minus_kl, rel=1e-7)


def test_kl_and_its_gradient_end_where_nothing_is_to_be_gained():
    mean, log_variance = torch.ones(2, requires_grad=True), torch.tensor([9.0, 12.0], requires_grad=True)
    divergence = log_uniform_kl(mean, log_variance)
    divergence.sum().backward()
    assert divergence[0] == divergence[1] < 2e-4
    assert not mean.grad.any() and not log_variance.grad.any()


def test_gradient_of_kl_is_its_derivative():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(50, generator=generator, dtype=torch.float64, requires_grad=True)
    log_variance = (3 * torch.randn(50, generator=generator, dtype=torch.float64) - 2).requires_grad_()
    assert torch.autograd.gradcheck(log_uniform_kl, (mean, log_variance))


@pytest.mark.parametrize("log_alpha_value", [-3.0, -1.0, 0.5, 2.0])
def test_approximation_is_close_to_the_integral(log_alpha_value):
    """KL up to its constant is -0.5 log α + E log|1 + sqrt(α) ε|, taken here relative to log α = 6 by quadrature."""

    def exact(value):
        epsilon = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64)
        density = torch.exp(-0.5 * epsilon**2) / math.sqrt(2 * math.pi)
        expectation = torch.trapezoid(density * torch.log((1 + math.exp(value / 2) * epsilon).abs() + 1e-12), epsilon)
        return -0.5 * value + expectation.item()

    difference = kl_at(log_alpha_value) - kl_at(6.0)
    assert difference == pytest.approx(exact(log_alpha_value) - exact(6.0), abs=0.02)


def test_standard_normal_kl_equals_pytorchs():
    mean, log_variance = torch.randn(20, generator=torch.Generator().manual_seed(0)), torch.linspace(-5, 2, 20)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (0.5 * log_variance).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(standard_normal_kl(mean, log_variance), expected)


def test_kl_is_finite_with_finite_gradients_at_the_extremes():
    mean = torch.tensor([0.0, 1e-20, 1e4], requires_grad=True)
    log_variance = torch.tensor([30.0, -60.0, -60.0], requires_grad=True)
    log_uniform_kl(mean, log_variance).sum().backward()
    assert torch.isfinite(mean.grad).all() and torch.isfinite(log_variance.grad).all()


LAYERS = {
    "conv": Layer("x", "conv", ("input",), (2, 4, 4), (3, 4, 4), (3, 3), (1, 1), (1, 1, 1, 1)),
    "even_kernel": Layer("x", "conv", ("input",), (2, 4, 4), (3, 4, 4), (2, 2), (1, 1), (0, 0, 1, 1)),
    "depthwise": Layer("x", "depthwise", ("input",), (2, 4, 4), (2, 2, 2), (3, 3), (2, 2), (1, 1, 1, 1)),
    "linear": Layer("x", "linear", ("input",), (2, 4, 4), (5, 1, 1), (4, 4)),
}


@pytest.mark.parametrize("op", LAYERS)
def test_drawn_sums_have_the_moments_of_drawn_weights(op):
    """Local reparameterisation against Monte Carlo over the weights themselves, for one image."""
    generator = torch.Generator().manual_seed(0)
    layer = WeightedLayer(LAYERS[op], Pruning("unstructured"), False, generator, Noise())
    with torch.no_grad():
        layer.log_variance.copy_(torch.randn(layer.weight.shape, generator=generator) - 1)
    x = torch.rand(1, 2, 4, 4, generator=generator)
    draws = 20_000
    with torch.no_grad(), torch.random.fork_rng([]):
        torch.manual_seed(1)
        layer.train()
        sums = layer(x.expand(draws, -1, -1, -1)).double()
        layer.eval()
        mean, deviation = layer.weight.clone(), (0.5 * layer.log_variance).exp()
        drawn = []
        layer.sparse = False  # eval mode then uses the weights as they are
        for _ in range(4000):
            layer.weight.copy_(mean + deviation * torch.randn(mean.shape, generator=generator))
            drawn.append(layer(x))
    by_weights = torch.cat(drawn).double()
    scale = by_weights.std(0)
    torch.testing.assert_close(sums.mean(0) / scale, by_weights.mean(0) / scale, rtol=0, atol=0.08)
    torch.testing.assert_close(sums.std(0) / scale, torch.ones_like(scale), rtol=0, atol=0.08)


def test_noise_is_standard_normal_and_follows_the_global_seed():
    def draws():
        noise = Noise()
        with torch.random.fork_rng([]):
            torch.manual_seed(3)
            return [noise.like(torch.empty(50_000)) for _ in range(2)]

    first, second = draws()
    assert all(torch.equal(a, b) for a, b in zip(draws(), (first, second), strict=True))
    assert abs(first.mean()) < 0.02 and abs(first.std() - 1) < 0.02
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.02


def test_refreshed_noise_is_new_and_a_large_draw_enlarges_the_pool():
    noise = Noise()
    first = noise.like(torch.empty(NOISE_POOL))
    assert len(torch.unique(first)) > 0.95 * NOISE_POOL
    noise.refresh()
    assert torch.isin(noise.like(torch.empty(1000)), first).float().mean() < 0.5


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 20)] * 4))
def test_noise_has_any_shape_and_format_and_is_not_repeated_within_a_draw(memory_format, shape):
    x = torch.empty(shape, memory_format=memory_format)
    drawn = Noise().like(x)
    assert drawn.shape == x.shape and drawn.stride() == x.stride()
    assert len(torch.unique(drawn)) > 0.95 * x.numel()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_suggested_bits_are_the_fewest_whose_rounding_is_within_the_posterior(bits):
    weight = torch.randn(8, 400, generator=torch.Generator().manual_seed(0)).clamp(-2.5, 2.5)
    weight[:, 0] = 2.5  # every channel is rounded in the same steps
    weight[:, 200:] = 0  # pruned: exact at any width, whatever the posterior says
    step = 2.5 / (2 ** (bits - 1) - 1)
    rounded = (torch.round(weight / step) * step - weight)[:, 1:200]
    assert rounded.square().mean() == pytest.approx(step**2 / 12, rel=0.25 if bits == 2 else 0.1)  # what the rule supposes
    log_variance = torch.full_like(weight, 10.0)
    log_variance[:, :200] = math.log(1.01 * step**2 / 12)
    assert suggested_bits(weight, log_variance) == bits
