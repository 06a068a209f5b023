"""What only the JVM's samples, android and java, are tested with: show, a lack of memory, other kinds of packages.

test_device_languages.py has what all languages share.
"""

from __future__ import annotations

import itertools
import re
import subprocess

import numpy as np
import pytest
from device_languages import demo_program
from device_programs import KEPT, TOLERANCE
from device_rules import description, features, losses, run_graph, stored
from models import masks, tiny

from adabet_onnx import Choices, Packing, make_artifacts, make_device, open_model, select

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The program with a package of the demo's model, with batch statistics that move, and its data in files."""
    with demo_program("jvm", tmp_path_factory.getbasetemp()) as program:
        yield program


def test_what_is_shown_is_what_device_json_says(demo):
    content = description(demo.package)
    expected = [f"model {content['model']}"]
    for what, ports in (("input", content["inputs"]), ("output", content["outputs"])):
        expected += [f"{what} {p['name']} {p['dtype']} [{', '.join(map(str, p['shape']))}]" for p in ports]
    expected.append(f"labels labels {content['labels']['dtype']} [N]")
    [entry] = content["entries"]
    sizes = f"{entry['trained']} numbers, {entry['selected_bytes']} bytes to send, {dict(entry['memory'])[8]} bytes"
    expected.append(f"entry {entry['name']}: {len(entry['layers'])} layers, {sizes} of memory at a batch size of 8")
    printed = demo.run("show")
    assert re.fullmatch(r"onnxruntime 1\.\d+\.\d+", printed.pop(1))
    assert printed == expected + [f"  {layer}" for layer in entry["layers"]]


def test_a_lack_of_memory_is_an_error_that_leaves_nothing(demo, tmp_path):
    options = {"x": demo.place("x"), "y": demo.place("y"), "epochs": 1, "progress": tmp_path / "p"}
    words = demo.command("fit", **options)
    words.insert(1, "-XX:MaxDirectMemorySize=64k")
    done = subprocess.run(words, capture_output=True, text=True, env=demo.environment, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no memory: there is not enough memory for the trained values: use a smaller batch")
    assert not list(tmp_path.iterdir())


OTHERS = {
    "regression": (tiny.mlp, (3,), "mse"),
    "masks": (lambda: masks.per_pixel(1, turned=False), (masks.SIDE, masks.SIDE), "cross-entropy"),
    "turned": (lambda: masks.per_pixel(-1, turned=True), (masks.SIDE, masks.SIDE), "cross-entropy"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_packages(kind, demo, tmp_path):
    """Labels that are numbers; a label for each pixel, some of them ignored."""
    made, label_shape, loss = OTHERS[kind]
    model, rng = open_model(made()), np.random.default_rng(0)
    selection, choices = select(model, strategy="all"), Choices(loss=loss)
    make_artifacts(model, selection, tmp_path / "a", backend="portable", choices=choices, check=False)
    content = make_device(tmp_path / "a", tmp_path / "device", packing=Packing(scoring=None))
    x = rng.standard_normal((40, *model.inputs[0].shape[1:])).astype("<f4")
    y = rng.integers(0, 3, (40, *label_shape))
    if kind != "regression":
        y[rng.random(y.shape) < 0.2] = -100
    y = y.astype(content["labels"]["dtype"])
    files = {name: tmp_path / name for name in ("x", "y", "held_x", "held_y")}
    for name, array in zip(files, (x[:30], y[:30], x[30:], y[30:]), strict=True):
        array.tofile(files[name])
    program = demo.of(tmp_path / "device")
    *printed, last = program.run("fit", **files, epochs=1, batch=8, rate=1e-3, seed=7, selected=tmp_path / "s")
    expected = list(itertools.islice(losses(program.package, x[:30], y[:30], batch=8, seed=7, rate=1e-3), 4))
    np.testing.assert_allclose([float(line) for line in printed], expected, rtol=TOLERANCE, atol=TOLERANCE)
    [entry] = content["entries"]
    values = stored(entry, (tmp_path / "s").read_bytes(), KEPT)
    feeds = features(program.package, x[30:]) | {
        tensor["input"]: values[tensor["name"]] for tensor in entry["tensors"] if tensor["kind"] in KEPT
    }
    axis, accuracy = entry["class_axis"], re.search(r"accuracy (\S+)", last)
    if axis is None:
        assert accuracy is None
        return
    found = run_graph(program.package / entry["evaluation"], feeds | {entry["names"]["labels"]: y[30:]})
    counted, right = y[30:] != -100, found[entry["names"]["logits"]].argmax(axis) == y[30:]
    assert float(accuracy[1]) == right[counted].sum() / counted.sum()
