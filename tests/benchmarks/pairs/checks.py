"""Checks of a new head and of gradients with only onnx, onnxruntime and numpy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from quiet import quiet_session

_STEPS = (0.3, 0.1, 0.03, 0.01)  # along a direction of length 1


def head_error(original: Path, headed: Path, samples: Mapping[str, np.ndarray]) -> float:
    """Difference of a new head's logits from the old head's input times the new weight, relative to the largest.

    The head is the last Gemm of both. Infinite where any other tensor differs.
    """
    old, new = onnx.load(original), onnx.load(headed)
    before, after = ([node for node in model.graph.node if node.op_type == "Gemm"][-1] for model in (old, new))
    first, second = ({t.name: numpy_helper.to_array(t) for t in model.graph.initializer} for model in (old, new))
    kept = set(first) - set(before.input[1:])
    if any(name not in second or not np.array_equal(first[name], second[name]) for name in kept):
        return np.inf
    old.graph.output.append(onnx.helper.make_empty_tensor_value_info(before.input[0]))
    features = quiet_session(old).run([before.input[0]], dict(samples))[0].astype(np.float64)
    transposed = any(attribute.name == "transB" and attribute.i for attribute in after.attribute)
    weight, bias = (second[name].astype(np.float64) for name in after.input[1:])
    expected = features @ (weight.T if transposed else weight) + bias
    found = quiet_session(new).run([after.output[0]], dict(samples))[0]
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def gradient_error(artifacts: Path, samples: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    """Difference between slopes of the loss and grads.onnx, relative to the gradient's length.

    The loss is computed in double precision from logits of the graph that an export fills, in two directions: the
    gradient, and the gradient with as much noise.
    """
    manifest = json.loads((artifacts / "manifest.json").read_text())
    stored = (artifacts / manifest["files"]["state"]).read_bytes()
    parameters = manifest["parameters"]
    values = {
        each["name"]: np.frombuffer(stored, "<f4", int(np.prod(each["shape"])), each["offset"]).reshape(each["shape"])
        for each in parameters
    }
    kept = [each["name"] for each in manifest["boundary"]]
    frozen = quiet_session(onnx.load(artifacts / manifest["files"]["frozen"]))
    given = {each["feed"]: samples[each["name"]] for each in manifest["input_details"]}
    feeds = dict(zip(kept, frozen.run(kept, given), strict=True)) | {manifest["labels"]: labels}
    feeds |= {each["input"]: values[each["name"]] for each in parameters}
    session = quiet_session(onnx.load(artifacts / manifest["files"]["gradients"]))
    gradient = dict(zip(values, session.run([each["gradient"] for each in parameters], feeds), strict=True))
    loss = _loss_of(artifacts / manifest["files"]["model"], manifest, samples, labels, values)
    return max(_slope_error(loss, gradient, noise) for noise in (0.0, 1.0))


def _slope_error(loss: Any, gradient: Mapping[str, np.ndarray], noise: float) -> float:
    """The least over a few step lengths: long steps have curvature, short ones rounding."""
    rng = np.random.default_rng(0)
    length = _length(gradient)
    random = {name: rng.standard_normal(part.shape) for name, part in gradient.items()}
    share = noise / _length(random)
    direction = {name: part / length + share * random[name] for name, part in gradient.items()}
    expected = sum(float((direction[name] * part).sum()) for name, part in gradient.items())
    slopes = [(loss(direction, step) - loss(direction, -step)) / (2 * step) for step in _STEPS]
    return min(abs(slope - expected) for slope in slopes) / length


def _length(parts: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(part.astype(np.float64)).sum() for part in parts.values())))


def _loss_of(
    file: Path,
    manifest: dict[str, Any],
    samples: Mapping[str, np.ndarray],
    labels: np.ndarray,
    values: Mapping[str, np.ndarray],
) -> Any:
    """The cross-entropy as a function of a direction and a step along it; parameters are inputs of one session."""
    model = onnx.load(file)
    for tensor in model.graph.initializer:
        if tensor.name in values:
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    session = quiet_session(model)

    def loss(direction: Mapping[str, np.ndarray], step: float) -> float:
        moved = {name: (value + step * direction[name]).astype(np.float32) for name, value in values.items()}
        logits = session.run([manifest["model_logits"]], {**samples, **moved})[0].astype(np.float64)
        return float((np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]).mean())

    return loss
