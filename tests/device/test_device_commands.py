"""What `device` and `menu` print: names, counts, reasons, and errors that say what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import command_of
from models import tiny

from adabet_onnx import Packing, make_artifacts, make_device, make_menu, open_model, select
from adabet_onnx.device.choosing import needed_bytes
from adabet_onnx.device.description import load_device
from adabet_onnx.model.metadata import METADATA
from adabet_onnx.sizes import size_text

PLAIN = Packing(scoring=None)
pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.fixture
def command(monkeypatch, capfd):
    return command_of(monkeypatch, capfd)


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "my model.onnx"
    path.write_bytes(tiny.mlp().SerializeToString())
    return path


def test_a_package_has_the_name_of_the_model_file(tmp_path, model, command):
    """Not that of its graph, which exporters choose."""
    folder = tmp_path / "artifacts"
    make_artifacts(model, select(model, strategy="head"), folder, check=False)
    out = ["-o", tmp_path / "device", "--no-scoring"]
    assert "my model.onnx: 1 choice of layers" in command("device", folder, *out).out
    assert json.loads((tmp_path / "device" / "device.json").read_text())["model"] == "my model.onnx"
    assert "my model.onnx: 1 choice of layers" in command("menu", model, *out, "--entries", 1).out


def test_without_a_file_it_has_the_name_of_the_graph(tmp_path, model):
    opened = open_model(model.read_bytes())
    assert make_menu(opened, tmp_path / "menu", entries=1, packing=PLAIN)["model"] == opened.graph.graph.name


def test_artifacts_of_older_releases_do_not_know_the_file(tmp_path, model):
    folder = tmp_path / "artifacts"
    make_artifacts(model, select(model, strategy="head"), folder, check=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest.pop("model_name") == "my model.onnx"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert make_device(folder, tmp_path / "device", packing=PLAIN)["model"] == open_model(model).graph.graph.name


def test_all_files_are_counted(tmp_path, model, command):
    folder = tmp_path / "device"
    said = command("menu", model, "-o", folder, "--no-scoring", "--entries", 1).out
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert f"device: {len(sizes)} files, {size_text(sum(sizes))}; any onnxruntime" in said


def test_reasons_for_fewer_choices_are_printed_together(tmp_path, model, command):
    """Choices of the same layers count once, and some need scores."""
    said = command("menu", model, "-o", tmp_path / "device", "--no-scoring").out
    reasons = [line.removeprefix("left out: ") for line in said.splitlines() if line.startswith("left out: ")]
    assert "adabet-10, adabet-25, adabet-50: scores are needed (--scores)" in reasons
    assert "last-10, last-25, last-50, last-5: the same layers as head" in reasons
    made = json.loads(command("menu", model, "-o", tmp_path / "device", "--no-scoring", "--json").out)
    offered = [entry["name"] for entry in made["entries"]]
    assert len(offered) + len(made["left_out"]) == 10
    assert made["left_out"]["adabet-50"] == "scores are needed (--scores)"
    assert made["left_out"]["last-10"] == "the same layers as head"


def test_scores_of_another_model_are_refused_as_such(tmp_path, model, command):
    other = tmp_path / "other.onnx"
    other.write_bytes(tiny.mlp(seed=1).SerializeToString())
    np.save(tmp_path / "data.npy", np.random.default_rng(0).standard_normal((40, 10)).astype(np.float32))
    command("score", other, tmp_path / "data.npy", "-o", tmp_path / "scores.json")
    said = command("menu", model, "--scores", tmp_path / "scores.json", "-o", tmp_path / "device", code=1).err
    assert "the scores are of another model" in said
    assert f"recorded as {other}" in said
    assert "adabet-onnx score MODEL DATA -o scores.json" in said
    assert "selection" not in said
    assert not (tmp_path / "device").exists()


@pytest.mark.parametrize("batch", [1, 8, 32, 40])
def test_the_table_has_the_memory_that_devices_compare(tmp_path, model, command, batch):
    """They compare it at the package's batch size, unless their program trains with another."""
    said = command("menu", model, "-o", tmp_path / "device", "--no-scoring", "--entries", 1, "--batch-size", batch).out
    [entry] = load_device(tmp_path / "device").entries
    assert f"memory at batch {batch} " in said
    assert f"{size_text(needed_bytes(entry.memory, batch))} │" in said


def test_unknown_class_names_are_noted(tmp_path, model, command):
    note = "note: no class names are known: the device's program must supply them"
    out = ["-o", tmp_path / "device", "--no-scoring", "--entries", 1]
    assert note in command("menu", model, *out).out
    assert note not in command("menu", model, *out, "--loss", "mse").out
    named = onnx.load(model)
    onnx.helper.set_model_props(named, {METADATA + "classes": json.dumps(["ant", "bee", "cat"])})
    onnx.save(named, model)
    assert note not in command("menu", model, *out).out
    assert load_device(tmp_path / "device").class_names == ("ant", "bee", "cat")
