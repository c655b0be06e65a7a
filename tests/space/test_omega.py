"""Properties of every network of Ω, over random ones. benchmarks/omega_fuzz.py runs the same checks over more of them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.dimensions import dimensions
from sparse_mcu.space.encode import encode
from sparse_mcu.space.layers import INPUT, LOGITS, layers
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.morph import MORPHS
from sparse_mcu.space.suggest import assignment, contains, decode, sample

SPACES = {
    "digits-uno": SpaceLimits.for_input((1, 8, 8), 10, ram_bytes=1024, flash_bytes=8192),
    "digits-attiny85": SpaceLimits.for_input((1, 8, 8), 10, ram_bytes=512, flash_bytes=8192),
    "mnist-uno": SpaceLimits.for_input((1, 28, 28), 10, ram_bytes=2048, flash_bytes=32768),
    "signal-uno": SpaceLimits.for_input((3, 1, 128), 6, ram_bytes=2048, flash_bytes=32768),
    "colour-bluepill": SpaceLimits.for_input((3, 20, 30), 2, ram_bytes=20480, flash_bytes=65536),
    "two-rows": SpaceLimits.for_input((2, 2, 9), 3, ram_bytes=512, flash_bytes=2048),
}


def check_network(limits: SpaceLimits, architecture: Architecture) -> None:
    """Its layers fit together and within the limits; JSON, the assignment and the code describe it fully."""
    shapes = {INPUT: architecture.input_shape}
    network = layers(architecture)
    for layer in network:
        assert layer.name not in shapes
        assert all(shapes[name] == layer.in_shape for name in layer.inputs)
        assert min(layer.out_shape) >= 1
        shapes[layer.name] = layer.out_shape
    assert network[-1].name == LOGITS and network[-1].out_shape == (architecture.classes, 1, 1)
    # every map in RAM but those between a convolution and its max pool
    between = {layer.inputs[0] for layer in network if layer.op == "max_pool"}
    held = [layer for layer in network if layer.name not in between]
    assert all(math.prod(layer.out_shape) <= limits.max_activation_bytes for layer in held)
    assert sum(layer.weights for layer in network) <= limits.max_weights
    assert contains(limits, architecture)
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture
    assert decode(limits, json.loads(json.dumps(assignment(limits, architecture)))) == architecture
    values, active = encode(limits, architecture)
    assert values.shape == active.shape == (sum(dimension.width for dimension in dimensions(limits)),)
    assert ((values >= 0) & (values <= 1)).all() and not values[~active].any()


def check_morphs(limits: SpaceLimits, parent: Architecture, rng: np.random.Generator) -> int:
    """Every morph of ``parent`` is another buildable network within the limits; return how many apply."""
    children = [morph(parent, limits, rng) for morph in MORPHS]
    for child in children:
        if child is not None:
            assert child != parent
            assert contains(limits, child)  # which builds its layers
    return sum(child is not None for child in children)


@pytest.mark.parametrize("space", list(SPACES))
@settings(max_examples=340, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_network_and_every_morph_of_it_can_be_built(space: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    architecture = sample(SPACES[space], rng)
    check_network(SPACES[space], architecture)
    assert check_morphs(SPACES[space], architecture, rng) >= 5


@pytest.mark.parametrize("space", list(SPACES))
def test_a_long_line_of_morphs_stays_in_the_space(space: str) -> None:
    rng = np.random.default_rng(1)
    architecture = sample(SPACES[space], rng)
    seen = set()
    for _ in range(15):
        for morph in MORPHS:
            child = morph(architecture, SPACES[space], rng)
            if child is not None:
                architecture = child
                seen.add(morph.name)
        check_network(SPACES[space], architecture)
    assert {"add_conv", "remove_conv", "add_block", "remove_block", "widen", "narrow"} <= seen
