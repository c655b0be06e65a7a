import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.nn.rounding import rounded, steps

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed, shape=(5, 2, 3, 3)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(SEEDS, st.sampled_from([2, 4]))
@settings(deadline=None)
def test_weights_are_whole_multiples_that_the_bits_hold(seed, bits):
    weight = drawn(seed)
    multiples = rounded(weight, bits) / steps(weight, bits)
    largest = 2 ** (bits - 1) - 1
    torch.testing.assert_close(multiples, multiples.round())
    assert torch.equal(multiples.abs().flatten(1).amax(1).round(), torch.full((5,), float(largest)))
    assert ((rounded(weight, bits) - weight).abs() <= steps(weight, bits) / 2 * 1.0001).all()


@given(SEEDS)
@settings(deadline=None)
def test_what_is_rounded_stays_as_it_is(seed):
    once = rounded(drawn(seed), 4)
    torch.testing.assert_close(rounded(once, 4), once)


def test_a_channel_without_weights_keeps_none():
    weight = drawn(0)
    weight[2] = 0.0
    assert steps(weight, 4)[2].item() == 1.0
    assert not rounded(weight, 4)[2].any() and rounded(weight, 4).isfinite().all()


@pytest.mark.parametrize("shape", [(4, 7), (4, 1, 3, 3)])
def test_gradients_pass_as_if_nothing_were_rounded(shape):
    weight, factor = drawn(1, shape).requires_grad_(), drawn(2, shape)
    (rounded(weight, 4) * factor).sum().backward()
    torch.testing.assert_close(weight.grad, factor)
