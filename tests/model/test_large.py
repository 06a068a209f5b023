"""Models of 2 GB and more, with their weights in another file: inspected, scored and written, never copied whole."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conftest import missing
from models import tiny
from models.tiny import node
from onnx import TensorProto, helper, numpy_helper

from adabet_onnx import ModelError, UsageError, open_model, runtime, save_model, score, select
from adabet_onnx.model import open as open_
from adabet_onnx.model import prepare as prepare_
from adabet_onnx.model import reading, saving
from adabet_onnx.model.prepare import trainable_graph
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.selection.record import Selection

pytestmark = pytest.mark.slow

ROWS, COLUMNS = 8, 66_000_000  # 2.1 GB of float32, on disk only where they are not zero


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A network whose hidden layer is wide: almost all its weights are a hole in a sparse file."""
    if shutil.disk_usage(tmp_path).free < 8 * ROWS * COLUMNS:
        missing("there is too little room on the disk for a model of 2 GB")
    with (tmp_path / "weights.bin").open("wb") as stream:
        stream.write(np.random.default_rng(0).standard_normal(1 << 10).astype(np.float32).tobytes())
        stream.truncate(4 * ROWS * COLUMNS)
    weight = onnx.TensorProto(name="wide.weight", data_type=TensorProto.FLOAT, dims=[COLUMNS, ROWS])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(4 * ROWS * COLUMNS))):
        weight.external_data.add(key=key, value=value)
    small = {"first.weight": np.random.default_rng(1).standard_normal((6, 5)), "fc.weight": np.ones((ROWS, 3))}
    nodes = [
        node("Gemm", ["input", "first.weight"], ["h"], "/first"),
        node("Relu", ["h"], ["r"], "/relu"),
        node("TopK", ["r", "one"], ["most", "index"], "/topk", axis=1),
        node("Squeeze", ["index", "axes"], ["row"], "/row"),
        node("Gather", ["wide.weight", "row"], ["g"], "/wide"),
        node("Gemm", ["g", "fc.weight"], ["logits"], "/fc"),
    ]
    constants = {"one": np.array([1]), "axes": np.array([1])}
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in small.items()]
    tensors += [numpy_helper.from_array(array, name) for name, array in constants.items()]
    given = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 6])]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])]
    graph = helper.make_graph(nodes, "large", given, made, [weight, *tensors])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "large.onnx").write_bytes(proto.SerializeToString())
    return tmp_path / "large.onnx"


@pytest.fixture
def small_limit(monkeypatch):
    """Lower the limit of 2 GB to a thousand bytes, so that small models take the path of large ones."""

    def set_limit():
        for module in (open_, prepare_, reading, runtime, saving):
            monkeypatch.setattr(module, "MOST_BYTES", 1000)
        monkeypatch.setattr(runtime, "_LARGE_TENSOR", 100)

    return set_limit


def test_a_large_model_is_opened_without_a_copy_of_its_weights(large):
    code = (
        "import sys; from adabet_onnx import open_model; from adabet_onnx.cost.process import peak_memory;"
        "model = open_model(sys.argv[1]);"
        "print(peak_memory(), *(layer.name for layer in model.layers), model.parameter_count)"
    )
    done = subprocess.run([sys.executable, "-c", code, large], capture_output=True, text=True, check=True)
    peak, *layers, count = done.stdout.split()
    assert layers == ["first", "wide", "fc"]
    assert int(count) == ROWS * COLUMNS + 6 * 5 + ROWS * 3
    assert int(peak) < 4 * ROWS * COLUMNS / 4


def test_a_large_model_is_scored_and_not_trained(small_limit, tmp_path, rng):
    whole = open_model(tiny.conv_net())
    path = tmp_path / "m.onnx"
    onnx.save(tiny.conv_net(), path, save_as_external_data=True, location="m.data", size_threshold=100)
    x = rng.standard_normal((16, 3, 8, 8)).astype(np.float32)
    settings = {"scoring": Scoring(samples=16, subset_size=8, subsets=2), "preset": "none"}
    expected = score(whole, x, **settings)
    small_limit()
    model = open_model(path)
    assert any(isinstance(value.const_value, ir.ExternalTensor) for value in model.graph.graph.initializers.values())
    found = score(model, x, **settings)
    assert [layer.b1 for layer in found.layers] == [layer.b1 for layer in expected.layers]
    why = r"of weights; a training step is written for up to 2 GB"
    assert all(re.search(why, layer.untrainable) for layer in found.layers)
    with pytest.raises(UsageError, match=why):
        select(found, rho=0.4)
    with pytest.raises(ModelError, match=why):
        trainable_graph(model, Selection(model.sha256, "layers", ("fc",), ("fc.weight",)), backend="ort")
    with pytest.raises(ModelError, match="of weights, too many"):
        model.proto()


def test_weights_are_written_beside_the_model(tmp_path, monkeypatch):
    """A small limit replaces 2 GB, so that little is written."""
    folder = tmp_path / "out"
    folder.mkdir()
    model = open_model(tiny.conv_net())
    monkeypatch.setattr(saving, "MOST_BYTES", 1000)
    monkeypatch.setattr(saving, "_LEAST_OUTSIDE", 100)
    save_model(model, folder / "saved.onnx")
    assert sorted(path.name for path in folder.iterdir()) == ["saved.onnx", "saved.onnx.data"]
    again = open_model(folder / "saved.onnx")
    assert again.layers == model.layers
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(tiny.run(again.proto(), x), tiny.run(model.proto(), x))
