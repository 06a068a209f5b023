"""Data that stays in its file: it is read correctly, never held in memory as a whole, and rejected if it is damaged."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
from models import tiny
from models.tiny import node, normal
from test_inputs import arrays, two_inputs

from adabet_onnx import (
    Adapting,
    Data,
    DataError,
    Scoring,
    Settings,
    UsageError,
    adapt,
    evaluate,
    open_model,
    predict,
    score,
)
from adabet_onnx.data import npz, stored
from adabet_onnx.data.fingerprint import content_hash
from adabet_onnx.data.source import open_data
from adabet_onnx.data.stored import StoredArray

rng = np.random.default_rng(0)
X = rng.integers(0, 256, (60, 3, 8, 8), np.uint8)
Y = np.arange(60) % 4
DTYPES = ["u1", "<f4", ">f4", "<f8", ">i2", "?", "<f2"]


@pytest.fixture
def model():
    return open_model(tiny.conv_net())


@pytest.fixture(autouse=True)
def _all_stay_in_their_files(monkeypatch):
    monkeypatch.setattr(stored, "IN_MEMORY", 0)


def held(path, model):
    """The rows of the training part."""
    splits = open_data(path, model)
    (array,) = splits.train.rows.arrays.values()
    return splits, array


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_an_npz_are_those_of_the_array(tmp_path, model, dtype, order):
    x = np.asarray(X.astype(dtype), order=order)
    np.savez(tmp_path / "d.npz", y=Y, filler=np.arange(3, dtype=np.uint8), x=x)
    splits, array = held(tmp_path / "d.npz", model)
    assert isinstance(array, StoredArray)
    assert array.fortran == (order == "F")
    for indices in ([0], [59], range(60), [3, 4, 5, 9, 2, 2, 59, 58], []):
        chosen = np.array(list(indices), np.int64)
        found = array[chosen]
        assert found.dtype == x.dtype
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, x[chosen])
    np.testing.assert_array_equal(splits.train.labels, Y)


def test_a_row_that_is_not_there(tmp_path, model):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    _, array = held(tmp_path / "d.npz", model)
    for outside in (-1, 60):
        with pytest.raises(IndexError):
            array[np.array([outside])]


def test_an_archive_of_more_than_32_bits_knows(tmp_path, model):
    """zip64 entries, and an extra field in the local header that the directory does not have."""
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("note.txt", "not an array")
        for name in ("x", "y"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write((tmp_path / f"{name}.npy").read_bytes())
    _, array = held(tmp_path / "d.npz", model)
    np.testing.assert_array_equal(array[np.arange(60)], X)


def test_an_archive_behind_something_else(tmp_path, model):
    """Like a self-extracting archive: offsets are those in the file."""
    np.savez(tmp_path / "plain.npz", x=X, y=Y)
    behind = tmp_path / "d.npz"
    behind.write_bytes(b"PK" + b"#" * 99 + (tmp_path / "plain.npz").read_bytes())
    with pytest.raises(DataError, match=r"cannot be read as an \.npz"):
        open_data(behind, model)  # numpy does not recognise it as an .npz either


def test_what_is_compressed_is_read_at_once(tmp_path, model):
    np.savez_compressed(tmp_path / "d.npz", x=X, y=Y)
    _, array = held(tmp_path / "d.npz", model)
    assert isinstance(array, np.ndarray)


def test_what_is_small_is_read_at_once(tmp_path, model, monkeypatch):
    monkeypatch.setattr(stored, "IN_MEMORY", X.nbytes)
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    assert isinstance(held(tmp_path / "d.npz", model)[1], np.ndarray)


def test_what_is_stored_may_be_larger_than_memory(tmp_path, model, monkeypatch):
    monkeypatch.setattr(npz.psutil, "virtual_memory", lambda: type("Memory", (), {"available": X.nbytes - 1})())
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    assert len(open_data(tmp_path / "d.npz", model).train) == 60
    np.savez_compressed(tmp_path / "c.npz", x=X, y=Y)
    with pytest.raises(DataError, match="savez"):
        open_data(tmp_path / "c.npz", model)


FORMS = {
    "folder": lambda folder: folder,
    "file": lambda folder: folder / "x.npy",
    "pair": lambda folder: (folder / "x.npy", str(folder / "y.npy")),
    "Data": lambda folder: Data(str(folder)),
}


@pytest.mark.parametrize("form", FORMS)
def test_npy_files(tmp_path, model, form):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    splits, array = held(FORMS[form](tmp_path), model)
    assert isinstance(array, StoredArray)
    np.testing.assert_array_equal(array[np.arange(60)], X)
    np.testing.assert_array_equal(splits.train.labels, Y)
    assert splits.test is None


def test_npy_files_of_two_parts_with_classes(tmp_path, model):
    for name, array in {"x_train": X[:40], "y_train": Y[:40], "x_test": X[40:], "y_test": Y[40:]}.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "classes.npy", np.array(["a", "b", "c", "d"]))
    splits = open_data(tmp_path, model)
    assert (len(splits.train), len(splits.test)) == (40, 20)
    assert splits.train.classes == ["a", "b", "c", "d"]
    alone = open_data(tmp_path / "x_test.npy", model)
    np.testing.assert_array_equal(alone.train.labels, Y[40:])
    assert alone.test is None


def test_an_npy_by_another_name_has_no_labels(tmp_path, model):
    np.save(tmp_path / "images.npy", X)
    np.save(tmp_path / "y.npy", Y)
    assert open_data(tmp_path / "images.npy", model).train.labels is None


def test_several_inputs(tmp_path):
    """A folder of files with the names of the inputs."""
    given = arrays()
    for name, array in given.items():
        np.save(tmp_path / f"{name}.npy", array)
    train = open_data(tmp_path, open_model(two_inputs())).train
    found = train.rows.fetch(np.array([2, 0]))
    assert set(found) == {"ids", "mask", "age"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, given[name][[2, 0]])
    np.testing.assert_array_equal(train.labels, given["y"])


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (("x.npy", "nowhere.npy"), UsageError, "nowhere.npy"),
        (("x.npy", "notes.txt"), UsageError, "notes.txt"),
        ("short.npy", DataError, "bytes"),
        ("objects.npy", DataError, "pickled"),
        ("notes.npy", DataError, r"cannot be read as an \.npy"),
        (("x.npy", "few.npy"), DataError, "60 samples"),
        ("named.npz", DataError, "or name it"),
    ],
)
def test_what_is_wrong_with_npy_files(tmp_path, monkeypatch, model, source, error, words):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("few.npy", Y[:9])
    np.save("objects.npy", np.array([{}], object))
    for name in ("notes.txt", "notes.npy"):
        (tmp_path / name).write_text("a note")
    (tmp_path / "short.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    shutil.copy("x.npy", "named.npz")
    with pytest.raises(error, match=words):
        open_data(source, model)


def change(path, how):
    content = path.read_bytes()
    if how == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif how == "touched":
        os.utime(path, ns=(1, 1))
    elif how == "replaced":
        other = path.with_suffix(".new")
        other.write_bytes(content)
        shutil.copystat(path, other)
        os.replace(other, path)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["cut short", "touched", "replaced", "removed"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_that_changes_meanwhile(tmp_path, model, how, order):
    np.savez(tmp_path / "d.npz", x=np.asarray(X, order=order), y=Y)
    splits, _ = held(tmp_path / "d.npz", model)
    splits.train.rows.fetch(np.array([1]))
    change(tmp_path / "d.npz", how)
    with pytest.raises(DataError, match="cannot read" if how == "removed" else "has changed"):
        splits.train.rows.fetch(np.array([1]))


def test_a_wrong_checksum_is_seen(tmp_path, model):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    content = bytearray((tmp_path / "d.npz").read_bytes())
    place = content.index(X[30].tobytes())
    content[place] ^= 1
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        open_data(tmp_path / "d.npz", model)


def test_a_header_that_lies_is_refused(tmp_path, model):
    """The length of the name in the local header differs from that in the directory."""
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    content = bytearray((tmp_path / "d.npz").read_bytes())
    at = content.index(b"PK\x03\x04")
    content[at + 26 : at + 28] = struct.pack("<H", 4)
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError):
        open_data(tmp_path / "d.npz", model)


def test_it_travels_to_other_processes(tmp_path, model):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    splits, _ = held(tmp_path / "d.npz", model)
    part = pickle.loads(pickle.dumps(splits.train.subset([5, 7])))
    np.testing.assert_array_equal(part.rows.fetch(np.array([1]))[""], X[7:8])


def test_results_are_those_of_arrays_in_memory(tmp_path, model, monkeypatch):
    """Every command, on data in a file and in memory."""
    np.savez(tmp_path / "d.npz", x_train=X[:40], y_train=Y[:40], x_test=X[40:], y_test=Y[40:])
    onnx.save(tiny.conv_net(), tmp_path / "m.onnx")
    how = Adapting(settings=Settings(epochs=2, batch_size=8), measure=False, check=False)

    def everything(folder):
        outcome = adapt(tmp_path / "m.onnx", tmp_path / "d.npz", folder, preset="unit", adapting=how)
        after = evaluate(folder / "adapted.onnx", tmp_path / "d.npz", preset="unit")
        rows = predict(folder / "adapted.onnx", tmp_path / "d.npz", preset="unit")
        losses = [row["train_loss"] for row in outcome.metrics]
        return json.dumps([[layer.b1_hat for layer in outcome.scores.layers], losses, after, rows])

    inside = everything(tmp_path / "stored")
    monkeypatch.setattr(stored, "IN_MEMORY", 1 << 30)
    assert everything(tmp_path / "memory") == inside


def test_a_hash_is_that_of_the_arrays(tmp_path, model, monkeypatch):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    inside = content_hash(open_data(tmp_path / "d.npz", model).train)
    monkeypatch.setattr(stored, "IN_MEMORY", 1 << 30)
    assert content_hash(open_data(tmp_path / "d.npz", model).train) == inside


def test_only_what_is_scored_is_read(tmp_path, model, monkeypatch):
    """Of 60 samples, the 32 of one group."""
    read: list[int] = []
    whole = StoredArray.__getitem__

    def noted(self, indices):
        read.extend(np.asarray(indices).tolist())
        return whole(self, indices)

    monkeypatch.setattr(StoredArray, "__getitem__", noted)
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    score(model, tmp_path / "d.npz", preset="unit", scoring=Scoring(samples=32, subset_size=8, subsets=4))
    assert 0 < len(set(read)) <= 33


LIMITED = """
import resource, sys
import numpy as np
from adabet_onnx import evaluate, open_model
from adabet_onnx.data.fingerprint import content_hash
from adabet_onnx.data.source import open_data
evaluate("m.onnx", "small.npz", preset="unit")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
content_hash(open_data("large.npz", open_model("m.onnx")).train)
evaluate("m.onnx", "large.npz", preset="unit")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are counted in other units elsewhere")
def test_memory_does_not_grow_with_the_data(tmp_path):
    """150 MB of images: the peak stays within 50 MB of what a few need."""
    nodes = [node("GlobalAveragePool", ["input"], ["p"]), node("Flatten", ["p"], ["f"])]
    nodes.append(node("Gemm", ["f", "w"], ["logits"]))
    onnx.save(tiny.build(nodes, {"w": normal(3, 4)}, input_shape=("N", 3, 128, 128)), tmp_path / "m.onnx")
    large = np.zeros((3000, 3, 128, 128), np.uint8)
    np.savez(tmp_path / "small.npz", x=large[:256], y=np.zeros(256, int))
    np.savez(tmp_path / "large.npz", x=large, y=np.zeros(len(large), int))
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50e6


@pytest.mark.parametrize("name", ["pipe.npz", "pipe.npy"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, model, name):
    os.mkfifo(tmp_path / name)
    for call in (evaluate, predict, score):
        with pytest.raises(DataError, match=r"pipe\.np. is a pipe or device, .* Save its content in a file"):
            call(model, tmp_path / name)
