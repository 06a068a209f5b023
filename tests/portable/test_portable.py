"""Training steps in plain ONNX: losses, optimizers, statistics, memory, checkpoints, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from models import tiny
from onnx import helper
from portable_trainings import LABELS, dense_net, made, torch_training

from adabet_onnx import ModelError, TrainingError, UsageError, make_artifacts, open_model, score, select
from adabet_onnx.model.prepare import trainable_graph
from adabet_onnx.portable.memory import step_bytes
from adabet_onnx.portable.order import execution_order
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.trainability.choices import Choices, choose_backend
from adabet_onnx.training.manifest import load_manifest

pytestmark = pytest.mark.usefixtures("checked_here")

node = helper.make_node


def images(rng, count=32):
    return rng.standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch(kind, smoothing, tmp_path, torch_oracle, rng):
    import torch
    from torch.nn.functional import cross_entropy

    model = tiny.conv_net() if kind == "vector" else dense_net(kind == "pixels")
    manifest = made(model, tmp_path / "a", optimizer="sgd", label_smoothing=smoothing)
    shape, classes = LABELS[kind]
    batches = []
    for _ in range(10):
        x = rng.standard_normal((8, *open_model(model).inputs[0].shape[1:])).astype(np.float32)
        labels = rng.integers(0, classes, shape)
        if kind != "vector":
            labels[rng.random(shape) < 0.2] = -100
        batches.append(({"input": x}, labels))

    def loss(logits, labels):
        logits = logits.movedim(-1, 1) if kind == "tokens" else logits
        return cross_entropy(logits, labels, label_smoothing=smoothing)

    expected = torch_training(torch_oracle, manifest, batches, loss, torch.optim.SGD, 0.05)
    session = manifest.session(manifest.initial)
    losses = [session.step(feeds, labels, 0.05)[0] for feeds, labels in batches]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert manifest.class_axis == (2 if kind == "tokens" else 1)


def test_a_class_axis_can_be_given(tmp_path, rng):
    manifest = made(dense_net(True), tmp_path / "a", class_axis=-1, check=False)
    assert manifest.num_outputs == 8
    assert manifest.label_shape == (4, 8)
    session = manifest.session(manifest.initial)
    loss, _ = session.step({"input": images(rng, 2)}, rng.integers(0, 8, (2, 4, 8)), 0.1)
    assert np.isfinite(loss)
    with pytest.raises(UsageError, match="class axis must be from 1 to 3"):
        made(dense_net(True), tmp_path / "b", class_axis=4, check=False)


def test_labels_that_are_all_ignored_change_nothing(tmp_path, rng):
    manifest = made(dense_net(False), tmp_path / "a", optimizer="sgd", check=False)
    session = manifest.session(manifest.initial)
    before = {name: session.parameter(name) for name in manifest.parameters}
    x = rng.standard_normal((2, 5, 6)).astype(np.float32)
    assert session.step({"input": x}, np.full((2, 5), -100), 0.1)[0] == 0
    assert all(np.array_equal(before[name], session.parameter(name)) for name in before)


OPTIMIZERS = {
    "sgd": ({"optimizer": "sgd"}, lambda t: t.optim.SGD, {}, 0.05),
    "decay": ({"optimizer": "sgd", "weight_decay": 0.1}, lambda t: t.optim.SGD, {"weight_decay": 0.1}, 0.05),
    "momentum": (
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
        lambda t: t.optim.SGD,
        {"momentum": 0.9, "weight_decay": 0.01},
        0.02,
    ),
    "adamw-torch": (
        {"optimizer": "adamw-torch", "weight_decay": 0.1},
        lambda t: t.optim.AdamW,
        {"weight_decay": 0.1},
        0.01,
    ),
    "clipped": ({"optimizer": "sgd", "clip_norm": 0.3}, lambda t: t.optim.SGD, {}, 0.3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ten_steps_of_an_optimizer_equal_torch(name, tmp_path, torch_oracle, rng):
    import functools

    import torch
    from torch.nn.functional import cross_entropy

    choices, kind, settings, rate = OPTIMIZERS[name]
    manifest = made(tiny.conv_net(), tmp_path / "a", **choices)
    batches = [({"input": images(rng, 8)}, rng.integers(0, 4, 8)) for _ in range(10)]
    expected = torch_training(
        torch_oracle,
        manifest,
        batches,
        cross_entropy,
        functools.partial(kind(torch), **settings),
        rate,
        clip=choices.get("clip_norm"),
    )
    session = manifest.session(manifest.initial)
    losses = [session.step(feeds, labels, rate)[0] for feeds, labels in batches]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "decay"), [("adamw", 0.0), ("adamw", 0.1), ("sgd", 0.0)])
@pytest.mark.parametrize("loss", ["cross-entropy", "mse", "l1", "bce-with-logits"])
def test_ten_steps_equal_those_of_onnxruntime_training(training, optimizer, decay, loss, tmp_path, rng):
    model = open_model(tiny.conv_net())
    selection = select(score(model, images(rng), scoring=Scoring(samples=32)), strategy="all")
    targets = rng.integers(0, 4, 80) if loss == "cross-entropy" else rng.integers(0, 2, (80, 4)).astype(np.float32)
    x = images(rng, 80)
    losses = {}
    for backend in ("ort", "portable"):
        manifest = make_artifacts(
            model,
            selection,
            tmp_path / backend,
            backend=backend,
            loss=loss,
            check=False,
            choices=Choices(optimizer=optimizer, weight_decay=decay),
        )
        session = manifest.session(manifest.initial)
        steps = [slice(8 * i, 8 * i + 8) for i in range(10)]
        losses[backend] = [session.step({"input": x[s]}, targets[s], 0.01)[0] for s in steps]
    np.testing.assert_allclose(losses["portable"], losses["ort"], rtol=1e-4)


def test_gathered_gradients_are_those_of_one_batch(tmp_path, rng):
    manifest = made(tiny.conv_net(), tmp_path / "a", check=False)
    x, labels = images(rng, 12), rng.integers(0, 4, 12)
    whole, parts = manifest.session(manifest.initial), manifest.session(manifest.initial)
    whole.gradients({"input": x}, labels)
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        parts.gradients({"input": x[part]}, labels[part])
    for name in manifest.parameters:
        np.testing.assert_allclose(parts.gradient(name), whole.gradient(name), rtol=1e-4, atol=1e-6)
    for session in (whole, parts):
        session.update(0.1)
    for name in manifest.parameters:
        np.testing.assert_allclose(parts.parameter(name), whole.parameter(name), rtol=1e-3, atol=1e-4)


def test_normalising_by_the_batch_moves_the_statistics_of_selected_layers_only(tmp_path, torch_oracle, rng):
    import torch

    opened = open_model(tiny.conv_net())
    scores = score(opened, images(rng), scoring=Scoring(samples=32))
    selection = select(scores, layers=["bn2", "fc"])
    manifest = make_artifacts(
        opened, selection, tmp_path / "a", backend="portable", choices=Choices(optimizer="sgd", batch_norm="batch")
    )
    assert manifest.statistics == ["bn2.running_mean", "bn2.running_var"]
    session = manifest.session(manifest.initial)
    x, labels = images(rng, 8), rng.integers(0, 4, 8)
    loss, logits = session.step({"input": x}, labels, 0.1)

    values = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(manifest.file("model")).graph.initializer}
    given = {k: torch.from_numpy(np.array(v)).double() for k, v in values.items()}
    c1 = torch.nn.functional.conv2d(torch.from_numpy(x).double(), given["conv1.weight"], padding=1)
    keys = ("running_mean", "running_var", "weight", "bias")
    r1 = torch.relu(torch.nn.functional.batch_norm(c1, *(given[f"bn1.{key}"] for key in keys)))
    c2 = torch.nn.functional.conv2d(r1, given["conv2.weight"], padding=1)
    scale = given["bn2.weight"].requires_grad_(True)
    b2 = torch.nn.functional.batch_norm(c2, None, None, scale, given["bn2.bias"], training=True)
    expected = torch.relu(b2).mean((2, 3)) @ given["fc.weight"].T + given["fc.bias"]
    value = torch.nn.functional.cross_entropy(expected, torch.from_numpy(labels))
    value.backward()
    assert loss == pytest.approx(value.item(), rel=1e-5)
    np.testing.assert_allclose(logits, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(session.parameter("bn2.weight"), (scale - 0.1 * scale.grad).detach().numpy(), rtol=1e-4)
    mean = 0.9 * values["bn2.running_mean"] + 0.1 * c2.mean((0, 2, 3)).detach().numpy()
    variance = 0.9 * values["bn2.running_var"] + 0.1 * c2.var((0, 2, 3), correction=0).detach().numpy()
    np.testing.assert_allclose(session.parameter("bn2.running_mean"), mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(session.parameter("bn2.running_var"), variance, rtol=1e-4)


def step_model(folder) -> ir.Model:
    return ir.load(folder / "step.onnx")


def deep_net(depth: int = 12) -> onnx.ModelProto:
    """Many equal layers."""
    values, nodes, value = {}, [], "input"
    for index in range(depth):
        shape = (16, 3 if index == 0 else 16, 3, 3)
        values[f"conv{index}.weight"] = 0.3 * np.random.default_rng(index).standard_normal(shape).astype(np.float32)
        nodes.append(node("Conv", [value, f"conv{index}.weight"], [f"c{index}"], f"/conv{index}", pads=[1] * 4))
        nodes.append(node("Relu", [f"c{index}"], [f"r{index}"], f"/relu{index}"))
        value = f"r{index}"
    values["fc.weight"] = tiny.normal(4, 16)
    nodes += [
        node("GlobalAveragePool", [value], ["pooled"], "/pool"),
        node("Flatten", ["pooled"], ["flat"], "/flatten"),
        node("Gemm", ["flat", "fc.weight"], ["logits"], "/fc", transB=1),
    ]
    return tiny.build(nodes, values, input_shape=("N", 3, 32, 32))


@pytest.mark.slow
def test_recomputing_saves_memory_and_changes_no_gradient(tmp_path, rng):
    plain = made(deep_net(), tmp_path / "plain", check=False)
    again = made(deep_net(), tmp_path / "again", recompute=True, check=False)
    x, labels = {"input": rng.standard_normal((4, 3, 32, 32)).astype(np.float32)}, rng.integers(0, 4, 4)
    sessions = [manifest.session(manifest.initial) for manifest in (plain, again)]
    losses = [session.gradients(x, labels)[0] for session in sessions]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name in plain.parameters:
        np.testing.assert_allclose(sessions[1].gradient(name), sessions[0].gradient(name), rtol=1e-3, atol=1e-6)
    predicted = [manifest.content["predicted_step_bytes"]["8"] for manifest in (plain, again)]
    assert predicted[1] < 0.7 * predicted[0]
    ran = executed(again.folder / "step.onnx", again, x, labels)
    assert ran["again"] > 0
    assert ran["early"] == 0


def executed(path, manifest, feeds, labels) -> dict[str, int]:
    """Run a step with profiling: how many nodes recomputed, how many of them and of the masks ran before the loss."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(path.parent / "profile")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    values = manifest.session(manifest.initial)
    content = manifest.content
    given = {entry["input"]: values.parameter(entry["name"]) for entry in (*content["parameters"], *content["state"])}
    given |= {content["labels"]: labels, content["learning_rate"]: np.array(0.1, np.float32)}
    given |= {content["step"]: np.array(1), **values.features(feeds)}
    session.run(None, given)
    with open(session.end_profiling()) as file:
        events = [e for e in json.load(file) if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    names = [event["name"] for event in sorted(events, key=lambda e: e["ts"])]
    loss = next(i for i, name in enumerate(names) if name.startswith("loss/Sub"))
    again = [i for i, name in enumerate(names) if "/again" in name]
    masks = sum("Greater" in name for name in names[:loss])
    return {"again": len(again), "early": sum(i < loss for i in again), "masks": masks}


def test_masks_are_made_in_the_forward_part(tmp_path, rng):
    """Frozen layers after the first selected one need only masks of their activations."""
    manifest = made(deep_net(), tmp_path / "a", strategy="first", rho=0.08, check=False)
    x, labels = {"input": rng.standard_normal((4, 3, 32, 32)).astype(np.float32)}, rng.integers(0, 4, 4)
    assert executed(manifest.folder / "step.onnx", manifest, x, labels)["masks"] >= 11


def test_nodes_run_in_the_order_that_memory_is_predicted_for(tmp_path, rng):
    """Without the optimizers of onnxruntime, which rename and merge nodes."""
    manifest = made(deep_net(4), tmp_path / "a", check=False)
    model = step_model(manifest.folder)
    expected = [n.name for n in execution_order(list(model.graph))]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(str(manifest.file("step")), options, providers=["CPUExecutionProvider"])
    given = {}
    for value in session.get_inputs():
        shape = [d if isinstance(d, int) else 2 for d in value.shape]
        given[value.name] = np.ones(shape, np.int64 if "int64" in value.type else np.float32)
    session.run(None, given)
    with open(session.end_profiling()) as file:
        events = [e for e in json.load(file) if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    found = [e["name"].removesuffix("_kernel_time") for e in sorted(events, key=lambda e: e["ts"])]
    assert found == expected


@pytest.mark.slow
def test_predicted_memory_follows_the_selection(tmp_path):
    sizes = {}
    for name, choice in {"head": {"strategy": "head"}, "last": {"rho": 0.3, "strategy": "last"}, "all": {}}.items():
        manifest = made(deep_net(), tmp_path / name, check=False, **choice)
        sizes[name] = manifest.content["predicted_step_bytes"]["8"]
        assert sizes[name] == step_bytes(with_shapes(manifest), 8)
    assert sizes["head"] < sizes["last"] < sizes["all"]


def test_the_order_of_a_selection_does_not_matter(tmp_path, rng):
    model = open_model(tiny.conv_net())
    scores = score(model, images(rng), scoring=Scoring(samples=32))
    names = ["conv1", "bn2", "fc"]
    steps = []
    for order in (names, names[::-1]):
        selection = dataclasses.replace(select(scores, layers=names), layers=tuple(order))
        folder = tmp_path / order[0]
        steps.append(
            make_artifacts(model, selection, folder, backend="portable", check=False).file("step").read_bytes()
        )
    assert steps[0] == steps[1]


def test_a_layer_normalization_without_bias_gets_one(tmp_path):
    """onnxruntime 1.17 kills the process over one whose result several nodes use."""
    model = tiny.mlp()
    norm = next(n for n in model.graph.node if n.op_type == "LayerNormalization")
    del norm.input[2]
    del model.graph.initializer[[t.name for t in model.graph.initializer].index("norm.bias")]
    manifest = made(model, tmp_path / "a")
    nodes = onnx.load(manifest.file("step")).graph.node
    assert [len(n.input) for n in nodes if n.op_type == "LayerNormalization"] == [3]


def with_shapes(manifest) -> ir.Model:
    from adabet_onnx.portable.assemble import make_graphs
    from adabet_onnx.portable.recipe import Recipe
    from adabet_onnx.selection.record import selection_from_json

    model = open_model(deep_net())
    selection = selection_from_json(manifest.content["selection"], "selection")
    return make_graphs(trainable_graph(model, selection, backend="portable"), Recipe()).step


def test_files_are_ir_8_and_opset_17_and_valid(tmp_path):
    manifest = made(tiny.conv_net(opset=21), tmp_path / "a", check=False)
    for what in ("step", "gradients", "update", "evaluation"):
        proto = onnx.load(manifest.file(what))
        onnx.checker.check_model(proto, full_check=True)
        assert (proto.ir_version, proto.opset_import[0].version) == (8, 17)
        assert {n.domain for n in proto.graph.node} <= {"", "ai.onnx"}
    assert manifest.content["oldest_onnxruntime"] == "1.17"


def test_the_same_choices_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        made(tiny.conv_net(), tmp_path / name, check=False)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_node_without_a_gradient_is_named_before_anything_is_built(tmp_path, rng):
    nodes = [
        node("Conv", ["input", "first.weight"], ["c"], "/first", pads=[1] * 4),
        node("Relu", ["c"], ["r"], "/relu"),
        node("GlobalAveragePool", ["r"], ["p"], "/pool"),
        node("Flatten", ["p"], ["f"], "/flat"),
        node("Hardmax", ["f"], ["h"], "/odd"),
        node("Add", ["f", "h"], ["m"], "/sum"),
        node("Gemm", ["m", "fc.weight"], ["logits"], "/fc"),
    ]
    values = {"first.weight": tiny.normal(4, 3, 3, 3), "fc.weight": tiny.normal(4, 3)}
    model = open_model(tiny.build(nodes, values))
    scores = score(model, images(rng), scoring=Scoring(samples=32))
    forgotten = tuple(dataclasses.replace(layer, untrainable=None) for layer in scores.layers)
    everything = dataclasses.replace(scores, layers=forgotten)
    with pytest.raises(
        ModelError, match=r"node '/odd' \(Hardmax\), in layer 'first', has no gradient.*select among them"
    ):
        make_artifacts(model, select(everything, strategy="all"), tmp_path / "a", backend="portable")
    assert not (tmp_path / "a").exists()
    manifest = make_artifacts(model, select(scores, strategy="head"), tmp_path / "a", backend="portable")
    assert manifest.parameters == ["fc.weight"]


@pytest.mark.parametrize("damage", ["cut", "shape", "empty", "other"])
def test_damaged_checkpoints_are_refused(damage, tmp_path, rng):
    manifest = made(tiny.mlp(), tmp_path / "a", check=False)
    session = manifest.session(manifest.initial)
    session.set_property("note", "kept")
    session.step({"input": rng.standard_normal((4, 10)).astype(np.float32)}, np.arange(4) % 3, 0.1)
    session.save(tmp_path / "c")
    again = manifest.session(tmp_path / "c")
    assert again.property("note") == "kept"
    for name in manifest.parameters:
        np.testing.assert_array_equal(again.parameter(name), session.parameter(name))
    content = (tmp_path / "c").read_bytes()
    if damage == "cut":
        content = content[:-10]
    elif damage == "empty":
        content = b""
    elif damage == "shape":
        content = content.replace(b'"shape":[16,3]', b'"shape":[3,16]')
    else:
        other = made(tiny.mlp(hidden=8), tmp_path / "b", check=False)
        other.session(other.initial).save(tmp_path / "d")
        content = (tmp_path / "d").read_bytes()
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(TrainingError, match=r"the checkpoint .*c (cannot be read|does not fit)"):
        manifest.session(tmp_path / "c")


def test_a_short_state_is_refused(tmp_path):
    manifest = made(tiny.mlp(), tmp_path / "a", check=False)
    path = manifest.initial
    path.write_bytes(path.read_bytes()[:-4])
    from adabet_onnx import RecordError

    with pytest.raises(RecordError, match=r"state.bin was changed or cut short"):
        load_manifest(manifest.folder)
    with pytest.raises(RecordError, match=r"state.bin is too short"):
        manifest.session(path)


@pytest.mark.parametrize(
    ("choices", "backend", "message"),
    [
        (
            {"momentum": 0.9, "optimizer": "sgd"},
            "ort",
            "has no momentum. Use `backend='portable'`",
        ),
        ({"clip_norm": 1.0}, "ort", "has no clipping"),
        ({"optimizer": "adamw-torch"}, "ort", "has no adamw-torch"),
        ({"label_smoothing": 0.1}, "ort", "has no label smoothing"),
        ({"batch_norm": "batch"}, "ort", "has no batch normalisation by the batch"),
        ({"recompute": True}, "ort", "has no recomputing"),
        (
            {"frozen": "checkpoint"},
            "portable",
            "no frozen weights in a checkpoint. Use `backend='ort'`",
        ),
        ({"ort_format": True}, "portable", "has no .ort files"),
        ({"ort_format": True, "recompute": True}, "auto", "No backend supports all requested options"),
        ({"momentum": 0.9}, "auto", "adamw has no momentum"),
        ({"momentum": 1.0, "optimizer": "sgd"}, "auto", "below 1"),
        ({"label_smoothing": 1.0}, "auto", "below 1"),
        ({"label_smoothing": 0.1, "loss": "mse"}, "auto", "belong to cross-entropy"),
        ({"clip_norm": 0.0}, "auto", "above 0"),
        ({"loss": "hinge"}, "auto", "unknown loss 'hinge'"),
        ({"profile": "phone"}, "auto", "unknown profile 'phone': choose one of webgpu"),
        ({}, "both", "unknown backend 'both'"),
    ],
)
def test_what_a_backend_lacks_is_rejected_with_an_explanation(choices, backend, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        choose_backend(backend, Choices(**choices))


def test_auto_takes_the_backend_that_has_what_is_asked():
    assert choose_backend("auto", Choices()) == "portable"
    assert choose_backend("auto", Choices(frozen="checkpoint")) == "ort"
    assert choose_backend("auto", Choices(optimizer="sgd", momentum=0.5)) == "portable"
