"""A batch that is not the first axis: detected, moved first for the loss, kept in the export; or rejected."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import shaped, tiny

from adabet_onnx import Choices, ModelError, Trainer, UsageError, export_model, make_artifacts, open_model
from adabet_onnx.data.preprocess import NONE
from adabet_onnx.data.source import open_data
from adabet_onnx.model.dims import batch_axis
from adabet_onnx.model.head import new_head
from adabet_onnx.model.logits_axes import axes_of
from adabet_onnx.model.passes.logits_only import LogitsOnly
from adabet_onnx.model.prepare import trainable_graph
from adabet_onnx.scoring.probes import add_probes
from adabet_onnx.selection.record import Selection
from adabet_onnx.study.fisher import fisher_information
from adabet_onnx.trainability.decisions import decisions
from adabet_onnx.trainability.preflight import check_model
from adabet_onnx.training.evaluation import evaluate, predict
from adabet_onnx.training.logits import compute_logits
from adabet_onnx.training.settings import Settings

T, F = shaped.STEPS, shaped.FEATURES


def whole(model):
    """A selection of everything."""
    layers = tuple(layer.name for layer in model.layers)
    names = dict.fromkeys(parameter.name for layer in model.layers for parameter in layer.parameters)
    return Selection(model.sha256, "all", layers, tuple(names))


def one_by_one(proto, x):
    """The logits of each sample by itself, (N, T, C), in onnxruntime."""
    return np.concatenate([tiny.run(proto, x[i : i + 1]) for i in range(len(x))], 1).transpose(1, 0, 2)


def cross_entropy(logits, labels):
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(p, labels[..., None], -1)).mean()


@pytest.fixture(params=["portable", "ort"])
def backend(request):
    if request.param == "ort":
        request.getfixturevalue("training")
    return request.param


@pytest.fixture
def x(rng):
    """As many samples as there are steps, so that shapes cannot tell them apart."""
    return rng.standard_normal((T, T, F)).astype(np.float32)


def test_what_grows_with_the_batch_is_the_batch():
    assert batch_axis((2, 9), (3, 9), (2, 3)) == 0
    assert batch_axis((2, 2, 9), (2, 3, 9), (2, 3)) == 1, "2 steps, at a batch of 2"
    assert batch_axis((3, 2, 9), (3, 3, 9), (2, 3)) == 1
    assert batch_axis((2,), (3,), (2, 3)) == 0
    assert batch_axis((4, 5, 2), (4, 5, 3), (2, 3)) == 2
    for small, large in [
        ((1, 9), (1, 9)),  # the same for every batch
        ((12, 9), (18, 9)),  # merged with 6 steps
        ((2, 2), (3, 3)),  # pairs
        ((2, 9), (3, 9, 1)),  # another rank
        ((), ()),
        ((5, 9), (6, 9)),  # grows with the batch, but is not the batch
    ]:
        assert batch_axis(small, large, (2, 3)) is None


@pytest.mark.parametrize("make", [shaped.time_major, shaped.time_major_lstm])
def test_time_major_logits_are_recognised(make):
    model = open_model(make())
    axes = axes_of(model.graph, model.logits)
    assert (axes.shape, axes.batch) == ((T, "N", 3), 1)
    shown = {decision.about: str(decision) for decision in decisions(model)}
    assert shown["batch axis"].startswith(f"batch axis: 1 (of the logits ({T}, N, 3)")
    assert shown["class axis"].startswith(f"class axis: 2 (of (N, {T}, 3)")
    flat = {decision.about: decision.taken_for for decision in decisions(open_model(tiny.mlp()))}
    assert flat["batch axis"] == "0"
    assert "class axis" not in flat


@pytest.mark.parametrize("make", [shaped.time_major, shaped.time_major_lstm])
def test_as_many_samples_as_steps_are_not_swapped(make, x, rng):
    proto = make()
    model = open_model(proto)
    labels = rng.integers(0, 3, (T, T))
    logits = one_by_one(proto, x)
    data = open_data((x, labels), model).train
    np.testing.assert_allclose(compute_logits(model, data, NONE), logits, atol=1e-5)
    expected = cross_entropy(logits, labels)
    assert expected != pytest.approx(cross_entropy(logits.transpose(1, 0, 2), labels), rel=1e-4), "it would show"
    assert evaluate(model, data, preprocessing=NONE)["loss"] == pytest.approx(expected, rel=1e-5)
    rows = predict(model, x, preprocessing=NONE)
    np.testing.assert_allclose([row["logits"] for row in rows], logits, atol=1e-5)
    large = compute_logits(model, data, NONE, batch_size=4)  # batches are put together along the samples
    np.testing.assert_allclose(large, logits, atol=1e-5)


def test_training_time_major_logits_equals_torch(x, rng, tmp_path, checked_here):
    """Every step, and what is exported, which keeps its (T, N, C)."""
    torch = pytest.importorskip("torch")
    proto = shaped.time_major()
    model = open_model(proto)
    labels = rng.integers(0, 3, (T, T))
    manifest = make_artifacts(model, whole(model), tmp_path / "a", backend="portable", choices=Choices(optimizer="sgd"))
    assert manifest.logits_shape == ("N", T, 3)
    assert manifest.label_shape == (T,)
    assert any("batch is axis 1 of the logits" in note for note in manifest.content["notes"])
    rows = Trainer(tmp_path / "a").fit(
        (x, labels),
        epochs=4,
        batch_size=T,
        learning_rate=0.5,
        preprocessing=NONE,
        settings=Settings(validation=0, schedule="constant"),
    )
    stored = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in proto.graph.initializer}
    names = ("a.weight", "a.bias", "b.weight", "b.bias")
    leaves = [stored[name].double().requires_grad_() for name in names]
    expected = []
    for _ in range(4):
        a, b, c, d = leaves
        logits = torch.relu(torch.from_numpy(x).double() @ a + b) @ c + d
        loss = torch.nn.functional.cross_entropy(logits.movedim(-1, 1), torch.from_numpy(labels))
        expected.append(loss.item())
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.data -= 0.5 * gradient
    np.testing.assert_allclose([row["train_loss"] for row in rows[1:]], expected, rtol=1e-4)
    exported = export_model(tmp_path / "a", tmp_path / "adapted.onnx")
    assert tiny.run(exported, x[:2]).shape == (T, 2, 3)
    a, b, c, d = (leaf.detach().numpy() for leaf in leaves)
    wanted = (np.maximum(x.astype(np.float64) @ a + b, 0) @ c + d).transpose(1, 0, 2)
    np.testing.assert_allclose(tiny.run(exported, x), wanted, atol=1e-4)


@pytest.mark.parametrize("loss", ["mse", "l1", "bce-with-logits"])
def test_both_backends_train_time_major_targets(loss, backend, x, rng, tmp_path, checked_here):
    proto = shaped.time_major()
    model = open_model(proto)
    targets = rng.random((T, T, 3)).astype(np.float32)
    make_artifacts(model, whole(model), tmp_path / "a", backend=backend, loss=loss)
    trainer = Trainer(tmp_path / "a")
    rows = trainer.fit(
        (x, targets), epochs=1, batch_size=T, preprocessing=NONE, settings=Settings(validation=0, head_init="random")
    )
    logits = one_by_one(proto, x).astype(np.float64)
    p = 1 / (1 + np.exp(-logits))
    each = {
        "mse": np.square(logits - targets),
        "l1": np.abs(logits - targets),
        "bce-with-logits": -(targets * np.log(p) + (1 - targets) * np.log(1 - p)),
    }
    assert rows[1]["train_loss"] == pytest.approx(each[loss].mean(), rel=1e-5)
    export_model(tmp_path / "a", tmp_path / "adapted.onnx")
    after = evaluate(
        open_model(tmp_path / "adapted.onnx"), open_data((x, targets), model).train, preprocessing=NONE, loss=loss
    )
    assert after["loss"] < rows[1]["train_loss"]


@pytest.mark.parametrize("said", [None, ["N", "classes"], ["time", "batch", 3], [1, T, 3]], ids=str)
@pytest.mark.parametrize("batch", ["N", 1, 4, T])
@pytest.mark.parametrize("rows", [True, False])
def test_what_the_file_says_of_its_output_does_not_count(rows, batch, said, x):
    """A fixed batch is made dynamic in any axis, even if the file declares a wrong shape."""
    proto = shaped.time_major(batch=batch, said=said, rows=rows)
    model = open_model(proto)
    (output,) = model.graph.graph.outputs
    assert list(output.shape) == [T, "N", 3]
    logits = one_by_one(shaped.time_major(), x)
    np.testing.assert_allclose(compute_logits(model, open_data((x, None), model).train, NONE), logits, atol=1e-5)


def test_a_recurrent_network_with_a_batch_of_one(x):
    proto = shaped.time_major_lstm()
    for value in (
        proto.graph.input[0].type.tensor_type.shape.dim[0],
        proto.graph.output[0].type.tensor_type.shape.dim[1],
    ):
        value.dim_value = 1
    model = open_model(proto)
    assert any("fixed batch" in note for note in model.notes)
    assert axes_of(model.graph, model.logits).batch == 1
    logits = one_by_one(proto, x)
    np.testing.assert_allclose(compute_logits(model, open_data((x, None), model).train, NONE), logits, atol=1e-5)


@pytest.mark.parametrize("kind", ["mean", "pairs", "flat", "merged"])
def test_a_batch_without_an_axis_is_scored_only(kind, rng, tmp_path):
    model = open_model(shaped.time_major(merged=True) if kind == "merged" else shaped.no_sample_alone(kind))
    shown = {"mean": r"\(1, 3\)", "pairs": r"\(N, N\)", "flat": r"\(3\*N,\)", "merged": rf"\({T}\*N, 3\)"}[kind]
    instead = "No layer output before them has" if kind == "merged" else r"logits='h'\)`"
    words = f"have shape {shown} for a batch of N.*{instead}"
    x = rng.standard_normal((40, *model.inputs[0].shape[1:])).astype(np.float32)
    data = open_data((x, np.zeros(40, int)), model).train
    with pytest.raises(ModelError, match=words):
        evaluate(model, data, preprocessing=NONE)
    with pytest.raises(ModelError, match=words):
        predict(model, x, preprocessing=NONE)
    with pytest.raises(ModelError, match=words):
        make_artifacts(model, whole(model), tmp_path / "a", backend="portable", loss="mse")
    with pytest.raises(ModelError, match=words):
        fisher_information(model, (x, np.zeros(40, int)), preprocessing=NONE)
    check = check_model(model, loss="mse")
    assert not any(layer.trainable for layer in check.layers)
    assert "for a batch of N" in (check.refused["portable"] or "")
    assert [d.taken_for for d in decisions(model) if d.about == "batch axis"] == ["none"]
    add_probes(model, "gram")  # scores need no loss


def test_a_fixed_batch_without_an_axis_is_refused():
    with pytest.raises(ModelError, match=rf"\({T}, 3\) for a batch of 1 and \({3 * T}, 3\) for one of 3.*no axis"):
        open_model(shaped.time_major(batch=1, merged=True))


def test_rows_of_steps_and_samples_are_scored_by_sample(x):
    """A Gemm over (T*N, C) has the steps outside: its rows do not belong to one sample after the other."""
    proto = shaped.time_major()
    model = open_model(proto)
    assert [layer.before_batch for layer in model.layers] == [T, T]
    probed, names = add_probes(model, "activations")
    for layer in model.layers:
        found = tiny.run(probed, x, output=names[layer.name])
        alone = [tiny.run(proto, x[i : i + 1], output=layer.activation).reshape(-1) for i in range(T)]
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_rows_of_samples_and_steps_are_scored_as_ever(rng):
    nodes = [
        shaped.node("Reshape", ["input", "rows"], ["r"], "/rows"),
        shaped.node("Gemm", ["r", "w"], ["g"], "/fc"),
        shaped.node("Relu", ["g"], ["f"], "/relu"),
        shaped.node("Reshape", ["f", "steps"], ["y"], "/steps"),
    ]
    values = {"rows": np.array([-1, F]), "w": tiny.normal(F, 3), "steps": np.array([-1, T, 3])}
    proto = tiny.build(nodes, values, input_shape=["N", T, F], output="y", output_shape=["N", T, 3])
    model = open_model(proto)
    assert (model.layers[0].batch_merged, model.layers[0].before_batch) == (True, 1)
    x = rng.standard_normal((4, T, F)).astype(np.float32)
    probed, names = add_probes(model, "activations")
    found = tiny.run(probed, x, output=names[model.layers[0].name])
    np.testing.assert_allclose(found, (x @ values["w"]).reshape(4, -1), atol=1e-5)


def test_a_new_head_of_time_major_logits(x, rng, tmp_path):
    model = new_head(open_model(shaped.time_major_lstm()), 7)
    (output,) = model.graph.graph.outputs
    assert list(output.shape) == [T, "N", 7]
    labels = rng.integers(0, 7, (T, T))
    expected = cross_entropy(one_by_one(model.proto(), x), labels)
    assert evaluate(model, open_data((x, labels), model).train, preprocessing=NONE)["loss"] == pytest.approx(
        expected, rel=1e-5
    )
    make_artifacts(model, whole(model), tmp_path / "a", check=False)
    rows = Trainer(tmp_path / "a").fit(
        (x, labels), epochs=1, batch_size=T, preprocessing=NONE, settings=Settings(validation=0, head_init="random")
    )
    assert rows[1]["train_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("backend", ["portable", "ort"])
def test_the_prepared_graph_gives_the_batch_first(backend, x):
    model = open_model(shaped.time_major())
    graph = trainable_graph(model, whole(model), backend=backend).graph
    np.testing.assert_allclose(tiny.run(graph, x), one_by_one(shaped.time_major(), x), atol=1e-5)
    once = model.graph.clone()
    step = LogitsOnly(model.logits)
    assert step(once).modified
    assert [list(value.shape) for value in once.graph.outputs] == [["N", T, 3]]
    again = LogitsOnly(once.graph.outputs[0].name or "")
    assert not again(once).modified
    assert again.axes.batch == 0


def test_names_that_are_taken(x):
    proto = shaped.time_major()
    proto.graph.node[0].name = "y_batch_first"
    model = open_model(proto)
    cut = model.graph.clone()
    LogitsOnly(model.logits)(cut)
    onnx.checker.check_model(ir.to_proto(cut))
    np.testing.assert_allclose(tiny.run(cut, x), one_by_one(proto, x), atol=1e-5)


@pytest.mark.parametrize(
    ("first", "second"), [("time", "batch"), (T, "batch_size"), (T, "N"), (1, "batch"), ("seq", "BATCH")]
)
def test_inputs_with_the_batch_behind_time_are_refused(first, second):
    proto = shaped.time_first_input(first, second)
    with pytest.raises(ModelError, match=r"named like a batch.*batch first"):
        open_model(proto)
    with pytest.raises(ModelError, match=r"named like a batch.*batch first"):  # the remedy of earlier messages
        open_model(proto, dims={second: 1})


@pytest.mark.parametrize(("first", "second"), [("batch", "N"), (1, "N"), ("N", "width")])
def test_other_open_dimensions_are_fixed_as_ever(first, second):
    with pytest.raises(ModelError, match=f"dims={{{second!r}: SIZE"):
        open_model(shaped.time_first_input(first, second))


def test_time_fixed_by_the_exporter_is_no_batch():
    with pytest.raises(ModelError, match="first dimension of an input is not the batch"):
        open_model(shaped.time_first_input(T, 1))
    with pytest.raises(UsageError, match="has no open dimension"):
        open_model(shaped.time_first_input(T, 1), dims={"batch": 1})


def test_time_that_is_called_otherwise_is_found_by_its_effect(rng, tmp_path, checked_here):
    """Nothing in the file reveals that the first dimension is time, except that samples affect each other."""
    model = open_model(shaped.time_first_input("any", 1))
    data = open_data((rng.standard_normal((9, 1, F)).astype(np.float32), np.zeros((9, 1, 3))), model).train
    with pytest.raises(ModelError, match="samples affect each other"):
        evaluate(model, data, preprocessing=NONE, loss="mse")
    head = Selection(model.sha256, "layers", ("fc",), ("fc.weight",))
    with pytest.raises(ModelError, match="samples affect each other"):
        make_artifacts(model, head, tmp_path / "a", loss="mse")


def test_a_reshape_that_mixes_samples_is_found(rng):
    model = open_model(shaped.swapped_by_reshape())
    x = rng.standard_normal((5, T, F)).astype(np.float32)
    with pytest.raises(ModelError, match="samples affect each other"):
        evaluate(model, open_data((x, rng.integers(0, 3, (5, T))), model).train, preprocessing=NONE)
