import dataclasses
import json
from pathlib import Path

import pytest

from sparse_mcu.deploy.boards import board
from sparse_mcu.errors import RunError
from sparse_mcu.run.record import FORMAT, OLDEST_FORMAT, Record
from sparse_mcu.search.objectives import Budget
from sparse_mcu.search.options import SearchOptions

RECORD = Record(
    source="digits",
    data_digest="ab" * 32,
    board="arduino-uno",
    ram_bytes=1024,
    flash_bytes=8192,
    cycles=10**6,
    limits={"working_memory": 2007},
    seconds=None,
    trials=40,
    seed=1,
    workers=2,
    device="auto",
    objectives=("accuracy", "model_size"),
    sampler="tpe",
    created="2026-01-01T00:00:00+00:00",
    versions={"sparse-mcu": "0.1.0"},
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    assert Record.read(tmp_path) == RECORD
    assert json.loads((tmp_path / "run.json").read_text())["format"] == FORMAT


def test_a_record_says_what_the_search_is_told() -> None:
    assert RECORD.options == SearchOptions(
        board("arduino-uno"),
        Budget(1024, 8192, 10**6, working_memory=2007),
        trials=40,
        seed=1,
        workers=2,
        device="auto",
        objectives=("accuracy", "model_size"),
        sampler="tpe",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": FORMAT + 1}, f"this version reads runs of format {FORMAT}, but .* has format {FORMAT + 1}; update"),
        ({"format": OLDEST_FORMAT - 1}, f"reads runs of format {OLDEST_FORMAT} and later, but .* has format 2; search anew"),
        ({"format": "1"}, "must name its format as an integer, but has '1'"),
        ({"colour": "red"}, "is damaged: missing or unknown colour"),
    ],
)
def test_a_record_of_another_kind_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    RECORD.write(tmp_path)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunError, match=message):
        Record.read(tmp_path)


def test_a_record_from_before_limits_has_none(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    path = tmp_path / "run.json"
    value = json.loads(path.read_text()) | {"format": OLDEST_FORMAT}
    del value["limits"]
    path.write_text(json.dumps(value))
    assert Record.read(tmp_path) == dataclasses.replace(RECORD, limits={})


@pytest.mark.parametrize(("text", "message"), [("{", "cannot read"), ("[1]", "must hold an object"), ("\xff", "cannot read")])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match=message):
        Record.read(tmp_path)


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no run\.json"):
        Record.read(tmp_path)
    with pytest.raises(RunError, match="does not exist"):
        Record.read(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"has no run\.json"):
        Record.read(tmp_path / "file")
