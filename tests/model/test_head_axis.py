"""The axis of the logits that holds the head's outputs: its use for classes, new heads and appended ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models.tiny import build, node, normal, run
from torch.nn import functional

from adabet_onnx import make_artifacts, open_model
from adabet_onnx.data.preprocess import NONE
from adabet_onnx.data.source import open_data
from adabet_onnx.model.head import new_head
from adabet_onnx.model.logits_axes import detected_class_axis
from adabet_onnx.model.open import Model
from adabet_onnx.selection.record import Selection
from adabet_onnx.trainability.decisions import decisions
from adabet_onnx.training.evaluation import evaluate

CHANNELS, STEPS, CLASSES = 3, 7, 4


def per_step(*ending: onnx.NodeProto, shape: tuple[int, ...] = (CLASSES, STEPS)) -> onnx.ModelProto:
    """A class per step: a Conv over time, whose result is ``scores``, and an ending that makes ``logits`` of it."""
    nodes = [
        node("Conv", ["input", "body.weight", "body.bias"], ["b"], "body", pads=[1, 1]),
        node("Relu", ["b"], ["r"], "relu"),
        node("Conv", ["r", "head.weight", "head.bias"], ["scores" if ending else "logits"], "head"),
        *ending,
    ]
    values = {
        "body.weight": normal(8, CHANNELS, 3, scale=1),
        "body.bias": normal(8),
        "head.weight": normal(CLASSES, 8, 1, scale=1),
        "head.bias": normal(CLASSES),
        "last": np.array([-1]),
        "classes": np.array([1]),
        "two": np.array([2]),
        "mixing": normal(STEPS, STEPS, scale=1),
    }
    return build(nodes, values, input_shape=("N", CHANNELS, STEPS), output_shape=("N", *shape))


def per_pixel() -> onnx.ModelProto:
    """Rows of pixels and their classes last, (N, H, W, C), without a Softmax."""
    nodes = [
        node("Conv", ["input", "head.weight"], ["scores"], "head"),
        node("Transpose", ["scores"], ["logits"], "turn", perm=[0, 2, 3, 1]),
    ]
    values = {"head.weight": normal(CLASSES, CHANNELS, 1, 1, scale=1)}
    return build(nodes, values, input_shape=("N", CHANNELS, 5, 6), output_shape=("N", 5, 6, CLASSES))


def anchors() -> onnx.ModelProto:
    """Boxes and classes of anchors at two strides, (N, 2 + classes, anchors), flattened as torch writes it."""
    nodes, joined = [node("Relu", ["input"], ["large"], "relu")], []
    nodes.append(node("MaxPool", ["large"], ["small"], "pool", kernel_shape=[2, 2], strides=[2, 2]))
    for name in ("large", "small"):
        nodes += [
            node("Conv", [name, f"box.{name}"], [f"box_{name}"], f"box_{name}"),
            node("Conv", [name, f"class.{name}"], [f"class_{name}"], f"class_{name}"),
            node("Concat", [f"box_{name}", f"class_{name}"], [f"both_{name}"], f"both_{name}", axis=1),
            node("Shape", [f"both_{name}"], [f"shape_{name}"], f"shape_{name}"),
            node("Slice", [f"shape_{name}", "zero", "two"], [f"kept_{name}"], f"kept_{name}"),
            node("Concat", [f"kept_{name}", "open"], [f"target_{name}"], f"target_{name}", axis=0),
            node("Reshape", [f"both_{name}", f"target_{name}"], [f"flat_{name}"], f"flat_{name}"),
        ]
        joined.append(f"flat_{name}")
    nodes.append(node("Concat", joined, ["logits"], "all", axis=2))
    values = {f"box.{name}": normal(2, CHANNELS, 1, 1, scale=1) for name in ("large", "small")}
    values |= {f"class.{name}": normal(CLASSES, CHANNELS, 1, 1, scale=1) for name in ("large", "small")}
    values |= {"zero": np.array([0]), "two": np.array([2]), "open": np.array([-1])}
    return build(nodes, values, input_shape=("N", CHANNELS, 4, 4), output_shape=("N", 2 + CLASSES, 20))


def flat_rows() -> onnx.ModelProto:
    """As detectors end: channels last, and a Reshape to (N, -1, classes) whose N is the input's, computed."""
    nodes = [
        node("Conv", ["input", "head.weight"], ["scores"], "head"),
        node("Transpose", ["scores"], ["turned"], "turn", perm=[0, 2, 3, 1]),
        node("Shape", ["input"], ["shape"], "shape"),
        node("Gather", ["shape", "first"], ["batch"], "batch"),
        node("Concat", ["batch", "open", "width"], ["target"], "target", axis=0),
        node("Reshape", ["turned", "target"], ["logits"], "rows"),
    ]
    values = {
        "head.weight": normal(CLASSES, CHANNELS, 1, 1, scale=1),
        "first": np.array([0]),
        "open": np.array([-1]),
        "width": np.array([CLASSES]),
    }
    return build(nodes, values, input_shape=("N", CHANNELS, 5, 5), output_shape=("N", 25, CLASSES))


def everything(model: Model) -> Selection:
    names = [parameter.name for layer in model.layers for parameter in layer.parameters]
    return Selection(model.sha256, "layers", tuple(layer.name for layer in model.layers), tuple(names))


CASES = {
    "steps last": (per_step(), 1),
    "Softmax over the channels": (per_step(node("Softmax", ["scores"], ["logits"], "softmax", axis=1)), 1),
    "steps first": (
        per_step(node("Transpose", ["scores"], ["logits"], "t", perm=[0, 2, 1]), shape=(STEPS, CLASSES)),
        None,  # the usual axis is not reported
    ),
    "scaled": (per_step(node("Mul", ["scores", "last"], ["logits"], "scale")), 1),
    "an axis more": (
        per_step(node("Unsqueeze", ["scores", "last"], ["logits"], "more"), shape=(CLASSES, STEPS, 1)),
        None,
    ),
    "mean": (per_step(node("ReduceMean", ["scores"], ["logits"], "mean", axes=[2]), shape=(1, CLASSES)), 1),
    "mixed steps": (per_step(node("MatMul", ["scores", "mixing"], ["logits"], "mix")), None),
    "pixels": (per_pixel(), 3),
    "anchors": (anchors(), 1),
    "rows": (flat_rows(), None),
}
CASES["scaled"][0].graph.initializer.remove(next(i for i in CASES["scaled"][0].graph.initializer if i.name == "last"))
CASES["scaled"][0].graph.initializer.append(onnx.numpy_helper.from_array(np.float32([2]), "last"))


@pytest.mark.parametrize("case", CASES)
def test_the_head_tells_an_axis_that_is_not_the_usual_one(case: str) -> None:
    proto, axis = CASES[case]
    model = open_model(proto)
    assert model.doubt is None
    assert detected_class_axis(model) == axis
    [said] = [decision for decision in decisions(model) if decision.about == "class axis"]
    if axis is not None:
        assert said.taken_for == str(axis)
        assert ("the model's own Softmax" if "Softmax" in case else "the head's outputs") in said.because


@pytest.mark.slow
def test_losses_are_over_that_axis(tmp_path: Path) -> None:
    x, y = normal(6, CHANNELS, STEPS, scale=1), np.arange(6 * STEPS).reshape(6, STEPS) % CLASSES
    for case in ("steps last", "Softmax over the channels"):
        model = open_model(CASES[case][0])
        scores = run(model.graph, x, output=model.logits)
        expected = float(functional.cross_entropy(torch.tensor(scores), torch.tensor(y)))
        assert evaluate(model, open_data((x, y), model).train, preprocessing=NONE)["loss"] == pytest.approx(
            expected, rel=1e-5
        )
        made = make_artifacts(model, everything(model), tmp_path / case, backend="portable")
        assert (made.class_axis, made.content["num_outputs"]) == (1, CLASSES)


@pytest.mark.parametrize(("case", "given"), [("steps last", CLASSES), ("anchors", 2 + CLASSES), ("rows", CLASSES)])
def test_a_classifier_is_put_on_that_axis(case: str, given: int) -> None:
    model = open_model(CASES[case][0])
    made = new_head(model, 5, append=True)
    x = normal(2, *model.inputs[0].shape[1:], scale=1)
    before, after = run(model.graph, x, output=model.logits), run(made.graph, x, output=made.logits)
    assert made.head is not None
    weight = next(v for k, v in made.graph.graph.initializers.items() if k == "new_head.weight").const_value.numpy()
    axis = detected_class_axis(model) or 2
    matrix = weight.reshape(5, given) if axis == 1 else weight.T
    expected = np.moveaxis(np.moveaxis(before, axis, -1) @ matrix.T, -1, axis)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)
    assert (detected_class_axis(made) or 2) == axis


@pytest.mark.parametrize("classes", [2, 5, 7])
def test_a_reshape_that_computes_where_the_batch_goes_follows_a_new_head(classes: int) -> None:
    made = new_head(open_model(flat_rows()), classes)
    x = normal(3, CHANNELS, 5, 5, scale=1)
    weight = made.graph.graph.initializers["head.weight"].const_value.numpy()
    assert weight.shape == (classes, CHANNELS, 1, 1)
    expected = np.einsum("nchw,kc->nhwk", x, weight[..., 0, 0]).reshape(3, 25, classes)
    np.testing.assert_allclose(run(made.graph, x, output=made.logits), expected, rtol=1e-5, atol=1e-6)
