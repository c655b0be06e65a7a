"""What weights of eight, four and two bits cost: the same networks trained with each, error against flash, RAM and time.

Three convolutions and two max pools of several widths, without pruning, from the same first weights; what is told is of the
validation split, and predicted for a board.

    python benchmarks/weight_bits.py DATA [--board bluepill] [--epochs 30] [--seeds 0 1 2] [--bits 2 4 8]
"""

import argparse
import itertools

import numpy as np
import torch

from sparse_mcu.data import Dataset, load
from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.predict import predict
from sparse_mcu.deploy.target import Target
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import train
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.quant.quantise import quantise
from sparse_mcu.search.evaluation import error
from sparse_mcu.space.architecture import Architecture, Block, Conv, Pool, Pruning, Training

WIDTHS = ((6, 12, 16), (8, 16, 24), (12, 24, 40), (16, 40, 64))  # channels of each convolution


def architecture(data: Dataset, widths: tuple[int, int, int], training: Training) -> Architecture:
    first, second, third = widths
    pool = Pool("max", (2, 2))
    blocks = (
        Block((Conv("regular", (5, 5), first, padding="valid"),), pool),
        Block((Conv("regular", (3, 3), second, padding="valid"), Conv("regular", (3, 3), third)), pool),
    )
    return Architecture(data.input_shape, data.classes, blocks, training=training)


def trained(data: Dataset, widths: tuple[int, int, int], training: Training, seed: int) -> IntegerGraph:
    network = Network(architecture(data, widths, training), seed)
    train(network, data.train.images, data.train.labels, seed=seed)
    return quantise(network.fold(), data.train.images)


def main() -> None:
    parser = argparse.ArgumentParser(description="The same networks with weights of eight bits, four and two.")
    parser.add_argument("data")
    parser.add_argument("--board", default="bluepill")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 4, 8])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, target = load(arguments.data), Target(board(arguments.board))
    print(f"| channels | bits | error on the validation split: mean (each) | flash | RAM | {target.board.time_unit} |")
    print("|---" * 6 + "|")
    for widths, bits in itertools.product(WIDTHS, arguments.bits):
        training = Training(learning_rate=1e-2, batch_size=32, epochs=arguments.epochs, weight_bits=bits, pruning=Pruning("none"))
        graphs = [trained(data, widths, training, seed) for seed in arguments.seeds]
        errors = [error(graph, data.validation) for graph in graphs]
        costs = [predict(graph, target) for graph in graphs]
        means = (np.mean([getattr(cost, name) for cost in costs]) for name in ("flash_bytes", "ram_bytes", "cycles"))
        each = ", ".join(f"{share:.2%}" for share in errors)
        cells = ("-".join(map(str, widths)), bits, f"{np.mean(errors):.2%} ({each})", *(f"{mean:,.0f}" for mean in means))
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
