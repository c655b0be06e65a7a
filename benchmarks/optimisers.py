"""Ours against the optimisers that users would pick instead: hypervolume over evaluations, standard problems and omega_bench.

    python benchmarks/optimisers.py run --problem omega --optimiser sparse --seeds 20
    python benchmarks/optimisers.py report

``run`` adds the seeds that the results (omega_bench/optimisers.jsonl) lack, one line each, and can be stopped at any time; to
measure anew, give ``--results`` another name. ``report`` prints medians and quartiles and draws the curves. Evaluations are of
candidates that may fit; what cannot is refused to every optimiser, and costs it nothing.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
import torch
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import IdentityMCMultiOutputObjective
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelListGP, SingleTaskGP
from botorch.models.transforms import Standardize
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.mlls import SumMarginalLogLikelihood

from optimiser_problems import PROBLEMS, Float64Array, Problem
from sparse_mcu.search.guide import Guide, Observations
from sparse_mcu.search.options import OURS
from sparse_mcu.search.pareto import hypervolume, non_dominated
from sparse_mcu.search.sampler import PLAIN_TRIALS
from sparse_mcu.search.samplers import other_sampler
from sparse_mcu.search.scalarise import Region, preference, random_weights
from sparse_mcu.search.surrogate import inputs

QLOGNEHVI = "qlognehvi"
UNTOLD = "sparse-untold"  # ours on Ω as a search has it: for networks that err little, and half of it for the one that errs least
DRAWN = "drawn"  # random too, but as the problem itself draws: of Ω what small networks look like is drawn more often
PLAIN = "-plain"  # behind a name: beginning, as ours does on Ω, with plain networks, the very ones that ours has for the seed
OPTIMISERS = (OURS, UNTOLD, "random", DRAWN, "nsga2", "tpe", "gp", QLOGNEHVI, DRAWN + PLAIN, QLOGNEHVI + PLAIN)
INITIAL_SHARE, POOL, PARENTS = 0.1, 200, 8  # of the model-based optimisers that draw from pools
REFIT_GROWTH = 1.1
BELOW_BEST = 0.1  # of the box: a point that is best in everything must not end the search
FIGURES = Path(__file__).parent / "figures"
RESULTS = Path(__file__).parent / "omega_bench" / "optimisers.jsonl"

IntArray = np.ndarray[Any, np.dtype[np.int64]]
Row = tuple[Any, Float64Array]  # a point and its outcomes (c,): the k objectives, minimised, and what the constraints limit to 1


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if options.command == "report":
        report(_read(options.results))
        return
    problem = PROBLEMS[options.problem]()
    problem.evaluations = options.evaluations or problem.evaluations
    done = {(row["problem"], row["optimiser"], row["seed"]) for row in _read(options.results)}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        if (options.problem, options.optimiser, seed) in done:
            continue
        row = measure(problem, options.optimiser, seed) | {"problem": options.problem}
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        volume = row["improvements"][-1][1] if row["improvements"] else 0.0
        print(f"{options.problem} {options.optimiser} seed {seed}: {volume:.4f}, {row['ask']:.3f} s an ask", flush=True)


def measure(problem: Problem, optimiser: str, seed: int) -> dict[str, Any]:
    """Optimise ``problem`` and return after which evaluations the hypervolume was what, and the median CPU seconds of an ask."""
    front = np.empty((0, len(problem.reference)))
    improvements: list[tuple[int, float]] = []
    asks: list[float] = []
    start = time.process_time()
    for _, outcomes in _rows(problem, optimiser, seed):
        asks.append(time.process_time() - start)
        if (outcomes <= _limits(problem)).all():
            front = np.vstack([front, outcomes[: front.shape[1]] / problem.reference])
            front = front[non_dominated(front)]
        volume = round(hypervolume(front, np.ones(front.shape[1])), 5)
        if volume > (improvements[-1][1] if improvements else 0.0):
            improvements.append((len(asks), volume))
        start = time.process_time()
    ask = round(float(np.median(asks)), 4)
    return {"optimiser": optimiser, "seed": seed, "ask": ask, "evaluations": len(asks), "improvements": improvements}


def _rows(problem: Problem, optimiser: str, seed: int) -> Iterator[Row]:
    begun: list[Row] = []
    if optimiser.endswith(PLAIN):
        begun = list(itertools.islice(_rows(problem, OURS, seed), PLAIN_TRIALS))
        optimiser = optimiser.removesuffix(PLAIN)
    if optimiser == DRAWN:
        return by_drawing(problem, seed, begun)
    if optimiser == QLOGNEHVI:
        return from_pools(problem, seed, QLogNehvi(), begun)
    if optimiser not in (OURS, UNTOLD):
        return by_optuna(problem, other_sampler(optimiser, seed, begun=0))
    sampler = problem.our_sampler(seed, told=optimiser == OURS)
    return from_pools(problem, seed, BestByThompson(problem), begun) if sampler is None else by_optuna(problem, sampler)


def by_optuna(problem: Problem, sampler: optuna.samplers.BaseSampler) -> Iterator[Row]:
    """Let an Optuna sampler propose until the evaluations are used up."""
    study = optuna.create_study(directions=["minimize"] * len(problem.reference), sampler=sampler)
    done = 0
    while done < problem.evaluations:
        trial = study.ask()
        point = problem.walk(trial)
        if problem.refuses(point):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        F, excesses = problem.evaluate(point)
        for name, excess in excesses.items():
            trial.set_constraint(name, excess)
        study.tell(trial, F.tolist())
        done += 1
        yield point, _outcomes(problem, point)


def by_drawing(problem: Problem, seed: int, begun: list[Row]) -> Iterator[Row]:
    """Draw every point at random but those that it was begun with."""
    rng = np.random.default_rng(seed)
    yield from begun
    for _ in range(len(begun), problem.evaluations):
        point = _drawn(problem, rng)
        yield point, _outcomes(problem, point)


Rank = Callable[[Problem, list[Row], list[Any], np.random.Generator], IntArray]


def from_pools(problem: Problem, seed: int, rank: Rank, begun: list[Row]) -> Iterator[Row]:
    """Random points first, then the first by ``rank`` of a pool: half random, half changed ones of those that are best so far.

    As in a search, whether a point is refused is asked only when its turn has come: of Ω it takes far longer than to rank it.
    """
    rng = np.random.default_rng(seed)
    rows = list(begun)
    yield from begun
    while len(rows) < problem.evaluations:
        if len(rows) < INITIAL_SHARE * problem.evaluations:
            point = _drawn(problem, rng)
        else:
            point = next(_ranked(problem, rows, rank, rng))
        rows.append((point, _outcomes(problem, point)))
        yield rows[-1]


def _ranked(problem: Problem, rows: list[Row], rank: Rank, rng: np.random.Generator) -> Iterator[Any]:
    """Yield the points of a pool that are not refused, the first by ``rank`` first; then of another pool."""
    while True:
        pool = list(_pool(problem, rows, rng))
        yield from (pool[index] for index in rank(problem, rows, pool, rng) if not problem.refuses(pool[index]))


def _pool(problem: Problem, rows: list[Row], rng: np.random.Generator) -> Iterator[Any]:
    """Yield POOL points that were not evaluated yet."""
    parents = [rows[index][0] for index in _preferred(problem, rows, rng)[:PARENTS]]
    tried = {problem.encode(row[0])[0].tobytes() for row in rows}
    found = 0
    while found < POOL:
        point = problem.draw(rng) if found % 2 else problem.change(parents[rng.integers(len(parents))], rng)
        if problem.encode(point)[0].tobytes() not in tried:
            found += 1
            yield point


def _outcomes(problem: Problem, point: Any) -> Float64Array:
    """Return the objectives of ``point``, and for each constraint what it limits to 1."""
    F, excesses = problem.evaluate(point)
    return np.array([*F, *(1.0 + excesses[name] for name in problem.constraints)])


def _limits(problem: Problem) -> Float64Array:
    """Return the largest outcomes (c,) that are of any use."""
    return np.append(problem.reference, np.ones(len(problem.constraints)))


def _floors(problem: Problem) -> Float64Array:
    """Return what is added to the outcomes (c,) before their logarithms are modelled."""
    return np.append(problem.floors, np.zeros(len(problem.constraints)))


def _preferred(problem: Problem, rows: list[Row], rng: np.random.Generator) -> Float64Array:
    outcomes, region = _region(problem, rows)
    return preference(outcomes, region, random_weights(len(problem.reference), rng)[0])


def _region(problem: Problem, rows: list[Row]) -> tuple[Float64Array, Region]:
    """Return the outcomes so far, and the box from a little below the best of each to the largest of use."""
    outcomes, upper = np.stack([row[1] for row in rows]), _limits(problem)
    best = np.minimum(outcomes.min(axis=0), 0.5 * upper)  # the first points may all lie beyond it
    return outcomes, Region(best - BELOW_BEST * (upper - best), upper, np.ones(len(upper), dtype=np.bool_))


def _drawn(problem: Problem, rng: np.random.Generator) -> Any:
    """Draw until a point is not refused."""
    while problem.refuses(point := problem.draw(rng)):
        pass
    return point


class BestByThompson:
    """Ours where the space is not Ω: the same guide. The weights are never at the corner, for here no objective comes first."""

    def __init__(self, problem: Problem) -> None:
        self._guide = Guide(_floors(problem))

    def __call__(self, problem: Problem, rows: list[Row], pool: list[Any], rng: np.random.Generator) -> IntArray:
        """Return the positions in ``pool`` as the guide ranks them, the best first."""
        outcomes, region = _region(problem, rows)
        observed = Observations([problem.encode(row[0]) for row in rows], outcomes)
        weights = random_weights(len(problem.reference), rng)
        return self._guide.rank(observed, [problem.encode(point) for point in pool], region, weights, rng)


class QLogNehvi:
    """BoTorch as its tutorial has it, on the encoding that ours sees: SingleTaskGP per objective with its defaults, qLogNEHVI.

    Hyperparameters are fitted anew whenever the observations have grown by REFIT_GROWTH.
    """

    def __init__(self) -> None:
        self._fitted = 0  # observations behind the hyperparameters
        self._hyperparameters: dict[str, Any] = {}

    def __call__(self, problem: Problem, rows: list[Row], pool: list[Any], rng: np.random.Generator) -> IntArray:
        """Return the positions in ``pool`` by expected improvement, the largest first."""
        k = len(problem.reference)
        X = inputs([problem.encode(row[0]) for row in rows])
        Y = -torch.from_numpy(np.log(np.stack([row[1] for row in rows]) + _floors(problem)))
        seed = int(rng.integers(2**31))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            acquisition = qLogNoisyExpectedHypervolumeImprovement(
                self._model(X, Y),
                ref_point=(-np.log(problem.reference + problem.floors)).tolist(),
                X_baseline=X,
                sampler=SobolQMCNormalSampler(torch.Size([64]), seed=seed),
                prune_baseline=True,
                objective=IdentityMCMultiOutputObjective(outcomes=list(range(k))),
                # kept where it is at most 0: the logarithm of what is limited to 1
                constraints=[lambda Y, column=column: -Y[..., column] for column in range(k, Y.shape[1])] or None,
            )
            with torch.no_grad():
                improvement = acquisition(inputs([problem.encode(point) for point in pool])[:, None])
                return improvement.argsort(descending=True, stable=True).numpy()

    def _model(self, X: torch.Tensor, Y: torch.Tensor) -> ModelListGP:
        model = ModelListGP(*(SingleTaskGP(X, y[:, None], outcome_transform=Standardize(1)) for y in Y.T))
        if len(X) >= REFIT_GROWTH * self._fitted:
            fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
            self._fitted = len(X)
            self._hyperparameters = dict(model.named_parameters())
        else:
            for name, parameter in model.named_parameters():
                parameter.data.copy_(self._hyperparameters[name].data)
        return model.eval()


def report(rows: list[dict[str, Any]]) -> None:
    """Print and draw what the results say."""
    for problem in PROBLEMS:
        curves = {name: _curves(rows, problem, name) for name in OPTIMISERS}
        curves = {name: found for name, found in curves.items() if len(found)}
        if OURS not in curves:
            continue
        _print_table(problem, curves, rows)
        _draw(problem, curves)


def _curves(rows: list[dict[str, Any]], problem: str, optimiser: str) -> Float64Array:
    """Return the hypervolume of each seed after every evaluation, (seeds, evaluations)."""
    return np.array([_curve(row) for row in rows if (row["problem"], row["optimiser"]) == (problem, optimiser)])


def _curve(row: dict[str, Any]) -> Float64Array:
    curve = np.zeros(row["evaluations"])
    for number, volume in row["improvements"]:
        curve[number - 1 :] = volume
    return curve


def _print_table(problem: str, curves: dict[str, Float64Array], rows: list[dict[str, Any]]) -> None:
    evaluations = curves[OURS].shape[1]
    print(f"\n{problem}: hypervolume after {evaluations} evaluations\n")
    print("| optimiser | seeds | median | quartiles | CPU seconds an ask | ours is as far after | as far as ours after |")
    print("|---|---|---|---|---|---|---|")
    final = {name: np.quantile(found[:, evaluations - 1], [0.25, 0.5, 0.75]) for name, found in curves.items()}
    for name, (low, median, high) in final.items():
        ask = np.median([row["ask"] for row in rows if (row["problem"], row["optimiser"]) == (problem, name)])
        ours, its = _first(curves[OURS], median), _first(curves[name], final[OURS][1])
        print(f"| {name} | {len(curves[name])} | {median:.4f} | {low:.4f} to {high:.4f} | {ask:.2f} | {ours} | {its} |")


def _first(curves: Float64Array, volume: float) -> str:
    """Return after how many evaluations the median of ``curves`` has reached ``volume``."""
    reached = np.median(curves, axis=0) >= volume
    return str(reached.argmax() + 1) if reached.any() else f"> {len(reached)}"


def _draw(problem: str, curves: dict[str, Float64Array]) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, found in curves.items():
        low, median, high = np.quantile(found, [0.25, 0.5, 0.75], axis=0)
        numbers = np.arange(1, found.shape[1] + 1)
        axes.plot(numbers, median, label=f"{name} ({len(found)} seeds)", linewidth=2 if name == OURS else 1)
        axes.fill_between(numbers, low, high, alpha=0.15)
    axes.set_xlim(0, len(curves[OURS][0]))
    axes.set(xlabel="evaluations", ylabel="hypervolume: median, quartiles", title=problem)
    axes.set_ylim(bottom=float(min(np.median(found[:, len(found[0]) // 10]) for found in curves.values())))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / f"optimisers_{problem}.png", dpi=110)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--problem", choices=tuple(PROBLEMS), default="omega")
    parser.add_argument("--optimiser", choices=OPTIMISERS, default=OURS)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--evaluations", type=int, help="default: those of the problem")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
