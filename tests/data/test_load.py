import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparse_mcu.data import BUILT_IN, digest, load

Save = Callable[..., Path]
Refusal = Callable[[str | Path], str]


def test_the_seed_moves_the_validation_split_and_never_the_test_split(save: Save) -> None:
    path = save()
    first, second = load(path, seed=1), load(path, seed=2)
    assert np.array_equal(first.test.images, second.test.images)
    assert digest(first) != digest(second)
    assert digest(first) == digest(load(str(path), seed=1))


def test_a_path_may_be_called_as_a_built_in_set(tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(load("digits").train) == 1079
    assert "must hold one folder of images per class" in refusal("./digits")
    assert "must hold one folder of images per class" in refusal(Path("digits"))


def test_an_unknown_name_offers_the_nearest(refusal: Refusal) -> None:
    assert refusal("digist").startswith("no data set is called 'digist'; did you mean digits?")
    assert refusal("zzz").startswith("no data set is called 'zzz'; known: digits")
    assert refusal("").startswith("no data set is called ''; known: digits")


def test_a_path_to_nothing_is_named(refusal: Refusal) -> None:
    for path in ("no/such/folder", "nothing.npz"):
        assert refusal(path) == f"a data set must exist, but there is no file or folder {path}"


def test_a_path_that_the_system_refuses_is_named(refusal: Refusal) -> None:
    name = "x" * 300
    assert refusal(f"{name}/a.npz") == f"a data set must be readable, but {name}/a.npz is not: File name too long"


@pytest.mark.parametrize("name", ["windows.csv", "data.mat", "archive"])
def test_other_kinds_of_file_are_refused_with_what_is_supported(tmp_path: Path, refusal: Refusal, name: str) -> None:
    path = tmp_path / name
    path.write_text("0,1,2\n")
    kinds = "a name (digits), an .npz archive or a folder of class folders"
    assert refusal(path) == f"a data set must be {kinds}, but is {path}"


def test_built_in_sets_are_described_in_a_line_and_load() -> None:
    for name, description in BUILT_IN.items():
        assert "\n" not in description
        assert load(name).name == name


def test_importing_the_room_imports_nothing_heavy() -> None:
    code = "import sys, sparse_mcu.data; print(sorted({'sklearn', 'PIL', 'torch', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
