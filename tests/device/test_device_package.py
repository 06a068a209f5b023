"""Packages for devices: they train like the artifacts, and stay within the documented size."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import command_of
from conftest import ROOT, SHARED, missing
from models import tiny

from adabet_onnx import (
    Choices,
    Choosing,
    DeviceScoring,
    ModelError,
    OutputError,
    Packing,
    Trainer,
    UsageError,
    export_model,
    make_artifacts,
    make_device,
    make_menu,
    open_model,
    score,
    select,
)
from adabet_onnx.files import sha256_of_files
from adabet_onnx.training.samples import sample_feeds, sample_labels

DEMO = ROOT / "adabet_onnx" / "demo"
MODEL, DATA = DEMO / "digits.onnx", DEMO / "digits_shifted.npz"
PLAIN = Packing(scoring=None)


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name."""
    made = session(path)
    given = {value.name: feeds[value.name] for value in made.get_inputs()}
    return dict(zip([value.name for value in made.get_outputs()], made.run(None, given), strict=True))


def stored(folder: Path, entry: dict, file: str) -> dict[str, np.ndarray]:
    """Tensors of a file of the package; the optimizer's start at zero."""
    data, found = (folder / file).read_bytes(), {}
    for tensor in entry["tensors"]:
        shape, count = tensor["shape"], math.prod(tensor["shape"])
        inside = tensor["kind"] != "optimizer"
        flat = np.frombuffer(data, "<f4", count, tensor["offset"]) if inside else np.zeros(count, np.float32)
        found[tensor["input"]] = flat.reshape(shape)
    return found


def features(folder: Path, entry: dict, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs of a step."""
    made = {} if entry["frozen"] is None else run(folder / entry["frozen"], feeds)
    return {
        kept["name"]: made[kept["name"]] if kept["input"] is None else feeds[kept["input"]]
        for kept in entry["boundary"]
    }


def steps(folder: Path, entry: dict, feeds: dict, labels: np.ndarray, rate: float, count: int) -> tuple[list, dict]:
    """Losses of steps on one batch, and the tensors after them, by device.json alone."""
    names, values, losses = entry["names"], stored(folder, entry, entry["state"]), []
    kept = features(folder, entry, feeds) | {
        names["labels"]: labels,
        names["learning_rate"]: np.array(rate, np.float32),
    }
    for number in range(1, count + 1):
        found = run(folder / entry["step"], {**kept, **values, names["step"]: np.array(number)})
        losses.append(float(found[names["loss"]]))
        values = {tensor["input"]: found[tensor["output"]] for tensor in entry["tensors"]}
    return losses, values


def personal(entry: dict, values: dict[str, np.ndarray]) -> bytes:
    """The content of selected.bin."""
    data = bytearray(entry["selected_bytes"])
    for tensor in entry["tensors"]:
        if tensor["kind"] != "optimizer":
            data[tensor["offset"] : tensor["offset"] + tensor["bytes"]] = values[tensor["input"]].tobytes()
    return bytes(data)


def artifacts(tmp_path: Path, model, *, choices: Choices | None = None, **how) -> Path:
    opened = open_model(model)
    make_artifacts(
        opened, select(opened, **how), tmp_path / "artifacts", choices=choices, backend="portable", check=False
    )
    return tmp_path / "artifacts"


CASES = {
    "resnet18": {"strategy": "last", "rho": 0.2},
    "mobilenetv2": {"strategy": "norm-bias"},
    "bert_masked": {"strategy": "last", "rho": 0.2},
    "vit_tiny": {"strategy": "head"},
    "unet_resize": {"strategy": "last", "rho": 0.3},
    "lstm": {"strategy": "all"},
    "gpt": {"strategy": "last", "rho": 0.3},
    "mlp": {"strategy": "all"},
}


@pytest.fixture
def command(monkeypatch, capfd):
    return command_of(monkeypatch, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_package_trains_as_its_artifacts_do(tmp_path, name):
    from adabet_onnx.training.manifest import load_manifest

    if importlib.util.find_spec("torch") is None:
        missing("torch is not installed")
    from models import architectures

    model = onnx.load_from_string(architectures.export(name))
    folder = artifacts(tmp_path, model, **CASES[name])
    content = make_device(folder, tmp_path / "device", packing=PLAIN)
    entry, manifest = content["entries"][0], load_manifest(folder)
    feeds = sample_feeds(manifest, 3)
    original = manifest.session(manifest.initial)
    shape = (3, *manifest.logits_shape[1:])
    labels = sample_labels(manifest, np.zeros(shape, np.float32))
    losses, values = steps(tmp_path / "device", entry, feeds, labels, 0.01, 3)
    expected = [original.step(feeds, labels, 0.01)[0] for _ in range(3)]
    assert losses == pytest.approx(expected, rel=1e-6)
    for tensor in entry["tensors"]:
        if tensor["kind"] == "parameter":
            np.testing.assert_allclose(
                values[tensor["input"]],
                original.parameter(tensor["name"]),
                rtol=1e-5,
                atol=1e-6,
                err_msg=tensor["name"],
            )
    check_files(tmp_path / "device", content)
    before = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, feeds
    )
    start = stored(tmp_path / "device", entry, entry["state"])
    for found in (
        run(tmp_path / "device" / entry["prediction"], feeds | start),
        run(tmp_path / "device" / entry["model"], feeds),
    ):
        for value, array in zip(found.values(), before, strict=True):
            np.testing.assert_allclose(value, array, rtol=1e-4, atol=1e-5)


def check_files(folder: Path, content: dict) -> None:
    """Check that device.json describes the files and tensors correctly."""
    written = {key: value for key, value in content.items() if key not in ("left_out", "notes")}
    assert json.loads((folder / "device.json").read_text()) == written
    names = {path.name for path in folder.iterdir()} - {"device.json"}
    assert names == {file["name"] for file in content["files"]}
    for file in content["files"]:
        assert (folder / file["name"]).stat().st_size == file["bytes"]
        assert sha256_of_files([folder / file["name"]]) == file["sha256"]
    shared = [value["name"] for value in content["inputs"]]
    for entry in content["entries"]:
        kinds = [tensor["kind"] for tensor in entry["tensors"]]
        assert kinds == sorted(kinds, key=("parameter", "statistic", "optimizer").index)
        end = 0
        for tensor in entry["tensors"]:
            assert tensor["offset"] % 64 == 0
            assert tensor["offset"] >= end
            assert tensor["bytes"] == 4 * math.prod(tensor["shape"])
            end = tensor["offset"] + tensor["bytes"]
        names, own = entry["names"], [tensor["input"] for tensor in entry["tensors"]]
        personal_ones = [tensor["input"] for tensor in entry["tensors"] if tensor["kind"] != "optimizer"]
        boundary = [kept["name"] for kept in entry["boundary"]]
        orders = {
            "step": [*boundary, names["labels"], *own, names["learning_rate"], names["step"]],
            "evaluation": [*boundary, names["labels"], *personal_ones],
            "prediction": [*shared, *personal_ones],
            "model": shared,
        }
        for what, order in orders.items():
            inputs = [value.name for value in session(folder / entry[what]).get_inputs()]
            assert inputs == [name for name in order if name in inputs], what
        results = [value.name for value in session(folder / entry["step"]).get_outputs()]
        assert results == [names["loss"], names["logits"], *(tensor["output"] for tensor in entry["tensors"])]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The demo's artifacts, trained."""
    folder = tmp_path_factory.mktemp("device") / "artifacts"
    make_artifacts(MODEL, select(score(MODEL, DATA), rho=0.1), folder, check=False)
    Trainer(folder).fit(DATA, epochs=2, learning_rate=0.01)
    return folder


def test_the_personal_model_follows_one_small_file(tmp_path, trained):
    """device.onnx with the trained selected.bin gives the same as the exported model."""
    content = make_device(trained, tmp_path / "device", start="initial", packing=PLAIN)
    entry, device = content["entries"][0], tmp_path / "device"
    x = np.random.default_rng(0).standard_normal((5, 1, 16, 16)).astype(np.float32)
    export_model(trained, tmp_path / "adapted.onnx")
    initial = run(device / entry["model"], {"input": x})["logits"]
    after = make_device(trained, tmp_path / "trained", start="trained", packing=PLAIN)["entries"][0]
    (device / entry["selected"]).write_bytes((tmp_path / "trained" / after["selected"]).read_bytes())
    found = run(device / entry["model"], {"input": x})["logits"]
    expected = run(tmp_path / "adapted.onnx", {"input": x})["logits"]
    assert np.array_equal(found, expected)
    assert not np.allclose(found, initial, atol=1e-3)
    predicted = run(device / entry["prediction"], {"input": x} | stored(tmp_path / "trained", after, after["state"]))
    np.testing.assert_allclose(predicted["logits"], expected, rtol=1e-5, atol=1e-6)


def test_a_package_of_trained_artifacts_is_the_exported_model(tmp_path, trained):
    """Its state and selected.bin have the trained values, so that device.onnx predicts as adapted.onnx does."""
    entry = make_device(trained, tmp_path / "device", packing=PLAIN)["entries"][0]
    device = tmp_path / "device"
    assert (device / entry["state"]).read_bytes() == (device / entry["selected"]).read_bytes()
    export_model(trained, tmp_path / "adapted.onnx")
    x = np.random.default_rng(0).standard_normal((5, 1, 16, 16)).astype(np.float32)
    found, expected = (run(path, {"input": x}) for path in (device / entry["model"], tmp_path / "adapted.onnx"))
    assert np.array_equal(found["logits"], expected["logits"])
    before = run(MODEL, {"input": x})["logits"]
    assert not np.allclose(found["logits"], before, atol=1e-3)


def test_what_it_begins_with(tmp_path, trained):
    """The last training's values and settings, unless the model's are requested; moments always start at zero."""
    last = make_device(trained, tmp_path / "trained", packing=PLAIN)
    first = make_device(trained, tmp_path / "initial", start="initial", packing=PLAIN)
    assert last["training"]["learning_rate"] == 0.01
    assert first["training"]["learning_rate"] == 0.001
    sizes = {(tmp_path / name / "state.bin").stat().st_size for name in ("trained", "initial")}
    assert sizes == {last["entries"][0]["selected_bytes"]}
    weights = [
        stored(tmp_path / name, content["entries"][0], "state.bin")
        for name, content in (("trained", last), ("initial", first))
    ]
    model = onnx.load(MODEL)
    of_model = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert np.array_equal(weights[1]["head.weight"], of_model["head.weight"])
    assert not np.array_equal(weights[0]["head.weight"], of_model["head.weight"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices",
    [
        Choices(batch_norm="batch"),
        Choices(optimizer="sgd"),
        Choices(optimizer="sgd", momentum=0.9, clip_norm=1.0),
        Choices(optimizer="adamw-torch", weight_decay=0.1, recompute=True),
    ],
    ids=["statistics", "sgd", "momentum", "recompute"],
)
def test_choices(tmp_path, choices):
    folder = artifacts(tmp_path, MODEL, choices=choices, strategy="last", rho=0.3)
    content = make_device(folder, tmp_path / "device", packing=PLAIN)
    check_files(tmp_path / "device", content)
    entry = content["entries"][0]
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 1, 16, 16)).astype(np.float32), rng.integers(0, 10, 8)
    losses, values = steps(tmp_path / "device", entry, {"input": x}, y, 0.01, 8)
    assert losses[-1] < losses[0]
    kinds = {tensor["kind"] for tensor in entry["tensors"]}
    assert ("statistic" in kinds) == (choices.batch_norm == "batch")
    assert ("optimizer" in kinds) == (choices.optimizer != "sgd" or choices.momentum > 0)
    (tmp_path / "device" / "selected.bin").write_bytes(personal(entry, values))
    found = run(tmp_path / "device" / entry["model"], {"input": x})["logits"]
    predicted = run(tmp_path / "device" / entry["prediction"], {"input": x} | values)["logits"]
    np.testing.assert_allclose(found, predicted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_channels(tmp_path):
    """For partly trained layers, selected.bin has the trained part, and the personal model the whole tensor."""
    from adabet_onnx import Scoring

    scores = score(MODEL, DATA, scoring=Scoring(channels=True))
    selection = select(scores, choosing=Choosing(strategy="last", rho=0.3, channel_rho=0.5))
    make_artifacts(MODEL, selection, tmp_path / "artifacts", check=False)
    Trainer(tmp_path / "artifacts").fit(DATA, epochs=1, learning_rate=0.01)
    content = make_device(tmp_path / "artifacts", tmp_path / "device", packing=PLAIN)
    check_files(tmp_path / "device", content)
    entry = content["entries"][0]
    parts = [tensor for tensor in entry["tensors"] if "channels" in tensor]
    assert parts
    assert all(t["shape"][t["channels"]["axis"]] == len(t["channels"]["indices"]) for t in parts)
    export_model(tmp_path / "artifacts", tmp_path / "adapted.onnx")
    x = np.random.default_rng(0).standard_normal((5, 1, 16, 16)).astype(np.float32)
    found, expected = (
        run(path, {"input": x})["logits"] for path in (tmp_path / "device" / entry["model"], tmp_path / "adapted.onnx")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_probabilities_are_among_the_outputs(tmp_path):
    model = onnx.load(MODEL)
    model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
    model.graph.output.append(onnx.helper.make_tensor_value_info("probabilities", 1, ["N", 10]))
    folder = artifacts(tmp_path, model, strategy="head")
    content = make_device(folder, tmp_path / "device", packing=PLAIN)
    assert [(output["name"], output["role"]) for output in content["outputs"]] == [
        ("logits", "logits"),
        ("probabilities", "probabilities"),
    ]
    x = np.random.default_rng(0).standard_normal((5, 1, 16, 16)).astype(np.float32)
    found = run(tmp_path / "device" / "device.onnx", {"input": x})
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, rtol=1e-6)


def test_an_input_with_a_name_that_training_has(tmp_path):
    """Graphs of a package take the model's names."""
    model = onnx.load(MODEL)
    for node in model.graph.node:
        node.input[:] = ["labels" if name == "input" else name for name in node.input]
    model.graph.input[0].name = "labels"
    folder = artifacts(tmp_path, model, strategy="last", rho=0.2)
    content = make_device(folder, tmp_path / "device", packing=PLAIN)
    entry = content["entries"][0]
    assert [value["name"] for value in content["inputs"]] == ["labels"]
    for what in ("frozen", "prediction", "model"):
        assert session(tmp_path / "device" / entry[what]).get_inputs()[0].name == "labels"


def test_mobile_graphs_take_one_sample(tmp_path, trained):
    content = make_device(trained, tmp_path / "device", packing=Packing(profile="mobile"))
    entry = content["entries"][0]
    assert content["forward_batch"] == 1
    for what in (entry["frozen"], entry["prediction"], entry["model"], content["scoring"]["file"]):
        assert session(tmp_path / "device" / what).get_inputs()[0].shape == [1, 1, 16, 16]
    assert session(tmp_path / "device" / entry["step"]).get_inputs()[0].shape[0] == "N"
    x = np.random.default_rng(0).standard_normal((3, 1, 16, 16)).astype(np.float32)
    plain = make_device(trained, tmp_path / "plain", packing=PLAIN)["entries"][0]
    together = run(tmp_path / "plain" / plain["model"], {"input": x})["logits"]
    alone = [run(tmp_path / "device" / entry["model"], {"input": x[i : i + 1]})["logits"] for i in range(3)]
    np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-5, atol=1e-6)


def test_webgpu(tmp_path, trained):
    """Training graphs are in the forms of the profile; the default is that of the artifacts."""
    with pytest.raises(UsageError, match="Make the artifacts again with `profile='webgpu'`"):
        make_device(trained, tmp_path / "device", packing=Packing(profile="webgpu"))
    folder = artifacts(tmp_path, MODEL, choices=Choices(profile="webgpu"), strategy="last", rho=0.3)
    content = make_device(folder, tmp_path / "device")
    assert content["profile"] == "webgpu"
    check_files(tmp_path / "device", content)
    for what in ("frozen", "step", "evaluation", "prediction", "model"):
        graph = onnx.load(tmp_path / "device" / content["entries"][0][what], load_external_data=False).graph
        assert all(len(node.input) <= 7 for node in graph.node if node.op_type == "Concat")
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        assert all({"pads", "strides", "dilations"} <= {a.name for a in node.attribute} for node in convolutions)
    menu = make_menu(MODEL, tmp_path / "menu", entries=1, packing=Packing(profile="webgpu"), check=False)
    assert menu["profile"] == "webgpu"


def test_ort_format(tmp_path, trained):
    content = make_device(trained, tmp_path / "device", packing=Packing(ort_format=True))
    entry, folder = content["entries"][0], tmp_path / "device"
    assert not list(folder.glob("*.onnx"))
    assert entry["model"] is None
    assert content["weights"] is None
    config = (folder / "required_operators.config").read_text()
    assert "Conv" in config
    assert "ai.onnx;14;" in config
    assert str(tmp_path) not in config, "it does not say where it was made"
    plain = make_device(trained, tmp_path / "plain", packing=PLAIN)["entries"][0]
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 1, 16, 16)).astype(np.float32), rng.integers(0, 10, 8)
    found, expected = (
        steps(place, made, {"input": x}, y, 0.01, 3)[0]
        for place, made in ((folder, entry), (tmp_path / "plain", plain))
    )
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20_cifar10_bn", "mobilenetv2_035_imagenet128", "mobilenetv1_025_vww96_folded"])
@pytest.mark.parametrize("how", [{"strategy": "head"}, {"strategy": "last", "rho": 0.1}, {"strategy": "all"}])
def test_a_package_is_hardly_larger_than_its_model(tmp_path, name, how):
    """At most 1.1 times the model, three times what is trained, and 1 MB."""
    path = SHARED / "models" / f"{name}.onnx"
    if not path.is_file():
        missing("the shared models are not there")
    content = make_device(artifacts(tmp_path, path, **how), tmp_path / "device")
    size = sum(file.stat().st_size for file in (tmp_path / "device").iterdir())
    assert size <= 1.1 * path.stat().st_size + 12 * content["entries"][0]["trained"] + 1e6


@pytest.mark.slow
def test_a_menu(tmp_path):
    scores = score(MODEL, DATA)
    content = make_menu(MODEL, tmp_path / "device", scores=scores, entries=5, check=False)
    check_files(tmp_path / "device", content)
    names = [entry["name"] for entry in content["entries"]]
    assert len(names) == 5
    assert {"head", "adabet-25", "last-25", "norm-bias"} <= set(names)
    assert len({tuple(entry["layers"]) for entry in content["entries"]}) == len(names)
    assert content["preprocessing"]["scale"] == scores.preprocessing["scale"]
    adabet = next(entry for entry in content["entries"] if entry["name"] == "adabet-25")
    assert tuple(adabet["layers"]) == select(scores, rho=0.25).layers
    x = np.random.default_rng(0).standard_normal((4, 1, 16, 16)).astype(np.float32)
    expected = run(MODEL, {"input": x})["logits"]
    for entry in content["entries"]:
        np.testing.assert_allclose(
            run(tmp_path / "device" / entry["model"], {"input": x})["logits"], expected, atol=1e-5
        )
    weights = (tmp_path / "device" / "weights.bin").stat().st_size
    assert weights < 3 * MODEL.stat().st_size, "entries share what none of them trains"


def test_a_menu_without_scores_and_with_fewer_entries(tmp_path):
    content = make_menu(
        MODEL, tmp_path / "device", entries=3, packing=Packing(scoring=DeviceScoring(samples=16)), check=False
    )
    assert [entry["name"] for entry in content["entries"]] == ["head", "norm-bias", "last-25"]
    assert content["scoring"]["samples"] == 16
    assert content["scoring"]["points"] == 16


def test_scoring_counts_what_the_model_has(tmp_path, trained):
    content = make_device(trained, tmp_path / "device", packing=Packing(scoring=DeviceScoring(sketch=512)))
    x = np.random.default_rng(0).standard_normal((1, 1, 16, 16)).astype(np.float32)
    found = run(tmp_path / "device" / content["scoring"]["file"], {"input": x})
    layers = {layer.name: layer.activation_size for layer in open_model(MODEL).layers}
    for layer in content["scoring"]["layers"]:
        assert found[layer["output"]].shape == (1, layer["numbers"])
        assert layers[layer["name"]] == layer["size"]
    assert [layer["name"] for layer in content["scoring"]["layers"]] == list(layers)


def test_refused(tmp_path, trained, training):
    with pytest.raises(UsageError, match="unknown `profile` 'watch': choose one of webgpu, mobile"):
        Packing(profile="watch")
    with pytest.raises(UsageError, match="`samples` must be from 8 to 128, not 1000"):
        DeviceScoring(samples=1000)
    with pytest.raises(UsageError, match="`start` 'now'"):
        make_device(trained, tmp_path / "device", start="now")
    with pytest.raises(OutputError, match="the folder contains other files"):
        make_device(trained, Path(__file__).parent)
    make_artifacts(MODEL, select(MODEL, strategy="head"), tmp_path / "ort", backend="ort", check=False)
    with pytest.raises(UsageError, match="backend='portable'"):
        make_device(tmp_path / "ort", tmp_path / "device")
    with pytest.raises(UsageError, match="at least 1 of `entries`"):
        make_menu(MODEL, tmp_path / "device", entries=0)
    assert not (tmp_path / "device").exists()


def test_a_package_written_anew_takes_nothing_along(tmp_path, trained):
    folder = tmp_path / "device"
    for _ in range(2):
        make_device(trained, folder, packing=PLAIN)
    (folder / "mine.safetensors").write_bytes(b"learned")
    before = sorted(folder.iterdir())
    for write in (lambda: make_device(trained, folder, packing=PLAIN), lambda: make_menu(MODEL, folder, entries=1)):
        with pytest.raises(OutputError, match=r"device: besides a package it contains mine\.safetensors.*Move that"):
            write()
    assert sorted(folder.iterdir()) == before
    (folder / "device.json").write_text("{}")  # a file of another program
    with pytest.raises(OutputError, match=r"not named in device\.json"):
        make_device(trained, folder, packing=PLAIN)


def test_a_label_to_ignore_is_refused(tmp_path):
    """Devices only ignore -100: another label would be trained as a class."""
    folder = artifacts(tmp_path, MODEL, choices=Choices(ignore_label=255), strategy="head")
    with pytest.raises(UsageError, match=r"ignore the label 255, .* Make them again without `ignore_label`"):
        make_device(folder, tmp_path / "device")


def test_nothing_that_can_be_trained(tmp_path, monkeypatch):
    def refuses(*_, **__):
        raise ModelError("no gradient")

    monkeypatch.setattr("adabet_onnx.device.menu.make_artifacts", refuses)
    with pytest.raises(ModelError, match="no choice of layers can be trained: no gradient"):
        make_menu(MODEL, tmp_path / "device")
    assert not (tmp_path / "device").exists()


def test_why_nothing_can_be_trained_is_what_stopped_the_first_choice(tmp_path):
    model = tiny.mlp(classes=1)  # it has no normalisations either, but that is not the reason
    with pytest.raises(ModelError, match=r"no choice of layers can be trained: cross-entropy needs an output"):
        make_menu(model, tmp_path / "device")
    assert not (tmp_path / "device").exists()


def test_commands(tmp_path, trained, command):
    made = command("device", trained, "-o", tmp_path / "device", "--sketch", 512)
    assert "any onnxruntime from 1.17 on" in made.out
    assert json.loads((tmp_path / "device" / "device.json").read_text())["scoring"]["layers"][0]["numbers"] == 512
    made = command("menu", MODEL, "-o", tmp_path / "menu", "--entries", 2, "--no-check", "--json")
    assert [entry["name"] for entry in json.loads(made.out)["entries"]] == ["head", "norm-bias"]
    made = command("device", tmp_path, "-o", tmp_path / "x", code=1)
    assert "is not an artifact folder" in made.err
    made = command("device", trained, "-o", tmp_path / "x", "--sketch", "auto", code=2)
    assert "--sketch 1024" in made.err
    assert not os.path.exists(tmp_path / "x")
