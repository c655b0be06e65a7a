import dataclasses
import math

import numpy as np
import pytest
import torch

from sparse_mcu.cost import cost
from sparse_mcu.data.dataset import Split
from sparse_mcu.deploy.boards import board
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import TrainingLog
from sparse_mcu.quant.interpreter import run
from sparse_mcu.search import evaluation as evaluation_module
from sparse_mcu.search.candidate import Candidate, Evaluation, Parent, Teacher
from sparse_mcu.search.evaluation import error, evaluate
from sparse_mcu.search.objectives import MINIMISED, UNITS
from sparse_mcu.search.rungs import SHARES, Rungs
from sparse_mcu.search.stages import polished, trained_for
from sparse_mcu.search.threads import threads
from sparse_mcu.search.workers import TrainingData
from sparse_mcu.space.architecture import Architecture, Block, Conv, Pool, Pruning, Training

UNO = board("arduino-uno")
ARCHITECTURE = Architecture(
    (1, 8, 8),
    2,
    (Block((Conv("regular", (3, 3), 4),), Pool("max", (2, 2))),),
    training=Training(learning_rate=0.01, batch_size=32, epochs=6, pruning=Pruning("unstructured", 0.05)),
)


def stripes(seed: int, n: int) -> Split:
    """Horizontal stripes against vertical ones, in noise: easy, but not for a network that did not learn."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    rows = np.broadcast_to(np.arange(8)[:, None] % 2, (8, 8))
    images = np.where(labels[:, None, None] == 0, rows, rows.T) * 120 + rng.integers(0, 136, (n, 8, 8))
    return Split(images.astype(np.uint8)[:, None], labels)


DATA = TrainingData(stripes(0, 200), stripes(1, 100))


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    with torch.random.fork_rng():
        torch.manual_seed(123)  # must not matter, nor must the number of threads
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        evaluation = evaluate(Candidate(ARCHITECTURE, UNO, seed=5), DATA, "cpu", None)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(threads)
        return evaluation


def test_objectives_are_those_of_the_integer_graph(evaluation: Evaluation) -> None:
    assert evaluation.objectives.keys() == UNITS.keys()
    logits = run(evaluation.graph, DATA.validation.images)
    wrong = sum(int(np.argmax(row)) != label for row, label in zip(logits, DATA.validation.labels, strict=True))
    assert evaluation.objectives["error"] == wrong / 100
    assert {name: value for name, value in evaluation.objectives.items() if name != "error"} == dataclasses.asdict(
        cost(evaluation.graph, UNO)
    )


def test_the_network_learnt(evaluation: Evaluation) -> None:
    assert evaluation.objectives["error"] <= 0.05
    assert error(evaluation.graph, stripes(2, 100)) <= 0.05


def test_the_same_candidate_gives_the_same_evaluation(evaluation: Evaluation) -> None:
    with threads(1):
        again = evaluate(Candidate(ARCHITECTURE, UNO, seed=5), DATA, "cpu", None)
    assert again.objectives == evaluation.objectives
    assert all(np.array_equal(again.weights[name], evaluation.weights[name]) for name in evaluation.weights)
    other = evaluate(Candidate(ARCHITECTURE, UNO, seed=6), DATA, "cpu", None)
    assert any(not np.array_equal(other.weights[name], evaluation.weights[name]) for name in evaluation.weights)


def test_a_child_begins_with_what_its_parent_learnt(evaluation: Evaluation) -> None:
    """Trained for next to nothing, a child still knows what its parent knew; from scratch it does not."""
    child = trained_for(ARCHITECTURE, steps=1, images=10**6)
    little = TrainingData(Split(DATA.train.images[:32], DATA.train.labels[:32]), DATA.validation)
    parent = Parent(ARCHITECTURE, evaluation.weights)
    inherited = evaluate(Candidate(child, UNO, seed=7, parent=parent), little, "cpu", None).objectives["error"]
    scratch = evaluate(Candidate(child, UNO, seed=7), little, "cpu", None).objectives["error"]
    assert inherited <= 0.1 < scratch


def test_the_deadline_ends_the_training_but_not_the_measuring() -> None:
    late = evaluate(Candidate(ARCHITECTURE, UNO, seed=5), DATA, "cpu", 0.0)
    assert late.log["training"]["complete"] is False and len(late.log["training"]["epochs"]) == 0
    assert late.objectives.keys() == UNITS.keys()


def test_training_is_measured_at_its_rungs_and_goes_on_where_there_is_hope(evaluation: Evaluation) -> None:
    rungs = Rungs.of(MINIMISED, [])
    watched = evaluate(Candidate(ARCHITECTURE, UNO, seed=5, rungs=rungs), DATA, "cpu", None)
    assert watched.objectives == evaluation.objectives and not watched.stopped  # measuring changes nothing
    assert len(watched.rungs) == len(SHARES)
    assert all(measured.keys() == UNITS.keys() for measured in watched.rungs)
    assert evaluation.rungs == ()


def test_a_hopeless_training_ends_at_its_rung_and_is_measured_as_it_is() -> None:
    perfect = dict.fromkeys(UNITS, 1.0) | {"error": -1.0}
    second = Rungs.of(MINIMISED, [[dict.fromkeys(UNITS, 1e9), perfect]])
    stopped = evaluate(Candidate(ARCHITECTURE, UNO, seed=5, rungs=second), DATA, "cpu", None)
    assert stopped.stopped and len(stopped.rungs) == 2
    assert len(stopped.log["training"]["epochs"]) == math.ceil(SHARES[1] * ARCHITECTURE.training.epochs)
    assert stopped.objectives == stopped.rungs[-1]


def test_polishing_keeps_the_parents_sparsity_and_what_it_learnt(evaluation: Evaluation) -> None:
    """Trained on for long, the same weights are zero, so that the bytes stay."""
    architecture = polished(ARCHITECTURE, 60, len(DATA.train))
    parent = Parent(ARCHITECTURE, evaluation.weights)
    found = evaluate(Candidate(architecture, UNO, seed=8, parent=parent, polish=True), DATA, "cpu", None)
    assert found.objectives["error"] <= evaluation.objectives["error"]
    assert found.objectives["ram_bytes"] == evaluation.objectives["ram_bytes"]
    before, after = (nonzero(each) for each in (evaluation, found))
    assert before.keys() == after.keys() and any(not kept.all() for kept in before.values())
    for name, kept in after.items():
        assert not (kept & ~before[name]).any()
    assert any(not np.array_equal(found.weights[f"{name}.weight"], evaluation.weights[f"{name}.weight"]) for name in before)


def nonzero(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Say which weights of the layers the network keeps."""
    network = Network(ARCHITECTURE, seed=0)
    network.load(evaluation.weights)
    return {layer.layer.name: layer.effective_weight().detach().numpy() != 0 for layer in network.weighted()}


def test_a_teacher_is_listened_to_where_it_knows_more(monkeypatch: pytest.MonkeyPatch, evaluation: Evaluation) -> None:
    heard: list[object] = []

    def trained(*_: object, teacher: object, mirrored: bool, **__: object) -> TrainingLog:
        heard.append((teacher is not None, mirrored))
        return TrainingLog((), True, {})

    monkeypatch.setattr(evaluation_module, "train", trained)
    child = Candidate(ARCHITECTURE, UNO, seed=8, parent=Parent(ARCHITECTURE, evaluation.weights))
    logits = np.zeros((200, 2), dtype=np.float32)
    for expert in (None, Teacher(0.5, logits, mirrored=True), Teacher(1.0, logits)):
        evaluate(dataclasses.replace(child, teacher=expert), DATA, "cpu", None)
    assert heard == [(False, False), (False, True), (True, False)]


def test_pruning_is_inside(evaluation: Evaluation) -> None:
    """The sizes are those of the pruned network: a strong prior leaves less."""
    strong = dataclasses.replace(ARCHITECTURE.training, epochs=30, pruning=Pruning("unstructured", 30.0))
    pruned = evaluate(Candidate(dataclasses.replace(ARCHITECTURE, training=strong), UNO, seed=5), DATA, "cpu", None)
    for name in ("model_size", "nonzero_macs", "flash_bytes"):
        assert pruned.objectives[name] < evaluation.objectives[name]
