"""The same step.onnx on every runtime it is made for: oldest and newest onnxruntime, node, WebAssembly, a browser."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
from conftest import ROOT, missing
from models import tiny

from adabet_onnx import Packing, UsageError, make_artifacts, make_device, open_model, score, select
from adabet_onnx.device.description import load_device
from adabet_onnx.device.random import shuffle
from adabet_onnx.portable.profiles import PROFILES
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training.manifest import load_manifest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]

JS = ROOT / "tests" / "js"
WEB = JS / "node_modules" / "onnxruntime-web"
OLDEST = ROOT / ".venv-oldest" / "bin" / "python"
STEPS, BATCH, RATE = 6, 8, 1e-3
SAMPLE_STEPS = 20  # of samples/python/train.py
TOLERANCE = 1e-5


def wide() -> onnx.ModelProto:
    """A model whose trained and frozen layers read weights from the folder's single file."""
    sizes = [24, 32, 32, 32, 3]
    nodes, values, last = [], {}, "input"
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        made = "logits" if i == len(sizes) - 2 else f"h{i}"
        nodes.append(onnx.helper.make_node("Gemm", [last, f"{i}.weight"], [made], f"/{i}"))
        values[f"{i}.weight"], last = tiny.normal(inputs, outputs), f"t{i}"
        if made != "logits":
            nodes.append(onnx.helper.make_node("Tanh", [made], [last], f"/{i}/tanh"))
    return tiny.build(nodes, values, input_shape=["N", 24])


MODELS = {
    "conv": tiny.conv_net,
    "wide": wide,
    "attention": lambda: tiny.attention("four axes"),
    "recurrent": tiny.recurrent,
}


@pytest.fixture(scope="module", params=MODELS)
def job(request, tmp_path_factory):
    """Artifacts, data in the forms the runtimes read, and this runtime's losses."""
    folder = tmp_path_factory.mktemp(request.param)
    model = open_model(MODELS[request.param]())
    rng = np.random.default_rng(0)
    shape = model.inputs[0].shape[1:]
    x = rng.standard_normal((STEPS * BATCH, *shape)).astype(np.float32)
    y = rng.integers(0, 3, STEPS * BATCH)
    scores = score(model, x[:32], scoring=Scoring(samples=32))
    selection = select(scores, layers=["1"]) if request.param == "wide" else select(scores, strategy="all")
    manifest = make_artifacts(model, selection, folder / "artifacts", backend="portable", check=False)
    if request.param == "wide":
        for name in ("frozen", "step"):
            proto = onnx.load(manifest.file(name), load_external_data=False)
            assert any(tensor.external_data for tensor in proto.graph.initializer)
    np.savez(folder / "data.npz", x=x, y=y)
    parts = [slice(i * BATCH, (i + 1) * BATCH) for i in range(STEPS)]
    batches = [{"x": x[p].ravel().tolist(), "xShape": [BATCH, *shape], "y": y[p].tolist()} for p in parts]
    (folder / "batches.json").write_text(json.dumps({"batches": batches, "rate": RATE}))
    session = manifest.session(manifest.initial)
    losses = [session.step({model.inputs[0].name: x[p]}, y[p], RATE)[0] for p in parts]
    assert losses[-1] != losses[0]
    make_device(folder / "artifacts", folder / "device", packing=Packing(scoring=None))
    return folder, losses


@pytest.fixture(scope="module")
def trained(job):
    """The expected result of samples/python/train.py: losses and selected.bin of training with this runtime."""
    folder, _ = job
    device, manifest = load_device(folder / "device"), load_manifest(folder / "artifacts")
    data, how, session = np.load(folder / "data.npz"), device.training, manifest.session(manifest.initial)
    losses: list[float] = []
    for epoch in itertools.count(1):
        order = shuffle(len(data["y"]), how.seed, epoch)
        for start in range(0, len(order), how.batch_size):
            batch = order[start : start + how.batch_size]
            feeds = {device.inputs[0].name: data["x"][batch]}
            losses.append(session.step(feeds, data["y"][batch], how.learning_rate)[0])
            if len(losses) == SAMPLE_STEPS:
                session.save(folder / "trained.ckpt")
                tensors = safetensors.numpy.load_file(folder / "trained.ckpt")
                return losses, [tensors[tensor.name] for tensor in device.entries[0].personal]
    raise AssertionError


def close(found: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def check_sample(python: Path, folder: Path, trained: tuple[list[float], list[np.ndarray]]) -> None:
    """Run samples/python/train.py, which knows nothing of us."""
    script, written = ROOT / "samples" / "python" / "train.py", folder / "sample.bin"
    written.unlink(missing_ok=True)
    said = run(python, script, folder / "device", folder / "data.npz", written)
    losses, values = trained
    assert len(losses) == SAMPLE_STEPS
    close([float(line) for line in said.split()], losses)
    content, entry = written.read_bytes(), load_device(folder / "device").entries[0]
    assert len(content) == entry.selected_bytes
    for tensor, value in zip(entry.personal, values, strict=True):
        found = np.frombuffer(content, "<f4", tensor.elements, tensor.offset).reshape(tensor.shape)
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)


def test_on_the_oldest_onnxruntime(job, trained):
    if not OLDEST.exists() or not list(OLDEST.parent.parent.rglob("site-packages/onnxruntime")):
        missing("no environment with onnxruntime 1.17.3 (make test makes one)")
    version = run(OLDEST, "-c", "import onnxruntime; print(onnxruntime.__version__)")
    assert version.strip() == "1.17.3"
    check_sample(OLDEST, job[0], trained)


def test_on_the_newest_onnxruntime(job, trained, inference_python):
    check_sample(inference_python, job[0], trained)


def test_the_sample_needs_numpy_and_onnxruntime_alone():
    text = (ROOT / "samples" / "python" / "train.py").read_text()
    imports = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert imports == {"hashlib", "json", "os", "sys", "pathlib", "numpy", "onnxruntime"}


def node(package: str) -> str:
    found = shutil.which("node")
    if found is None or not (JS / "node_modules" / package).is_dir():
        missing(f"no node with {package} (make test installs the package)")
    return found


@pytest.mark.parametrize("package", ["onnxruntime-node", "onnxruntime-web"])
def test_in_node(job, package):
    folder, losses = job
    said = json.loads(run(node(package), JS / "node.mjs", package, folder / "artifacts", folder / "batches.json"))
    close(said["losses"], losses)


def test_in_a_real_browser(job):
    folder, losses = job
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        missing("no Chromium (make test installs it where apt-get can)")
    script = JS / "chromium.mjs"
    said = json.loads(run(node("playwright-core"), script, browser, folder / "artifacts", folder / "batches.json"))
    assert "error" not in said, said
    close(said["losses"], losses)


def test_the_webgpu_profile_is_the_packages_own_table():
    table = WEB / "docs" / "webgpu-operators.md"
    if not table.is_file():
        missing("onnxruntime-web is not installed (make test does)")
    listed = set(re.findall(r"^\| (\w+) \| [^|]*ai\.onnx\(", table.read_text(), re.MULTILINE))
    missing_now = PROFILES["webgpu"] - listed
    assert not missing_now, f"the newest onnxruntime-web has no {missing_now}"


def webgpu(model, folder, strategy="all"):
    opened = open_model(model)
    x = np.random.default_rng(0).standard_normal((32, *opened.inputs[0].shape[1:])).astype(np.float32)
    selection = select(score(opened, x, scoring=Scoring(samples=32)), strategy=strategy)
    plain, profiled = (
        make_artifacts(
            opened,
            selection,
            folder / (profile or "plain"),
            backend="portable",
            choices=Choices(optimizer="adamw", clip_norm=1.0, profile=profile),
        )
        for profile in (None, "webgpu")
    )
    return plain, profiled, x


@pytest.mark.parametrize("name", ["conv", "attention", "pool"])
def test_the_webgpu_profile_uses_only_what_is_listed_and_trains_the_same(name, tmp_path, rng):
    if name == "pool":
        nodes = [
            onnx.helper.make_node("Conv", ["input", "a.weight"], ["c"], "/a", pads=[1] * 4),
            onnx.helper.make_node("Clip", ["c", "zero", "six"], ["r"], "/clip"),
            onnx.helper.make_node("MaxPool", ["r"], ["p"], "/pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
            onnx.helper.make_node("Conv", ["p", "b.weight"], ["d"], "/b", group=2, strides=[2, 2]),
            onnx.helper.make_node("Flatten", ["d"], ["f"], "/flat"),
            onnx.helper.make_node("Gemm", ["f", "fc.weight"], ["logits"], "/fc"),
        ]
        values = {
            "a.weight": tiny.normal(4, 3, 3, 3),
            "b.weight": tiny.normal(6, 2, 2, 2),
            "fc.weight": tiny.normal(24, 3),
            "zero": np.array(0, np.float32),
            "six": np.array(6, np.float32),
        }
        model = tiny.build(nodes, values)
    else:
        model = tiny.conv_net() if name == "conv" else tiny.attention("four axes")
    plain, profiled, x = webgpu(model, tmp_path)
    for what in ("step", "gradients", "update", "evaluation"):
        operators = {n.op_type for n in onnx.load(profiled.file(what)).graph.node}
        assert operators <= PROFILES["webgpu"], operators - PROFILES["webgpu"]
    labels = rng.integers(0, 3, 8)
    losses = []
    for manifest in (plain, profiled):
        session = manifest.session(manifest.initial)
        losses.append([session.step({manifest.feed_names[0][0]: x[:8]}, labels, 1e-2)[0] for _ in range(4)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_what_a_profile_lacks_is_named(tmp_path):
    nodes = [
        onnx.helper.make_node("MatMul", ["input", "a.weight"], ["h"], "/a"),
        onnx.helper.make_node("Softsign", ["h"], ["s"], "/odd"),
        onnx.helper.make_node("MatMul", ["s", "b.weight"], ["logits"], "/b"),
    ]
    model = tiny.build(nodes, {"a.weight": tiny.normal(6, 8), "b.weight": tiny.normal(8, 3)}, input_shape=["N", 6])
    with pytest.raises(UsageError, match="the profile webgpu has no Softsign, which is node '/odd'"):
        webgpu(model, tmp_path)
