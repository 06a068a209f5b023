"""Shapes found by running a graph."""

from __future__ import annotations

import numpy as np
import onnx
from models import tiny
from models.tiny import node, normal

from adabet_onnx import make_artifacts, open_model, select


def numbered() -> onnx.ModelProto:
    """Rows selected by index: onnxruntime's optimizer replaces the indices by a Slice."""
    nodes = [
        node("MatMul", ["input", "a"], ["h"], "first"),
        node("Shape", ["h"], ["shape"], "shape", end=1),
        node("Squeeze", ["shape"], ["count"], "squeeze"),
        node("Range", ["zero", "count", "one"], ["numbers"], "range"),
        node("Gather", ["h", "numbers"], ["rows"], "gather", axis=0),
        node("MatMul", ["rows", "b"], ["logits"], "fc"),
    ]
    weights = {"a": normal(4, 4), "b": normal(4, 3), "zero": np.array(0, np.int64), "one": np.array(1, np.int64)}
    return tiny.build(nodes, weights, input_shape=("N", 4), output_shape=("N", 3))


def test_a_value_that_is_optimised_away_has_a_shape(tmp_path):
    model = open_model(numbered())
    made = make_artifacts(model, select(model, layers=["first", "fc"]), tmp_path / "a", backend="portable")
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    _, logits = made.session(made.initial, threads=1).evaluate({"input": x}, np.zeros(5, np.int64))
    np.testing.assert_allclose(logits, tiny.run(numbered(), x), rtol=1e-5, atol=1e-5)
