"""One row of the paper's table: search, choose by validation accuracy, and test what was chosen once, on the simulated board.

    python benchmarks/paper/search.py ROW --data-dir DIR [--time 60m] [--seed 1] [--workers 2] [--runs DIR]

ROW is one of rows.ROWS. Interrupted, the same command goes on where it stopped; a search that is over is only measured. The
figures are written to ROW.json, the fronts to ROW.png beside this script.
"""

import argparse
import datetime
import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich.console import Console
from rich.progress import Progress as Bar
from rows import ROWS, Row, Target

import sparse_mcu.run as runs
from sparse_mcu.cli.progress import shown
from sparse_mcu.run import Run
from sparse_mcu.run.files import write_bytes
from sparse_mcu.search.ledger import Ledger
from sparse_mcu.search.records import TrialRecord

HERE = Path(__file__).parent
SLOW, SLOW_IMAGES = 4_000_000, 2_000  # cycles of an inference from which on the board runs the first so many test images alone


def main() -> None:
    options = _options()
    row, run_path = ROWS[options.row], options.runs / f"paper-{options.row}"
    with shown() as observer:
        if (run_path / "run.json").exists():
            run = runs.resume(run_path, time=options.time, observer=observer)
        else:
            run = runs.search(
                source(row, options.data_dir, options.runs),
                board=row.board,
                time=options.time,
                ram=row.ram,
                flash=row.flash,
                seed=options.seed,
                workers=options.workers,
                device=options.device,
                objectives=row.objectives,
                limits=row.limits,
                out=run_path,
                observer=observer,
            )
    if run.ending == "interrupted":
        sys.exit("stopped; the same command goes on")
    with Ledger.open(run.path) as ledger:
        trials, seconds = [trial for trial in ledger.records() if trial.state == "complete"], ledger.seconds_used
        teacher = ledger.teacher
    results = {
        "row": options.row,
        "seed": run.record.seed,
        "workers": run.record.workers,
        "search_seconds": round(seconds),
        "trials": len(trials),
        "teacher_validation_accuracy": None if teacher is None else teacher.accuracy,
        "machine": f"{platform.machine()}, {run.record.workers} workers, device {run.record.device}",
        "date": datetime.date.today().isoformat(),
        "versions": run.record.versions,
        "networks": tested(run, row, trials),
    }
    write_bytes(HERE / f"{options.row}.json", (json.dumps(results, indent=1) + "\n").encode())
    draw(options.row, row, trials, results["networks"])
    print(json.dumps(results, indent=1))


def source(row: Row, data_dir: Path, made: Path) -> Path:
    """Return the archive that ``row`` is searched on; one of halved classes is made in ``made``."""
    path = data_dir / row.data
    if not row.halved:
        return path
    halved = made / f"{path.stem}_binary.npz"
    if not halved.exists():
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("x_train", "x_test")}
            arrays |= {name: (archive[name] >= 5).astype(np.uint8) for name in ("y_train", "y_test")}
        made.mkdir(parents=True, exist_ok=True)
        temporary = halved.with_name(f".{halved.name}")
        np.savez_compressed(temporary, **arrays)
        temporary.rename(halved)
    return halved


def sizes(trial: TrialRecord) -> dict[str, float]:
    """Return all objectives of a trial, and the larger reading of the working memory."""
    readings = (trial.objectives[f"working_memory_{reading}"] for reading in (1, 2))
    return {**trial.objectives, "working_memory": max(readings)}


def chosen(target: Target, trials: list[TrialRecord]) -> TrialRecord | None:
    """Return the trial most accurate on the validation split within the limits; of equals the one with fewest weights."""
    within = [trial for trial in trials if all(sizes(trial)[name] <= limit for name, limit in target.limits.items())]
    return min(within, key=lambda trial: (trial.objectives["error"], trial.objectives["model_size"]), default=None)


def tested(run: Run, row: Row, trials: list[TrialRecord]) -> list[dict[str, Any]]:
    """Verify what each target chooses on the whole test split, a network once."""
    choices = {target.name: chosen(target, trials) for target in row.targets}
    verified = {trial.number: _verify(run, trial) for trial in choices.values() if trial is not None}
    return [
        {
            "target": target.name,
            "asked": target.accuracy,
            "limits": target.limits,
            "found": _found(choices[target.name], verified),
        }
        for target in row.targets
    ]


def _found(trial: TrialRecord | None, verified: Mapping[int, Mapping[str, Any]]) -> dict[str, Any] | None:
    if trial is None:
        return None
    measured = {name: value for name, value in sizes(trial).items() if name != "error"}
    return {
        "trial": trial.number,
        "validation_accuracy": trial.accuracy,
        "predicted": measured,
        "verified": verified[trial.number],
    }


def _verify(run: Run, trial: TrialRecord) -> dict[str, Any]:
    """Run ``trial`` on the whole test split: in C on this machine, and on the board unless that would take hours."""
    slow = trial.objectives["cycles"] > SLOW
    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task(f"trial {trial.number} on the simulated {run.board.name}", total=None)
        model = run.model(trial.number)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return model.verify(progress=show, images=SLOW_IMAGES if slow else None).to_json()


def draw(name: str, row: Row, trials: list[TrialRecord], networks: list[dict[str, Any]]) -> None:
    """Draw all trials and the front by validation accuracy, what was tested and what was published by test accuracy."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    points = np.array([(trial.objectives["model_size"], 100 * trial.accuracy) for trial in trials])
    axes.scatter(*points.T, s=8, color="0.75", label="trials (validation)")
    ordered = points[np.lexsort((-points[:, 1], points[:, 0]))]
    front = ordered[ordered[:, 1] > np.concatenate([[-np.inf], np.maximum.accumulate(ordered[:, 1])[:-1]])]
    axes.step(*front.T, where="post", color="tab:blue", label="front (validation)")
    found = [network["found"] for network in networks if network["found"] is not None]
    for measured in found:
        axes.plot(measured["predicted"]["model_size"], 100 * measured["verified"]["test_accuracy"], "o", color="tab:blue")
    axes.plot([], [], "o", color="tab:blue", label="chosen by validation (test)")
    for point in row.published:
        axes.plot(point.model_size, 100 * point.accuracy, "x", color="tab:red")
        axes.annotate(point.system, (point.model_size, 100 * point.accuracy), textcoords="offset points", xytext=(5, -10))
    if row.published:
        axes.plot([], [], "x", color="tab:red", label="published (test)")
    best = points[:, 1].max()
    axes.set(xscale="log", xlabel="non-zero weights", ylabel="accuracy, %", title=name)
    axes.set_ylim(bottom=max(points[:, 1].min(), best - 12), top=best + 1)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(HERE / f"{name}.png", dpi=120)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder that holds the archives")
    parser.add_argument("--time", default="60m", help="of the search in total")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run directories are made")
    return parser.parse_args()


if __name__ == "__main__":
    main()
