"""From a named data set to C that is proved on the simulated board. One search serves all tests of this file."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import CommandLine

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.boards import board
from sparse_mcu.quant import interpreter
from sparse_mcu.run import Run

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_data" / "classify.c"
KEYS = {
    *("test_accuracy", "mismatches", "macs", "nonzero_macs"),
    *("flash_bytes", "ram_bytes", "cycles", "predicted_flash_bytes", "predicted_ram_bytes", "predicted_cycles"),
}


def test_front_is_a_table_and_json_of_the_same_models(digits: CommandLine) -> None:
    front = digits.json("front", "run")
    assert front["budget"] == {"ram_bytes": 1024, "flash_bytes": 8192}
    assert front["best"] == front["front"][0]["number"]
    assert all(model["ram_bytes"] <= 1024 and model["flash_bytes"] <= 8192 for model in front["front"])
    table = digits.done("front", "run")
    assert f"trial {front['best']}" in table
    assert all(f"{model['flash_bytes']:,.0f}" in table for model in front["front"])


def test_the_exported_c_classifies_as_the_interpreter_does(digits: CommandLine, tmp_path: Path) -> None:
    digits.done("export", "run", "--model", "best", "--format", "c", "--out", tmp_path)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}"]
    subprocess.run(["cc", *flags, EXAMPLE, tmp_path / "model.c", "-o", tmp_path / "classify"], check=True)
    run = Run.load(digits.cwd / "run")
    images = run.dataset().test.images[:20]
    for image, logits in zip(images, interpreter.run(run.best().graph, images), strict=True):
        pixels = image.transpose(1, 2, 0).tobytes()
        answer = subprocess.run([tmp_path / "classify"], input=pixels, capture_output=True, check=True)
        assert int(answer.stdout) == logits.argmax()


@pytest.mark.skipif(toolchain.obstacle(board("arduino-uno")) is not None, reason=str(toolchain.obstacle(board("arduino-uno"))))
def test_verify_finds_every_logit_equal_on_the_simulated_uno(digits: CommandLine) -> None:
    verified = digits.json("verify", "run", "--model", "best", "--board", "arduino-uno")
    assert set(verified) >= KEYS
    assert verified["mismatches"] == 0
    assert 0 <= verified["predicted_ram_bytes"] - verified["ram_bytes"] <= 32
    assert verified["predicted_flash_bytes"] == pytest.approx(verified["flash_bytes"], rel=0.05)
    assert "every logit of every image agrees" in digits.done("verify", "run")


def test_without_a_compiler_verify_says_which_package_brings_it(digits: CommandLine) -> None:
    assert "apt-get install gcc" in digits.refused("verify", "run", env={"PATH": "", "HOME": "/"})


def test_without_a_simulator_verify_checks_on_this_machine_and_says_what_is_missing(digits: CommandLine, tmp_path: Path) -> None:
    for tool in ("cc", "as", "ld"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    ran = digits.run("verify", "run", "--json", env={"PATH": str(tmp_path), "HOME": "/"})
    assert ran.returncode == 2
    assert "apt-get install gcc-avr" in ran.stderr
    verified = json.loads(ran.stdout)
    assert (verified["simulated"], verified["mismatches"], verified["cycles"]) == (False, 0, None)


@pytest.mark.parametrize("name", ["microbit", "esp32-c3"])
def test_verify_counts_instructions_on_boards_that_run_in_qemu(digits: CommandLine, name: str) -> None:
    if (obstacle := toolchain.obstacle(board(name))) is not None:
        pytest.skip(obstacle)
    verified = digits.json("verify", "run", "--board", name)
    assert (verified["board"], verified["mismatches"]) == (name, 0)
    assert (verified["milliseconds"] is None) == (verified["core_cycles"] is None) == (name == "esp32-c3")
    assert 0 <= verified["predicted_ram_bytes"] - verified["ram_bytes"] <= 32
    assert verified["predicted_flash_bytes"] == pytest.approx(verified["flash_bytes"], rel=0.05)
    assert verified["macs"] < verified["instructions"] <= verified["max_instructions"]


@pytest.mark.parametrize("command", ["front", "export", "verify"])
def test_what_reads_a_run_refuses_what_is_none(digits: CommandLine, tmp_path: Path, command: str) -> None:
    assert "has no run.json" in digits.refused(command, tmp_path)


def test_a_run_of_a_newer_version_is_refused(digits: CommandLine, tmp_path: Path) -> None:
    shutil.copytree(digits.cwd / "run", tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    assert "format 99; update sparse-mcu" in digits.refused("front", tmp_path / "run")
    assert "format 99; update sparse-mcu" in digits.refused("search", "--resume", tmp_path / "run")


def test_a_finished_search_that_is_resumed_is_over_at_once(digits: CommandLine, tmp_path: Path) -> None:
    shutil.copytree(digits.cwd / "run", tmp_path / "run")
    before = digits.json("front", tmp_path / "run")
    assert digits.json("search", "--resume", tmp_path / "run") == before
