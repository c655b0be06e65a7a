"""How many epochs a child saves that begins with its parent's weights, against one that begins with fresh ones.

    python benchmarks/morphism.py mnist.npz [--pairs 24] [--images 10000] [--seed 0]

A pair is a random network of Ω, trained with pruning for 8 epochs, and a random morph of it. The child is trained with its
parent's θ for 1, 2, 3, 5, 8 and 12 epochs, each a training of its own with its whole schedule (noise, pruning, what is left
alone), until the pruned network's validation accuracy is at least the parent's: once with inherited and once with fresh weights.
0: it was so before training; inherited weights have then been fitted to the parent on at most 2,048 images, without labels.
A child that never gets there counts 18 epochs.

Parents that learnt next to nothing are drawn anew, for any child reaches what they reach. The test split is not used.
Exit status 1 where the median with inheritance is above a third of that from scratch.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch

from sparse_mcu.data import load
from sparse_mcu.data.dataset import Split
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.reconstruct import begin_as
from sparse_mcu.nn.train import Images, accuracy, train
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.morph import MORPHS, morph
from sparse_mcu.space.suggest import sample

RAM, FLASH = 2_048, 32_768  # bytes: the networks of an Arduino Uno
STRENGTHS = (5e-2, 3.0)  # of the pruning: what suits networks that learn from labels alone, not from a teacher
LEARNT = 0.8  # validation accuracy that a parent has to reach
OF_TRAINING = ("change_training", "change_pruning")  # morphs that leave the network as it is
EPOCHS, NEVER = (0, 1, 2, 3, 5, 8, 12), 18
PARENT_EPOCHS = 8
FIGURES = Path(__file__).parent / "figures"


@dataclass(frozen=True, slots=True)
class Pair:
    """Epochs of the shortest training that gives the parent's accuracy."""

    morph: str
    parent_accuracy: float
    inherited: int
    scratch: int


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    data = load(options.data)
    training = Split(data.train.images[: options.images], data.train.labels[: options.images])
    pairs: list[Pair] = []
    for parent, seed in _parents(training, data.validation, options.seed):
        pairs.append(_pair(parent, training, data.validation, seed))
        print(f"{len(pairs)}/{options.pairs} {pairs[-1]}, {time.monotonic() - start:.0f} s", flush=True)
        if len(pairs) == options.pairs:
            break
    inherited = statistics.median(pair.inherited for pair in pairs)
    scratch = statistics.median(pair.scratch for pair in pairs)
    print(json.dumps({"pairs": len(pairs), "median_inherited": inherited, "median_scratch": scratch}))
    _draw(pairs)
    sys.exit(inherited > scratch / 3)


def _parents(training: Split, validation: Split, seed: int) -> Iterator[tuple[Network, int]]:
    """Yield trained networks of Ω without end, each with the seed that it came from."""
    limits = _limits(training.images.shape[1:], int(training.labels.max()) + 1)
    while True:
        drawn = sample(limits, np.random.default_rng(seed))
        network = Network(_trained_for(drawn, PARENT_EPOCHS), seed)
        train(network, training.images, training.labels, seed=seed, epoch_images=len(training))
        if _accuracy(network, validation) >= LEARNT:
            yield network, seed
        seed += 1


def _limits(input_shape: tuple[int, int, int], classes: int) -> SpaceLimits:
    """Return Ω without augmentation: both children shall see the same images."""
    limits = SpaceLimits.for_input(input_shape, classes, RAM, FLASH)
    return dataclasses.replace(limits, training=dataclasses.replace(limits.training, strength=STRENGTHS, augmentations=(0.0,)))


def _pair(parent: Network, training: Split, validation: Split, seed: int) -> Pair:
    architecture = parent.architecture
    limits = _limits(architecture.input_shape, architecture.classes)
    limits = dataclasses.replace(limits, training=dataclasses.replace(limits.training, epochs=(1, PARENT_EPOCHS)))
    kinds = [kind for kind in MORPHS if kind.name not in OF_TRAINING]
    name, child = morph(architecture, limits, np.random.default_rng(seed), kinds)

    def epochs_needed(parent: Network | None) -> int:
        return _epochs_needed(child, parent, target, training, validation, seed + 1)

    target = _accuracy(parent, validation)
    return Pair(name, target, inherited=epochs_needed(parent), scratch=epochs_needed(None))


def _epochs_needed(
    child: Architecture, parent: Network | None, target: float, training: Split, validation: Split, seed: int
) -> int:
    """Return the fewest epochs of EPOCHS after which ``child`` is as accurate as ``target``, NEVER where none are."""
    for epochs in EPOCHS:
        network = Network(_trained_for(child, max(epochs, 1)), seed)
        inherited = parent is not None and begin_as(network, parent, training.images, seed)
        if epochs > 0:
            train(
                network,
                training.images,
                training.labels,
                seed=seed,
                inherited=inherited,
                epoch_images=len(training),
            )
        if _accuracy(network, validation) >= target:
            return epochs
    return NEVER


def _trained_for(architecture: Architecture, epochs: int) -> Architecture:
    return dataclasses.replace(architecture, training=dataclasses.replace(architecture.training, epochs=epochs))


def _accuracy(network: Network, split: Split) -> float:
    return accuracy(network, Images.on(torch.device("cpu"), split.images, split.labels))


def _draw(pairs: list[Pair]) -> None:
    """Draw the share of the children that have reached their parent's accuracy over the epochs."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for label, needed in (
        ("inherited weights", [pair.inherited for pair in pairs]),
        ("fresh weights", [pair.scratch for pair in pairs]),
    ):
        axes.plot(EPOCHS, [100 * float(np.mean(np.array(needed) <= epochs)) for epochs in EPOCHS], marker=".", label=label)
    axes.set(xlabel="epochs of the training", ylabel="children as accurate\nas their parent, %", ylim=(0, 100))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / "morphism.png", dpi=120)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what inherited weights save.")
    parser.add_argument("data", help="a data set: digits, or an .npz file")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--images", type=int, default=10_000, help="of the training split at most (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
