"""samples/react-native with a binding that handles arrays and models like onnxruntime-react-native."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from device_js import JS, MODULES, node, run
from device_rules import description, features, losses, run_graph, scores, stored
from safetensors.numpy import load_file

import adabet_onnx
from adabet_onnx import Choices, make_artifacts, make_device, open_model, select

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]

SAMPLES = ROOT / "samples"
DEMO = Path(adabet_onnx.__file__).parent / "demo"
TOLERANCE = 1e-5
BATCH, EPOCHS, RATE, SEED = 8, 2, 1e-3, 7  # ten steps in an epoch


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The JavaScript of the sample, of the core, and of the code in docs/app-react-native.md.

    It is compiled with the sample's strict options; declarations replace packages that are too large for tests.
    """
    node("typescript", "onnxruntime-node", "onnxruntime-common")
    folder = tmp_path_factory.mktemp("app")
    sources, made = folder / "src", folder / "made"
    for part in ("web/core", "react-native"):
        shutil.copytree(SAMPLES / part, sources / part, ignore=shutil.ignore_patterns("node_modules", "dist"))
    blocks = re.findall(r"```ts\n(.*?)```", (ROOT / "docs" / "app-react-native.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    (sources / "page.ts").write_text("\n".join(blocks))
    shutil.copy(JS / "react_native.d.ts", sources)
    paths = {
        "@adabet-onnx/core": ["./web/core/index.ts"],
        "adabet-onnx-react-native-sample": ["./react-native/index.ts"],
        "onnxruntime-common": [str(MODULES / "onnxruntime-common")],
    }
    settings = {"paths": paths, "rootDir": ".", "outDir": str(made)}
    include = ["react-native/*.ts", "react-native/*.tsx", "*.ts"]
    content = {"extends": "./react-native/tsconfig.json", "compilerOptions": settings, "include": include}
    (sources / "tsconfig.json").write_text(json.dumps(content))
    done = run(MODULES / ".bin" / "tsc", "-p", sources / "tsconfig.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return runnable(made)


def runnable(made: Path) -> Path:
    """The same folder for node: imports get file extensions, which apps omit, and packages are linked."""
    (made / "package.json").write_text('{"type": "module"}')
    for file in (made / "react-native").glob("*.js"):
        file.write_text(re.sub(r'(from "\./\w+)"', r'\1.js"', file.read_text()))
    packages = {
        "@adabet-onnx/core": 'export * from "../../../web/core/index.js";',
        "adabet-onnx-react-native-sample": """export * from "../../react-native/files.js";
            export * from "../../react-native/session.js";""",  # except for the screen, which needs React
    }
    for name, text in packages.items():
        package = made / "node_modules" / name
        package.mkdir(parents=True)
        (package / "package.json").write_text('{"type": "module", "main": "index.js"}')
        (package / "index.js").write_text(text)
    return made


def data(name: str, shared: Path) -> tuple[Any, Any, tuple[np.ndarray, ...]]:
    """A model, its selection, and samples and labels to train on and to hold out."""
    if name == "demo":
        model = open_model(DEMO / "digits.onnx")
        with np.load(DEMO / "digits_shifted.npz") as arrays:
            x, y = (arrays["x_train"].transpose(0, 3, 1, 2) / 255).astype("<f4"), arrays["y_train"].astype("<i8")
        selection = select(model, layers=["block3.conv2", "block3.bn2", "head"])
    else:
        model = open_model(shared / "models" / "resnet20_cifar10_bn.onnx")
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((100, 3, 32, 32)).astype("<f4"), rng.integers(0, 10, 100).astype("<i8")
        selection = select(model, strategy="last", rho=0.1)
    return model, selection, (x[:80], y[:80], x[80:100], y[80:100])


@pytest.fixture(scope="module", params=["demo", "resnet20"])
def task(request, app, shared, tmp_path_factory):
    """A package, and the parameters of the jobs of tests/js/react_native.mjs."""
    from adabet_onnx.training import artifacts, selfcheck
    from adabet_onnx.training.manifest import load_manifest

    folder = tmp_path_factory.mktemp(request.param)
    model, selection, parts = data(request.param, shared)
    choices = Choices(optimizer="adamw", batch_norm="batch" if request.param == "demo" else "frozen")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "check_in_subprocess", lambda made: selfcheck.check(load_manifest(made)))
        make_artifacts(model, selection, folder / "artifacts", backend="portable", choices=choices, check=False)
    make_device(folder / "artifacts", folder / "device")
    for name, array in zip(("x", "y", "heldX", "heldY"), parts, strict=True):
        array.tofile(folder / name)

    def job(what: str, **more: object) -> Any:
        output = folder / what
        output.mkdir()
        files = {name: folder / name for name in ("x", "y", "heldX", "heldY")}
        settings = {"epochs": EPOCHS, "batch": BATCH, "rate": RATE, "seed": SEED}
        content = {"what": what, "package": folder / "device", "output": output, **files, **settings, **more}
        (folder / f"{what}.json").write_text(json.dumps(content, default=str))
        done = run(node("onnxruntime-node"), JS / "react_native.mjs", app, folder / f"{what}.json")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return json.loads(done.stdout.strip().split("\n")[-1])

    return folder, parts, job


@pytest.fixture(scope="module")
def trained(task):
    return task[2]("train")


def test_losses_are_those_of_python(task, trained):
    folder, (x, y, _, _), _ = task
    expected = list(itertools.islice(losses(folder / "device", x, y, batch=BATCH, seed=SEED, rate=RATE), 20))
    np.testing.assert_allclose(trained["losses"], expected, rtol=TOLERANCE)
    assert len(set(expected)) == 20
    assert set(trained["opened"]) == {"string"}, "models are opened by their paths"


def test_a_delta_gives_equal_accuracy_in_python(task, trained):
    folder, (_, _, x, y), _ = task
    package, entry = folder / "device", description(folder / "device")["entries"][0]
    delta = load_file(trained["delta"])
    kept = [tensor for tensor in entry["tensors"] if tensor["kind"] != "optimizer"]
    assert list(delta) == [tensor["name"] for tensor in kept]
    start = stored(entry, (package / entry["state"]).read_bytes(), ("parameter", "statistic"))
    assert not any(np.array_equal(delta[name], start[name]) for name in delta)
    feeds = features(package, x) | {tensor["input"]: delta[tensor["name"]] for tensor in kept}
    found = run_graph(package / entry["evaluation"], feeds | {entry["names"]["labels"]: y})
    logits = found[entry["names"]["logits"]]
    assert trained["after"]["accuracy"] == np.mean(logits.argmax(1) == y)
    np.testing.assert_allclose(np.reshape(trained["predicted"], logits.shape), logits, rtol=1e-4, atol=1e-4)


def test_stopped_it_goes_on_to_the_same_bits(trained):
    stopped = trained["stopped"]
    assert (stopped["code"], stopped["left"], stopped["steps"], stopped["progress"]) == ("cancelled", True, 10, False)
    assert Path(stopped["delta"]).read_bytes() == Path(trained["delta"]).read_bytes()


def test_damaged_progress_does_not_stand_in_the_way(task):
    assert task[2]("anew") == {"steps": 20, "progress": False}


def test_a_pause_is_one(task):
    assert task[2]("pause") == {"paused": 3, "steps": 20}


def test_the_binding_reads_views_wrongly(task):
    """The binding ignores view offsets, so that equal losses prove that values were copied."""
    found = task[2]("views")
    assert found["view"] == found["first"] != found["copy"]


def test_choices_and_pictures(task):
    folder, (x, _, _, _), job = task
    content = description(folder / "device")
    found = job("choose", memory=10**9)
    assert {layer["name"]: layer["score"] for layer in found["scores"]} == scores(folder / "device", x)
    assert found["choice"]["entry"] == content["entries"][0]["name"]
    assert found["seen"] == len(x)
    channels, height, width = content["inputs"][0]["shape"][1:]
    assert (found["height"], found["width"]) == (height, width)
    assert len(found["pictures"]) == 2 * channels * height * width


def test_a_full_disk_leaves_what_was_there(task):
    assert task[2]("full") == {"code": "storage-full", "kept": [1, 2, 3], "beside": False, "same": True}


def test_what_the_page_says_runs(task):
    folder, (x, y, _, _), job = task
    content, found = description(folder / "device"), job("page")
    entry, delta = content["entries"][0], load_file(found["delta"])
    kept = [tensor for tensor in entry["tensors"] if tensor["kind"] != "optimizer"]
    feeds = {content["inputs"][0]["name"]: x} | {tensor["input"]: delta[tensor["name"]] for tensor in kept}
    logits = run_graph(folder / "device" / entry["prediction"], feeds)[content["outputs"][0]["name"]]
    assert found["classes"] == logits.argmax(1).tolist()
    assert found["epochs"] == 5
    assert found["fed"] == x[0].size
    assert len(set(found["classes"])) > 1 or len(set(y.tolist())) == 1
