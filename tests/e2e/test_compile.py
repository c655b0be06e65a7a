"""compile: a network from elsewhere, on the command line."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import HALVES, CommandLine
from onnx import TensorProto, helper, numpy_helper

COMPILE = ("compile", "halves.onnx", "--calibrate", HALVES, "--board", "arduino-uno")


def save(folder: Path, *nodes: onnx.NodeProto, high: float = 1.0) -> None:
    """Write a network for HALVES, whose input goes from 0 to ``high``: which half is brighter, and by how much."""
    box = np.full((1, 1, 3, 3), 1 / 9 / high)
    constants = {"box": box, "compare": np.array([[1, -1], [-1, 1]])}
    own = [
        helper.make_node("Conv", ["image", "box"], ["smooth"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["smooth"], ["ready"]),
        *nodes,
        helper.make_node("AveragePool", ["ready"], ["halves"], kernel_shape=[8, 4], strides=[8, 4]),
        helper.make_node("Flatten", ["halves"], ["two"]),
        helper.make_node("Gemm", ["two", "compare"], ["differences"]),
        helper.make_node("Softmax", ["differences"], ["shares"]),
    ]
    graph = helper.make_graph(
        own,
        "halves",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("N", 1, 8, 8))],
        [helper.make_tensor_value_info("shares", TensorProto.FLOAT, ("N", 2))],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "halves.onnx")


def test_a_network_from_elsewhere_runs_on_the_board(cli: CommandLine) -> None:
    save(cli.cwd)
    shown = cli.json(*COMPILE, "--out", "build", "--verify")
    assert (shown["test_accuracy"], shown["float_accuracy"], shown["agreement"]) == (1, 1, 1)
    assert shown["fits"] and shown["macs"] == 9 * 64 + 4
    assert shown["verification"]["mismatches"] == 0
    assert shown["verification"]["test_accuracy"] == 1
    assert [Path(file).name for file in shown["files"]] == ["model.h", "model.c"]
    assert all((cli.cwd / file).stat().st_size > 500 for file in shown["files"])


@pytest.mark.parametrize(
    ("board", "unit"), [("arduino-uno", "cycles"), ("microbit", "instructions"), ("esp32-c3", "instructions")]
)
def test_the_figures_of_every_kind_of_board_are_printed(cli: CommandLine, board: str, unit: str) -> None:
    save(cli.cwd)
    shown = cli.done(*COMPILE[:-1], board, "--verify")
    predicted, measured = shown.split("8 test images")
    times = [next(line for line in part.splitlines() if line.startswith(unit)) for part in (predicted, measured)]
    assert " ms" in times[0] if unit == "cycles" else " ms" not in predicted
    assert all(int(line.split()[1].replace(",", "")) > 1_000 for line in times)


def test_all_variables_can_be_the_callers(cli: CommandLine) -> None:
    save(cli.cwd)
    shown = cli.json(*COMPILE, "--reentrant", "--verify")
    assert shown["reentrant"] and shown["verification"]["mismatches"] == 0
    header, source = ((cli.cwd / file).read_text() for file in shown["files"])
    assert "} model_state;" in header and "model_run(model_state *model)" in source


def test_flash_can_be_traded_for_cycles(cli: CommandLine) -> None:
    save(cli.cwd)
    small, default, fast = (
        cli.json(*COMPILE, *options, "--verify") for options in (["--optimise", "size"], [], ["--optimise", "speed"])
    )
    assert [shown["optimise"] for shown in (small, default, fast)] == ["size", "balanced", "speed"]
    assert small["flash_bytes"] < default["flash_bytes"] and small["verification"]["flash_bytes"] < default["flash_bytes"]
    assert fast["cycles"] < default["cycles"] and fast["verification"]["cycles"] < default["verification"]["cycles"]
    assert [shown["verification"]["mismatches"] for shown in (small, default, fast)] == [0, 0, 0]
    assert "no aim of optimising is called 'spede'; did you mean speed?" in cli.refused(*COMPILE, "--optimise", "spede")


def test_the_input_range_decides_what_bytes_mean(cli: CommandLine) -> None:
    save(cli.cwd, high=255.0)
    assert "100.00% in 8 bits" in cli.done(*COMPILE, "--input-range", "0,255")
    assert (cli.cwd / "build" / "model.c").exists()


def test_what_does_not_fit_is_said(cli: CommandLine) -> None:
    large = np.random.default_rng(0).normal(size=(480, 64)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Gemm", ["flat", "first"], ["many"], transB=1),
            helper.make_node("Relu", ["many"], ["some"]),
            helper.make_node("Gemm", ["some", "second"], ["two"]),
        ],
        "large",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, 8, 8))],
        [helper.make_tensor_value_info("two", TensorProto.FLOAT, (1, 2))],
        [numpy_helper.from_array(large, "first"), numpy_helper.from_array(large[:, :2].copy(), "second")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), cli.cwd / "halves.onnx")
    assert "it does NOT fit Arduino Uno" in cli.done(*COMPILE)


def test_an_operator_unknown_here_is_named_with_its_node(cli: CommandLine) -> None:
    save(cli.cwd, helper.make_node("Erf", ["ready"], ["bent"], name="bend"), helper.make_node("Relu", ["bent"], ["straight"]))
    model = onnx.load(cli.cwd / "halves.onnx")
    model.graph.node[4].input[0] = "straight"
    onnx.save(model, cli.cwd / "halves.onnx")
    line = cli.refused(*COMPILE, "--out", "build")
    assert "Erf 'bend' of halves.onnx cannot be compiled: the operator is not supported" in line
    assert not (cli.cwd / "build").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("compile", "none.onnx", *COMPILE[2:]), "cannot read none.onnx: No such file or directory"),
        (("compile", HALVES, *COMPILE[2:]), "must be an ONNX file"),
        ((*COMPILE, "--input-range", "1,0"), "a range is two numbers, the smaller first"),
        ((*COMPILE[:-1], "uno"), "no board is called 'uno'"),
    ],
)
def test_what_cannot_work_is_one_line(cli: CommandLine, arguments: tuple[str, ...], said: str) -> None:
    save(cli.cwd)
    assert said in cli.refused(*arguments)


def test_the_extra_that_reads_onnx_is_named_where_it_is_missing(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    save(cli.cwd)
    (cli.cwd / "onnx.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(cli.cwd))
    assert "pip install 'sparse-mcu[onnx]'" in cli.refused(*COMPILE)


def test_json_is_all_that_is_printed(cli: CommandLine) -> None:
    save(cli.cwd)
    shown = json.loads(cli.done(*COMPILE, "--json"))
    assert "verification" not in shown
