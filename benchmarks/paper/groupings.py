"""How far the accuracy on CIFAR10-binary hangs on which classes are joined, and on how many weights there are.

    python benchmarks/paper/groupings.py --data-dir DIR [--steps 20000] [--seed 0]

DIR holds cifar10_gray20.npz. Nobody states how the ten classes were made two. For 0-4 against 5-9, as in rows.py, and for
vehicles against animals: the share of the more frequent class, the accuracy of the nearest neighbour among training images, and
that of dense networks (three convolutions with strides of two) of growing size, trained without pruning or a teacher, on mirror
images too. All on the validation split.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from sparse_mcu.data.dataset import Split
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import EPOCH_IMAGES, Images, accuracy, train
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pruning, Training
from sparse_mcu.space.layers import layers

GROUPINGS = {"0-4 against 5-9": (5, 6, 7, 8, 9), "vehicles against animals": (0, 1, 8, 9)}
WIDTHS = (3, 8, 16)
BATCH = 64
HELD_OUT = 5_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(options.data_dir / "cifar10_gray20.npz", allow_pickle=False) as archive:
        images, classes = archive["x_train"][:, None], archive["y_train"]
    order = np.random.default_rng(options.seed).permutation(len(images))
    held_out, learnt = order[:HELD_OUT], order[HELD_OUT:]
    nearest = neighbours(images[learnt], images[held_out])
    for name, members in GROUPINGS.items():
        labels = np.isin(classes, members).astype(np.int64)
        train_split, validation = Split(images[learnt], labels[learnt]), Split(images[held_out], labels[held_out])
        most = max(np.bincount(validation.labels)) / HELD_OUT
        same = (train_split.labels[nearest] == validation.labels).mean()
        print(f"{name}: more frequent class {most:.1%}, nearest neighbour {same:.1%}", flush=True)
        for width in WIDTHS:
            weights, right = trained(train_split, validation, width, options.steps, options.seed)
            print(f"  {weights} weights: {right:.2%}", flush=True)


def neighbours(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return the index of the image of ``known`` (N, ...) nearest to each of ``asked`` (M, ...)."""
    known, asked = (images.reshape(len(images), -1) / np.float32(255) for images in (known, asked))
    return NearestNeighbors(n_neighbors=1, algorithm="brute").fit(known).kneighbors(asked, return_distance=False)[:, 0]


def trained(data: Split, validation: Split, width: int, steps: int, seed: int) -> tuple[int, float]:
    """Return the weights of a network and its share of ``validation`` got right after ``steps``."""
    blocks = tuple(
        Block((Conv("regular", (kernel, kernel), channels, stride=(2, 2)),))
        for kernel, channels in ((5, width), (3, 2 * width), (3, 2 * width))
    )
    training = Training(learning_rate=1e-2, batch_size=BATCH, epochs=steps * BATCH // EPOCH_IMAGES, pruning=Pruning("none"))
    architecture = Architecture(data.images.shape[1:], 2, blocks, head=Head("flatten"), training=training)
    network = Network(architecture, seed)
    train(network, data.images, data.labels, seed=seed, mirrored=True)
    right = accuracy(network, Images.on(torch.device("cpu"), validation.images, validation.labels))
    return sum(layer.weights for layer in layers(architecture)), right


if __name__ == "__main__":
    main()
