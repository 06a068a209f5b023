"""The self-check catches planted wrong gradients, but not correct ones of networks with kinks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models.planted import NETWORKS
from planted_gradients import caught, plant

from adabet_onnx import CheckError, make_artifacts, open_model
from adabet_onnx.selection.record import Selection
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training import selfcheck

pytestmark = pytest.mark.slow


def everything(model):
    names = tuple(dict.fromkeys(parameter.name for layer in model.layers for parameter in layer.parameters))
    return Selection(model.sha256, "all", tuple(layer.name for layer in model.layers), names)


def made(name, folder, seed=0, **options):
    model = open_model(NETWORKS[name](seed))
    choices = Choices(**options)
    return make_artifacts(model, everything(model), folder, backend="portable", check=False, choices=choices)


@pytest.mark.parametrize("seed", range(10))
def test_planted_gradients_are_caught(tmp_path, seed):
    name = sorted(NETWORKS)[seed % len(NETWORKS)]
    manifest = made(name, tmp_path / "artifacts", seed)
    if seed < len(NETWORKS):  # no error before
        assert selfcheck.check(manifest)["gradient"]["parameters"] == len(manifest.parameters)
    planted = plant(manifest, seed)
    assert planted is not None
    message = caught(manifest)
    assert message is not None, planted
    assert "gradient of" in message, message
    assert "`backend='ort'`" in message, message


def test_a_missing_part_that_is_orthogonal_to_the_gradient(tmp_path):
    """3 % of the squared norm, invisible along the gradient itself."""
    manifest = made("mlp", tmp_path / "artifacts")
    path = manifest.file("gradients")
    proto = onnx.load(path)
    name = "hidden.weight.gradient"
    node = next(node for node in proto.graph.node if name in node.output)
    node.output[0] = "right"
    shape = next([d.dim_value for d in o.type.tensor_type.shape.dim] for o in proto.graph.output if o.name == name)
    rng = np.random.default_rng(0)
    values = {"random": rng.standard_normal(shape).astype(np.float32), "share": np.array(0.03, np.float32)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in values.items())
    steps = [
        ("Mul", ["right", "random"], "p0"),
        ("ReduceSum", ["p0"], "p1"),  # right . random
        ("Mul", ["right", "right"], "p2"),
        ("ReduceSum", ["p2"], "p3"),  # |right|^2
        ("Div", ["p1", "p3"], "p4"),
        ("Mul", ["p4", "right"], "p5"),
        ("Sub", ["random", "p5"], "p6"),  # orthogonal
        ("Mul", ["p6", "p6"], "p7"),
        ("ReduceSum", ["p7"], "p8"),
        ("Div", ["p3", "p8"], "p9"),
        ("Mul", ["p9", "share"], "p10"),
        ("Sqrt", ["p10"], "p11"),
        ("Mul", ["p6", "p11"], "p12"),  # of 3 % of the squared norm
        ("Sub", ["right", "p12"], name),
    ]
    proto.graph.node.extend(onnx.helper.make_node(op, given, [out], f"planted/{out}") for op, given, out in steps)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(CheckError, match=r"gradient of 'hidden.weight' disagrees with finite differences"):
        selfcheck.check(manifest)


def test_a_step_graph_with_a_gradient_of_another_length(tmp_path):
    """AdamW divides by the length: parameters change equally, but the state differs."""
    manifest = made("mlp", tmp_path / "artifacts")
    path = manifest.file("step")
    proto = onnx.load(path)
    grads = onnx.load(manifest.file("gradients"))
    maker = next(node.name for node in grads.graph.node if "out.weight.gradient" in node.output)
    index, node = next((i, node) for i, node in enumerate(proto.graph.node) if node.name == maker)
    value = node.output[0]
    node.output[0] = "right"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.9, np.float32), "factor"))
    proto.graph.node.insert(index + 1, onnx.helper.make_node("Mul", ["right", "factor"], [value], "planted"))
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(CheckError, match=r"optimizer state 'out.weight"):
        selfcheck.check(manifest)
