"""Run two graphs on the same random inputs, to verify that a rewrite has not changed the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from .. import runtime, seeds
from ..errors import ModelError, RuntimeMissingError
from .shapes import TRIAL_SECONDS

_BATCH = 2

Range = tuple[float, float]


def compare(original: ir.Model, changed: ir.Model, *, ranges: Mapping[str, Range] | None = None) -> float | None:
    """The relative difference between the outputs of two graphs on the same inputs.

    Args:
        original: a graph; its inputs may be of another float type.
        changed: the rewritten graph.
        ranges: smallest and largest meaningful value of inputs with a limited range.

    Returns:
        The largest ratio of norms over all outputs; None if no runtime is installed, it cannot run the original, or
        the original's outputs are not finite.
    """
    feeds = random_feeds(original, ranges or {})
    if feeds is None:
        return None
    expected = _run(original, feeds)
    if expected is None or not all(np.isfinite(array).all() for array in expected):
        return None
    singles = {
        value.name or "": feeds[value.name or ""].astype(value.dtype.numpy())
        for value in changed.graph.inputs
        if value.dtype is not None
    }
    outputs = _run(changed, singles)
    if outputs is None or any(a.shape != b.shape for a, b in zip(outputs, expected, strict=True)):
        return float("inf")
    return max(_distance(a, b) for a, b in zip(outputs, expected, strict=True))


def outputs_of_trial(model: ir.Model, scale: float = 1.0) -> np.ndarray | None:
    """The first output for four random samples, floats in float64.

    Args:
        model: a graph.
        scale: factor for float inputs.

    Returns:
        The output; None if no runtime is installed, or it cannot run the graph in time.
    """
    feeds = random_feeds(model, {}, 2 * _BATCH)
    if feeds is None:
        return None
    scaled = {
        name: (array * np.asarray(scale, array.dtype) if array.dtype.kind == "f" else array)
        for name, array in feeds.items()
    }
    outputs = _run(model, scaled)
    return None if outputs is None else outputs[0]


def random_feeds(model: ir.Model, ranges: Mapping[str, Range], batch: int = _BATCH) -> dict[str, np.ndarray] | None:
    """Random inputs: normal floats, integers 0 and 1; None if a shape or type is unknown."""
    rng = seeds.trial()
    feeds = {}
    for value in model.graph.inputs:
        if value.shape is None or value.dtype is None:
            return None
        shape = [extent if isinstance(extent, int) else batch for extent in value.shape]
        array: np.ndarray
        if value.name in ranges:
            array = rng.uniform(*ranges[value.name or ""], shape)
        elif value.dtype.is_floating_point():
            array = rng.standard_normal(shape)
        else:
            array = rng.integers(0, 2, shape)
        feeds[value.name or ""] = array.astype(value.dtype.numpy())
    return feeds


def _run(model: ir.Model, feeds: Mapping[str, Any]) -> list[np.ndarray] | None:
    try:
        session = runtime.inference_session(model, "the model")
        outputs = runtime.run_session(session, None, dict(feeds), "the model", seconds=TRIAL_SECONDS)
    except (ModelError, RuntimeMissingError):
        return None
    return [np.asarray(output, np.float64) for output in outputs]


def _distance(actual: np.ndarray, expected: np.ndarray) -> float:
    size = float(np.linalg.norm(expected))
    return float(np.linalg.norm(actual - expected)) / (size or 1.0)
