"""Synthetic data for a model, and checks of exports with only onnxruntime and numpy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from quiet import quiet_session

from .packages import Known

_DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
_STEPS = tuple(10.0**-power for power in np.arange(1, 6.5, 0.5))


def made(inputs: list[dict[str, Any]], known: Known, count: int) -> dict[str, np.ndarray]:
    """Samples of smooth noise, or of integers, by input name: (count, ...)."""
    rng = np.random.default_rng(0)
    samples = {}
    for each in inputs:
        name, shape = each["name"], [count, *each["shape"][1:]]
        ceiling = known.ceilings.get(name, known.ceilings.get("*"))
        if ceiling or "int" in each["dtype"]:
            samples[name] = rng.integers(0, ceiling or 2, shape).astype(each["dtype"])
        else:
            coarse = rng.standard_normal(shape)
            samples[name] = ((coarse + np.roll(coarse, 1, -1)) / 2).astype(each["dtype"])
    return samples


def labels(manifest: dict[str, Any], count: int) -> np.ndarray:
    """Random ones, in the shape and range that a manifest's loss takes."""
    rng = np.random.default_rng(1)
    shape = [count, *manifest["logits_shape"][1:]]
    if manifest["loss_function"] != "cross-entropy":
        return rng.integers(0, 2, shape).astype(np.float32)
    classes = shape.pop(_class_axis(manifest))
    return rng.integers(0, classes, shape)


def _class_axis(manifest: dict[str, Any]) -> int:
    axis = manifest["class_axis"]
    default = 2 if len(manifest["logits_shape"]) == 3 else 1
    return default if axis is None else int(axis)


def apart(original: Path, other: Path, samples: Mapping[str, np.ndarray], known: Known) -> float:
    """Largest difference of the second file's outputs from the first file's values of these names, sample by sample.

    Returns:
        Relative to the largest of each output; infinite if the first file lacks one of them.
    """
    first, second = onnx.load(original), onnx.load(other)
    made = {name for node in first.graph.node for name in node.output}
    names = [output.name for output in second.graph.output if output.name in made]
    outputs = {output.name for output in first.graph.output}
    first.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in outputs)
    expected, found = (_run(model, names, samples, known) for model in (first, second))
    worst = 0.0 if names else np.inf
    for name in names:
        one, two = (np.asarray(result[name], np.float64).reshape(-1) for result in (expected, found))
        if len(one) != len(two):
            return np.inf
        worst = max(worst, float(np.abs(one - two).max() / max(1e-6, np.abs(one).max())))
    return worst


def _run(
    model: onnx.ModelProto, names: list[str], samples: Mapping[str, np.ndarray], known: Known
) -> dict[str, np.ndarray]:
    """The outputs of a model for two samples, one at a time."""
    session = quiet_session(model)
    alone = [{name: array[row : row + 1] for name, array in samples.items()} for row in (0, 1)]
    rows = zip(*(session.run(names, _feeds(session, one, known)) for one in alone), strict=True)
    return {name: np.stack(pair) for name, pair in zip(names, rows, strict=True)}


def _feeds(session: Any, samples: Mapping[str, np.ndarray], known: Known) -> dict[str, np.ndarray]:
    """The samples, and values for the file's other inputs: the known value, or a state of zeros."""
    count = len(next(iter(samples.values())))
    feeds = {}
    for each in session.get_inputs():
        if each.name in samples:
            feeds[each.name] = samples[each.name]
        elif each.name in known.inputs:
            feeds[each.name] = np.array(known.inputs[each.name], np.int64)
        else:
            shape = [size if isinstance(size, int) and size > 0 else count for size in each.shape]
            feeds[each.name] = np.zeros(shape, _DTYPES.get(each.type, np.float32))
    return feeds


def tensors(file: Path) -> dict[str, np.ndarray]:
    """Initializers and constants of a file, by name."""
    graph = onnx.load(file).graph
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def slope_error(
    file: Path,
    manifest: dict[str, Any],
    samples: Mapping[str, np.ndarray],
    labels: np.ndarray,
    gradient: Mapping[str, np.ndarray],
) -> float:
    """Difference between slopes of the loss and the gradient, relative to its length, in two directions.

    The slope is a central difference of losses that numpy computes from a file's logits. The best of several step
    lengths counts: long ones cross kinks, short ones drown in rounding.
    """
    length = np.sqrt(sum(np.square(part).sum() for part in gradient.values()))
    rng = np.random.default_rng(2)
    noise = {name: rng.choice([-1.0, 1.0], part.shape) for name, part in gradient.items()}
    size = np.sqrt(sum(part.size for part in noise.values()))
    loss = _Loss(file, manifest, samples, labels)
    scale = np.sqrt(sum(np.square(loss.value(name)).sum() for name in gradient))
    worst = 0.0
    for share in (0.0, 1.0):
        direction = {name: part / length + share * noise[name] / size for name, part in gradient.items()}
        expected = sum(float((direction[name] * part).sum()) for name, part in gradient.items())
        slopes = [
            (loss.at(direction, step * scale) - loss.at(direction, -step * scale)) / (2 * step * scale)
            for step in _STEPS
        ]
        worst = max(worst, min(abs(slope - expected) for slope in slopes) / length)
    return worst


class _Loss:
    """The loss of a file's logits with other values of some parameters, in double precision."""

    def __init__(
        self, file: Path, manifest: dict[str, Any], samples: Mapping[str, np.ndarray], labels: np.ndarray
    ) -> None:
        self._model = onnx.load(file)
        self._manifest, self._samples, self._labels = manifest, samples, labels
        self._logits = manifest["model_logits"]
        if self._logits not in {output.name for output in self._model.graph.output}:
            self._model.graph.output.append(onnx.helper.make_empty_tensor_value_info(self._logits))
        self._tensors = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._values = {name: numpy_helper.to_array(tensor) for name, tensor in self._tensors.items()}

    def value(self, name: str) -> np.ndarray:
        return self._values[name].astype(np.float64)

    def at(self, direction: Mapping[str, np.ndarray], step: float) -> float:
        for name, part in direction.items():
            value = (self.value(name) + step * part).astype(np.float32)
            self._tensors[name].CopyFrom(numpy_helper.from_array(value, name))
        session = quiet_session(self._model)
        logits = session.run([self._logits], dict(self._samples))[0].astype(np.float64)
        batch = self._manifest["logits_shape"].index("N") if "N" in self._manifest["logits_shape"] else 0
        return self._loss(np.moveaxis(logits, self._batch_axis(logits), batch))

    def _batch_axis(self, logits: np.ndarray) -> int:
        expected = list(self._manifest["logits_shape"])
        for axis in range(logits.ndim):
            rest = [size for number, size in enumerate(logits.shape) if number != axis]
            if logits.shape[axis] == len(self._labels) and rest == expected[1:]:
                return axis
        raise AssertionError(f"logits of {logits.shape}, but the manifest says {expected}")

    def _loss(self, logits: np.ndarray) -> float:
        if self._manifest["loss_function"] == "bce-with-logits":
            return float((np.logaddexp(0, logits) - logits * self._labels).mean())
        if self._manifest["loss_function"] == "mse":
            return float(np.square(logits - self._labels).mean())
        classes = np.moveaxis(logits, _class_axis(self._manifest), -1)
        logs = classes - np.logaddexp.reduce(classes, axis=-1, keepdims=True)
        return float(-np.take_along_axis(logs, self._labels[..., None], -1).mean())
