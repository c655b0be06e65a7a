"""Checks every property of tests/space/test_omega.py over 20,000 random networks of Ω, and all of their morphs.

    python benchmarks/omega_fuzz.py [--networks 20000] [--seed 0]

Prints for every space how many networks and morphs were checked and how fast; stops at the first that fails, with its seed.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "space"))
from test_omega import SPACES, check_morphs, check_network  # noqa: E402

from sparse_mcu.space.suggest import sample  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description="Check random networks of the search space and all of their morphs.")
    parser.add_argument("--networks", type=int, default=20_000, help="how many, over all spaces (default: 20000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first network; the others follow it (default: 0)")
    options = parser.parse_args()
    each = -(-options.networks // len(SPACES))
    for name, limits in SPACES.items():
        start, morphs = time.perf_counter(), 0
        for seed in range(options.seed, options.seed + each):
            try:
                rng = np.random.default_rng(seed)
                architecture = sample(limits, rng)
                check_network(limits, architecture)
                morphs += check_morphs(limits, architecture, rng)
            except Exception as error:
                error.add_note(f"space {name!r}, seed {seed}")
                raise
        print(f"{name:16} {each} networks, {morphs} morphs: all hold, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
