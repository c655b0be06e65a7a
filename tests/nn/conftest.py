"""Random networks for the tests of ``nn``, and an evaluation of folded networks that shares no code with ``Network``."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sparse_mcu.errors import ArchitectureError
from sparse_mcu.nn.folded import FoldedNetwork
from sparse_mcu.nn.network import Network
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning, Training
from sparse_mcu.space.layers import INPUT, LOGITS, layers


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # same results everywhere, and faster at these sizes


@pytest.fixture(scope="session")
def random_architecture() -> Callable[[int, str], Architecture]:
    """(seed, pruning method) -> a buildable architecture with any of the features of Ω."""

    def build(seed: int, method: str) -> Architecture:
        rng = np.random.default_rng(seed)
        while True:
            architecture = _draw(rng)
            try:
                layers(architecture)
            except ArchitectureError:
                continue
            training = replace(architecture.training, pruning=Pruning(method))
            return replace(architecture, training=training)

    return build


def _draw(rng: np.random.Generator) -> Architecture:
    one_dimensional = rng.random() < 0.2
    input_shape = (int(rng.integers(1, 4)), 1 if one_dimensional else int(rng.integers(5, 11)), int(rng.integers(5, 11)))
    blocks = tuple(_draw_block(rng, one_dimensional) for _ in range(rng.integers(1, 4)))
    downsample = Pool("average", (1, 2)) if rng.random() < 0.2 else None
    head = Head("global" if rng.random() < 0.3 else "flatten", int(rng.integers(1, 7)) if rng.random() < 0.4 else None)
    return Architecture(input_shape, int(rng.integers(2, 5)), blocks, downsample, head, Training(epochs=2, batch_size=8))


def _draw_block(rng: np.random.Generator, one_dimensional: bool) -> Block:
    residual = rng.random() < 0.4
    convs = [_draw_conv(rng, one_dimensional) for _ in range(rng.integers(2 if residual else 1, 4))]
    if residual:  # the shapes that the connection joins must be equal: the last two layers keep theirs
        channels = int(rng.integers(1, 5))
        convs = [replace(conv, channels=channels, stride=(1, 1), padding="same") for conv in convs]
        convs.insert(0, replace(_draw_conv(rng, one_dimensional), channels=channels))
    window = (1 if one_dimensional else int(rng.integers(1, 3)), int(rng.integers(1, 3)))
    pool = Pool("max" if rng.random() < 0.5 else "average", window) if rng.random() < 0.5 else None
    return Block(tuple(convs), pool, residual, branch=rng.random() < 0.4)


def _draw_conv(rng: np.random.Generator, one_dimensional: bool) -> Conv:
    kind = str(rng.choice(["regular", "separable", "reduced"]))
    return Conv(
        kind,
        (1 if one_dimensional else int(rng.integers(1, 5)), int(rng.integers(1, 5))),
        int(rng.integers(1, 6)),
        (1 if one_dimensional else int(rng.integers(1, 3)), int(rng.integers(1, 3))),
        "same" if rng.random() < 0.7 else "valid",
        bool(rng.random() < 0.5),
        int(rng.integers(1, 4)) if kind == "reduced" else None,
    )


@pytest.fixture(scope="session")
def trained_network() -> Callable[[Architecture, int], Network]:
    """(architecture, seed) -> a network in eval mode with weights, statistics and posteriors as training could leave them."""

    def build(architecture: Architecture, seed: int) -> Network:
        rng = np.random.default_rng(seed)
        network = Network(architecture, seed)
        weights = network.weights()
        for name, value in weights.items():
            part = name.rpartition(".")[2]
            if part in ("gamma", "variance") or name.endswith("scale.mean"):
                weights[name] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
            elif part in ("beta", "bias", "mean"):
                weights[name] = rng.normal(0, 0.3, value.shape).astype(np.float32)
            elif part.endswith("log_variance"):  # log α then spreads around the threshold
                weights[name] = rng.normal(1.0, 2.0, value.shape).astype(np.float32)
        network.load(weights)
        return network.eval()

    return build


@pytest.fixture(scope="session")
def run_folded() -> Callable[[FoldedNetwork, np.ndarray], np.ndarray]:
    """(folded network, images (B, C, H, W)) -> logits (B, classes), computed in float64."""

    def run(network: FoldedNetwork, images: np.ndarray) -> np.ndarray:
        tensors = {INPUT: torch.from_numpy(images).double()}
        for folded in network:
            layer, inputs = folded.layer, [tensors[name] for name in folded.layer.inputs]
            assert all(tuple(x.shape[1:]) == layer.in_shape for x in inputs)
            if layer.op == "max_pool":
                y = F.max_pool2d(inputs[0], layer.kernel)
            elif layer.op == "average_pool":
                y = F.avg_pool2d(inputs[0], layer.kernel)
            elif layer.op == "add":
                y = torch.stack(inputs).sum(0)
            else:
                weight, bias = torch.from_numpy(folded.weight).double(), torch.from_numpy(folded.bias).double()
                assert tuple(weight.shape) == layer.weight_shape
                if layer.op == "linear":
                    weight = weight.reshape(-1, *layer.in_shape)
                top, left, bottom, right = layer.padding
                groups = layer.in_shape[0] if layer.op == "depthwise" else 1
                x = F.pad(inputs[0], (left, right, top, bottom))
                y = F.conv2d(x, weight, bias, layer.stride, groups=groups)
            tensors[layer.name] = y.clamp(0, folded.ceiling) if layer.relu else y
            assert tuple(tensors[layer.name].shape[1:]) == layer.out_shape
        return tensors[LOGITS].flatten(1).numpy()

    return run
