"""Sparse variational dropout (Molchanov et al., 2017) on LeNet-5-Caffe: published: 280 times fewer weights, 0.75 % error.

    python benchmarks/spvd_lenet5.py --data-dir DIR [--epochs 60] [--seed 1]

Exit status 1 where fewer than 150 times are reached, or the test error is above 1.0 %.
"""

import sys

from lenet5 import run
from sparse_mcu.space.architecture import Pruning

if __name__ == "__main__":
    pruning = Pruning("unstructured", strength=3.0, warmup=0.2)
    result = run("spvd_lenet5", "Sparse variational dropout on LeNet-5-Caffe.", pruning, learning_rate=2e-3, epochs=60)
    sys.exit(result.reduction < 150 or result.test_error > 0.01)
