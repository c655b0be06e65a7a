"""The NumPy evaluation of a folded network against the trainable network that it was folded from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.nn.network import Network
from sparse_mcu.quant.floating import float_tensors
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.suggest import sample

LIMITS = [
    SpaceLimits.for_input((2, 9, 8), 5, ram_bytes=4096, flash_bytes=16384),
    SpaceLimits.for_input((3, 1, 40), 3, ram_bytes=4096, flash_bytes=16384),
]


@pytest.mark.parametrize("limits", LIMITS, ids=["2-D", "1-D"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_equals_the_trainable_network(limits, seed):
    rng = np.random.default_rng(seed)
    network = Network(sample(limits, rng), seed).eval()
    images = rng.integers(0, 256, (3, *limits.input_shape), dtype=np.uint8)
    with torch.no_grad():
        expected = network(torch.from_numpy(images).float() / 255).numpy()
    logits = float_tensors(network.fold(), images)["logits"][:, 0, 0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
