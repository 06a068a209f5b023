"""Layers with the same output for every sample: position and token type embeddings, looked up by constants."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models.tiny import node, normal
from onnx import TensorProto, helper, numpy_helper

from adabet_onnx import make_artifacts, open_model, score, select
from adabet_onnx.scoring.options import Scoring

pytestmark = pytest.mark.usefixtures("checked_here")


def encoder(kinds: str = "constant") -> onnx.ModelProto:
    """The start of a BERT: words + token types + positions, a normalisation, a mean over tokens, a Gemm; 6 tokens."""
    values = {
        "word.weight": normal(20, 8),
        "kind.weight": normal(2, 8),
        "position.weight": normal(6, 8),
        "norm.weight": 1 + normal(8),
        "norm.bias": normal(8),
        "fc.weight": normal(8, 3),
        "positions": np.arange(6)[np.newaxis],
        "zeros": np.zeros((1, 6), np.int64),
    }
    nodes = [node("Gather", ["word.weight", "ids"], ["w"], "/word")]
    kind = "zeros"
    if kinds == "expanded":
        nodes += [node("Shape", ["ids"], ["shape"], "/shape"), node("Expand", ["zeros", "shape"], ["kinds"], "/expand")]
        kind = "kinds"
    nodes += [
        node("Gather", ["kind.weight", kind], ["k"], "/kind"),
        node("Add", ["w", "k"], ["wk"], "/add"),
        node("Gather", ["position.weight", "positions"], ["p"], "/position"),
        node("Add", ["wk", "p"], ["e"], "/add_1"),
        node("LayerNormalization", ["e", "norm.weight", "norm.bias"], ["n"], "/norm"),
        node("ReduceMean", ["n"], ["mean"], "/mean", axes=[1], keepdims=0),
        node("Gemm", ["mean", "fc.weight"], ["logits"], "/fc"),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in values.items()]
    given = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 6])]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])]
    graph = helper.make_graph(nodes, "encoder", given, made, tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto


@pytest.mark.parametrize("kinds", ["constant", "expanded"])
def test_their_activation_is_where_they_meet_the_batch(kinds: str) -> None:
    model = open_model(encoder(kinds))
    assert [layer.name for layer in model.layers] == ["word", "kind", "position", "norm", "fc"]
    assert [layer.activation_shape for layer in model.layers] == [(6, 8)] * 4 + [(3,)]
    assert [layer.activation for layer in model.layers] == [
        "w",
        "wk" if kinds == "constant" else "k",
        "e",
        "n",
        "logits",
    ]
    noted = [note for note in model.notes if "the same for every sample" in note]
    assert ["'position'" in note for note in noted] == ([False, True] if kinds == "constant" else [True])


def test_they_are_scored_and_trained(tmp_path, rng) -> None:
    model = open_model(encoder())
    ids, labels = rng.integers(0, 20, (40, 6)), np.arange(40) % 3
    scores = score(model, (ids, labels), scoring=Scoring(samples=32, subset_size=16, subsets=4))
    assert {layer.activation_size for layer in scores.layers[:4]} == {48}
    selection = select(scores, strategy="all")
    make_artifacts(model, selection, tmp_path / "artifacts", backend="portable")  # its self-check looks at gradients
