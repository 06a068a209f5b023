"""Artifacts of the profile webgpu: their form, what they compute, and the same steps in a browser on WebGPU."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from conftest import ROOT, missing
from models import gpu_forms, tiny

from adabet_onnx import UsageError, make_artifacts, open_model, score, select
from adabet_onnx.portable.profiles import PROFILES, fit_profile
from adabet_onnx.portable.shapes import annotate
from adabet_onnx.portable.webgpu import MOST
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training.export import adapted_proto
from adabet_onnx.training.history import LAST

pytestmark = pytest.mark.usefixtures("checked_here")
JS = ROOT / "tests" / "js"
BUNDLES = ("ort.min.mjs", "ort.webgpu.min.mjs")
GRAPHS = ("frozen", "step", "gradients", "update", "evaluation")
CONVOLUTIONS = {"kernel_shape", "strides", "dilations", "pads", "group"}
BATCH, RATE = 8, 1e-3
TOLERANCE = 1e-4


def fitted(model: onnx.ModelProto) -> onnx.ModelProto:
    """As the profile writes it."""
    made = ir.from_proto(model)
    annotate(made)
    fit_profile("webgpu", made)
    proto = ir.to_proto(made)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def outputs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)


def check_form(graph: onnx.GraphProto) -> None:
    """No node of a graph has more than eight buffers or leaves out what a convolution needs."""
    for node in graph.node:
        assert node.op_type in PROFILES["webgpu"], node.op_type
        if node.op_type in ("Concat", "Split"):
            assert len(node.input if node.op_type == "Concat" else node.output) <= MOST, node.name
        if node.op_type in ("Conv", "ConvTranspose"):
            assert {attribute.name for attribute in node.attribute} >= CONVOLUTIONS, node.name
        for attribute in node.attribute:
            assert attribute.name not in ("auto_pad", "output_shape", "ceil_mode", "reverse"), node.name
            if attribute.HasField("g"):
                check_form(attribute.g)


@pytest.mark.parametrize("name", gpu_forms.FORMS)
def test_another_form_computes_the_same(name):
    model, feeds = gpu_forms.FORMS[name]
    made = fitted(model)
    check_form(made.graph)
    assert [value.name for value in made.graph.output] == [value.name for value in model.graph.output]
    for found, expected in zip(outputs(made, feeds), outputs(model, feeds), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_concat_is_a_tree_of_few_inputs():
    made = fitted(gpu_forms.FORMS["Concat of 51"][0])
    assert [len(node.input) for node in made.graph.node] == [7] * 7 + [2, 7, 2]


@pytest.mark.parametrize("name", gpu_forms.REFUSED)
def test_what_no_form_helps_is_refused(name):
    (model, _), message = gpu_forms.REFUSED[name]
    with pytest.raises(UsageError, match=message):
        fitted(model)


def test_inside_an_if(rng):
    """The branches of an If are graphs of the artifacts too."""
    names = [f"x{i}" for i in range(9)]
    x = {name: rng.standard_normal((2, 1)).astype(np.float32) for name in names}
    result = onnx.helper.make_tensor_value_info("z", 1, [2, 9])
    branches = {
        f"{which}_branch": onnx.helper.make_graph(
            [onnx.helper.make_node("Concat", order, ["z"], f"/{which}", axis=1)], which, [], [result]
        )
        for which, order in (("then", names), ("else", names[::-1]))
    }
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("If", ["on"], ["y"], "/if", **branches)],
        "if",
        [onnx.helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, [])]
        + [onnx.helper.make_tensor_value_info(name, 1, [2, 1]) for name in names],
        [onnx.helper.make_tensor_value_info("y", 1, [2, 9])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    made = fitted(model)
    check_form(made.graph)
    for on in (True, False):
        feeds = {"on": np.array(on), **x}
        np.testing.assert_array_equal(outputs(made, feeds)[0], outputs(model, feeds)[0])


def odd_net() -> onnx.ModelProto:
    """Convolutions that leave attributes out, a ceil_mode, and a Concat of ten."""
    channels = [f"c{i}" for i in range(10)]
    nodes = [
        onnx.helper.make_node("Conv", ["input", "a.weight"], ["a"], "/a"),
        onnx.helper.make_node("Relu", ["a"], ["r"], "/relu"),
        onnx.helper.make_node("MaxPool", ["r"], ["p"], "/pool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        onnx.helper.make_node("Split", ["p"], channels, "/split", axis=1),
        onnx.helper.make_node("Concat", channels[::-1], ["j"], "/join", axis=1),
        onnx.helper.make_node("Conv", ["j", "b.weight"], ["b"], "/b", pads=[1] * 4),
        onnx.helper.make_node("Relu", ["b"], ["s"], "/relu2"),
        onnx.helper.make_node("GlobalAveragePool", ["s"], ["g"], "/mean"),
        onnx.helper.make_node("Flatten", ["g"], ["f"], "/flat"),
        onnx.helper.make_node("Gemm", ["f", "fc.weight"], ["logits"], "/fc"),
    ]
    values = {
        "a.weight": tiny.normal(10, 3, 4, 4),
        "b.weight": tiny.normal(6, 10, 3, 3),
        "fc.weight": tiny.normal(6, 3),
    }
    return tiny.build(nodes, values)


def artifacts(model, folder, profile, *, layers=None, x=None, check=True, **choices):
    opened = open_model(model)
    if x is None:
        x = np.random.default_rng(0).standard_normal((32, *opened.inputs[0].shape[1:])).astype(np.float32)
    scores = score(opened, x[:32], scoring=Scoring(samples=32))
    selection = select(scores, layers=layers) if layers else select(scores, strategy="adabet", rho=0.1)
    made = Choices(profile=profile, **choices)
    return make_artifacts(opened, selection, folder, backend="portable", choices=made, check=check)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [["fc"], ["b", "fc"], ["a", "b", "fc"]], ids=len)
def test_every_graph_has_the_form_and_trains_the_same(layers, tmp_path, rng):
    plain, made = (
        artifacts(odd_net(), tmp_path / str(profile), profile, layers=layers, clip_norm=1.0)
        for profile in (None, "webgpu")
    )
    for what in GRAPHS:
        check_form(onnx.load(made.file(what), load_external_data=False).graph)
    x, labels = rng.standard_normal((BATCH, 3, 8, 8)).astype(np.float32), rng.integers(0, 3, BATCH)
    losses = []
    for manifest in (plain, made):
        session = manifest.session(manifest.initial)
        losses.append([session.step({manifest.feed_names[0][0]: x}, labels, 1e-2)[0] for _ in range(4)])
    assert losses[0][-1] != losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_normalisation_by_the_batch_is_refused(tmp_path):
    nodes = [
        onnx.helper.make_node("Conv", ["input", "a.weight"], ["a"], "/a"),
        onnx.helper.make_node("BatchNormalization", ["a", "n.weight", "n.bias", "n.mean", "n.var"], ["n"], "/n"),
        onnx.helper.make_node("Relu", ["n"], ["r"], "/relu"),
        onnx.helper.make_node("GlobalAveragePool", ["r"], ["g"], "/mean"),
        onnx.helper.make_node("Flatten", ["g"], ["f"], "/flat"),
        onnx.helper.make_node("Gemm", ["f", "fc.weight"], ["logits"], "/fc"),
    ]
    values = {
        "a.weight": tiny.normal(4, 3, 3, 3),
        "n.weight": tiny.normal(4),
        "n.bias": tiny.normal(4),
        "n.mean": tiny.normal(4),
        "n.var": np.ones(4, np.float32),
        "fc.weight": tiny.normal(4, 3),
    }
    model = tiny.build(nodes, values)
    with pytest.raises(UsageError, match=r"normalises by the batch \(use `batch_norm='frozen'`\), as node '/n' does"):
        artifacts(model, tmp_path / "a", "webgpu", layers=["n", "fc"], batch_norm="batch")
    assert not (tmp_path / "a").exists()
    artifacts(model, tmp_path / "a", "webgpu", layers=["fc"], batch_norm="batch")  # nothing is normalised by the batch


def browser(job: dict, folder: Path) -> dict:
    """The result of a job in a browser page; see js/webgpu.mjs."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    node = shutil.which("node")
    if found is None or node is None or not (JS / "node_modules" / "playwright-core").is_dir():
        missing("no Chromium, or no node with playwright-core (make test installs them)")
    file = folder / f"{job['bundle']}.json"
    file.write_text(json.dumps(job))
    command = [node, str(JS / "webgpu.mjs"), found, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    if said["adapter"] is None:
        missing("this Chromium has no WebGPU, not even on the CPU")
    assert "error" not in said, said
    wrong = [message for message in said["messages"] if "validation error" in message or "storage buffers" in message]
    assert not wrong, wrong
    return said


@pytest.mark.slow
@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_forms_in_a_browser(bundle, tmp_path):
    models = []
    for name, (model, feeds) in gpu_forms.FORMS.items():
        plain = {key: {"dtype": "float32", "data": v.ravel().tolist(), "shape": v.shape} for key, v in feeds.items()}
        text = base64.b64encode(fitted(model).SerializeToString()).decode()
        models.append({"name": name, "model": text, "feeds": plain})
    said = browser({"bundle": bundle, "layout": "NCHW", "models": models}, tmp_path)
    wrong = {}
    for name, (model, feeds) in gpu_forms.FORMS.items():
        found = said["found"][name]
        for key, expected in zip((v.name for v in model.graph.output), outputs(model, feeds), strict=True):
            got = np.array(found.get(key, []))
            if got.shape != (expected.size,) or not np.allclose(got, expected.ravel(), rtol=TOLERANCE, atol=TOLERANCE):
                wrong[name] = found
    assert not wrong, wrong


def trained(manifest, x, y, size, folder, bundle):
    """Losses and trained values, of this runtime and of the browser's."""
    parts = [slice(i, i + size) for i in range(0, len(x), size)]
    batches = [{"x": x[p].ravel().tolist(), "xShape": x[p].shape, "y": y[p].tolist()} for p in parts]
    job = {"bundle": bundle, "layout": "NCHW", "folder": str(manifest.file("step").parent)}
    said = browser(job | {"batches": {"batches": batches, "rate": RATE}}, folder)
    assert said["places"] == ["gpu-buffer"]  # state never leaves the GPU
    session = manifest.session(manifest.initial)
    feed = manifest.feed_names[0][0]
    losses = [float(session.step({feed: x[p]}, y[p], RATE)[0]) for p in parts]
    return said, losses, session


def check_trained(manifest, x, y, size, folder, bundle):
    """The browser's losses and trained values equal Python's, and an export with them changes nothing else."""
    said, losses, session = trained(manifest, x, y, size, folder, bundle)
    assert len(said["losses"]) == len(x) // size
    np.testing.assert_allclose(said["losses"], losses, rtol=TOLERANCE)
    assert set(said["parameters"]) == set(manifest.parameters)
    before = manifest.session(manifest.initial)
    for name, values in said["parameters"].items():
        first, mine = before.parameter(name).ravel(), session.parameter(name).ravel()
        moved = np.abs(mine - first).max()
        assert moved > 0, name
        assert np.abs(np.array(values) - mine).max() <= 0.05 * moved, name
        session.set_parameter(name, np.array(values, np.float32).reshape(before.parameter(name).shape))
    (manifest.folder / LAST).parent.mkdir(exist_ok=True)
    session.save(manifest.folder / LAST)
    adapted = adapted_proto(manifest)
    original = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(manifest.file("model")).graph.initializer
    }
    changed = {
        tensor.name
        for tensor in adapted.graph.initializer
        if not np.array_equal(onnx.numpy_helper.to_array(tensor), original[tensor.name])
    }
    assert changed == set(manifest.parameters)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Artifacts of the demo, 20 batches, their labels, and how many samples a batch has."""
    root = resources.files("adabet_onnx.demo")
    data = np.load(str(root / "digits_shifted.npz"))
    x = data["x_train"][: 20 * BATCH].astype(np.float32).transpose(0, 3, 1, 2) / 255
    folder = tmp_path_factory.mktemp("demo") / "a"
    return artifacts(str(root / "digits.onnx"), folder, "webgpu", x=x, check=False), x, data["y_train"][: len(x)], BATCH


@pytest.fixture(scope="module")
def resnet(shared, tmp_path_factory):
    """Artifacts of ResNet-20, 5 small batches, their labels and size: a step takes seconds without a GPU."""
    data = np.load(shared / "data" / "cifar10_noise5.npz")
    x = (data["x_train"][:32].astype(np.float32).transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
    folder = tmp_path_factory.mktemp("resnet") / "a"
    model = shared / "models" / "resnet20_cifar10_bn.onnx"
    manifest = artifacts(model, folder, "webgpu", x=x, check=False)
    return manifest, x[: 5 * 4], data["y_train"][: 5 * 4], 4


@pytest.mark.slow
@pytest.mark.parametrize("bundle", BUNDLES)
def test_twenty_steps_of_the_demo_in_a_browser(bundle, demo, tmp_path):
    check_trained(*demo, tmp_path, bundle)


@pytest.mark.slow
@pytest.mark.parametrize("bundle", BUNDLES)
def test_five_steps_of_resnet_in_a_browser(bundle, resnet, tmp_path):
    """With the default bundle, the Concat of nine in its weight gradient silently trained incorrectly."""
    check_trained(*resnet, tmp_path, bundle)
