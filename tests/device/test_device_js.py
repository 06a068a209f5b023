"""samples/web/core in node and WebAssembly: it scores, trains and saves as Python does, and rejects errors."""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from conftest import ROOT, missing
from device_js import RUNTIMES, Random, compiled, job, read_safetensors, run, shuffle
from models import masks, tiny

from adabet_onnx import DeviceScoring, Packing, make_artifacts, make_device, open_model, select
from adabet_onnx.scoring.betti import loops_by_ripser
from adabet_onnx.trainability.choices import Choices

pytestmark = pytest.mark.slow

BATCH, EPOCHS, RATE, SEED = 8, 2, 1e-3, 7
SAMPLES, HELD_OUT = 80, 20  # ten steps in an epoch
TOLERANCE = 1e-5
SCORING = DeviceScoring(samples=16, subset_size=12, subsets=10, sketch=256)
DIGITS = ROOT / "adabet_onnx" / "demo" / "digits.onnx"


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """The folder of compiled code."""
    return compiled(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(autouse=True)
def _checked_here(checked_here):
    """Artifacts check themselves in this process."""


def digits():
    with np.load(ROOT / "adabet_onnx" / "demo" / "digits_shifted.npz") as data:
        x, y = data["x_train"], data["y_train"]
    return (x.astype(np.float32) / 255).transpose(0, 3, 1, 2), y


def noise(model, classes):
    rng = np.random.default_rng(0)
    count = SAMPLES + HELD_OUT
    return rng.standard_normal((count, *model.inputs[0].shape[1:])).astype(np.float32), rng.integers(0, classes, count)


@pytest.fixture(scope="module", params=["demo", "resnet-20", "attention"])
def task(request, tmp_path_factory):
    """A package, its artifacts, and data as files."""
    from adabet_onnx.training import artifacts, selfcheck
    from adabet_onnx.training.manifest import load_manifest

    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "demo":
        model = open_model(DIGITS)
        x, y = digits()
        selection = select(model, strategy="all")
    elif request.param == "resnet-20":
        path = ROOT.parent / "shared" / "models" / "resnet20_cifar10_bn.onnx"
        if not path.is_file():
            missing("the shared models are not beside the project")
        model = open_model(path)
        x, y = noise(model, 10)
        selection = select(model, layers=["blocks.9.conv2", "blocks.10.fc"])
    else:
        model = open_model(tiny.attention("four axes"))
        x, y = noise(model, 3)
        selection = select(model, strategy="all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "check_in_subprocess", lambda made: selfcheck.check(load_manifest(made)))
        manifest = make_artifacts(model, selection, folder / "artifacts", backend="portable")
    content = make_device(folder / "artifacts", folder / "device", packing=Packing(scoring=SCORING))
    parts = {"x": x[:SAMPLES], "y": y[:SAMPLES], "heldX": x[SAMPLES:][:HELD_OUT], "heldY": y[SAMPLES:][:HELD_OUT]}
    files = {name: folder / f"{name}.bin" for name in parts}
    for name, path in files.items():
        parts[name] = np.ascontiguousarray(parts[name])
        parts[name].tofile(path)
    return SimpleNamespace(folder=folder, manifest=manifest, content=content, parts=parts, files=files)


@pytest.fixture(scope="module", params=RUNTIMES)
def trained(request, core, task, tmp_path_factory):
    """The report of training on a runtime, and the folder with its files."""
    output = tmp_path_factory.mktemp("trained")
    settings = {"epochs": EPOCHS, "batch": BATCH, "rate": RATE, "seed": SEED}
    before = hashes(task.folder / "device")
    said = job(core, "train", request.param, package=task.folder / "device", output=output, **task.files, **settings)
    assert hashes(task.folder / "device") == before, "training leaves the package as it is"
    return said, output


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def session_of(folder: Path, name: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])


def test_losses_are_those_of_the_artifacts_in_python(task, trained):
    said, _ = trained
    session, x, y = task.manifest.session(task.manifest.initial), task.parts["x"], task.parts["y"]
    name, expected = task.content["inputs"][0]["name"], []
    for epoch in range(1, EPOCHS + 1):
        for rows in np.reshape(shuffle(SAMPLES, SEED, epoch), (-1, BATCH)):
            expected.append(session.step({name: x[rows]}, y[rows], RATE)[0])
    assert len(expected) == 20
    assert expected[0] != expected[-1]
    np.testing.assert_allclose(said["losses"], expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_delta_carried_to_python_gives_equal_accuracy(task, trained):
    said, output = trained
    entry, device = task.content["entries"][0], task.folder / "device"
    metadata, tensors = read_safetensors(output / "delta.safetensors")
    assert metadata["model_sha256"] == task.content["model_sha256"]
    assert metadata["format"] == "adabet-onnx/delta"
    body = b"".join(array.tobytes() for array in tensors.values())
    assert hashlib.sha256(body).hexdigest() == metadata["sha256"]
    for sample in ("initial", "selected"):
        assert (output / f"{sample}.bin").stat().st_size == entry["selected_bytes"]
    session = session_of(device, entry["prediction"])
    trained_ones = [tensor for tensor in entry["tensors"] if tensor["kind"] != "optimizer"]
    assert [tensor["name"] for tensor in trained_ones] == list(tensors)
    feeds = {tensor["input"]: tensors[tensor["name"]] for tensor in trained_ones}
    given = {task.content["inputs"][0]["name"]: task.parts["heldX"], **feeds}
    taken = {value.name for value in session.get_inputs()}
    logits = session.run(None, {name: array for name, array in given.items() if name in taken})[0]
    right = int((logits.argmax(1) == task.parts["heldY"]).sum())
    assert said["after"]["accuracy"] == right / HELD_OUT
    assert said["after"] == said["heldOut"][-1]
    assert said["before"]["loss"] != said["after"]["loss"]
    found = np.fromfile(output / "predicted.bin", np.float32).reshape(logits.shape)
    np.testing.assert_allclose(found, logits, rtol=TOLERANCE, atol=TOLERANCE * np.abs(logits).max())


def test_the_personal_model_is_the_trained_one(task, trained):
    _, output = trained
    entry, device = task.content["entries"][0], task.folder / "device"
    found, personal = (np.fromfile(output / f"{name}.bin", np.float32) for name in ("predicted", "personal"))
    scale = np.abs(found).max()
    np.testing.assert_allclose(personal, found, rtol=0, atol=TOLERANCE * scale)
    classes = entry["logits_shape"][-1]
    assert (personal.reshape(-1, classes).argmax(1) == found.reshape(-1, classes).argmax(1)).all()
    copied = output / "personal"
    copied.mkdir()
    for name in (entry["model"], "weights.bin"):
        if (device / name).is_file():
            (copied / name).write_bytes((device / name).read_bytes())
    (copied / entry["selected"]).write_bytes((output / "selected.bin").read_bytes())
    session = session_of(copied, entry["model"])
    here = session.run(None, {task.content["inputs"][0]["name"]: task.parts["heldX"]})[0]
    np.testing.assert_allclose(here.ravel(), personal, rtol=0, atol=TOLERANCE * scale)


def test_only_trained_tensors_changed(task, trained):
    _, output = trained
    entry = task.content["entries"][0]
    initial, selected = ((output / f"{name}.bin").read_bytes() for name in ("initial", "selected"))
    assert initial == (task.folder / "device" / entry["state"]).read_bytes()
    end = 0
    for tensor in entry["tensors"]:
        if tensor["kind"] == "optimizer":
            break
        place = slice(tensor["offset"], tensor["offset"] + tensor["bytes"])
        assert not any(selected[end : place.start]), "between tensors there are zeros"
        assert selected[place] != initial[place], tensor["name"]
        end = place.stop
    assert not any(selected[end:])


def test_a_run_goes_on_bit_for_bit(trained):
    said, _ = trained
    assert said["resumed"], "resumed after an epoch"
    assert said["anew"], "the frozen part recomputed for each batch"
    assert said["applied"]
    assert said["closed"] == "closed"


def expected_scores(task) -> dict[str, float]:
    """Scores by the rule of the format, in Python, with ripser."""
    scoring = task.content["scoring"]
    session = session_of(task.folder / "device", scoring["file"])
    n = min(scoring["samples"], SAMPLES)
    name = task.content["inputs"][0]["name"]
    outputs = [layer["output"] for layer in scoring["layers"]]
    rows = [session.run(outputs, {name: task.parts["x"][i : i + 1]}) for i in range(n)]
    points, random = min(scoring["points"], n), Random(scoring["seed"], 0)
    subsets = [random.subset(n, points) for _ in range(1 if points == n else scoring["subsets"])]
    found = {}
    for i, layer in enumerate(scoring["layers"]):
        numbers = np.stack([np.ravel(row[i]).astype(np.float64) for row in rows])
        distance = np.sqrt(((numbers[:, np.newaxis] - numbers) ** 2).sum(2)).astype(np.float32).astype(np.float64)
        b1 = [loops_by_ripser(distance[np.ix_(subset, subset)]) for subset in subsets]
        found[layer["name"]] = sum(b1) / len(b1) / (points * layer["size"])
    return found


def needed(entry, batch):
    for size, amount in entry["memory"]:
        if size >= batch:
            return amount
    size, amount = entry["memory"][-1]
    return math.ceil(Fraction(amount * batch, size))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_scores_are_those_of_python(core, task, runtime):
    choices = [{}, {"memory": 1 << 30, "batchSize": 100}]
    said = job(core, "score", runtime, package=task.folder / "device", **task.files, choices=choices)
    scores = {layer["name"]: layer["score"] for layer in said["scores"]["layers"]}
    assert scores == expected_scores(task)
    assert any(scores.values())
    assert said["scores"]["samples"] == SCORING.samples
    assert said["same"], "with less memory, in two rounds"
    assert said["refused"]["code"] == "out-of-memory"
    assert said["last"] == {"stage": "count", "done": len(scores), "total": len(scores)}
    entry = task.content["entries"][0]
    for choice, batch in zip(said["choices"], (task.content["training"]["batch_size"], 100), strict=True):
        assert choice["entry"] == entry["name"]
        assert choice["bytes"] == needed(entry, batch)
        assert choice["worth"] == sum(scores[name] for name in entry["layers"] if name in scores)


OTHERS = {
    "mobile": (tiny.conv_net, ["conv2", "fc"], (), "cross-entropy"),
    "regression": (tiny.mlp, None, (3,), "mse"),
    "masks": (lambda: masks.per_pixel(1, turned=False), None, (masks.SIDE, masks.SIDE), "cross-entropy"),
    "turned": (lambda: masks.per_pixel(-1, turned=True), None, (masks.SIDE, masks.SIDE), "cross-entropy"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_packages(core, tmp_path, kind):
    """Forward passes of one sample; labels that are numbers; a label for each pixel, some of them ignored."""
    made, layers, label_shape, loss = OTHERS[kind]
    model, rng, count = open_model(made()), np.random.default_rng(0), SAMPLES + HELD_OUT
    selection = select(model, strategy="all") if layers is None else select(model, layers=layers)
    choices = Choices(loss=loss)
    manifest = make_artifacts(
        model, selection, tmp_path / "artifacts", backend="portable", choices=choices, check=False
    )
    packing = Packing(scoring=SCORING, profile="mobile" if kind == "mobile" else None)
    content = make_device(tmp_path / "artifacts", tmp_path / "device", packing=packing)
    assert content["forward_batch"] == (1 if kind == "mobile" else None)
    x = rng.standard_normal((count, *model.inputs[0].shape[1:])).astype(np.float32)
    y = rng.integers(0, 3, (count, *label_shape))
    if kind in ("masks", "turned"):
        y[rng.random(y.shape) < 0.2] = -100
    y = y.astype(content["labels"]["dtype"])
    assert content["labels"]["shape"] == ["N", *label_shape]
    files = {"x": x[:SAMPLES], "y": y[:SAMPLES], "heldX": x[SAMPLES:], "heldY": y[SAMPLES:]}
    for name, array in files.items():
        array.tofile(tmp_path / name)
    settings = {"epochs": 1, "batch": BATCH, "rate": RATE, "seed": SEED, "floats": y.dtype == np.float32}
    paths = {name: tmp_path / name for name in files}
    said = job(core, "train", package=tmp_path / "device", output=tmp_path, **paths, **settings)
    session = manifest.session(manifest.initial)
    batches = np.reshape(shuffle(SAMPLES, SEED, 1), (-1, BATCH))
    expected = [session.step({"input": x[rows]}, y[rows], RATE)[0] for rows in batches]
    np.testing.assert_allclose(said["losses"], expected, rtol=TOLERANCE, atol=TOLERANCE)
    value, logits = session.evaluate({"input": x[SAMPLES:]}, y[SAMPLES:])
    np.testing.assert_allclose(said["after"]["loss"], value, rtol=TOLERANCE)
    axis, counted = content["entries"][0]["class_axis"], y[SAMPLES:] != -100
    right = None if axis is None else (logits.argmax(axis) == y[SAMPLES:])[counted].mean()
    assert said["after"]["accuracy"] == right
    assert (right is None) == (kind == "regression")
    assert said["resumed"]
    assert said["anew"]


MISTAKES = {
    "shape": ("wrong-shape", "multiple of"),
    "type": ("wrong-shape", "Float64Array"),
    "named": ("wrong-shape", "missing"),
    "labels": ("wrong-shape", "79 labels for 80 samples"),
    "range": ("label-out-of-range", "Label 5 is"),
    "fraction": ("label-out-of-range", "Label 0 is"),
    "none": ("too-few-samples", "no sample"),
    "rate": ("wrong-option", "rate is NaN"),
    "batch": ("wrong-option", "batchSize is 0"),
    "entry": ("wrong-option", '"none"'),
    "few": ("too-few-samples", "7 samples"),
    "nan": ("not-finite", "Sample 0"),
    "memory": ("out-of-memory", "smallest needs"),
    "diverged": ("loss-not-finite", ""),
    "cancelled": ("cancelled", ""),
    "full": ("storage-full", "ENOSPC"),
    "busy": ("busy", ""),
    "cut": ("wrong-file", "bytes"),
    "flipped": ("wrong-hash", "damaged"),
    "progress": ("wrong-file", "adabet-onnx/progress"),
    "foreign": ("wrong-model", "another model"),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Packages of a small model and of another one, and data."""
    folder = tmp_path_factory.mktemp("small")
    models = {"device": tiny.attention("four axes"), "other": tiny.conv_net()}
    for name, model in models.items():
        opened = open_model(model)
        artifacts = folder / f"{name}-artifacts"
        make_artifacts(opened, select(opened, strategy="all"), artifacts, backend="portable", check=False)
        make_device(artifacts, folder / name, packing=Packing(scoring=SCORING))
    x, y = noise(open_model(models["device"]), 3)
    x[:SAMPLES].tofile(folder / "x.bin")
    y[:SAMPLES].tofile(folder / "y.bin")
    return folder


def test_mistakes_are_told_and_change_nothing(core, small):
    job(core, "foreign", package=small / "other", output=small / "foreign.safetensors")
    files = {"x": small / "x.bin", "y": small / "y.bin", "foreign": small / "foreign.safetensors"}
    said = job(core, "mistakes", package=small / "device", batch=16, rate=RATE, **files)
    for name, (code, part) in MISTAKES.items():
        assert said["found"][name] is not None, name
        assert said["found"][name]["code"] == code, (name, said["found"][name])
        assert part in said["found"][name]["message"], (name, said["found"][name])
    assert set(said["found"]) == set(MISTAKES)
    assert said["untouched"]
    assert all(said["stays"].values()), said["stays"]


def test_the_program_for_node(core, small, tmp_path):
    main, device, delta = core / "node" / "main.js", small / "device", tmp_path / "delta.safetensors"
    x, y = ["--x", small / "x.bin"], ["--y", small / "y.bin"]

    def program(*arguments):
        return run("node", main, *arguments)

    shown = program("show", device)
    assert "entry all" in shown.stdout, shown.stderr
    scored = program("score", device, *x)
    assert len(scored.stdout.splitlines()) == len(json.loads((device / "device.json").read_text())["scoring"]["layers"])
    progress = ["--progress", tmp_path / "progress.safetensors"]
    fitted = program("fit", device, *x, *y, *progress, "--epochs", 2, "--delta", delta)
    assert "epoch 2" in fitted.stdout, fitted.stderr
    first = delta.read_bytes()
    again = program("fit", device, *x, *y, *progress, "--epochs", 2, "--delta", delta)
    assert "epoch" not in again.stdout, "nothing is left to do"
    assert delta.read_bytes() == first
    predicted = program("predict", device, *x, "--delta", delta, "--output", tmp_path / "out.bin")
    assert predicted.returncode == 0, predicted.stderr
    saved = program("save", device, "--delta", delta, "--output", tmp_path / "personal")
    session = session_of(Path(saved.stdout.strip()).parent, Path(saved.stdout.strip()).name)
    shape = [SAMPLES if not isinstance(d, int) else d for d in session.get_inputs()[0].shape]
    here = session.run(None, {"input": np.fromfile(small / "x.bin", np.float32).reshape(shape)})[0]
    np.testing.assert_allclose(np.fromfile(tmp_path / "out.bin", np.float32), here.ravel(), rtol=0, atol=1e-5)
    assert not list(tmp_path.rglob("*.part"))
    wrong = program("fit", device, "--x", small / "y.bin", *y, "--delta", tmp_path / "none")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("wrong-shape: ")
    assert not (tmp_path / "none").exists()
    assert program("fit", device).stderr.startswith("wrong-option: --delta is missing")
    full = program("predict", device, *x, "--output", "/dev/full/out.bin")
    assert full.returncode == 1
