"""How many more trials two workers finish than one in the same time, and whether they find as much with as many.

    python benchmarks/workers.py --seconds 180 --pairs 3 --results workers.jsonl

Searches digits for an Arduino Uno with one worker, then with two, on a machine that does nothing else; each pair with a seed of
its own. Results are kept line by line; what is there is not measured again.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from sparse_mcu.data import load
from sparse_mcu.deploy.boards import board
from sparse_mcu.search import Budget, Ledger, Progress, SearchOptions, search

BOARD, BUDGET = board("arduino-uno"), Budget(ram_bytes=1024, flash_bytes=8192)
WORKERS = (1, 2)


def main() -> None:
    options = _options()
    rows = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    for seed in range(options.pairs):
        for workers in WORKERS:
            if any((row["seed"], row["workers"], row["seconds"]) == (seed, workers, options.seconds) for row in rows):
                continue
            rows.append({"seed": seed, "workers": workers, "seconds": options.seconds} | _measure(options.seconds, workers, seed))
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(f"seed {seed}, {workers} workers: {len(rows[-1]['volumes'])} trials", flush=True)
    _report(rows, options.pairs)


def _measure(seconds: float, workers: int, seed: int) -> dict[str, list[float]]:
    """Search, and return the hypervolume after every trial."""
    seen: list[Progress] = []
    options = SearchOptions(BOARD, BUDGET, seconds=seconds, seed=seed, workers=workers, device="cpu")
    with tempfile.TemporaryDirectory() as directory, Ledger.create(Path(directory)) as ledger:
        search(load("digits"), options, ledger, seen.append)
    volumes = {progress.done: progress.hypervolume for progress in seen}  # two may finish between two reports
    return {"volumes": [volumes[max(done for done in volumes if done <= n)] for n in range(1, max(volumes) + 1)]}


def _report(rows: list[dict[str, list[float]]], pairs: int) -> None:
    """Print the ratio of trials, and the hypervolumes at the number of trials that both reached."""
    print("| seed | trials, 1 worker | 2 workers | ratio | hypervolume at as many trials, 1 worker | 2 workers |")
    print("|---|---|---|---|---|---|")
    for seed in range(pairs):
        one, two = (next(row["volumes"] for row in rows if (row["seed"], row["workers"]) == (seed, n)) for n in WORKERS)
        same = min(len(one), len(two)) - 1
        print(f"| {seed} | {len(one)} | {len(two)} | {len(two) / len(one):.2f} | {one[same]:.4f} | {two[same]:.4f} |")
    trials = [np.median([len(row["volumes"]) for row in rows if row["workers"] == n]) for n in WORKERS]
    print(f"median ratio of trials: {trials[1] / trials[0]:.2f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("workers.jsonl"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
