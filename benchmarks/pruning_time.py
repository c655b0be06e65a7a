"""How much longer an epoch takes with pruning inside than without.

    python benchmarks/pruning_time.py [mnist.npz] [--networks 6] [--rounds 5] [--seed 0]

Random networks of Ω on a data set (default: digits), and a fixed one of 8 and 16 channels; every method trains the same network
on the same images. Epochs of the methods alternate, so that what else the machine does meets all of them; the ratio is that of
the medians. The last epochs, which train what pruning left, are not counted: they cost what plain ones cost.
Exit status 1 where the median ratio of sparse variational dropout over the networks is above 2.2.
"""

import argparse
import statistics
import sys
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from sparse_mcu.data import Dataset, load
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import Epoch, train
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.suggest import sample

Method = Literal["none", "unstructured", "structured", "both"]
METHODS: tuple[Method, ...] = ("none", "unstructured", "structured", "both")
EPOCHS = 4  # of one training: 3 with noise, of which the first warms caches up, and a last one without
IMAGES = 4_000


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    data = load(options.data)
    limits = SpaceLimits.for_input(data.input_shape, data.classes, ram_bytes=2_048, flash_bytes=32_768)
    networks = {"8 and 16 channels": _fixed(data)}
    for seed in range(options.seed, options.seed + options.networks):
        networks[f"random, seed {seed}"] = sample(limits, np.random.default_rng(seed))
    print("network               MACs  plain, ms  " + "  ".join(f"{method:>12}" for method in METHODS[1:]))
    unstructured = []
    for name, architecture in networks.items():
        seconds = _medians(data, architecture, options.rounds)
        ratios = {method: seconds[method] / seconds["none"] for method in METHODS[1:]}
        unstructured.append(ratios["unstructured"])
        macs = sum(layer.macs for layer in Network(architecture, 0).layers)
        row = "  ".join(f"{ratio:12.2f}" for ratio in ratios.values())
        print(f"{name:18} {macs:8,} {1e3 * seconds['none']:10.0f}  {row}", flush=True)
    median = statistics.median(unstructured)
    print(f"median of the ratios with sparse variational dropout: {median:.2f}")
    sys.exit(median > 2.2)


def _fixed(data: Dataset) -> Architecture:
    blocks = tuple(Block((Conv("regular", (3, 3), channels),), pool=Pool("max", (2, 2))) for channels in (8, 16))
    return Architecture(data.input_shape, data.classes, blocks, head=Head("flatten"))


def _medians(data: Dataset, architecture: Architecture, rounds: int) -> dict[Method, float]:
    """Return the median seconds of an epoch for every method."""
    seconds: dict[Method, list[float]] = {method: [] for method in METHODS}
    for _ in range(rounds):
        for method in METHODS:
            seconds[method] += _epochs(data, architecture, method)
    return {method: statistics.median(values) for method, values in seconds.items()}


def _epochs(data: Dataset, architecture: Architecture, method: Method) -> list[float]:
    """Return the seconds of the epochs that count in one training."""
    training = replace(architecture.training, epochs=EPOCHS, batch_size=64, pruning=Pruning(method))
    epochs: list[Epoch] = []
    network = Network(replace(architecture, training=training), seed=0)
    train(network, data.train.images[:IMAGES], data.train.labels[:IMAGES], seed=0, report=epochs.append, epoch_images=IMAGES)
    return [epoch.seconds for epoch in epochs[1:-1]]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what pruning costs in training time.")
    parser.add_argument("data", nargs="?", default="digits", help="digits, or an .npz file (default: digits)")
    parser.add_argument("--networks", type=int, default=6, help="random networks (default: 6)")
    parser.add_argument("--rounds", type=int, default=5, help="trainings of each method and network (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
