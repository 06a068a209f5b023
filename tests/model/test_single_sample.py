"""Models of one sample without a batch: one is added, or they are rejected with the shape to export."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import tiny
from models.tiny import node, normal

from adabet_onnx import ModelError, Trainer, export_model, make_artifacts, open_model, score, select
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.training.settings import Settings


def sample_net(*, first: list | None = None, last: list | None = None, shape=(3, 8, 8), out=("classes",), **values):
    """A convolutional network that adds its batch with an Unsqueeze, and removes it at the end.

    Args:
        first: nodes from ``input`` to ``s``, a sample of channels, height and width.
        last: nodes from ``b``, logits with a batch of 1, to ``logits``.
        shape: of the input.
        out: of the output.
        values: more constants.
    """
    nodes = [
        *(first or [node("Identity", ["input"], ["s"], "/start")]),
        node("Unsqueeze", ["s", "zero"], ["x"], "/unsqueeze"),
        node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], "/conv", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"], "/relu"),
        node("GlobalAveragePool", ["r"], ["p"], "/pool"),
        node("Flatten", ["p"], ["f"], "/flat"),
        node("Gemm", ["f", "fc.weight", "fc.bias"], ["b"], "/fc", transB=1),
        *(last or [node("Squeeze", ["b", "zero"], ["logits"], "/squeeze")]),
    ]
    weights = {"conv.weight": normal(6, 3, 3, 3), "conv.bias": normal(6), "fc.weight": normal(4, 6)}
    stored = weights | {"fc.bias": normal(4), "zero": np.array([0])} | values
    return tiny.build(nodes, stored, input_shape=shape, output_shape=out)


NETS = {
    "unsqueeze": sample_net(),
    "batch in the output": sample_net(last=[node("Identity", ["b"], ["logits"], "/end")], out=(1, 4)),
    "one channel": sample_net(
        first=[node("Concat", ["input"] * 3, ["s"], "/rgb", axis=0)],
        shape=(1, 8, 8),
    ),
    "scaled, channels last": sample_net(
        first=[
            node("Mul", ["input", "scale"], ["m"], "/scale"),
            node("Transpose", ["m"], ["s"], "/order", perm=[2, 0, 1]),
        ],
        shape=(8, 8, 3),
        scale=np.array([0.5, 0.25, 2.0], np.float32),
    ),
    "flat": sample_net(
        first=[node("Reshape", ["input", "image"], ["s"], "/image")], shape=(192,), image=np.array([3, 8, 8])
    ),
    "gather": sample_net(last=[node("Gather", ["b", "index"], ["logits"], "/first", axis=0)], index=np.array(0)),
    "reshape": sample_net(last=[node("Reshape", ["b", "flat"], ["logits"], "/flatten")], flat=np.array([-1])),
    "softmax": sample_net(
        last=[
            node("Squeeze", ["b", "zero"], ["l"], "/squeeze"),
            node("Softmax", ["l"], ["logits"], "/softmax", axis=0),
        ]
    ),
    "mean of crops": sample_net(
        first=[node("ReduceMean", ["input"], ["s"], "/crops", axes=[0], keepdims=0)], shape=(2, 3, 8, 8)
    ),
    "no unsqueeze": tiny.build(
        [
            node("MatMul", ["input", "a.weight"], ["h"], "/a"),
            node("Tanh", ["h"], ["t"], "/tanh"),
            node("MatMul", ["t", "b.weight"], ["logits"], "/b"),
        ],
        {"a.weight": normal(6, 5), "b.weight": normal(5, 3)},
        input_shape=(6,),
        output_shape=(3,),
    ),
}


@pytest.mark.parametrize("kind", NETS)
def test_a_batch_is_added_and_changes_nothing(kind, rng):
    proto = NETS[kind]
    shape = tuple(extent.dim_value for extent in proto.graph.input[0].type.tensor_type.shape.dim)
    model = open_model(proto)
    assert model.inputs[0].shape == ("N", *shape)
    (note,) = [note for note in model.notes if "single samples" in note]
    assert f"input (N, {', '.join(map(str, shape))})" in note
    x = rng.standard_normal((5, *shape)).astype(np.float32)
    alone = np.stack([tiny.run(proto, sample).reshape(-1) for sample in x])
    found = tiny.run(model.proto(), x)
    assert found.shape == alone.shape
    np.testing.assert_allclose(found, alone, atol=1e-6)


@pytest.mark.slow
def test_it_trains_and_the_adapted_model_takes_a_batch(rng, tmp_path):
    onnx.save(NETS["scaled, channels last"], tmp_path / "model.onnx")
    x, y = rng.standard_normal((40, 8, 8, 3)).astype(np.float32), np.arange(40) % 4
    np.savez(tmp_path / "data.npz", x=x, y=y)
    model = open_model(tmp_path / "model.onnx")
    selection = select(
        score(model, tmp_path / "data.npz", scoring=Scoring(samples=32, subset_size=16, subsets=2)), strategy="all"
    )
    make_artifacts(model, selection, tmp_path / "artifacts")
    export_model(tmp_path / "artifacts", tmp_path / "untrained.onnx")
    rows = Trainer(tmp_path / "artifacts").fit(
        tmp_path / "data.npz", epochs=8, learning_rate=0.03, settings=Settings(validation=0)
    )
    adapted = export_model(tmp_path / "artifacts", tmp_path / "adapted.onnx")
    assert rows[-1]["train_loss"] < rows[1]["train_loss"]
    alone = np.stack([tiny.run(NETS["scaled, channels last"], sample) for sample in x])
    np.testing.assert_allclose(tiny.run(onnx.load(tmp_path / "untrained.onnx"), x), alone, atol=1e-6)
    assert tiny.run(adapted, x).shape == (40, 4)


def test_what_cannot_get_a_batch_is_refused_with_the_shape_to_export():
    """An operator that cannot be moved comes before the batch is added."""
    more = [node("CumSum", ["input", "axis"], ["s"], "/sum")]
    proto = sample_net(first=more, axis=np.array(1))
    with pytest.raises(ModelError, match=r"looks like one sample without a batch.*input of shape \(1, 3, 8, 8\)"):
        open_model(proto)


def test_a_convolution_of_a_sample_is_refused_with_the_shape_to_export():
    """onnx's checker accepts it, but no runtime does."""
    proto = tiny.conv_net()
    del proto.graph.input[0].type.tensor_type.shape.dim[0]
    with pytest.raises(ModelError, match=r"a sample without a batch\? Export .* an input of shape \(1, 3, 8, 8\)"):
        open_model(proto)


def test_a_batch_that_is_there_stays_what_it_is():
    """A fixed batch that is also used inside is still rejected, and not mistaken for a sample's axis."""
    nodes = [
        node("Reshape", ["input", "shape"], ["r"], "/mix"),
        node("MatMul", ["r", "fc.weight"], ["logits"], "/fc"),
    ]
    values = {"shape": np.array([3, 8]), "fc.weight": normal(8, 3)}
    proto = tiny.build(nodes, values, input_shape=(4, 6), output_shape=(3, 3))
    with pytest.raises(ModelError, match="the batch size is fixed inside the graph"):
        open_model(proto)
