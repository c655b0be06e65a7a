import dataclasses
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_fakes import LIMITS

from sparse_mcu.cost import layer_sizes
from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.predict import predict
from sparse_mcu.deploy.target import Target
from sparse_mcu.errors import BoardError
from sparse_mcu.nn.compact import compact
from sparse_mcu.nn.folded import FoldedLayer
from sparse_mcu.nn.network import Network
from sparse_mcu.quant.quantise import quantise
from sparse_mcu.search.feasibility import Feasibility
from sparse_mcu.search.objectives import Budget
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.layers import INPUT, LOGITS, layers
from sparse_mcu.space.suggest import sample

UNO = board("arduino-uno")
LEANER = 1  # bytes of stack between the kernel for dense weights of eight bits and the leanest
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
    """The least RAM is that of dense weights of eight bits, but for a leaner kernel; the least flash is at most its flash."""
    architecture = random_architecture(seed, "none")
    images = np.random.default_rng(seed).integers(0, 256, (4, *architecture.input_shape), dtype=np.uint8)
    graph = quantise(Network(architecture, seed=0).eval().fold(), images)
    actual = dataclasses.replace(predict(graph, Target(UNO, 1 << 40)), ram_bytes=predict(graph, Target(UNO, 1)).ram_bytes)
    assert Feasibility(UNO, Budget(actual.ram_bytes, actual.flash_bytes)).shortfall(architecture) is None
    if architecture.training.weight_bits == 8:
        shortfall = Feasibility(UNO, Budget(actual.ram_bytes - 1 - LEANER, actual.flash_bytes)).shortfall(architecture)
        assert shortfall is not None and shortfall.resource == "bytes of RAM"
        assert actual.ram_bytes - LEANER <= shortfall.needed <= actual.ram_bytes


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_bounds_hold_whatever_channels_leave(seed: int) -> None:
    """Structured pruning: of a network with random channels emptied, RAM and flash are at least what is said."""
    rng = np.random.default_rng(seed)
    architecture = random_architecture(seed, "structured")
    emptied = tuple(without_some_channels(folded, rng) for folded in Network(architecture, seed=0).eval().fold())
    images = rng.integers(0, 256, (4, *architecture.input_shape), dtype=np.uint8)
    actual = predict(quantise(compact(emptied), images), Target(UNO))
    assert Feasibility(UNO, Budget(actual.ram_bytes, actual.flash_bytes)).shortfall(architecture) is None


def without_some_channels(folded: FoldedLayer, rng: np.random.Generator) -> FoldedLayer:
    if folded.weight is None or folded.bias is None or folded.layer.name == LOGITS:
        return folded
    stays = rng.uniform(size=len(folded.weight)) < rng.uniform()
    weight = folded.weight * stays.reshape(-1, *[1] * (folded.weight.ndim - 1))
    return dataclasses.replace(folded, weight=weight.astype(np.float32), bias=(folded.bias * stays).astype(np.float32))


@pytest.mark.parametrize("method", ["none", "unstructured", "structured", "both"])
def test_a_shortfall_names_what_lacks_how_much_and_the_layer(method: Method) -> None:
    architecture = random_architecture(1, method)
    names = {layer.name for layer in layers(architecture)}
    tight_budgets = {
        "bytes of RAM": dataclasses.replace(ROOMY, ram_bytes=10),
        "bytes of flash": dataclasses.replace(ROOMY, flash_bytes=10),
        "cycles": dataclasses.replace(ROOMY, cycles=10),
        "bytes of working memory": dataclasses.replace(ROOMY, working_memory=10),
        "multiply-accumulates": dataclasses.replace(ROOMY, macs=10),
    }
    for resource, budget in tight_budgets.items():
        shortfall = Feasibility(UNO, budget).shortfall(architecture)
        assert shortfall is not None
        assert (shortfall.resource, shortfall.limit) == (resource, 10) and shortfall.needed > 10
        assert shortfall.where in names | {INPUT}
    assert Feasibility(UNO, ROOMY).shortfall(architecture) is None


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_counts_that_can_be_kept_are_no_reason_to_refuse(seed: int) -> None:
    architecture = random_architecture(seed, "none")
    training = dataclasses.replace(architecture.training, weight_bits=8)  # untrained, some channels lose all of fewer
    architecture = dataclasses.replace(architecture, training=training)
    images = np.random.default_rng(seed).integers(0, 256, (4, *architecture.input_shape), dtype=np.uint8)
    sizes = layer_sizes(quantise(Network(architecture, seed=0).eval().fold(), images))
    memory = max(max(layer.working_memory_1, layer.working_memory_2) for layer in sizes)
    macs = sum(layer.macs for layer in sizes)
    assert Feasibility(UNO, dataclasses.replace(ROOMY, working_memory=memory, macs=macs)).shortfall(architecture) is None
    shortfall = Feasibility(UNO, dataclasses.replace(ROOMY, macs=macs - 1)).shortfall(architecture)
    assert shortfall is not None and shortfall.needed == macs


def test_of_several_things_that_lack_the_one_that_lacks_most_is_told() -> None:
    architecture = random_architecture(1, "none")
    needed = {
        name: Feasibility(UNO, dataclasses.replace(ROOMY, **{name: 1})).shortfall(architecture) for name in ("ram_bytes", "macs")
    }
    ram, macs = needed["ram_bytes"], needed["macs"]
    assert ram is not None and macs is not None
    nearly = dataclasses.replace(ROOMY, ram_bytes=ram.needed - 1, macs=1)
    assert Feasibility(UNO, nearly).shortfall(architecture) == macs


def test_structured_pruning_may_fit_where_single_weights_leaving_would_not() -> None:
    needs = {
        method: Feasibility(UNO, dataclasses.replace(ROOMY, ram_bytes=1)).shortfall(random_architecture(1, method))
        for method in ("unstructured", "structured")
    }
    assert needs["structured"] is not None and needs["unstructured"] is not None
    assert needs["structured"].needed < needs["unstructured"].needed


def test_a_board_that_was_never_measured_is_named() -> None:
    unmeasured = dataclasses.replace(UNO, name="prototype", core="z80")
    with pytest.raises(BoardError, match="prototype"):
        Feasibility(unmeasured, ROOMY).shortfall(random_architecture(1, "none"))
