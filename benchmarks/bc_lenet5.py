"""Bayesian compression (Louizos et al., 2017) on LeNet-5-Caffe: layers of 8-13-88-13 at 1.0 % error are published.

    python benchmarks/bc_lenet5.py --data-dir DIR [--epochs 40] [--seed 1]

Sizes are counted as there: filters, filters, inputs that the hidden layer still reads, hidden units; dense: 20-50-800-500.
Exit status 1 where one of them is above 12-20-120-20, or the test error is above 1.2 %.
"""

import sys

from lenet5 import run
from sparse_mcu.space.architecture import Pruning

LARGEST = (12, 20, 120, 20)

if __name__ == "__main__":
    pruning = Pruning("both", strength=1.4, warmup=0.2)
    result = run("bc_lenet5", "Bayesian compression on LeNet-5-Caffe.", pruning, learning_rate=3e-3, epochs=40)
    too_large = any(size > largest for size, largest in zip(result.sizes, LARGEST, strict=True))
    sys.exit(too_large or result.test_error > 0.012)
