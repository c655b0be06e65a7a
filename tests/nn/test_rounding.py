import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.nn.rounding import rounded, steps

SEEDS, BITS = st.integers(0, 2**32 - 1), st.sampled_from([2, 4])


def drawn(seed, shape=(5, 2, 3, 3)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(SEEDS, BITS)
@settings(deadline=None)
def test_weights_are_whole_multiples_that_the_bits_hold(seed, bits):
    weight = drawn(seed)
    multiples = rounded(weight, bits) / steps(weight, bits)
    largest = 2 ** (bits - 1) - 1
    torch.testing.assert_close(multiples, multiples.round())
    assert torch.equal(multiples.abs().flatten(1).amax(1).round(), torch.full((5,), float(largest)))
    inside = weight.abs() <= largest * steps(weight, bits)  # with two bits, larger ones are as far off as they are larger
    assert ((rounded(weight, bits) - weight).abs() <= steps(weight, bits) / 2 * 1.0001)[inside].all()


@given(SEEDS)
@settings(deadline=None)
def test_the_step_of_two_bits_has_the_least_squared_error(seed):
    """Against a thousand other steps."""
    weight = drawn(seed)
    tried = torch.linspace(0.001, 2, 1000)[:, None, None, None, None] * weight.abs().flatten(1).amax(1).reshape(-1, 1, 1, 1)
    others = torch.round(weight / tried).clamp(-1, 1) * tried
    errors, least = ((values - weight).square().flatten(-3).sum(-1) for values in (others, rounded(weight, 2)))
    assert (least <= errors.amin(0) * 1.0001).all()


@given(SEEDS, BITS)
@settings(deadline=None)
def test_what_is_rounded_stays_as_it_is(seed, bits):
    once = rounded(drawn(seed), bits)
    torch.testing.assert_close(rounded(once, bits), once)


@given(SEEDS, BITS)
@settings(deadline=None)
def test_zeros_stay_and_change_no_step(seed, bits):
    weight = drawn(seed)
    spread = torch.stack([weight, torch.zeros_like(weight)], dim=2)
    torch.testing.assert_close(steps(spread, bits).flatten(), steps(weight, bits).flatten())
    assert not rounded(spread, bits)[:, :, 1].any()


@pytest.mark.parametrize("bits", [2, 4])
def test_a_channel_without_weights_keeps_none(bits):
    weight = drawn(0)
    weight[2] = 0.0
    assert steps(weight, bits)[2].item() == 1.0
    assert not rounded(weight, bits)[2].any() and rounded(weight, bits).isfinite().all()


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("shape", [(4, 7), (4, 1, 3, 3)])
def test_gradients_pass_as_if_nothing_were_rounded(shape, bits):
    weight, factor = drawn(1, shape).requires_grad_(), drawn(2, shape)
    (rounded(weight, bits) * factor).sum().backward()
    torch.testing.assert_close(weight.grad, factor)
