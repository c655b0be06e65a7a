"""What zeros save on the device: a network beside itself with most of its weights zero, in cycles and in bytes of weights.

The network is compiled from its ONNX file as `sparse-mcu compile` does, or has random weights and no padding: the largest plain
one that fits an Arduino Uno (`plain`), a small LeNet (`lenet`), or one for small images with a 3x3 convolution of 16 input
channels (`wide`) or of three convolutions (`deep`); then the smallest weights of every layer become zero, as many as --zeros
says. Nothing is trained again: what the weights are does not matter here, only where they are. Both networks run on the first
test images on every board, and every logit is compared with the interpreter's. Bytes of weights are all that lies in flash for
a convolution besides the kernels that layers share: values, indices, biases, scales, and code of its own. With --bits 4 both
networks have only the upper four bits of every weight, with --bits 2 they are rounded to -1, 0 and 1 as training does; the
code generator then stores so many bits.

    python benchmarks/sparse.py refB.onnx|plain|lenet|wide|deep mnist.npz [--zeros 0.8] [--bits 2|4] [--images 20]
                                [--boards NAME ...] [--optimise size ...]

Exit status 1 where a logit differs, or the sparse network takes more than 35 % of the cycles or 40 % of the bytes.
"""

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np
import torch

from sparse_mcu.data import Dataset, load
from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.kernel_costs import kernel_costs
from sparse_mcu.deploy.predict import fitted, straight_bytes
from sparse_mcu.deploy.target import OPTIMISE, Target
from sparse_mcu.deploy.verification import Verification, verify
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.rounding import rounded, steps
from sparse_mcu.quant.graph import Conv2d, Convolution, IntegerGraph
from sparse_mcu.quant.quantise import quantise
from sparse_mcu.run.compile import compile_network
from sparse_mcu.space.architecture import Architecture, Block, Conv, Pool
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.plain import plain

INPUT_RANGE = (0.0, 1.0)  # what the reference networks were trained on
MOST_CYCLES = 0.35  # of the dense network's
MOST_BYTES = 0.40
SMALL = {"lenet": (4, 8), "wide": (16, 12), "deep": (8, 10, 12)}  # channels of convolutions
STACK = 256  # bytes of the RAM that a plain network leaves to the stack and to sums


def compiled(network: str, data: str, target: Target) -> tuple[IntegerGraph, Dataset]:
    """Return the integers of ``network`` and its data set."""
    if network not in ("plain", *SMALL):
        found = compile_network(Path(network), data, target.board.name, INPUT_RANGE, optimise=target.optimise)
        return found.graph, found.dataset
    dataset, uno = load(data), board("arduino-uno")
    if network in SMALL:
        return quantise(Network(_small(dataset, network), seed=0).fold(), dataset.train.images), dataset
    limits = SpaceLimits.for_input(dataset.input_shape, dataset.classes, uno.ram_bytes, uno.flash_bytes)
    limits = dataclasses.replace(limits, max_activation_bytes=uno.ram_bytes - STACK)
    unpadded = [
        drawn for drawn in plain(limits) if all(conv.padding == "valid" for block in drawn.blocks for conv in block.convs)
    ]
    return quantise(Network(unpadded[-1], seed=0).fold(), dataset.train.images), dataset


def _small(dataset: Dataset, network: str) -> Architecture:
    """Return the convolutions that ``network`` stands for, 5x5 in a LeNet, else 3x3 behind means of 2x2.

    A max pool follows the first, and the last but in `deep`.
    """
    lenet, pool = network == "lenet", Pool("max", (2, 2))
    kernel = (5, 5) if lenet else (3, 3)
    convs = [Conv("regular", kernel, channels, padding="valid") for channels in SMALL[network]]
    blocks = (Block((convs[0],), pool), Block(tuple(convs[1:]), None if network == "deep" else pool))
    downsample = None if lenet else Pool("average", (2, 2))
    return Architecture(dataset.input_shape, dataset.classes, blocks, downsample=downsample)


def cut(graph: IntegerGraph, bits: int) -> IntegerGraph:
    """Return ``graph`` with weights that ``bits`` hold; depthwise layers are always stored in eight."""
    ops = tuple(dataclasses.replace(op, weights=_cut(op.weights, bits)) if isinstance(op, Conv2d) else op for op in graph.ops)
    return IntegerGraph(ops, graph.tensors)


def _cut(weights: np.ndarray, bits: int) -> np.ndarray:
    if bits != 2:
        return weights >> 8 - bits
    exact = torch.tensor(weights, dtype=torch.float32)
    return (rounded(exact, bits) / steps(exact, bits)).round().numpy().astype(np.int8)


def thinned(graph: IntegerGraph, zeros: float) -> IntegerGraph:
    """Return ``graph`` with its smallest weights zero: the share ``zeros`` of every layer's, rounded up."""
    ops = tuple(dataclasses.replace(op, weights=_thinned(op, zeros)) if isinstance(op, Convolution) else op for op in graph.ops)
    return IntegerGraph(ops, graph.tensors)


def _thinned(op: Convolution, zeros: float) -> np.ndarray:
    flat = op.weights.reshape(-1).copy()
    order = np.argsort(np.abs(flat.astype(np.int16)), kind="stable")
    flat[order[: int(np.ceil(zeros * flat.size))]] = 0
    return flat.reshape(op.weights.shape)


def weight_bytes(graph: IntegerGraph, target: Target) -> int:
    costs = kernel_costs(target.board)
    program = fitted(graph, target, costs)
    layers = [step for step in program.steps if step.weights is not None]
    return sum(step.weights.size + straight_bytes(program, step, costs) for step in layers if step.weights is not None)


def measured(graph: IntegerGraph, target: Target, data: Dataset, images: int) -> Verification:
    found = verify(graph, target, data.test.images[:images], data.test.labels[:images])
    if found.measured is None:
        sys.exit(found.not_simulated)
    return found


def compare(dense: IntegerGraph, sparse: IntegerGraph, target: Target, data: Dataset, images: int) -> bool:
    """Print a line for ``target``; return whether the sparse network keeps within its bounds and no logit differs."""
    found = [measured(graph, target, data, images) for graph in (dense, sparse)]
    cycles = [verification.measured.cycles for verification in found if verification.measured is not None]
    weights = [weight_bytes(graph, target) for graph in (dense, sparse)]
    mismatches = sum(verification.mismatches for verification in found)
    time, size = cycles[1] / cycles[0], weights[1] / weights[0]
    names = (target.board.name, target.optimise)
    cells = (*names, *(f"{n:,}" for n in cycles), f"{time:.1%}", *(f"{n:,}" for n in weights), f"{size:.1%}", mismatches)
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return time <= MOST_CYCLES and size <= MOST_BYTES and mismatches == 0


def main() -> None:
    parser = argparse.ArgumentParser(description="A network beside itself with most of its weights zero, on simulated boards.")
    parser.add_argument("network", help="an ONNX file, plain, lenet, wide or deep")
    parser.add_argument("data", help="the data set it was trained on")
    parser.add_argument("--zeros", type=float, default=0.8, help="share of every layer's weights")
    parser.add_argument("--bits", type=int, choices=(2, 4, 8), default=8, help="of a weight")
    parser.add_argument("--images", type=int, default=20, help="test images to run on each board")
    parser.add_argument("--boards", nargs="+", default=["arduino-uno", "microbit"])
    parser.add_argument("--optimise", nargs="+", choices=OPTIMISE, default=OPTIMISE, help="settings to measure")
    arguments = parser.parse_args()
    shares = (f"{what}, dense | sparse | share" for what in ("cycles or instructions", "weight bytes"))
    print(f"| board | optimise | {' | '.join(shares)} | differing logits |")
    print("|---" * 9 + "|")
    kept = True
    for name, optimise in itertools.product(arguments.boards, arguments.optimise):
        target = Target(board(name), optimise=optimise)
        graph, dataset = compiled(arguments.network, arguments.data, target)
        graph = cut(graph, arguments.bits)
        kept &= compare(graph, thinned(graph, arguments.zeros), target, dataset, arguments.images)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
