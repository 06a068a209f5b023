"""Data for models with several inputs, with tokens, with samples of no, one or two axes, and with targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from models import tiny
from models.folded import folded
from models.tiny import node, normal
from onnx import TensorProto, helper

from adabet_onnx import DataError, Trainer, make_artifacts, open_model, score, select
from adabet_onnx.data.source import open_data
from adabet_onnx.scoring.options import Scoring


def two_inputs(kind: int = TensorProto.INT64) -> onnx.ModelProto:
    """Token ids and a mask (N, 5), and an age (N,)."""
    nodes = [
        node("Gather", ["table", "ids"], ["tokens"], "/embed"),
        node("Unsqueeze", ["mask", "last"], ["m"], "/unsqueeze"),
        node("Mul", ["tokens", "m"], ["masked"], "/masked"),
        node("ReduceMean", ["masked"], ["mean"], "/mean", axes=[1], keepdims=0),
        node("Unsqueeze", ["age", "one"], ["a"], "/age"),
        node("Concat", ["mean", "a"], ["all"], "/concat", axis=1),
        node("Gemm", ["all", "fc.weight", "fc.bias"], ["logits"], "/fc"),
    ]
    values = {"table": normal(11, 4), "fc.weight": normal(5, 3), "fc.bias": normal(3)}
    values |= {"last": np.array([-1]), "one": np.array([1])}
    given = [
        helper.make_tensor_value_info("ids", kind, ["batch", 5]),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 5]),
        helper.make_tensor_value_info("age", TensorProto.FLOAT, ["batch"]),
    ]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])]
    return tiny.assemble(nodes, values, given, made)


def arrays(count: int = 40, suffix: str = "") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    return {
        f"ids{suffix}": rng.integers(0, 11, (count, 5)).astype(np.int32),
        f"mask{suffix}": rng.integers(0, 2, (count, 5)).astype(np.float32),
        f"age{suffix}": rng.random(count).astype(np.float32),
        f"y{suffix}": rng.integers(0, 3, count),
    }


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_an_npz_with_arrays_named_like_the_inputs(tmp_path: Path, kind: int) -> None:
    model = open_model(two_inputs(kind))
    path = tmp_path / "data.npz"
    np.savez(path, **arrays(40, "_train"), **arrays(12, "_test"))
    splits = open_data(path, model)
    assert (len(splits.train), len(splits.test or ())) == (40, 12)
    scores = score(model, path, scoring=Scoring(samples=32, subset_size=16, subsets=4))
    make_artifacts(model, select(scores, strategy="all"), tmp_path / "out", backend="portable", check=False)
    Trainer(tmp_path / "out").fit(path, epochs=1)


def test_a_mapping_with_labels() -> None:
    splits = open_data(arrays(), open_model(two_inputs()))
    assert splits.train.labels is not None
    assert splits.train.labels.shape == (40,)
    assert set(splits.train.rows.fetch(np.arange(2))) == {"ids", "mask", "age"}


def test_an_input_that_is_missing(tmp_path: Path) -> None:
    given = arrays()
    del given["mask"]
    np.savez(tmp_path / "data.npz", **given)
    with pytest.raises(DataError, match=r"no array for the model's input 'mask'; it holds age, ids, y"):
        open_data(tmp_path / "data.npz", open_model(two_inputs()))


def test_inputs_of_different_length(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **(arrays(40) | {"age": np.ones(39, np.float32)}))
    with pytest.raises(DataError, match=r"different numbers of samples: ids 40, mask 40, age 39"):
        open_data(tmp_path / "data.npz", open_model(two_inputs()))


@pytest.mark.parametrize("shape", [(6,), (2, 6), (3, 2, 6)])
@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
def test_samples_of_one_to_three_axes(tmp_path: Path, shape: tuple[int, ...], loss: str, rng) -> None:
    nodes = [node("Flatten", ["input"], ["f"], "/flat"), node("Gemm", ["f", "fc.weight"], ["logits"], "/fc")]
    size = int(np.prod(shape))
    model = open_model(tiny.build(nodes, {"fc.weight": normal(size, 3)}, input_shape=("N", *shape)))
    path = tmp_path / "data.npz"
    y = rng.integers(0, 3, 40) if loss == "cross-entropy" else rng.random((40, 3)).astype(np.float32)
    np.savez(path, x=rng.standard_normal((40, *shape)).astype(np.float32), y=y)
    scores = score(model, path, scoring=Scoring(samples=32, subset_size=16, subsets=4))
    selection = select(scores, strategy="all")
    make_artifacts(model, selection, tmp_path / "out", backend="portable", check=False, loss=loss)
    Trainer(tmp_path / "out").fit(path, epochs=1)


def test_folded_normalisations_are_noticed() -> None:
    (note,) = open_model(folded()).notes
    assert "they were folded" in note
    assert open_model(tiny.conv_net(norm=False)).notes == ()
