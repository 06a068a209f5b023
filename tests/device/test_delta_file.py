"""The file of a delta: its tensors, its metadata and its checksum."""

from __future__ import annotations

import hashlib
import itertools
import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from adabet_onnx import load_delta, save_delta

pytestmark = pytest.mark.usefixtures("checked_here")


def test_the_file_is_that_of_the_format(trained_artifacts, delta_file):
    """Read by the stock package and byte by byte."""
    manifest = json.loads((trained_artifacts / "manifest.json").read_text())
    names = [entry["name"] for entry in manifest["parameters"]]
    names += [entry["name"] for entry in manifest["state"] if entry.get("moves")]
    tensors = safetensors.numpy.load_file(delta_file)
    assert set(tensors) == set(names)
    raw = delta_file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert (8 + length) % 64 == 0
    header = json.loads(raw[8 : 8 + length])
    assert list(header) == ["__metadata__", *names]
    about = header.pop("__metadata__")
    ends = [entry["data_offsets"] for entry in header.values()]
    assert ends[0][0] == 0
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ends))
    assert 8 + length + ends[-1][1] == len(raw)
    assert about == {
        "format": "adabet-onnx/delta",
        "version": "1",
        "model_sha256": manifest["model_sha256"],
        "entry": "all",
        "sha256": hashlib.sha256(raw[8 + length :]).hexdigest(),
    }
    with safe_open(str(trained_artifacts / "training" / "last.ckpt"), framework="numpy") as checkpoint:
        for name in names:
            assert np.array_equal(tensors[name], checkpoint.get_tensor(name))


def test_what_was_saved_is_read(trained_artifacts, delta_file, tmp_path):
    found = load_delta(delta_file)
    assert (found.path, found.entry) == (delta_file, "all")
    assert "personal.safetensors" in repr(found)
    save_delta(trained_artifacts, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == delta_file.read_bytes()


def test_any_valid_file_is_read(delta_file, tmp_path):
    """The stock package orders tensors by name, and pads to 8 bytes."""
    tensors = safetensors.numpy.load_file(delta_file)
    with safe_open(str(delta_file), framework="numpy") as file:
        about = dict(file.metadata())
    stock = safetensors.numpy.save(tensors, metadata=about)
    (length,) = struct.unpack("<Q", stock[:8])
    about["sha256"] = hashlib.sha256(stock[8 + length :]).hexdigest()
    other = tmp_path / "stock.safetensors"
    safetensors.numpy.save_file(tensors, other, metadata=about)
    found, expected = load_delta(other), load_delta(delta_file)
    assert {name: array.tobytes() for name, array in found.tensors.items()} == {
        name: array.tobytes() for name, array in expected.tensors.items()
    }
