"""Generated C through the eyes of compilers and a static analyser: warnings, what it needs of a library, who calls whom.

Random integer graphs, whole images and streamed rows in turn, become C, with static variables and reentrant. For each of them

- gcc and clang, and every core's own compiler, take it with all warnings as errors;
- clang takes it for bare Arm and RISC-V cores, whose headers are the compiler's alone;
- what it needs from outside is nothing but the helpers of the compiler's own library (names that begin with two underscores);
- no function calls itself, be it by way of others;
- cppcheck finds nothing.

    python benchmarks/robust_c.py [--graphs 30]

A check whose tool is missing is skipped, with a word about it. Exit status 1 where one fails.
"""

import argparse
import graphlib
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.boards import Board, boards
from sparse_mcu.deploy.generate import render
from sparse_mcu.deploy.host import WARNINGS
from sparse_mcu.deploy.kernel_costs import kernel_costs
from sparse_mcu.deploy.predict import candidates
from sparse_mcu.deploy.source import CSource
from sparse_mcu.deploy.stream import streamable
from sparse_mcu.deploy.target import OPTIMISE, Target
from sparse_mcu.quant.random_graph import GraphSize, random_graph

SIZES = (GraphSize(), GraphSize(layers=10, extent=10, channels=12))
STRICT = ("-std=c99", "-pedantic", *WARNINGS, "-c", "-o", "model.o", "model.c")
BARE = {
    "clang for Arm": ("clang", "--target=thumbv6m-none-eabi", "-ffreestanding", "-Os"),
    "clang for RISC-V": ("clang", "--target=riscv32-none-elf", "-march=rv32imc", "-ffreestanding", "-Os"),
}
CPPCHECK = (
    *("cppcheck", "--std=c99", "--enable=warning,performance,portability", "--error-exitcode=1", "--quiet", "--inline-suppr"),
    "--suppress=constStatement",  # what it takes the first value of a variable in a register of its own for
    "--suppress=uninitvar",  # what it takes a struct for that is copied byte by byte; the compilers look for these too
)
INDIRECT = "__indirect_call"  # what gcc writes where a function is called through a pointer


class Finding(Exception):
    """What a check has against a source."""


def checks(target: Board) -> dict[str, tuple[str, ...]]:
    """Return the commands that must end well in a folder with the C for ``target``, by what they are."""
    return {
        "gcc": ("gcc", "-O2", *STRICT),
        "clang": ("clang", "-O2", *STRICT),
        **{name: (*command, *STRICT) for name, command in BARE.items()},
        "cppcheck": (*CPPCHECK, "model.c"),
        target.compiler: (target.compiler, *target.flags, *STRICT),
    }


def sources(count: int) -> Iterator[tuple[Board, CSource]]:
    """Yield the C of random graphs for every core and every setting in turn, every other one streamed as far as it can be.

    Each with variables of its own and, reentrant, with those of the caller.
    """
    targets = list({row.core: row for row in boards()}.values())
    for seed in range(count):
        graph = random_graph(np.random.default_rng(seed), SIZES[seed % len(SIZES)])
        target = targets[seed % len(targets)]
        lines = streamable(graph) if seed % 2 else ()
        aim = Target(target, optimise=OPTIMISE[seed // 2 % len(OPTIMISE)])
        for program in candidates(graph, aim, kernel_costs(target), lines):
            yield target, render(program, None)
            yield target, render(program, None, reentrant=True)


def check(target: Board, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name of every check of the C for ``target`` in ``folder``, and what was found: "" where all is well."""
    for name, command in checks(target).items():
        if shutil.which(command[0]) is not None:
            yield name, complaint(command, folder)
    if shutil.which(target.compiler) is not None:
        yield "outside", needs_from_outside(target, folder)
    if shutil.which("gcc") is not None:
        yield "recursion", recursion(folder)


def complaint(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr + done.stdout).strip() or f"status {done.returncode}"


def needs_from_outside(target: Board, folder: Path) -> str:
    """Return the functions that the object file wants from a library, but for the compiler's own helpers."""
    toolchain.run([target.compiler, *target.flags, "-std=c99", "-c", "-o", folder / "model.o", folder / "model.c"])
    lines = toolchain.run([toolchain.binutil(target, "nm"), "--undefined-only", folder / "model.o"]).splitlines()
    names = {line.split()[-1] for line in lines}
    return " ".join(sorted(name for name in names if not name.startswith("__")))


def recursion(folder: Path) -> str:
    """Return a circle of calls. A call through a pointer may reach every function that nobody calls by its name."""
    toolchain.run(["gcc", "-std=c99", "-O0", "-fcallgraph-info", "-c", "-o", folder / "model.o", folder / "model.c"])
    text = (folder / "model.ci").read_text(encoding="utf-8")
    functions = set(re.findall(r'node: { title: "([^"]+)"', text)) - {INDIRECT}
    calls: dict[str, set[str]] = {function: set() for function in functions}
    for caller, called in re.findall(r'edge: { sourcename: "([^"]+)" targetname: "([^"]+)"', text):
        calls.setdefault(caller, set()).add(called)
    named = {called for group in calls.values() for called in group}
    static = {function for function in functions if ":" in function}  # gcc writes their file's name before them
    calls[INDIRECT] = static - named
    try:
        graphlib.TopologicalSorter(calls).prepare()
    except graphlib.CycleError as error:
        return " -> ".join(error.args[1])
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=30)
    options = parser.parse_args()
    passed: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for number, (target, source) in enumerate(sources(options.graphs)):
        with toolchain.workspace() as folder:
            source.write(folder)
            for name, found in check(target, folder):
                (failed if found else passed)[name] += 1
                if found:
                    print(f"graph {number} for {target.name}, {name}: {found}", flush=True)
    for command in sorted({command[0] for target in boards() for command in checks(target).values()}):
        if shutil.which(command) is None:
            print(f"{command} is not installed: skipped what needs it")
    for name in sorted(passed | failed):
        print(f"{name}: {passed[name]} passed, {failed[name]} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
