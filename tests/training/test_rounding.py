"""An export that differs from the trained model only by rounding is written; one that differs by more is not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import tiny
from models.tiny import node, normal

from adabet_onnx import CheckError, export_model, make_artifacts, open_model, select
from adabet_onnx.training import export

_FAR = 300.0  # numbers of this size are rounded by 3e-5


def _net(offsets: list[float]) -> onnx.ModelProto:
    """An MLP with numbers added in the middle, whose sum is 0 except for rounding."""
    tensors = {"w": normal(6, 8), "b": normal(8), "head": normal(8, 3)}
    tensors |= {f"offset{i}": np.array(offset, np.float32) for i, offset in enumerate(offsets)}
    nodes, last = [node("Gemm", ["input", "w", "b"], ["a"])], "a"
    for i in range(len(offsets)):
        nodes.append(node("Add", [last, f"offset{i}"], [f"moved{i}"]))
        last = f"moved{i}"
    nodes += [node("Tanh", [last], ["t"]), node("MatMul", ["t", "head"], ["logits"])]
    return tiny.build(nodes, tensors, input_shape=("N", 6))


def _artifacts(folder, offsets, monkeypatch, other):
    """Artifacts of a net, whose exported graph is replaced."""
    onnx.save(_net(offsets), folder / "model.onnx")
    model = open_model(folder / "model.onnx")
    make_artifacts(model, select(model, strategy="head"), folder / "artifacts", check=False)
    monkeypatch.setattr(export, "adapted_proto", lambda manifest, full_precision: other)
    return folder / "artifacts"


def test_the_same_in_another_order_is_written(tmp_path, monkeypatch):
    other = _net([_FAR / 3, _FAR / 3, _FAR / 3, -_FAR])
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    one, two = tiny.run(_net([_FAR, -_FAR]), x), tiny.run(other, x)
    assert export.TOLERANCE < np.abs(one - two).max() / max(1, np.abs(one).max()) < 1e-3  # by rounding alone
    artifacts = _artifacts(tmp_path, [_FAR, -_FAR], monkeypatch, other)
    export_model(artifacts, tmp_path / "exported.onnx")
    np.testing.assert_array_equal(tiny.run(onnx.load(tmp_path / "exported.onnx"), x), two)


@pytest.mark.parametrize(("offsets", "shift"), [([], 1e-4), ([_FAR, -_FAR], 1e-2)])
def test_other_logits_are_refused_with_what_rounding_does(tmp_path, monkeypatch, offsets, shift):
    artifacts = _artifacts(tmp_path, offsets, monkeypatch, _net([*offsets, shift]))
    with pytest.raises(CheckError, match=r"more than 1e-05 and more than rounding explains \(\de-\d\d\)"):
        export_model(artifacts, tmp_path / "exported.onnx")
    assert not (tmp_path / "exported.onnx").exists()
