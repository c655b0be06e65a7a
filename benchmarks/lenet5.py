"""LeNet-5-Caffe on MNIST, pruned while it trains: what the benchmarks of both kinds of pruning share.

The network is the one both papers prune: 20 and 50 filters of 5x5, each followed by 2x2 max pooling, and 500 hidden units;
430,500 weights without biases. The last 5,000 training images draw the curves; the test images are looked at once, at the end.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import matplotlib
import numpy as np
import torch

from sparse_mcu.data import load
from sparse_mcu.data.dataset import Split
from sparse_mcu.nn.folded import FoldedNetwork
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import Epoch, Images, accuracy, train
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning, Training

HELD_OUT = 5_000
FIGURES = Path(__file__).parent / "figures"


@dataclass(frozen=True, slots=True)
class Result:
    """What is left after training. ``sizes``: filters, filters, inputs of the hidden layer, hidden units."""

    test_error: float
    weights: int
    reduction: float  # times fewer than the 430,500 of the dense network
    sizes: tuple[int, int, int, int]
    suggested_bits: dict[str, int]
    epochs: int
    seconds: float
    seed: int
    date: str


def architecture(pruning: Pruning, learning_rate: float, epochs: int) -> Architecture:
    """Return LeNet-5-Caffe (ReLU after the convolutions too) with its training settings."""
    blocks = tuple(
        Block((Conv("regular", (5, 5), channels, padding="valid", batch_norm=False),), pool=Pool("max", (2, 2)))
        for channels in (20, 50)
    )
    training = Training(learning_rate=learning_rate, batch_size=100, epochs=epochs, pruning=pruning)
    return Architecture((1, 28, 28), 10, blocks, head=Head("flatten", 500), training=training)


def run(name: str, description: str, pruning: Pruning, learning_rate: float, epochs: int) -> Result:
    """Train as the command line says, for ``epochs`` unless it does, draw the curves, print the result as JSON and return it."""
    options = _options(description, epochs)
    torch.set_num_threads(options.threads)
    data = load(options.data_dir / "mnist.npz")
    images = np.concatenate([data.train.images, data.validation.images])
    labels = np.concatenate([data.train.labels, data.validation.labels])
    held_out = Split(images[-HELD_OUT:], labels[-HELD_OUT:])
    network = Network(architecture(pruning, learning_rate, options.epochs), options.seed)
    dense = sum(layer.weights for layer in network.layers)
    done: list[Epoch] = []
    start = time.monotonic()

    def report(epoch: Epoch) -> None:
        done.append(epoch)
        left = (time.monotonic() - start) / len(done) * (options.epochs - len(done))
        print(
            f"epoch {len(done)}/{options.epochs}: validation {epoch.validation_accuracy:.2%}, "
            f"{epoch.nonzero_weights:,} weights, sizes {sizes(network.fold())}, {left / 60:.0f} min left",
            flush=True,
        )

    images, labels = images[:-HELD_OUT], labels[:-HELD_OUT]
    train(network, images, labels, seed=options.seed, validation=held_out, report=report, epoch_images=len(images))
    test = Images.on(torch.device("cpu"), data.test.images, data.test.labels)
    result = Result(
        test_error=1 - accuracy(network, test),
        weights=network.nonzero_weights(),
        reduction=dense / max(1, network.nonzero_weights()),
        sizes=sizes(network.fold()),
        suggested_bits={layer.layer.name: layer.suggested_bits() for layer in network.weighted()},
        epochs=options.epochs,
        seconds=time.monotonic() - start,
        seed=options.seed,
        date=date.today().isoformat(),
    )
    draw(name, dense, done)
    print(json.dumps(asdict(result)))
    return result


def sizes(folded: FoldedNetwork) -> tuple[int, int, int, int]:
    """Return the sizes that the papers count: filters of both convolutions, inputs that the hidden layer reads, hidden units."""
    weights = [layer.weight for layer in folded if layer.weight is not None]
    first, second, hidden, _ = weights
    return len(first), len(second), int(np.any(hidden != 0, axis=0).sum()), len(hidden)


def draw(name: str, dense: int, epochs: list[Epoch]) -> None:
    """Draw the validation error and the number of weights over the epochs."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (errors, weights) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    numbers = range(1, len(epochs) + 1)
    errors.plot(numbers, [100 * (1 - (epoch.validation_accuracy or 0.0)) for epoch in epochs])
    errors.set(xlabel="epoch", ylabel="validation error, %", yscale="log")
    weights.plot(numbers, [dense / max(1, epoch.nonzero_weights) for epoch in epochs])
    weights.set(xlabel="epoch", ylabel="times fewer weights", yscale="log")
    for axes in (errors, weights):
        axes.grid(visible=True, which="both", alpha=0.3)
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / f"{name}.png", dpi=120)


def _options(description: str, epochs: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder that holds mnist.npz")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()
