"""The rules of the house that no single room can keep alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "sparse_mcu"
MODULES = sorted(SOURCE.rglob("*.py"))
PACKAGED = ("*.c", "*.h", "*.S", "*.toml", "*.jinja", "*.j2", "py.typed")  # what the package needs besides its modules


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the sources, so that nothing of an earlier build slips in and none is left behind."""
    tree = folder / "tree"
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(tree)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package as the wheel installs it, and nothing else of this repository."""
    folder = tmp_path_factory.mktemp("wheel")
    target = folder / "site"
    wheel = build_wheel(folder)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return target


def test_the_wheel_holds_all_that_the_package_reads(installed: Path) -> None:
    needed = {path.relative_to(SOURCE) for pattern in PACKAGED for path in SOURCE.rglob(pattern)}
    assert Path("py.typed") in needed
    missing = {path for path in needed if not (installed / "sparse_mcu" / path).is_file()}
    assert not missing


@pytest.mark.parametrize("arguments", [["boards", "--json"], ["--version"]])
def test_the_wheel_works_from_an_empty_directory(installed: Path, tmp_path: Path, arguments: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}  # ahead of the editable install
    command = [sys.executable, "-m", "sparse_mcu", *arguments]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_wheel_writes_c_from_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    script = """
import numpy, sparse_mcu
from sparse_mcu.deploy.boards import board
from sparse_mcu.deploy.generate import generate
from sparse_mcu.deploy.target import Target
from sparse_mcu.quant.random_graph import random_graph
print(sparse_mcu.__file__)
print(len(generate(random_graph(numpy.random.default_rng(1)), Target(board("arduino-uno"))).source))
"""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    home, characters = ran.stdout.split()
    assert Path(home).is_relative_to(installed)
    assert int(characters) > 1000


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_is_a_chapter_not_a_book(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def test_nothing_is_unpickled() -> None:
    loaders = re.compile(
        r"torch\.load\(|allow_pickle=True|^(?:import|from) (?:pickle|joblib|dill|cloudpickle|marshal|shelve)\b", re.MULTILINE
    )
    offenders = [path.name for path in MODULES if loaders.search(path.read_text(encoding="utf-8"))]
    assert offenders == []


def test_imports_run_one_way_through_the_house() -> None:
    checked = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
