"""A delta gives the exported model when it is applied to artifacts, a model or a package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from bad_inputs import needs_training
from deltas import data, trained
from models import tiny

from adabet_onnx import (
    apply_delta,
    export_model,
    load_delta,
    make_artifacts,
    make_device,
    open_model,
    save_delta,
    select,
)
from adabet_onnx.device.description import load_device

pytestmark = pytest.mark.usefixtures("checked_here")


def test_applied_to_artifacts_it_is_the_exported_model(trained_artifacts, delta_file, tmp_path):
    export_model(trained_artifacts, tmp_path / "exported.onnx")
    assert apply_delta(trained_artifacts, delta_file, tmp_path / "adapted.onnx") == "model"
    assert (tmp_path / "adapted.onnx").read_bytes() == (tmp_path / "exported.onnx").read_bytes()


def test_applied_to_artifacts_that_were_not_trained_it_computes_the_same(trained_artifacts, delta_file, tmp_path):
    untrained = tmp_path / "untrained"
    make_artifacts(open_model(tiny.conv_net()), select(open_model(tiny.conv_net()), strategy="all"), untrained)
    apply_delta(untrained, load_delta(delta_file), tmp_path / "adapted.onnx")
    export_model(trained_artifacts, tmp_path / "exported.onnx")
    export_model(untrained, tmp_path / "initial.onnx")
    logits = [outputs(tmp_path / f"{name}.onnx") for name in ("adapted", "exported", "initial")]
    assert np.array_equal(logits[0], logits[1])
    assert not np.allclose(logits[0], logits[2])


def test_the_best_checkpoint_counts(tmp_path):
    folder, other = trained(tmp_path / "artifacts"), trained(tmp_path / "other", seed=1)
    last, best = (save_delta(place, tmp_path / f"{place.name}.safetensors") for place in (folder, other))
    assert last.sha256 != best.sha256
    (folder / "training" / "best.ckpt").write_bytes((other / "training" / "last.ckpt").read_bytes())
    assert save_delta(folder, tmp_path / "later.safetensors").sha256 == best.sha256


def outputs(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: data()[0]})[0])


def test_parts_of_tensors(tmp_path):
    """If only some channels are trained, the delta has only those, and the model keeps the others."""
    folder = trained(tmp_path / "artifacts", channels=True)
    found = save_delta(folder, tmp_path / "personal.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    parts = {entry["name"]: entry for entry in manifest["parameters"] if entry.get("channels")}
    assert parts
    apply_delta(folder, tmp_path / "personal.safetensors", tmp_path / "adapted.onnx")
    export_model(folder, tmp_path / "exported.onnx")
    assert np.array_equal(outputs(tmp_path / "adapted.onnx"), outputs(tmp_path / "exported.onnx"))
    adapted, original = (
        {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
        for path in (tmp_path / "adapted.onnx", folder / manifest["files"]["model"])
    )
    for name, entry in parts.items():
        axis, indices = entry["channels"]["axis"], entry["channels"]["indices"]
        assert np.array_equal(np.take(adapted[name], indices, axis), found.tensors[name])
        assert np.array_equal(np.delete(adapted[name], indices, axis), np.delete(original[name], indices, axis))


@needs_training
def test_of_the_other_backend(tmp_path):
    folder = trained(tmp_path / "artifacts", backend="ort")
    save_delta(folder, tmp_path / "personal.safetensors")
    apply_delta(folder, tmp_path / "personal.safetensors", tmp_path / "adapted.onnx")
    export_model(folder, tmp_path / "exported.onnx")
    assert np.array_equal(outputs(tmp_path / "adapted.onnx"), outputs(tmp_path / "exported.onnx"))
    made = load_delta(tmp_path / "personal.safetensors")
    portable = tmp_path / "portable"
    make_artifacts(open_model(tiny.conv_net()), select(open_model(tiny.conv_net()), strategy="all"), portable)
    apply_delta(portable, made, tmp_path / "other.onnx")
    assert np.array_equal(outputs(tmp_path / "other.onnx"), outputs(tmp_path / "exported.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [False, True])
def test_applied_to_a_package_it_is_the_personal_model(tmp_path, channels):
    """The package starts with the model's own values; with the file replaced, it is the trained model."""
    folder = trained(tmp_path / "artifacts", channels=channels)
    save_delta(folder, tmp_path / "personal.safetensors")
    export_model(folder, tmp_path / "exported.onnx")
    package = tmp_path / "device"
    make_device(folder, package, start="initial")
    before = outputs(package / "device.onnx")
    assert apply_delta(package, tmp_path / "personal.safetensors", package / "selected.bin") == "selected"
    assert (package / "selected.bin").read_bytes() != (package / "state.bin").read_bytes()
    np.testing.assert_allclose(outputs(package / "device.onnx"), outputs(tmp_path / "exported.onnx"), atol=1e-5)
    assert not np.allclose(before, outputs(package / "device.onnx"))
    load_device(package)
    make_device(folder, tmp_path / "trained")
    assert (package / "selected.bin").read_bytes() == (tmp_path / "trained" / "selected.bin").read_bytes()
