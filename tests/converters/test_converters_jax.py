"""From Flax and JAX: batch normalisations and names are kept, in every form, and the README's chain."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ROOT
from converter_runs import CONVERTERS, TIMEOUT, need_jax, operators, run_chain, values

from adabet_onnx import open_model

# Train, and convert everything except the chain's model in one process: starting JAX and jax2onnx takes seconds.
MAKE = """
import json, sys
from pathlib import Path
import numpy as np
sys.path[:0] = [".", sys.argv[1]]
import converting, from_jax, net
data = np.load("source.npz")
net.train(data["x"], data["y"], Path("weights.npz"))
said = {}
for arguments in json.loads(sys.argv[2]):
    try:
        from_jax.main(arguments)
    except (converting.ConversionError, SystemExit) as error:
        said[arguments[0]] = str(error)
Path("said.json").write_text(json.dumps(said))
"""
CONVERTED = [
    ["net.py:linen", "--input", "8,8,3", "-o", "linen.onnx"],
    ["net.py:plain", "--input", "6", "-o", "plain.onnx"],
    ["net.py:Tokens", "--input", "tokens=8:int32:50", "-o", "tokens.onnx"],
]
REFUSED = {
    "net.py:Nothing": "net.py has no Nothing; it has",
    "net.py:load": "does not take inputs of shape (3, 8, 8, 2)",
    "net.py:two": "gives 2 arrays",
    "net.py:positional": "by name: max_pool(x, window_shape=(2, 2), ...)",
    "net.py:by_batch": "differs from the source's by",
    "net.py:number": "neither a model nor a function that returns one",
    "net.py:Linen": "without its variables: return (module, variables)",
    "nowhere.py:load": "nowhere.py does not exist",
}
OPTIONS = ["--input", "8,8,2", "-o", "refused.onnx"]


def images(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A square in one of four corners."""
    y = rng.integers(0, 4, count)
    x = rng.integers(0, 120, (count, 16, 16, 3))
    for image, label in zip(x, y, strict=True):
        row, column = 8 * (label // 2), 8 * (label % 2)
        image[row + 2 : row + 6, column + 2 : column + 6] += 120
    return x.astype(np.uint8), y


@pytest.fixture(scope="module")
def python():
    return need_jax()


@pytest.fixture(scope="module")
def folder(python, tmp_path_factory):
    """A user's folder: net.py, the trained weights, and the converted models."""
    folder = tmp_path_factory.mktemp("jax")
    shutil.copy(ROOT / "tests" / "models" / "flax_nets.py", folder / "net.py")
    x, y = images(np.random.default_rng(0), 400)
    np.savez(folder / "source.npz", x=x, y=y)
    many = json.dumps([*CONVERTED, *([name, *OPTIONS] for name in REFUSED)])
    command = [python, "-c", MAKE, CONVERTERS, many]
    subprocess.run(command, cwd=folder, check=True, timeout=TIMEOUT, env=os.environ | quick(python))
    return folder


def quick(python) -> dict[str, str]:
    """Let XLA compile fast, and once for all processes: loading jax2onnx alone compiles 70 programs."""
    return {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(python.parent.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "OMP_NUM_THREADS": "1",
    }


def test_chain(python, folder, monkeypatch):
    """Trained on one domain, converted, adapted to another: only the selected layers change, and accuracy rises."""
    for name, value in quick(python).items():
        monkeypatch.setenv(name, value)
    x, y = images(np.random.default_rng(1), 500)
    x = 255 - x  # another domain: dark squares
    np.savez(folder / "data.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:])
    adapted = run_chain(python, "JAX", folder, "--rho", "0.3", "--lr", "0.01", "--epochs", "4")
    path = folder / "model.onnx"
    assert operators(path).count("BatchNormalization") == 4
    layers = [layer.name for layer in open_model(path).layers]
    blocks = [f"blocks/{i}/{name}" for i in (0, 1) for name in ("conv", "bn", "depth", "depth_bn")]
    assert layers == ["stem", *blocks, "dense", "norm", "head"]
    before, after = values(onnx.load(path)), values(adapted)
    assert before.keys() == after.keys()
    selected = set(json.loads((folder / "adapted" / "selection.json").read_text())["parameters"])
    assert {name for name in before if not np.array_equal(before[name], after[name])} == selected
    assert len(selected) < len(before) / 2
    taken = (x[300:] / np.float32(255)).astype(np.float32)
    accuracy = []
    for model in (path, folder / "adapted" / "adapted.onnx"):
        logits = onnxruntime.InferenceSession(str(model)).run(None, {"input": taken})[0]
        accuracy.append(float((logits.argmax(1) == y[300:]).mean()))
    assert accuracy[1] > accuracy[0] + 0.2


def test_linen(folder):
    """Batch normalisations of flax.linen are nodes too, and names omit the collection."""
    path = folder / "linen.onnx"
    assert operators(path).count("BatchNormalization") == operators(path).count("LayerNormalization") == 1
    assert [layer.name for layer in open_model(path).layers] == ["stem", "bn", "Dense_0", "LayerNorm_0", "head"]
    assert {"bn/scale", "bn/bias", "bn/mean", "bn/var", "head/kernel", "head/bias"} <= set(values(onnx.load(path)))


def test_plain_functions(folder):
    """x @ w + b is one layer."""
    assert operators(folder / "plain.onnx").count("Gemm") == 2
    layers = open_model(folder / "plain.onnx").layers
    assert [[parameter.name for parameter in layer.parameters] for layer in layers] == [["0/w", "0/b"], ["1/w", "1/b"]]


def test_integers_and_newer_operators(folder):
    model = open_model(folder / "tokens.onnx")
    assert [(spec.name, spec.dtype) for spec in model.inputs] == [("tokens", "int32")]
    assert {"embedding", "attention/query", "attention/out", "head"} <= {layer.name for layer in model.layers}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(folder, name):
    assert REFUSED[name] in json.loads((folder / "said.json").read_text())[name]
    assert not (folder / "refused.onnx").exists()
