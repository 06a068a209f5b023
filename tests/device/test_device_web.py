"""The page of samples/web in a real browser with the width of a phone, used by tests/js/app.mjs."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from conftest import ROOT, missing
from models import tiny
from PIL import Image
from web_site import build_site, lacking

from adabet_onnx import make_menu
from adabet_onnx.demo.demo import resources
from adabet_onnx.scoring.betti import betti_numbers

pytestmark = pytest.mark.slow

FOLDERS = ("<b class=injected>blue", "<img src=x onerror=alert(1)>")  # in alphabetical order
RIGHT = 340  # of 400: 85 %


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site."""
    if reason := lacking():
        missing(f"not installed: {reason}")
    return build_site(tmp_path_factory.mktemp("web") / "web", "--entries", "3", "--no-check")


@pytest.fixture(scope="module")
def own(tmp_path_factory, site) -> Path:
    """A user's files: packages and pictures."""
    folder = tmp_path_factory.mktemp("own")
    colours = tiny.conv_net()
    for key, value in (("mean", "[0.5, 0.4, 0.3]"), ("std", "[0.2, 0.3, 0.4]")):
        colours.metadata_props.add(key=key, value=value)
    make_menu(colours, folder / "colours", entries=1, check=False)
    make_menu(tiny.mlp(), folder / "numbers", entries=1, check=False)
    shutil.copytree(site / "packages" / "demo", folder / "damaged")
    state = folder / "damaged" / "head.state.bin"
    state.write_bytes(state.read_bytes()[:-1] + b"\x01")
    rng = np.random.default_rng(0)
    for name, colour in zip(FOLDERS, ([20, 40, 220], [210, 60, 30]), strict=True):
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(15):
            pixels = np.clip(np.array(colour) + rng.normal(0, 25, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"<i class=injected>{i:02}.png")
    Image.new("RGB", (40, 30), (215, 55, 35)).save(folder / "ask.png")
    return folder


@pytest.fixture(scope="module")
def seen(site, own) -> dict[str, Any]:
    """The report of tests/js/app.mjs."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        missing("there is no Chromium")
    command = ["node", "app.mjs", chromium, str(site), str(own)]
    done = subprocess.run(command, cwd=ROOT / "tests" / "js", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((own / "seen.json").read_text())
    assert "failed" not in found, json.dumps(found, indent=1)
    return found


@pytest.fixture(scope="module")
def description(site) -> dict[str, Any]:
    """device.json of the demo's package."""
    return json.loads((site / "packages" / "demo" / "device.json").read_text())


def digits() -> dict[str, np.ndarray]:
    """The demo's data, prepared according to the model's metadata."""
    data = np.load(resources.files("adabet_onnx.demo") / "digits_shifted.npz")
    found = {}
    for part in ("train", "test"):
        x = data[f"x_{part}"].astype(np.float32).transpose(0, 3, 1, 2) * np.float32(1 / 255)
        found[f"x_{part}"] = (x - np.float32(0.309)) / np.float32(0.353)
        found[f"y_{part}"] = data[f"y_{part}"]
    return found


def test_it_adapts_the_demo(seen):
    assert 100 < seen["before"] < 250
    assert seen["after"] > RIGHT
    assert seen["table"] == 4  # before, and three epochs
    assert re.search(r"Loss of 87 steps, from .*; accuracy on the test pictures from", seen["chart"])


def test_the_delta_means_the_same_in_python(seen, site, own, description, tmp_path):
    package = tmp_path / "package"
    shutil.copytree(site / "packages" / "demo", package)
    raw = (own / "page.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert metadata["format"] == "adabet-onnx/delta"
    entry = next(one for one in description["entries"] if one["name"] == metadata["entry"])
    selected = bytearray(entry["selected_bytes"])
    for tensor in entry["tensors"]:
        if tensor["kind"] != "optimizer":
            begin, end = header.pop(tensor["name"])["data_offsets"]
            selected[tensor["offset"] : tensor["offset"] + tensor["bytes"]] = raw[8 + length + begin : 8 + length + end]
    assert not header
    assert bytes(selected) == (own / "selected.bin").read_bytes()
    assert bytes(selected) != (package / entry["state"]).read_bytes()
    (package / entry["selected"]).write_bytes(selected)
    data = digits()
    session = ort.InferenceSession(str(package / entry["model"]), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"input": data["x_test"]})[0]
    assert int((logits.argmax(1) == data["y_test"]).sum()) == seen["after"] == seen["restored"]


class Random:
    """The generator of docs/device-package.md."""

    def __init__(self, seed: int, stream: int) -> None:
        self.state = (seed + stream * 0x6C078965) & 0xFFFFFFFF

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B9) & 0xFFFFFFFF
        z = self.state
        z = ((z ^ z >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
        z = ((z ^ z >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
        return z ^ z >> 16

    def subset(self, n: int, m: int) -> list[int]:
        a = list(range(n))
        for i in range(m):
            j = i + (self.next() * (n - i) >> 32)
            a[i], a[j] = a[j], a[i]
        return sorted(a[:m])


def test_the_ranking_is_that_of_the_documented_rule(seen, site, description):
    rule = description["scoring"]
    random = Random(0, 1)
    assert [random.next() for _ in range(4)] == [2049673234, 658261152, 3573920880, 3099447095]
    session = ort.InferenceSession(str(site / "packages" / "demo" / rule["file"]), providers=["CPUExecutionProvider"])
    names = [layer["output"] for layer in rule["layers"]]
    samples = digits()["x_train"][: rule["samples"]]
    rows = [session.run(names, {"input": sample[np.newaxis]}) for sample in samples]
    random = Random(rule["seed"], 0)
    subsets = [random.subset(len(samples), rule["points"]) for _ in range(rule["subsets"])]
    expected = {}
    for i, layer in enumerate(rule["layers"]):
        points = np.stack([row[i].ravel() for row in rows]).astype(np.float64)
        apart = np.sqrt(((points[:, np.newaxis] - points[np.newaxis]) ** 2).sum(-1)).astype(np.float32)
        b1 = betti_numbers(apart, [np.array(subset) for subset in subsets])
        expected[layer["name"]] = np.mean(b1) / (rule["points"] * layer["size"])
    ranking = sorted(expected, key=lambda name: -expected[name])
    assert [name for name, _ in seen["ranking"]] == ranking
    np.testing.assert_allclose([score for _, score in seen["ranking"]], [expected[name] for name in ranking], rtol=1e-9)


def test_the_choice_keeps_to_the_memory(seen, description):
    worth = dict(seen["ranking"])
    needs = {one["name"]: dict(one["memory"])[32] for one in description["entries"]}
    sums = {one["name"]: sum(worth[layer] for layer in one["layers"]) for one in description["entries"]}
    for text, limit in ((seen["free"], None), (seen["limited"], 3 * 2**20)):
        fitting = [name for name in sums if limit is None or needs[name] <= limit]
        assert text.startswith(f"Chosen: {max(fitting, key=sums.__getitem__)},")
    assert len(fitting) < len(sums)
    assert f"the smallest needs {min(needs.values())}" in seen["none"]["text"]
    assert not seen["none"]["train"]


def test_it_pauses(seen):
    assert seen["paused"] == {"still": True, "busy": False}


def test_a_reload_keeps_it_but_for_the_epoch_that_went_on(seen):
    kept = seen["reloaded"]
    assert kept["stored"] >= 5
    assert kept["rows"] == kept["stored"] + 1
    assert kept["pictures"].startswith("900 pictures")
    assert kept["right"] > RIGHT
    assert seen["goneOn"] > RIGHT
    assert seen["rate"] == "0.005"


def test_it_stops_when_it_is_told_to(seen):
    assert 2 <= seen["stopped"]["epochs"] < 100
    assert seen["stopped"]["right"] > RIGHT


def test_it_works_without_network(seen):
    assert seen["offline"]["answer"].startswith("It is ")
    assert seen["offline"]["model"].startswith("digits")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("truncated", "bytes|SHA-256|short"),
        ("cut", "header|bytes|short"),
        ("wrong", "delta"),
        ("foreign", "another model"),
        ("damaged", "damaged"),
        ("picture", "<img src=x onerror=alert\\(1\\)>.png: this browser cannot read it"),
        ("asked", "cannot read this file as a picture"),
        ("noPackage", "no device.json"),
        ("noJson", "device.json"),
        ("foreignPackage", "format"),
        ("damagedPackage", "head.state.bin has the SHA-256"),
        ("otherTask", "does not support: its input .* \\[N, 10\\]"),
    ],
)
def test_what_does_not_fit_is_told(seen, what, words):
    assert re.search(words, seen["refused"][what]), seen["refused"][what]
    assert re.search(r"\.$", seen["refused"][what])


def test_a_full_storage_loses_nothing(seen, own):
    (text,) = seen["full"]["text"]
    assert "not enough space left" in text
    assert seen["full"]["right"] > RIGHT
    assert (own / "full.safetensors").stat().st_size == (own / "page.safetensors").stat().st_size


def test_own_pictures_train_another_model_and_names_are_text(seen):
    found = seen["own"]
    assert found["classes"] == [*FOLDERS, "2", "3"]
    assert found["injected"] == 0
    assert found["names"][0] == "<i class=injected>14.png"
    assert found["answer"].startswith(f"It is {FOLDERS[1]} (")
    assert found["right"] == "100.0 % (6 of 6)"
    model, pictures, stored = found["kept"]
    assert re.search("colour pictures of 8 . 8 pixels", model)
    assert pictures.startswith("25 pictures")
    assert "30 epochs" in stored


def test_keys_alone_do_it(seen):
    assert seen["keys"]["file"].endswith(".safetensors")
    assert re.fullmatch(r"\d+\.\d % \(\d+ of 400\)", seen["keys"]["after"])


def test_the_gpu_trains_only_if_it_computes_the_same(seen, own):
    if not seen["gpu"]:
        missing("this Chromium has no WebGPU")
    right, wrong = seen["gpu"]["right"], seen["gpu"]["wrong"]
    assert right["on"]
    assert right["text"] == []
    assert not wrong["on"]
    (text,) = wrong["text"]
    assert re.search("GPU computes different results, so the processor trains: losses of the first steps are", text)
    found, expected = (np.fromfile(own / f"{kind}.bin", np.float32) for kind in ("right", "wrong"))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_axe_finds_nothing(seen):
    assert len(seen["states"]) >= 7
    assert seen["violations"] == []


def test_it_does_not_scroll_sideways(seen):
    assert seen["sideways"] == []


def test_the_console_is_empty(seen):
    assert seen["problems"] == []
