"""How far the predictions for boards are from what their simulation shows: flash, RAM and cycles, over many networks.

Half of the networks are random integer graphs (every operation, odd sizes, extreme values), half are architectures drawn from Ω,
trained for a few epochs on `digits`, pruned and quantised, as a search makes them. Each is predicted, then compiled, linked and
run on a few images; every logit is compared with the interpreter's. Errors are predicted less measured.

    python benchmarks/predictions.py [--networks 60] [--images 4] [--seed 0] [--boards NAME ...] [--optimise balanced]

Exit status 1 where a bound is broken: RAM never under and at most 16 bytes over, flash within 3 %, no logit differs.
"""

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import torch

from sparse_mcu.data import Dataset, load
from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.predict import predict
from sparse_mcu.deploy.target import OPTIMISE, Target
from sparse_mcu.deploy.verification import Verification, verify
from sparse_mcu.errors import BoardError
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import train
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.quant.quantise import quantise
from sparse_mcu.quant.random_graph import GraphSize, random_graph, random_images
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.suggest import sample

EPOCHS = 4  # enough for pruning to have thinned the weights
RAM_OVER_BYTES = 16
FLASH_SHARE = 0.03
SIZES = (GraphSize(layers=3, extent=8, channels=6), GraphSize(), GraphSize(layers=10, extent=10, channels=12))


def random_graphs(rng: np.random.Generator, target: Target) -> Iterator[IntegerGraph]:
    """Yield random graphs that fit the board."""
    for number in count():
        graph = random_graph(rng, SIZES[number % len(SIZES)])
        if fits(graph, target):
            yield graph


def trained_graphs(rng: np.random.Generator, target: Target, data: Dataset) -> Iterator[IntegerGraph]:
    """Yield trained networks that fit the board."""
    limits = SpaceLimits.for_input(data.input_shape, data.classes, target.ram_limit, target.flash_limit)
    for seed in count():
        drawn = sample(limits, rng)
        architecture = dataclasses.replace(drawn, training=dataclasses.replace(drawn.training, epochs=EPOCHS))
        network = Network(architecture, seed)
        train(network, data.train.images, data.train.labels, seed=seed)
        graph = quantise(network.fold(), data.train.images)
        if fits(graph, target):
            yield graph


def fits(graph: IntegerGraph, target: Target) -> bool:
    try:
        prediction = predict(graph, target)
    except BoardError:  # its weights lie beyond what one address reaches
        return False
    return prediction.ram_bytes <= target.ram_limit and prediction.flash_bytes <= target.flash_limit


def verifications(
    graphs: Iterator[IntegerGraph], target: Target, images: int, rng: np.random.Generator
) -> Iterator[Verification]:
    for graph in graphs:
        yield verify(graph, target, random_images(rng, graph, images), np.zeros(images, np.int64))


def errors(found: list[Verification]) -> np.ndarray:
    """Return (3, n): predicted less measured, of RAM in bytes, of flash and of cycles as shares of what was measured."""
    return np.array([error(verification) for verification in found]).T


def error(found: Verification) -> tuple[int, float, float]:
    if found.measured is None:
        sys.exit(found.not_simulated)
    return (
        found.predicted_ram_bytes - found.measured.ram_bytes,
        found.predicted_flash_bytes / found.measured.flash_bytes - 1,
        found.predicted_cycles / found.measured.cycles - 1,
    )


def line(target: Target, kind: str, found: list[Verification]) -> str:
    ram, flash, cycles = errors(found)
    cells = (
        target.board.name,
        target.optimise,
        f"{len(found)} {kind}",
        f"{min(ram):+.0f} to {max(ram):+.0f} B",
        f"{min(flash):+.1%} to {max(flash):+.1%}",
        f"{min(cycles):+.1%} to {max(cycles):+.1%}",
        f"{np.abs(cycles).mean():.1%}",
        str(sum(verification.mismatches for verification in found)),
    )
    return f"| {' | '.join(cells)} |"


def keeps_bounds(found: list[Verification]) -> bool:
    ram, flash, _ = errors(found)
    within = min(ram) >= 0 and max(ram) <= RAM_OVER_BYTES and max(np.abs(flash)) <= FLASH_SHARE
    return bool(within) and not any(verification.mismatches for verification in found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Predictions beside measurements on a simulated board.")
    parser.add_argument("--networks", type=int, default=60, help="for each board, half of each kind")
    parser.add_argument("--images", type=int, default=4, help="run on each network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--boards", nargs="+", default=["arduino-uno", "microbit", "nucleo-f446", "arduino-mega"])
    parser.add_argument("--optimise", nargs="+", choices=OPTIMISE, default=["balanced"], help="settings to measure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits = load("digits")
    print("| board | optimise | networks | RAM | flash | cycles | cycles, mean of absolute values | logits that differ |")
    print("|---|---|---|---|---|---|---|---|")
    kept = True
    for name, optimise in itertools.product(arguments.boards, arguments.optimise):
        target = Target(board(name), optimise=optimise)
        rng = np.random.default_rng(arguments.seed)
        kinds = {"random graphs": random_graphs(rng, target), "trained on digits": trained_graphs(rng, target, digits)}
        for kind, graphs in kinds.items():
            found = list(verifications(islice(graphs, arguments.networks // 2), target, arguments.images, rng))
            print(line(target, kind, found), flush=True)
            kept &= keeps_bounds(found)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
