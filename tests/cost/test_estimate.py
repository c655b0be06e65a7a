import numpy as np
import pytest

from sparse_mcu.cost import cost
from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.predict import predict
from sparse_mcu.deploy.target import Target
from sparse_mcu.quant.interpreter import run_tensors
from sparse_mcu.quant.macs import macs, nonzero_macs
from sparse_mcu.quant.random_graph import random_graph, random_images

UNO = board("arduino-uno")


@pytest.mark.parametrize("seed", range(10))
def test_a_cost_is_the_sum_of_weights_and_the_neediest_layer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    tensors = run_tensors(graph, random_images(rng, graph, 1))
    nonzero = {op.name: np.count_nonzero(getattr(op, "weights", [])) for op in graph.ops}
    inputs = {op.name: sum(tensors[name].size for name in op.inputs) for op in graph.ops}
    found = cost(graph, UNO)
    assert found.model_size == sum(nonzero.values())
    assert found.working_memory_1 == max(inputs[name] + nonzero[name] for name in nonzero)
    assert found.working_memory_2 == max(inputs[name] + tensors[name].size for name in nonzero)
    assert (found.macs, found.nonzero_macs) == (macs(graph), nonzero_macs(graph))
    prediction = predict(graph, Target(UNO))
    assert (found.flash_bytes, found.ram_bytes, found.cycles) == (
        prediction.flash_bytes,
        prediction.ram_bytes,
        prediction.cycles,
    )
