"""Graphs survive a round trip; damage, other files and newer formats are one clear line each."""

import errno
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from sparse_mcu.quant.graph import digest
from sparse_mcu.quant.interpreter import run
from sparse_mcu.quant.random_graph import random_graph, random_images
from sparse_mcu.quant.storage import FORMAT, GraphFileError, load, save


@pytest.fixture
def graph():
    return random_graph(np.random.default_rng(1))


@pytest.fixture
def saved(graph, tmp_path):
    path = tmp_path / "graph.safetensors"
    save(graph, path)
    return path


def rewrite(path, change):
    """Write the file anew with a changed record in its metadata: still a sound safetensors file."""
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        record = json.loads(file.metadata()[FORMAT])
    change(record)
    save_file(tensors, path, {FORMAT: json.dumps(record)})


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_round_trip(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    path = tmp_path_factory.mktemp("graphs") / "graph.safetensors"
    save(graph, path)
    loaded = load(path)
    assert digest(loaded) == digest(graph)
    images = random_images(rng, graph, 3)
    np.testing.assert_array_equal(run(loaded, images), run(graph, images))


def test_saving_twice_gives_the_same_bytes_and_nothing_else(graph, saved):
    first = saved.read_bytes()
    save(graph, saved)
    assert saved.read_bytes() == first
    assert list(saved.parent.iterdir()) == [saved]


def test_every_flipped_byte_is_found(saved):
    data = saved.read_bytes()
    for index in np.random.default_rng(0).choice(len(data), min(300, len(data)), replace=False):
        damaged = bytearray(data)
        damaged[index] ^= 0x20  # of a letter, its case: JSON mostly stays JSON
        saved.write_bytes(damaged)
        with pytest.raises(GraphFileError, match=r"damaged|not one|says so in its metadata"):
            load(saved)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved, share):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    with pytest.raises(GraphFileError, match="not one or is damaged"):
        load(saved)


def test_a_newer_format_is_refused(saved):
    rewrite(saved, lambda record: record.update(version=2, novelty=True))
    with pytest.raises(GraphFileError, match="reads graphs up to format 1, but .* has format 2; use the newer sparse-mcu"):
        load(saved)


def test_another_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(GraphFileError, match="says so in its metadata"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["graph"]["tensors"]["input"].update(scale=0.5),
        lambda record: record["graph"]["ops"].pop(),
        lambda record: record.pop("sha256"),
        lambda record: record.update(version="1"),
    ],
)
def test_a_changed_record_is_refused(saved, change):
    rewrite(saved, change)
    with pytest.raises(GraphFileError, match="it is damaged"):
        load(saved)


def test_a_graph_that_breaks_a_rule_is_refused(graph, tmp_path):
    path = tmp_path / "graph.safetensors"
    graph.ops[-1].shift[:] = 32
    save(graph, path)
    with pytest.raises(GraphFileError, match=r"breaks a rule: the shift .* 0\.\.31"):
        load(path)


def test_a_missing_file_and_a_directory_are_user_errors(tmp_path):
    with pytest.raises(GraphFileError, match="cannot read .*missing"):
        load(tmp_path / "missing")
    with pytest.raises(GraphFileError, match="cannot read"):
        load(tmp_path)


def test_a_place_that_cannot_be_written_is_a_user_error(graph, tmp_path):
    with pytest.raises(GraphFileError, match="cannot write .*; make room there or name another place"):
        save(graph, tmp_path / "missing" / "graph.safetensors")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(GraphFileError, match="No space left"):
        save(random_graph(np.random.default_rng(2)), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
