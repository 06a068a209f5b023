"""Properties of all converters: isolation, names, metadata, and no output if it differs from the source."""

from __future__ import annotations

import ast
import re
import sys
from argparse import Namespace

import numpy as np
import onnx
import pytest
from conftest import ROOT
from converter_runs import CONVERTERS, values
from onnx import helper, numpy_helper

from adabet_onnx import open_model
from adabet_onnx.data.preprocess import Preprocessing

SCRIPTS = sorted(CONVERTERS.glob("from_*.py"))
BROUGHT = {"tensorflow-cpu": "tensorflow", "scikit-learn": "sklearn"}


@pytest.fixture(scope="module")
def converting():
    sys.path.insert(0, str(CONVERTERS))
    try:
        import converting

        yield converting
    finally:
        sys.path.remove(str(CONVERTERS))


def dense(weight: np.ndarray, *, names: tuple[str, str] = ("w", "b")) -> onnx.ModelProto:
    """x @ weight + 0."""
    nodes = [helper.make_node("Gemm", ["x", *names], ["y"], name="fc")]
    inputs = [helper.make_tensor_value_info("x", 1, ["N", weight.shape[0]])]
    outputs = [helper.make_tensor_value_info("y", 1, ["N", weight.shape[1]])]
    bias = np.zeros(weight.shape[1], np.float32)
    tensors = [numpy_helper.from_array(array, name) for array, name in zip((weight, bias), names, strict=True)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def options(path, **changed) -> Namespace:
    usual = {"mean": None, "std": None, "scale": None, "classes": None, "sample": None, "tolerance": 1e-4, "seed": 0}
    return Namespace(output=path, **(usual | changed))


def test_there_are_scripts():
    assert {"from_torch", "from_keras", "from_jax", "from_sklearn", "from_transformers"} <= {
        path.stem for path in SCRIPTS
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_names_what_it_imports_and_does_not_import_us(script):
    text = script.read_text(encoding="utf-8")
    block = re.match(r"# /// script\n((?:#.*\n)+?)# ///\n", text)[1]
    named = re.findall(r'"([a-z][a-z0-9-]*)[^"]*"', block.split("dependencies")[1])
    shared = [*CONVERTERS.glob("converting*.py"), *CONVERTERS.glob(f"{script.stem.removeprefix('from_')}_*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (script, *shared)]
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    foreign = found - set(sys.stdlib_module_names) - {path.stem for path in shared}
    assert foreign <= {BROUGHT.get(name, name) for name in named}
    assert f"uv run converters/{script.name}" in text
    for package in named:  # the pip command in the docstring names them too
        if package not in ("onnxscript",) or "onnxscript" in text.split('"""')[1]:
            assert package in text.split('"""')[1]


def test_the_readme_has_a_chain_for_every_script():
    text = (ROOT / "converters" / "README.md").read_text(encoding="utf-8")
    for script in SCRIPTS:
        assert f"uv run converters/{script.name}" in text


def test_writes_names_metadata_and_what_the_package_reads(converting, tmp_path, capsys, rng):
    weight = rng.standard_normal((4, 3)).astype(np.float32)
    proto = dense(weight, names=("onnx::1", "onnx::2"))
    path = tmp_path / "new" / "model.onnx"
    about = options(path, mean=[0.5], std=[0.25], classes=["a", "b", "c"])
    named = {"fc.weight": weight.T, "fc.bias": np.zeros(3, np.float32)}
    converting.finish(proto, [converting.ModelInput("x", (4,))], lambda feeds: feeds["x"] @ weight, named, about)
    model = open_model(path)
    assert [parameter.name for parameter in model.layers[0].parameters] == ["fc.weight", "fc.bias"]
    assert model.metadata("classes") == ["a", "b", "c"]
    used = Preprocessing().resolve(model, integer_data=True)
    assert (used.scale, used.mean, used.std) == (1 / 255, (0.5,), (0.25,))
    assert "2 of 2 parameters by name" in capsys.readouterr().out
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]


def test_images_that_go_in_as_they_are(converting, tmp_path, rng):
    weight = rng.standard_normal((4, 3)).astype(np.float32)
    about = options(tmp_path / "model.onnx", scale=1.0)
    converting.finish(dense(weight), [converting.ModelInput("x", (4,))], lambda feeds: feeds["x"] @ weight, {}, about)
    used = Preprocessing().resolve(open_model(tmp_path / "model.onnx"), integer_data=True)
    assert (used.scale, used.mean, used.std) == (1.0, (0.0,), (1.0,))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda x, w: x @ w * 1.001, "differs from the source's by"),
        (lambda x, w: (x @ w)[:, :2], "the source gives shape"),
        (lambda x, w: x @ w * np.nan, "NaN or infinite"),
        (lambda x, w: x[:2] @ w, "the source gives shape"),
        (lambda x, w: x @ w.T, "the source model fails"),
    ],
)
def test_refuses_what_differs_from_the_source_and_leaves_the_old_file(converting, tmp_path, rng, source, message):
    weight = rng.standard_normal((4, 3)).astype(np.float32)
    path = tmp_path / "model.onnx"
    path.write_text("old")
    with pytest.raises(converting.ConversionError, match=message):
        converting.finish(
            dense(weight),
            [converting.ModelInput("x", (4,))],
            lambda feeds: source(feeds["x"], weight),
            {},
            options(path),
        )
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_a_sample_is_compared_too(converting, tmp_path, rng):
    weight = rng.standard_normal((4, 3)).astype(np.float32)
    np.savez(tmp_path / "sample.npz", x=np.full((2, 4), 50.0))
    about = options(tmp_path / "model.onnx", sample=tmp_path / "sample.npz")

    def source(feeds):  # saturates outside the range of random numbers
        return np.minimum(feeds["x"], 40) @ weight

    with pytest.raises(converting.ConversionError, match=r"sample\.npz: the ONNX model's output differs"):
        converting.finish(dense(weight), [converting.ModelInput("x", (4,))], source, {}, about)
    np.save(tmp_path / "other.npy", np.zeros((2, 5)))
    about.sample = tmp_path / "other.npy"
    with pytest.raises(converting.ConversionError, match=r"samples of x have shape \(5,\), not \(4,\)"):
        converting.finish(dense(weight), [converting.ModelInput("x", (4,))], source, {}, about)


def test_a_wrong_number_of_classes_is_refused(converting, tmp_path, rng):
    weight = rng.standard_normal((4, 3)).astype(np.float32)
    about = options(tmp_path / "model.onnx", classes=["a", "b"])
    with pytest.raises(converting.ConversionError, match="2 classes, but the model has 3 outputs"):
        converting.finish(
            dense(weight), [converting.ModelInput("x", (4,))], lambda feeds: feeds["x"] @ weight, {}, about
        )
    assert not list(tmp_path.iterdir())


def test_names_of_equal_values_follow_their_neighbours_or_stay(converting, rng):
    proto = dense(rng.standard_normal((4, 3)).astype(np.float32), names=("v1", "v2"))
    weight = values(proto)["v1"]
    other = rng.standard_normal((3, 3)).astype(np.float32)
    zeros = np.zeros(3, np.float32)
    converting.restore_names(
        proto, {"a.weight": weight.T, "a.bias": zeros, "b.weight": other, "b.bias": zeros, "c.bias": zeros}
    )
    assert list(proto.graph.node[0].input) == ["x", "a.weight", "a.bias"]
    unknown = dense(other, names=("v1", "v2"))
    converting.restore_names(unknown, {"a.bias": zeros, "b.bias": zeros})
    assert list(unknown.graph.node[0].input) == ["x", "v1", "v2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tolerance", "0"], "must be above 0"),
        (["--std", "0.5,0"], "--std must not be 0"),
        (["--scale", "0"], "--scale must be a number other than 0"),
        (["--mean", "half"], "--mean"),
        (["--classes", "cat,cat"], "'cat' is there twice"),
        (["--sample", "nowhere.npz"], "nowhere.npz does not exist"),
    ],
)
def test_wrong_options_end_before_a_framework_is_loaded(converting, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        converting.parse(converting.parser("x"), ["-o", "model.onnx", *arguments])
    assert message in capsys.readouterr().err
