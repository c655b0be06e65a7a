"""What the reference network of other toolchains' figures takes on the boards: flash, RAM, cycles or instructions, by simulation.

The network is compiled from its ONNX file as `sparse-mcu compile` does, with training images for the calibration, then run on the
first test images on every board that can be simulated here; every logit is compared with the interpreter's. RAM is variables, the
image included, and the deepest stack; flash is code and constants over an empty program.

    python benchmarks/device.py refB.onnx mnist.npz [--images 500] [--boards arduino-uno ...] [--optimise size ...] [--ram 760]

With --ram less than whole images take, the input comes row by row; RAM then counts the rows that are kept.

Exit status 1 where a logit differs.
"""

import argparse
import itertools
import sys
from pathlib import Path

from sparse_mcu.deploy.target import OPTIMISE, Optimise
from sparse_mcu.deploy.verification import Verification, verify
from sparse_mcu.run.compile import Compiled, compile_network

INPUT_RANGE = (0.0, 1.0)  # what the reference networks were trained on


def measured(compiled: Compiled, images: int) -> Verification:
    """Verify ``compiled`` on the first test images; end the program where its board cannot be simulated."""
    test = compiled.dataset.test
    found = verify(compiled.graph, compiled.target, test.images[:images], test.labels[:images])
    if found.measured is None:
        sys.exit(found.not_simulated)
    return found


def line(found: Verification, optimise: Optimise) -> str:
    figures = found.measured
    assert figures is not None
    per_mac = figures.cycles / found.macs
    cells = (
        found.board,
        optimise,
        f"{figures.flash_bytes:,}",
        f"{figures.ram_bytes:,}",
        f"{figures.cycles:,}",
        f"{per_mac:.1f}",
        f"{figures.accuracy:.1%}",
        f"{found.numpy_accuracy:.1%}",
        str(found.mismatches),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="A reference network on the simulated boards.")
    parser.add_argument("network", type=Path, help="an ONNX file")
    parser.add_argument("data", help="the data set it was trained on")
    parser.add_argument("--images", type=int, default=500, help="test images to run on each board")
    parser.add_argument("--boards", nargs="+", default=["arduino-uno"])
    parser.add_argument("--optimise", nargs="+", choices=OPTIMISE, default=OPTIMISE, help="settings to measure")
    parser.add_argument("--ram", type=int, help="bytes to keep within, by streaming rows where a whole image does not fit")
    arguments = parser.parse_args()
    figures = ("flash", "RAM", "cycles or instructions", "per MAC", "board accuracy", "interpreter accuracy", "differing logits")
    print(f"| board | optimise | {' | '.join(figures)} |")
    print("|---" * (2 + len(figures)) + "|")
    differ = False
    for name, optimise in itertools.product(arguments.boards, arguments.optimise):
        compiled = compile_network(arguments.network, arguments.data, name, INPUT_RANGE, arguments.ram, optimise)
        found = measured(compiled, arguments.images)
        print(line(found, optimise), flush=True)
        differ |= found.mismatches > 0
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
