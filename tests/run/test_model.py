import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.target import Target
from sparse_mcu.deploy.verification import Verification
from sparse_mcu.errors import BoardError, RunError, UserError
from sparse_mcu.quant.graph import digest
from sparse_mcu.quant.random_graph import random_graph
from sparse_mcu.run import Run


def test_a_model_has_the_graph_that_its_trial_left(finished: Run) -> None:
    assert digest(finished.model(3).graph) == digest(random_graph(np.random.default_rng(9000)))


def test_a_model_as_json_has_its_figures_and_no_error_rate(finished: Run) -> None:
    value = json.loads(json.dumps(finished.best().to_json()))
    assert (value["number"], value["validation_accuracy"], value["flash_bytes"], value["ram_bytes"]) == (0, 0.9, 4000, 800)
    assert value["milliseconds"] == 1.0  # 16000 cycles at 16 MHz
    architecture = finished.best().trial.architecture
    assert architecture is not None and value["weight_bits"] == architecture.training.weight_bits
    assert "error" not in value


def test_exported_c_compiles_by_itself(finished: Run, tmp_path: Path) -> None:
    header, source = finished.best().export(tmp_path / "build")
    assert (header.name, source.name) == ("model.h", "model.c")
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-c"]
    subprocess.run(["cc", *flags, source.name, "-o", "model.o"], cwd=tmp_path / "build", check=True)


def test_export_goes_into_the_run_unless_told_otherwise(finished: Run) -> None:
    files = finished.best().export()
    assert {file.parent for file in files} == {finished.path / "export"}
    assert sorted(path.name for path in (finished.path / "export").iterdir()) == ["model.c", "model.h"]


def test_onnx_says_which_graph_it_is(finished: Run, tmp_path: Path) -> None:
    (path,) = finished.best().export(tmp_path, "onnx")
    assert path.name == "model.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert digest(finished.best().graph) in model.doc_string


def test_a_reentrant_network_has_its_variables_in_a_struct(finished: Run, tmp_path: Path) -> None:
    header, source = finished.best().export(tmp_path, reentrant=True)
    assert "} model_state;" in header.read_text()
    assert "_run(model_state *model)" in source.read_text()
    with pytest.raises(UserError, match="only C is made reentrant, but the format is onnx"):
        finished.best().export(tmp_path, "onnx", reentrant=True)


def test_an_unknown_format_is_refused(finished: Run) -> None:
    with pytest.raises(UserError, match="no export format is called 'C'; known: c"):
        finished.best().export(format="C")


def test_a_place_that_cannot_be_written_is_one_clear_line(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write .*file: File exists"):
        finished.best().export(tmp_path / "file")


def test_verify_looks_at_the_test_split_on_the_board_asked_for(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Target, int, tuple[object, ...]]] = []

    def verify(graph: object, target: Target, images: object, labels: object, progress: object, *how: object) -> Verification:
        seen.append((target, images.shape[0], how))  # type: ignore[attr-defined]
        return Verification("", "cycles", 0, 0, 0, None, None, 0, 0, 0, 0, 0, 0, "")

    monkeypatch.setattr("sparse_mcu.run.model.verify", verify)
    tested = len(finished.dataset().test)
    finished.best().verify()
    finished.best().verify("arduino-mega", optimise="speed", images=5, reentrant=True)
    budget = finished.budget
    assert seen == [
        (Target(board("arduino-uno"), budget.ram_bytes, budget.flash_bytes), tested, (None, False)),
        (Target(board("arduino-mega"), optimise="speed"), tested, (5, True)),
    ]
    with pytest.raises(UserError, match="at least one image, but images is 0"):
        finished.best().verify(images=0)
    with pytest.raises(BoardError, match="did you mean arduino-mega"):
        finished.best().verify("arduino-megga")
