"""What only samples/csharp is tested with: ports, pauses, losses without classes, several inputs, the command line.

test_device_languages.py has what all languages share.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from device_commands import checked
from device_csharp import CSHARP, Compiled, Program, compile_all, compiled
from device_languages import demo_program
from device_programs import KEPT, TOLERANCE
from device_rules import description, run_graph
from models import inputs, tiny
from safetensors.numpy import load_file

from adabet_onnx import Choices, Packing, make_artifacts, make_device, open_model, select

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]


@pytest.fixture(scope="module")
def csharp(tmp_path_factory) -> Compiled:
    return compile_all(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    with demo_program("csharp", tmp_path_factory.getbasetemp()) as program:
        yield program


def shown(shape: list[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def test_names_types_shapes_and_their_order_are_those_of_the_file(csharp, demo):
    content = description(demo.package)
    [entry] = content["entries"]
    lines = [line.split("\t") for line in csharp.cases("ports", demo.package)]
    own = [["input", v["name"], v["dtype"], shown(v["shape"])] for v in content["inputs"]]
    own += [["labels", content["labels"]["dtype"], shown(content["labels"]["shape"])]]
    own += [["boundary", v["name"], v["dtype"], shown(v["shape"])] for v in entry["boundary"]]
    own += [[t["kind"], t["name"], t["dtype"], shown(t["shape"]), str(t["offset"])] for t in entry["tensors"]]
    assert lines[: len(own)] == own
    inputs = [[v["name"], v["dtype"], shown(v["shape"])] for v in content["inputs"]]
    boundary = [[v["name"], v["dtype"], shown(v["shape"])] for v in entry["boundary"]]
    names, labels = entry["names"], own[len(inputs)][1:]
    sides = {
        side: [[t[side], t["dtype"], shown(t["shape"])] for t in entry["tensors"] if kinds or t["kind"] in KEPT]
        for side, kinds in (("input", True), ("output", True))
    }
    kept = sides["input"][: sum(t["kind"] in KEPT for t in entry["tensors"])]
    numbers = [[names["learning_rate"], "float32", "[]"], [names["step"], "int64", "[]"]]
    ends = [[names["loss"], "float32", "[]"], [names["logits"], "float32", shown(entry["logits_shape"])]]
    graphs = {
        entry["frozen"]: (inputs, [b for b, v in zip(boundary, entry["boundary"], strict=True) if v["input"] is None]),
        entry["step"]: ([*boundary, [names["labels"], *labels], *sides["input"], *numbers], [*ends, *sides["output"]]),
        entry["evaluation"]: ([*boundary, [names["labels"], *labels], *kept], ends),
        entry["prediction"]: ([*inputs, *kept], None),
    }
    for file, expected in graphs.items():
        for side, ports in zip(("in", "out"), expected, strict=True):
            found = [line[2:] for line in lines if line[:2] == [file, side]]
            assert ports is None or found == [port for port in ports if port in found or side == "out"], (file, side)
            assert found


def test_what_holds_when_it_is_cancelled_paused_and_so_on(csharp, demo, tmp_path):
    shutil.copy(demo.place("x"), tmp_path / "x")
    printed = csharp.cases("behaviour", demo.package, demo.place("x"), demo.place("y"), tmp_path)
    assert len(printed) == 13
    assert "memory stays flat" in printed
    assert not list(tmp_path.glob("*.partial"))


def of_model(csharp: Compiled, folder: Path, model: onnx.ModelProto, x: tuple[np.ndarray, ...], y: np.ndarray, **how):
    """A package of a small model with all layers trained, and its data in files."""
    opened = open_model(model)
    selection = select(opened, strategy="all")
    make_artifacts(
        opened, selection, folder / "a", backend="portable", choices=Choices(optimizer="sgd", **how), check=False
    )
    make_device(folder / "a", folder / "device", packing=Packing(scoring=None))
    for i, array in enumerate(x):
        array.tofile(folder / f"x{i}")
    y.tofile(folder / "y")
    return Program(folder / "device", csharp)


def evaluated(program: Program, x: tuple[np.ndarray, ...], *options: str) -> tuple[list[float], str]:
    """Losses of an epoch with all samples in each batch, and the last line."""
    folder = program.package.parent
    words = [w for i in range(len(x)) for w in ("--x", folder / f"x{i}", "--held-x", folder / f"x{i}")]
    command = program.command(
        "fit", y=folder / "y", held_y=folder / "y", batch=7, epochs=1, rate=0.01, delta=folder / "d"
    )
    printed = checked(*command, *words, *options, env=program.compiled.environment).stdout.splitlines()
    return [float(line) for line in printed[:-1]], printed[-1]


def expected_of(program: Program, feeds: dict[str, np.ndarray], y: np.ndarray) -> dict[str, np.ndarray]:
    """Loss and logits of all samples with the delta that was trained, by Python."""
    content = description(program.package)
    [entry] = content["entries"]
    delta, names = load_file(program.package.parent / "d"), entry["names"]
    computed = {} if entry["frozen"] is None else run_graph(program.package / entry["frozen"], feeds)
    kept = {p["name"]: computed[p["name"]] if p["input"] is None else feeds[p["input"]] for p in entry["boundary"]}
    values = {t["input"]: delta[t["name"]] for t in entry["tensors"] if t["kind"] in KEPT}
    found = run_graph(program.package / entry["evaluation"], {**kept, **values, names["labels"]: y})
    return {"loss": found[names["loss"]], "logits": found[names["logits"]]}


def test_a_loss_without_classes(csharp, rng, tmp_path):
    x, y = rng.standard_normal((20, 10)).astype("<f4"), rng.standard_normal((20, 3)).astype("<f4")
    made = of_model(csharp, tmp_path, tiny.mlp(), (x,), y, loss="mse")
    losses, last = evaluated(made, (x,))
    assert len(losses) == 3
    [given] = description(made.package)["inputs"]
    loss = expected_of(made, {given["name"]: x}, y)["loss"]
    np.testing.assert_allclose(float(last.split(" held-out loss ")[1]), loss, rtol=TOLERANCE)
    assert "accuracy" not in last
    y[3, 1] = np.nan
    y.tofile(tmp_path / "y")
    line = made.fails("fit", x=tmp_path / "x0", y=tmp_path / "y")
    assert line == "NotFinite: Label 10 is NaN, expected a finite number."


def test_classes_of_each_pixel_some_of_which_do_not_count(csharp, rng, tmp_path):
    values = {"a.weight": tiny.normal(6, 2, 3, 3), "b.weight": tiny.normal(4, 6, 1, 1)}
    nodes = [
        tiny.node("Conv", ["input", "a.weight"], ["a"], "/a", pads=[1] * 4),
        tiny.node("Relu", ["a"], ["r"], "/r"),
        tiny.node("Conv", ["r", "b.weight"], ["logits"], "/b"),
    ]
    model = tiny.build(nodes, values, input_shape=("N", 2, 5, 6), output_shape=("N", 4, 5, 6))
    x, y = rng.standard_normal((20, 2, 5, 6)).astype("<f4"), rng.integers(0, 4, (20, 5, 6)).astype("<i8")
    y[rng.random(y.shape) < 0.3] = -100
    y[14:] = -100  # a batch of which no label counts
    made = of_model(csharp, tmp_path, model, (x,), y)
    for options in ((), ("--keep", "no")):
        _, last = evaluated(made, (x,), *options)
        found = expected_of(made, {"input": x}, y)
        right = (found["logits"].argmax(1) == y)[y != -100].mean()
        loss, accuracy = re.fullmatch(r"epoch 1 loss \S+ held-out loss (\S+) accuracy (\S+)", last).groups()
        assert float(accuracy) == right
        np.testing.assert_allclose(float(loss), found["loss"], rtol=TOLERANCE)
    y[0, 0, 1] = 4
    y.tofile(tmp_path / "y")
    line = made.fails("fit", x=tmp_path / "x0", y=tmp_path / "y")
    assert line == "LabelOutOfRange: Label 1 is 4, expected 0 to 3, or -100 for none."


def test_several_inputs(csharp, rng, tmp_path):
    x = tuple(rng.standard_normal((20, *shape)).astype("<f4") for shape in ((3,), (2, 4)))
    y = rng.integers(0, 2, 20).astype("<i8")
    made = of_model(csharp, tmp_path, inputs.named(one=(3,), two=(2, 4)), x, y)
    _, last = evaluated(made, x)
    found = expected_of(made, {"one": x[0], "two": x[1]}, y)
    loss, accuracy = re.fullmatch(r"epoch 1 loss \S+ held-out loss (\S+) accuracy (\S+)", last).groups()
    assert float(accuracy) == (found["logits"].argmax(1) == y).mean()
    np.testing.assert_allclose(float(loss), found["loss"], rtol=TOLERANCE)
    x[1][:-1].tofile(tmp_path / "short")
    command = made.command("predict", x=tmp_path / "x0", out=tmp_path / "out")
    done = subprocess.run([*command, "--x", tmp_path / "short"], capture_output=True, text=True, env=csharp.environment)
    assert done.stderr == 'WrongShape: The input "one" has 20 samples, "two" has 19.\n'
    assert made.fails("predict", x=tmp_path / "x0", out=tmp_path / "out").startswith(
        "usage: --x must be given once for"
    )


def test_a_runtime_that_is_missing_is_an_error(demo, tmp_path):
    for path in (*demo.compiled.folder.glob("*.dll"), *demo.compiled.folder.glob("*.exe")):
        shutil.copy(path, tmp_path)
    line = Program(demo.package, Compiled(tmp_path)).fails("show")
    assert line.startswith("Runtime: ONNX Runtime's native library cannot be used: ")


def test_show_tells_what_the_package_is(demo):
    content, printed = description(demo.package), demo.run("show")
    [entry] = content["entries"]
    assert printed[0] == f"model {content['model']}"
    assert re.fullmatch(r"onnxruntime 1\.\d+\.\d+.*", printed[1])
    assert "input input float32 [N, 1, 16, 16]" in printed
    needed = dict(entry["memory"])[8]
    assert printed[-5] == (
        f"entry layers: 4 layers, {entry['trained']} numbers, {entry['selected_bytes']} bytes to send, "
        f"{needed} bytes of memory at a batch size of 8"
    )
    assert [line.strip() for line in printed[-4:]] == entry["layers"]


def test_a_wrong_command_line_is_told(demo):
    assert demo.fails("fit", y="nothing").startswith("usage: --")
    assert demo.fails("show", nothing=1) == "usage: --nothing is not an option."
    assert demo.fails("sing") == "usage: sing is not a command."
    assert demo.fails("predict", x=demo.place("x")).startswith("usage: --out can be given")


def test_every_public_name_is_documented(csharp, tmp_path):
    sources = list((CSHARP / "Adabet.Device").glob("*.cs"))
    made = tmp_path / "Adabet.Device.dll"
    words = (f"-doc:{tmp_path / 'doc.xml'}", "-nowarn:1573")  # some parameters need no words
    compiled("library", made, sources, csharp.folder / "Microsoft.ML.OnnxRuntime.dll", more=words)
    assert "Adabet.Device.Training.FitAsync" in (tmp_path / "doc.xml").read_text()
    assert "Console." not in "".join(path.read_text() for path in sources), "a library prints nothing"
