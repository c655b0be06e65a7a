import dataclasses
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_fakes import LIMITS

from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.predict import predict
from sparse_mcu.nn.network import Network
from sparse_mcu.quant.quantise import quantise
from sparse_mcu.search.feasibility import Feasibility
from sparse_mcu.search.objectives import Budget
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.layers import layers
from sparse_mcu.space.suggest import sample

UNO = board("arduino-uno")
ROOMY = Budget(ram_bytes=10**6, flash_bytes=10**6)
Method = Literal["none", "unstructured", "structured", "both"]


def random_architecture(seed: int, method: Method) -> Architecture:
    architecture = sample(LIMITS, np.random.default_rng(seed))
    training = architecture.training
    pruning = dataclasses.replace(training.pruning, method=method)
    return dataclasses.replace(architecture, training=dataclasses.replace(training, pruning=pruning))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_bounds_hold_for_the_network_itself(seed: int) -> None:
    """RAM is that of the dense network exactly; flash, with every weight gone, is at most its flash."""
    architecture = random_architecture(seed, "none")
    images = np.random.default_rng(seed).integers(0, 256, (4, *architecture.input_shape), dtype=np.uint8)
    actual = predict(quantise(Network(architecture, seed=0).eval().fold(), images), UNO)
    assert Feasibility(UNO, Budget(actual.ram_bytes, actual.flash_bytes)).shortfall(architecture) is None
    shortfall = Feasibility(UNO, Budget(actual.ram_bytes - 1, actual.flash_bytes)).shortfall(architecture)
    assert shortfall is not None and (shortfall.memory, shortfall.needed) == ("RAM", actual.ram_bytes)


@pytest.mark.parametrize("method", ["none", "unstructured"])
def test_a_shortfall_names_the_memory_the_bytes_and_the_layer(method: Method) -> None:
    architecture = random_architecture(1, method)
    names = {layer.name for layer in layers(architecture)}
    for budget, memory in (
        (dataclasses.replace(ROOMY, ram_bytes=10), "RAM"),
        (dataclasses.replace(ROOMY, flash_bytes=10), "flash"),
    ):
        shortfall = Feasibility(UNO, budget).shortfall(architecture)
        assert shortfall is not None
        assert (shortfall.memory, shortfall.limit) == (memory, 10) and shortfall.needed > 10 and shortfall.where in names
    assert Feasibility(UNO, ROOMY).shortfall(architecture) is None


@pytest.mark.parametrize("method", ["structured", "both"])
def test_what_may_lose_channels_is_never_refused(method: Method) -> None:
    assert Feasibility(UNO, Budget(1, 1)).shortfall(random_architecture(1, method)) is None
