"""Probabilities in all forms: their logits, the loss on these, and which outputs stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from models import probability_tails as tails
from models import tiny
from models.probability_tails import FLOAT, INT64, with_tail
from onnx import helper

from adabet_onnx import ModelError, export_model, make_artifacts, open_model
from adabet_onnx.cli.main import cli
from adabet_onnx.data.dataset import Dataset
from adabet_onnx.data.preprocess import Arithmetic
from adabet_onnx.data.source import open_data
from adabet_onnx.model.head import new_head
from adabet_onnx.model.open import Model
from adabet_onnx.model.probabilities import describe_probabilities, is_class_axis
from adabet_onnx.selection.record import Selection
from adabet_onnx.trainability.decisions import decisions
from adabet_onnx.trainability.preflight import check_model, loss_obstacle
from adabet_onnx.training.evaluation import evaluate


def everything(model: Model) -> Selection:
    names = dict.fromkeys(p.name for layer in model.layers for p in layer.parameters)
    return Selection(model.sha256, "layers", tuple(layer.name for layer in model.layers), tuple(names))


def data(model: Model, classes: int = 3, size: int = 24) -> tuple[np.ndarray, np.ndarray, Dataset]:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((size, 8)).astype(np.float32), rng.integers(0, classes, size)
    return x, y, open_data({"x": x, "y": y}, model).train


def loss_of(proto: onnx.ModelProto, model: Model, classes: int, *, log: bool = False) -> tuple[float, float]:
    """Ours, and the mean of -log p of the label's class from what the given file itself computes."""
    x, y, dataset = data(model, classes)
    p = tiny.run(proto, x).astype(np.float64)
    picked = p[np.arange(len(y)), y]
    found = evaluate(model, dataset, preprocessing=Arithmetic())
    assert found["accuracy"] == pytest.approx((p.argmax(1) == y).mean())
    assert found["loss"] is not None
    return float(found["loss"]), float(-(picked if log else np.log(picked)).mean())


@pytest.mark.parametrize("form", tails.SOFTMAX)
def test_a_softmax_in_every_form(form: str) -> None:
    proto = with_tail(tails.SOFTMAX[form])
    model = open_model(proto)
    assert model.logits == "z"
    ours, expected = loss_of(proto, model, 3)
    assert ours == pytest.approx(expected, rel=1e-5)
    assert "by a Softmax over axis" in str(decisions(model)[0])
    assert new_head(model, 5).logits == "y"  # the form is then removed
    assert tiny.run(new_head(model, 5).graph, data(model)[0]).shape == (24, 5)


@pytest.mark.parametrize("form", tails.LOG_SOFTMAX)
def test_a_log_softmax_in_every_form(form: str) -> None:
    proto = with_tail(tails.LOG_SOFTMAX[form])
    model = open_model(proto)
    assert model.logits == "z"
    ours, expected = loss_of(proto, model, 3, log=True)
    assert ours == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", tails.SIGMOID)
def test_a_sigmoid_in_every_form(form: str) -> None:
    proto = with_tail(tails.SIGMOID[form], 1)
    model = open_model(proto)
    assert model.logits == "z"
    x = data(model)[0]
    p, y = tiny.run(proto, x).astype(np.float64), (np.arange(24)[:, None] % 2).astype(np.float32)
    dataset = open_data({"x": x, "y": y}, model).train
    found = evaluate(model, dataset, preprocessing=Arithmetic(), loss="bce-with-logits")
    assert found["loss"] == pytest.approx(float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()), rel=1e-5)


@pytest.mark.parametrize("form", tails.COLUMNS)
def test_the_two_columns_of_one_sigmoid(form: str) -> None:
    proto = with_tail(tails.COLUMNS[form], 1, shown=2)
    model = open_model(proto)
    x = data(model)[0]
    z, logits = tiny.run(proto, x, output="z"), tiny.run(model.graph, x, output=model.logits)
    zero = np.zeros_like(z)
    np.testing.assert_allclose(logits, np.hstack([z, zero] if form.startswith("p,") else [zero, z]), rtol=1e-6)
    np.testing.assert_allclose(tiny.run(model.graph, x), tiny.run(proto, x), rtol=1e-5, atol=1e-7)
    ours, expected = loss_of(proto, model, 2)
    assert ours == pytest.approx(expected, rel=1e-5)
    assert any("the columns 'y'" in note for note in model.notes)
    again = open_model(model.proto())
    assert (again.logits, again.notes) == (model.logits, ())
    made = new_head(model, 4)  # the zero belongs to the old head
    assert tiny.run(made.graph, x).shape == (24, 4)
    assert tiny.run(made.graph, x).std(axis=0).min() > 0


@pytest.mark.parametrize("backend", ["portable", "ort"])
@pytest.mark.parametrize(("steps", "columns"), [(tails.SOFTMAX["shifted"], 3), (tails.COLUMNS["1 - p, p"], 1)])
def test_gradients_equal_torch(steps, columns, backend, tmp_path, torch_oracle, checked_here, request):
    """Of -log of the probabilities that the given file computes, in float64."""
    import torch

    if backend == "ort":
        request.getfixturevalue("training")
    proto = with_tail(steps, columns, shown=max(columns, 2))
    model = open_model(proto)
    manifest = make_artifacts(model, everything(model), tmp_path / "a", backend=backend)
    x, y, _ = data(model, max(columns, 2))
    session = manifest.session(manifest.initial)
    session.gradients({"x": x}, y)
    weights = {i.name: torch.tensor(onnx.numpy_helper.to_array(i)).double() for i in proto.graph.initializer
               if i.name.endswith("weight")}  # fmt: skip
    for leaf in weights.values():
        leaf.requires_grad_(True)
    z = torch.relu(torch.tensor(x).double() @ weights["a.weight"]) @ weights["fc.weight"]
    p = torch.softmax(z, 1) if columns > 1 else torch.cat([1 - torch.sigmoid(z), torch.sigmoid(z)], 1)
    (-torch.log(p[range(len(y)), y])).mean().backward()
    for name, leaf in weights.items():
        np.testing.assert_allclose(session.gradient(name), leaf.grad.numpy(), rtol=1e-4, atol=1e-6)
    exported = export_model(tmp_path / "a", tmp_path / "adapted.onnx")
    np.testing.assert_allclose(tiny.run(exported, x).sum(1), 1, rtol=1e-5)  # probabilities, as before


# --- forms that are not known --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", tails.UNKNOWN)
def test_outputs_that_look_like_probabilities_are_said_to_and_refused(form: str, tmp_path: Path) -> None:
    proto = with_tail(tails.UNKNOWN[form])
    model = open_model(proto)
    assert model.logits == "y"
    assert model.doubt is not None
    assert "sum to 1 along axis 1" in model.doubt
    assert [note for note in model.notes if "logits='NAME'" in note]
    assert "looks like probabilities" in str(decisions(model)[0])
    with pytest.raises(ModelError, match=r"cross-entropy needs logits.*`open_model\(.*logits='NAME'\)`"):
        make_artifacts(model, everything(model), tmp_path / "a", check=False)
    with pytest.raises(ModelError, match=r"cross-entropy needs logits"):
        evaluate(model, data(model)[2], preprocessing=Arithmetic())
    assert not any(layer.trainable for layer in check_model(proto).layers)
    assert loss_obstacle(model, "mse", "portable") is None
    named = open_model(proto, logits="y")  # then the user has chosen it
    assert named.doubt is None
    assert any("used as logits because it was named" in note for note in named.notes)
    assert loss_obstacle(named, "cross-entropy", "portable") is None
    again = open_model(named.proto())
    assert (again.logits, again.doubt) == ("y", None)


@pytest.mark.parametrize("form", tails.RESCALED)
def test_so_are_multiples_and_minus_logarithms(form: str) -> None:
    model = open_model(with_tail(tails.RESCALED[form]))
    assert model.doubt is not None
    assert "cross-entropy needs logits" in (loss_obstacle(model, "cross-entropy", "portable") or "")


@pytest.mark.parametrize("form", tails.NONE)
def test_what_is_no_probability(form: str) -> None:
    proto = with_tail(tails.NONE[form])
    model = open_model(proto)
    assert (model.logits, model.doubt) == ("y", None)
    assert loss_obstacle(model, "cross-entropy", "portable") is None


@pytest.mark.parametrize(
    ("axis", "shape", "logits"),
    [
        (-1, (5, 3), "z"),  # tokens
        (2, (5, 3), "z"),
        (1, (5, 3), "y"),  # attention over tokens
        (1, (5, 1), "z"),  # the only axis with more than one element
        (1, (3, 4, 4), "z"),  # pixels
        (-1, (4, 4, 3), "z"),
        (2, (4, 4, 3), "y"),
    ],
)
def test_a_softmax_counts_over_the_classes_only(axis: int, shape: tuple[int, ...], logits: str) -> None:
    proto = tails.over(axis, shape)
    model = open_model(proto)
    assert model.logits == logits
    assert (model.doubt is None) == (logits == "z")
    if logits == "y":
        assert f"Softmax over axis {axis}" in (model.doubt or "")
        assert open_model(proto, logits="y").doubt is None
        assert open_model(proto, logits="z").logits == "z"


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ((1,), (2, 3), True),
        ((-1,), (2, 3), True),
        ((0,), (2, 3), False),
        ((0,), (2,), False),
        ((-1,), None, True),
        ((0,), None, False),
        ((1, 2, 3), (2, 3, 1, 1), True),  # opset 12: all axes from 1 on
        ((1, 2, 3), (2, 3, 4, 1), False),
        ((1,), (2, 3, 4), False),
        ((2,), (2, 3, 4), True),
    ],
)
def test_class_axis(axes: tuple[int, ...], shape: tuple[int, ...] | None, expected: bool) -> None:
    assert is_class_axis(axes, shape) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([[[0.2, 0.8], [0.5, 0.5]]], "numbers in [0, 1] that sum to 1 along axis 1"),
        ([[[0.2], [0.9]], [[0.0], [1.0]]], "one number in [0, 1]"),
        ([[0.2, 0.9]], "one number in [0, 1]"),
        ([[[0.2, 0.9], [0.7, 0.6]]], "numbers in [0, 1]"),
        ([[[0.2, 0.8], [0.5, 0.5]], [[0.2, 3.0], [0.5, 0.5]]], None),  # of larger inputs
        ([[[20, 80], [50, 50]]], "numbers in [0, 100] that sum to 100 along axis 1"),
        ([[[20, 80], [50, 60]]], None),
        ([-np.log([[0.2, 0.8], [0.5, 0.5]])], "minus the logarithms of numbers that sum to 1 along axis 1"),
        ([-np.log([[0.2, 0.7], [0.5, 0.5]])], None),
        ([[[-0.2, 1.2], [0.5, 0.5]]], None),
        ([[[0.02, 0.09], [0.07, 0.06]]], None),  # small coincidentally
        ([[[0.5, 0.5], [0.5, 0.5]]], None),  # constant
        ([[[np.nan, 0.5]]], None),
        ([], None),
    ],
)
def test_what_looks_like_probabilities(found: list[Any], expected: str | None) -> None:
    assert describe_probabilities([np.array(array) for array in found]) == expected


# --- other outputs -------------------------------------------------------------------------------------------

TOP = [("Softmax", ["z"], ["p"], {}), ("TopK", ["p", "k"], ["v", "i"], {})]


def outputs(model: Model) -> list[str | None]:
    return [value.name for value in model.graph.graph.outputs]


@pytest.mark.parametrize("backend", ["portable", "ort"])
def test_the_largest_probabilities_and_their_classes_stay(backend, tmp_path, checked_here, request):
    """The values are sorted, so they do not belong to classes and cannot be logits."""
    if backend == "ort":
        request.getfixturevalue("training")
    proto = with_tail(TOP, outputs={"v": FLOAT, "i": INT64})
    model = open_model(proto)
    assert (model.logits, outputs(model)) == ("z", ["v", "i"])
    x, y, dataset = data(model)
    z = tiny.run(proto, x, output="z").astype(np.float64)
    expected = np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(24), y])
    assert evaluate(model, dataset, preprocessing=Arithmetic())["loss"] == pytest.approx(expected, rel=1e-5)
    make_artifacts(model, everything(model), tmp_path / "a", backend=backend)
    adapted = export_model(tmp_path / "a", tmp_path / "adapted.onnx")
    for name in ("v", "i"):
        np.testing.assert_allclose(tiny.run(adapted, x, output=name), tiny.run(proto, x, output=name), rtol=1e-5)
    assert [value.name for value in adapted.graph.output] == ["v", "i"]
    assert outputs(open_model(adapted)) == ["v", "i"]
    assert [value.name for value in new_head(model, 5).graph.graph.outputs] == ["v"]


def test_a_class_beside_probabilities_stays() -> None:
    steps = [("Softmax", ["z"], ["y"], {}), ("ArgMax", ["y"], ["label"], {"axis": 1})]
    proto = with_tail(steps, outputs={"label": INT64, "y": FLOAT})
    model = open_model(proto)
    assert (model.logits, outputs(model)) == ("z", ["label", "y"])


def test_outputs_made_from_the_same_logits_are_no_choice() -> None:
    proto = with_tail(TOP, outputs={"v": FLOAT, "p": FLOAT, "z": FLOAT})
    model = open_model(proto)
    assert (model.logits, outputs(model)) == ("z", ["v", "p", "z"])
    other = with_tail([*TOP, ("Relu", ["z"], ["r"], {})], outputs={"v": FLOAT, "r": FLOAT})
    with pytest.raises(ModelError, match="it is unclear which"):
        open_model(other)


def test_an_output_that_is_made_from_something_else_goes() -> None:
    steps = [("Softmax", ["z"], ["y"], {}), ("Relu", ["b2"], ["more"], {})]
    model = open_model(with_tail(steps, outputs={"y": FLOAT, "more": FLOAT}), logits="y")
    assert (model.logits, outputs(model)) == ("z", ["y"])


@pytest.mark.parametrize(
    ("steps", "named", "kept"),
    [
        (tails.SOFTMAX["shifted"], "z", ["y"]),
        (tails.UNKNOWN["squared and divided"], "z", ["y"]),
        (tails.UNKNOWN["an ensemble"], "z", ["z"]),  # the output depends on more
        (tails.SOFTMAX["Softmax"], "b", ["b"]),  # here too, on a layer
    ],
)
def test_naming_a_value_before_a_tail_keeps_the_tail(steps, named, kept, tmp_path) -> None:
    proto = with_tail(steps)
    onnx.save(proto, tmp_path / "m.onnx")
    done = CliRunner().invoke(
        cli, ["import", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "out.onnx"), "--logits", named]
    )
    assert done.exit_code == 0, done.output
    model = open_model(tmp_path / "out.onnx")
    assert (model.logits, outputs(model)) == (named, kept)
    assert model.doubt is None
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    for name in kept:
        np.testing.assert_allclose(tiny.run(model.graph, x, output=name), tiny.run(proto, x, output=name), rtol=1e-5)


def test_both_outputs_of_a_tail_stay_where_the_logits_are_named(tmp_path) -> None:
    model = open_model(with_tail(TOP, outputs={"v": FLOAT, "i": INT64}), logits="z")
    assert (model.logits, outputs(model)) == ("z", ["v", "i"])


def test_a_softmax_of_the_input_is_no_tail() -> None:
    nodes = [helper.make_node("Softmax", ["input"], ["s"], "/s"), helper.make_node("Mul", ["s", "w"], ["logits"], "/m")]
    with pytest.raises(ModelError, match="no layer"):
        open_model(tiny.build(nodes[:1], {}, input_shape=("N", 4), output="s"))
