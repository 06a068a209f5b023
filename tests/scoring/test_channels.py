"""Channels: their scores, which of them are selected, and training them alone, against torch with masked gradients."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from bad_inputs import ARTIFACTS, FAILURE, SELECT, USAGE, Case, cases, entry
from models import tiny
from models.tiny import node, normal
from test_scoring import activations, raw_b1

from adabet_onnx import (
    DataError,
    Predictor,
    RecordError,
    Trainer,
    UsageError,
    export_model,
    make_artifacts,
    open_model,
    score,
    select,
)
from adabet_onnx.adapting import Adapting
from adabet_onnx.cli.main import cli
from adabet_onnx.model.channels import channels_of
from adabet_onnx.model.prepare import trainable_graph
from adabet_onnx.pipeline import adapt
from adabet_onnx.scoring import channel_scores, gram
from adabet_onnx.scoring.channel_scores import rankable, score_channels
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.scoring.passes import base_bytes, sample_bytes
from adabet_onnx.scoring.record import load_scores
from adabet_onnx.selection.options import Choosing
from adabet_onnx.selection.record import Selection, load_selection
from adabet_onnx.selection.strategies import with_channels
from adabet_onnx.trainability.choices import Choices, choose_backend
from adabet_onnx.training.evaluation import open_trained
from adabet_onnx.training.samples import sample_feeds
from adabet_onnx.training.selfcheck import check
from adabet_onnx.training.settings import Settings

TOLERANCE = 1e-4


def convolutions() -> onnx.ModelProto:
    """Convolutions of all kinds on (N, 3, 8, 8): with bias, grouped, depthwise, transposed, with an added bias."""
    values = {
        "plain.weight": normal(8, 3, 3, 3),
        "plain.bias": normal(8),
        "groups.weight": normal(12, 4, 3, 3),
        "groups.bias": normal(12),
        "depth.weight": normal(12, 1, 3, 3),
        "depth.bias": normal(12, scale=0.2),
        "twice.weight": normal(24, 1, 3, 3),
        "strided.weight": normal(10, 24, 3, 3),
        "strided.bias": normal(1, 10, 1, 1),
        "instance.weight": 1 + normal(10),
        "instance.bias": normal(10, scale=0.1),
        "up.weight": normal(10, 6, 2, 2),
        "up.bias": normal(6),
        "deep.weight": normal(6, 1, 3, 3),
        "mixed.weight": normal(6, 3, 3, 3),
        "fc.weight": normal(6, 4),
    }
    chain = [
        ("plain", "Conv", ["plain.weight", "plain.bias"], {"pads": [1] * 4}),
        ("groups", "Conv", ["groups.weight", "groups.bias"], {"group": 2, "pads": [1] * 4}),
        ("relu", "Relu", [], {}),
        ("depth", "Conv", ["depth.weight", "depth.bias"], {"group": 12, "pads": [1] * 4}),
        ("twice", "Conv", ["twice.weight"], {"group": 12, "pads": [1] * 4}),
        ("strided", "Conv", ["strided.weight"], {"strides": [2, 2], "pads": [1] * 4}),
        ("added", "Add", ["strided.bias"], {}),
        ("act", "LeakyRelu", [], {}),
        ("instance", "InstanceNormalization", ["instance.weight", "instance.bias"], {}),
        ("up", "ConvTranspose", ["up.weight", "up.bias"], {"strides": [2, 2]}),
        ("deep", "ConvTranspose", ["deep.weight"], {"group": 6, "pads": [1] * 4}),
        ("mixed", "ConvTranspose", ["mixed.weight"], {"group": 2, "pads": [1] * 4}),
        ("pool", "GlobalAveragePool", [], {}),
        ("flat", "Flatten", [], {}),
        ("logits", "MatMul", ["fc.weight"], {}),
    ]
    nodes, value = [], "input"
    for name, op_type, inputs, attributes in chain:
        nodes.append(node(op_type, [value, *inputs], [name], f"/{name}", **attributes))
        value = name
    return tiny.build(nodes, values, output_shape=("N", 4))


def tokens() -> onnx.ModelProto:
    """Products and a LayerNormalization on (N, 5 tokens, 6 features), weights turned around in one of them."""
    values = {
        "wide.weight": normal(6, 8),
        "wide.bias": normal(8),
        "norm.weight": 1 + normal(8),
        "norm.bias": normal(8, scale=0.1),
        "turned.weight": normal(7, 8),
        "turned.bias": normal(7),
        "rows": np.array([-1, 35]),
        "gemm.weight": normal(9, 35),
        "gemm.bias": normal(9),
        "fc.weight": normal(9, 3),
        "fc.bias": normal(1, 3),
    }
    nodes = [
        node("MatMul", ["input", "wide.weight"], ["w"], "/wide"),
        node("Add", ["w", "wide.bias"], ["wb"], "/wide/add"),
        node("LayerNormalization", ["wb", "norm.weight", "norm.bias"], ["n"], "/norm", axis=-1),
        node("Transpose", ["turned.weight"], ["t"], "/turn", perm=[1, 0]),
        node("MatMul", ["n", "t"], ["m"], "/turned"),
        node("Add", ["m", "turned.bias"], ["mb"], "/turned/add"),
        node("Relu", ["mb"], ["r"], "/relu"),
        node("Reshape", ["r", "rows"], ["f"], "/rows"),
        node("Gemm", ["f", "gemm.weight", "gemm.bias"], ["g"], "/gemm", transB=1, alpha=0.7, beta=1.3),
        node("Gemm", ["g", "fc.weight", "fc.bias"], ["logits"], "/fc"),
    ]
    return tiny.build(nodes, values, input_shape=("N", 5, 6), output_shape=("N", 3))


NETS = {"conv_net": tiny.conv_net, "mlp": tiny.mlp, "convolutions": convolutions, "tokens": tokens}


def some(count: int, seed: int) -> tuple[int, ...]:
    """About half of the channels, not in a row."""
    chosen = np.random.default_rng(seed).choice(count, max(1, count // 2), replace=False)
    return tuple(sorted(int(i) for i in chosen))


def in_part(model, layers=None) -> Selection:
    """A selection of layers, of each that has channels about half of them."""
    names = [layer.name for layer in model.layers] if layers is None else layers
    known = channels_of(model)
    return Selection(
        model.sha256,
        "layers",
        tuple(names),
        tuple(dict.fromkeys(p.name for name in names for p in model.layer(name).parameters)),
        channels={name: some(known[name].count, i) for i, name in enumerate(names) if name in known},
    )


def cut(manifest, name: str, array: np.ndarray) -> np.ndarray:
    """The part of a whole tensor that is trained."""
    found = next(entry for entry in manifest.content["parameters"] if entry["name"] == name).get("channels")
    return array if found is None else array.take(found["indices"], found["axis"])


def masks(manifest, model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """1 where an element of a whole tensor is trained, else 0."""
    found = {}
    for tensor in model.graph.initializer:
        if tensor.name in manifest.parameters:
            mask = np.zeros(tuple(tensor.dims), np.float32)
            part = next(entry for entry in manifest.content["parameters"] if entry["name"] == tensor.name)
            where = [slice(None)] * mask.ndim
            if "channels" in part:
                where[part["channels"]["axis"]] = part["channels"]["indices"]
            mask[tuple(where)] = 1
            found[tensor.name] = mask
    return found


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


# Which layers have channels


def test_channels_of_layers():
    found = channels_of(open_model(convolutions()))
    assert {name: (c.count, c.elements, tuple(c.axes.values())) for name, c in found.items()} == {
        "plain": (8, 64, (0, 0)),
        "groups": (12, 64, (0, 0)),
        "depth": (12, 64, (0, 0)),
        "twice": (24, 64, (0,)),
        "strided": (10, 16, (0, 1)),
        "instance": (10, 16, (0, 0)),
        "up": (6, 64, (1, 0)),
        "deep": (6, 64, (0,)),
        "fc": (4, 1, (1,)),
    }
    found = channels_of(open_model(tokens()))
    assert {name: (c.count, c.elements, c.last, tuple(c.axes.values())) for name, c in found.items()} == {
        "wide": (8, 5, True, (1, 0)),
        "norm": (8, 5, True, (0, 0)),
        "turned": (7, 5, True, (0, 0)),
        "gemm": (9, 1, True, (0, 0)),
        "fc": (3, 1, True, (1, 1)),
    }


def test_a_shared_matrix_has_no_channels():
    values = {"w": normal(6, 6), "v": normal(6, 3)}
    nodes = [
        node("MatMul", ["input", "w"], ["a"], "/a"),
        node("MatMul", ["a", "w"], ["b"], "/b"),
        node("MatMul", ["b", "v"], ["logits"], "/c"),
    ]
    model = open_model(tiny.build(nodes, values, input_shape=("N", 6), output_shape=("N", 3)))
    assert [layer.parameters[0].name for layer in model.layers if layer.name in channels_of(model)] == ["v"]


# Training


def trained(proto, folder, **settings):
    model = open_model(proto)
    manifest = make_artifacts(model, in_part(model), folder, check=False, choices=Choices(**settings))
    return model, manifest, onnx.load(manifest.file("model"))


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_equal_torch(tmp_path, torch_oracle, net, recompute):
    _, manifest, original = trained(NETS[net](), tmp_path / "a", recompute=recompute)
    session = manifest.session(manifest.initial)
    labels = np.arange(4) % manifest.num_outputs
    for seed in range(3):  # a Relu's input may lie within rounding of its kink
        feeds = sample_feeds(manifest, 4, seed)
        session.forget_gradients()
        ours, logits = session.gradients(feeds, labels)
        theirs, expected = torch_oracle.gradients(original, feeds, labels, manifest.parameters)
        assert ours == pytest.approx(theirs, rel=1e-5)
        assert tiny.difference(logits, tiny.run(original, *feeds.values())) < 1e-5
        errors = {}
        for name in manifest.parameters:
            found, whole = session.gradient(name), expected[name]
            assert found.shape == cut(manifest, name, whole).shape
            errors[name] = np.abs(found - cut(manifest, name, whole)).max() / max(np.abs(whole).max(), 1e-6)
        if max(errors.values()) <= TOLERANCE:
            return
    pytest.fail(f"gradients differ from torch's: {errors}")


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_artifacts_pass_their_own_check(tmp_path, net):
    model = open_model(NETS[net]())
    found = check(make_artifacts(model, in_part(model), tmp_path / "a", check=False))
    assert found["after_step"] < 1e-4


def test_gradients_in_resnet_equal_torch(shared, tmp_path, torch_oracle):
    model = open_model(shared / "models" / "resnet20_cifar10_bn.onnx")
    names = [layer.name for layer in model.layers[-9:]]
    manifest = make_artifacts(model, in_part(model, names), tmp_path / "a", check=False)
    session = manifest.session(manifest.initial)
    feeds, labels = sample_feeds(manifest, 4), np.arange(4)
    ours, _ = session.gradients(feeds, labels)
    theirs, expected = torch_oracle.gradients(onnx.load(manifest.file("model")), feeds, labels, manifest.parameters)
    assert ours == pytest.approx(theirs, rel=1e-5)
    for name in manifest.parameters:
        whole = cut(manifest, name, expected[name])
        assert np.abs(session.gradient(name) - whole).max() <= 2 * TOLERANCE * np.abs(expected[name]).max(), name


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_ten_steps_equal_torch_with_masked_gradients(tmp_path, torch_oracle, optimizer, rng):
    import torch

    _, manifest, original = trained(tiny.conv_net(), tmp_path / "a", optimizer=optimizer)
    batches = [
        (rng.standard_normal((8, 3, 8, 8)).astype(np.float32), np.random.default_rng(i).integers(0, 4, 8))
        for i in range(10)
    ]
    rate = 1e-2 if optimizer == "sgd" else 1e-3
    session = manifest.session(manifest.initial)
    ours = [session.step({"input": x}, y, rate)[0] for x, y in batches]

    weights = {name: torch.from_numpy(array.astype(np.float64)) for name, array in arrays(original).items()}
    leaves = {name: weights[name].requires_grad_() for name in manifest.parameters}
    for name, mask in masks(manifest, original).items():
        leaves[name].register_hook(torch.from_numpy(mask).mul)
    kinds = {"sgd": torch.optim.SGD, "adamw": lambda p, lr: torch.optim.AdamW(p, lr, eps=1e-6, weight_decay=0)}
    stepper, theirs = kinds[optimizer](list(leaves.values()), lr=rate), []
    for x, y in batches:
        given = {**weights, "input": torch.from_numpy(x.astype(np.float64))}
        loss = torch.nn.functional.cross_entropy(
            torch_oracle.execute(original, given)["logits"], torch.from_numpy(y).long()
        )
        theirs.append(loss.item())
        stepper.zero_grad()
        loss.backward()
        stepper.step()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    for name, leaf in leaves.items():
        part = cut(manifest, name, leaf.detach().numpy())
        np.testing.assert_allclose(session.parameter(name), part, rtol=1e-4, atol=1e-6 if optimizer == "sgd" else 2e-4)


@pytest.mark.parametrize(
    "settings",
    [{"batch_norm": "batch"}, {"clip_norm": 0.5, "weight_decay": 0.1}, {"profile": "webgpu"}, {"loss": "mse"}],
    ids=["batch norm", "clipping", "webgpu", "mse"],
)
def test_with_other_choices(tmp_path, settings):
    model = open_model(tiny.conv_net())
    found = check(make_artifacts(model, in_part(model), tmp_path / "a", check=False, choices=Choices(**settings)))
    assert found["after_step"] < 1e-4
    assert found["changed"] == 8


def test_only_chosen_channels_are_computed_and_kept(tmp_path):
    model = open_model(tiny.conv_net())
    predictor = Predictor(model, batch_size=8)
    selection = in_part(model)
    whole = predictor.training(selection.parameters, selection.layers)
    part = predictor.training(selection.parameters, selection.layers, channels=selection.channels)
    assert part.step_multiply_adds < whole.step_multiply_adds
    assert part.forward_multiply_adds == whole.forward_multiply_adds
    share = {"conv1.weight": 3 / 6, "conv2.weight": 4 / 8}
    manifest = make_artifacts(model, selection, tmp_path / "a", check=False)
    for name, array in arrays(onnx.load(manifest.file("model"))).items():
        if name in share:
            found = next(entry for entry in manifest.content["parameters"] if entry["name"] == name)
            assert math.prod(found["shape"]) == share[name] * array.size
            state = [entry for entry in manifest.content["state"] if entry["parameter"] == name]
            assert [entry["shape"] for entry in state] == [found["shape"]] * 2
    assert part.update_bytes == 4 * manifest.trainable_count
    assert part.state_bytes == 2 * part.update_bytes
    # No value of the backward pass has the shape of a whole weight's gradient.
    graph = ir.load(manifest.file("gradients")).graph
    back = [value for n in graph if "/grad/" in (n.name or "") for value in n.outputs]
    assert not [value.name for value in back if value.shape is not None and list(value.shape) == [8, 6, 3, 3]]


def test_unselected_channels_stay_as_they_are_to_the_bit(tmp_path, rng):
    model, manifest, original = trained(convolutions(), tmp_path / "a")
    data = {"x": rng.standard_normal((48, 3, 8, 8)).astype(np.float32), "y": np.arange(48) % 4}
    np.savez(tmp_path / "data.npz", **data)
    trainer = Trainer(manifest.folder)
    rows = trainer.fit(
        tmp_path / "data.npz", epochs=4, batch_size=8, learning_rate=3e-3, settings=Settings(schedule="constant")
    )
    assert rows[-1]["train_loss"] < rows[1]["train_loss"]
    before, after = arrays(original), arrays(export_model(manifest.folder, tmp_path / "adapted.onnx"))
    for name, mask in masks(manifest, original).items():
        changed = before[name] != after[name]
        assert not changed[mask == 0].any(), name
        assert changed[mask == 1].mean() > 0.5, name
    assert all(np.array_equal(before[name], after[name]) for name in before if name not in manifest.parameters)
    # The folder itself is a trained model too; and resuming equals not having stopped.
    x = data["x"][:8]
    trained_logits = tiny.run(onnx.load(tmp_path / "adapted.onnx"), x)
    assert np.array_equal(tiny.run(open_trained(manifest.folder).graph, x), trained_logits)
    other = make_artifacts(model, in_part(model), tmp_path / "b", check=False)
    again = Trainer(other.folder)
    again.fit(tmp_path / "data.npz", epochs=2, batch_size=8, learning_rate=3e-3, settings=Settings(schedule="constant"))
    resumed = again.fit(tmp_path / "data.npz", epochs=4, resume=True)
    assert [row["train_loss"] for row in resumed] == [row["train_loss"] for row in rows]


def test_all_channels_are_the_whole_layer(tmp_path):
    model = open_model(tiny.conv_net())
    selection = in_part(model, ["conv2"])
    everything = dataclasses.replace(selection, channels={"conv2": tuple(range(8))})
    found = trainable_graph(model, everything, backend="portable")
    assert not found.slices
    assert len(list(found.graph.graph)) == len(
        list(trainable_graph(model, dataclasses.replace(selection, channels=None), backend="portable").graph.graph)
    )


def test_ort_refuses(tmp_path):
    model = open_model(tiny.conv_net())
    with pytest.raises(UsageError, match=r"no training of some channels.*portable"):
        make_artifacts(model, in_part(model), tmp_path / "a", backend="ort")
    with pytest.raises(UsageError, match="Use the portable backend"):
        trainable_graph(model, in_part(model), backend="ort")
    with pytest.raises(UsageError, match="No backend supports all"):
        make_artifacts(model, in_part(model), tmp_path / "a", choices=Choices(frozen="checkpoint"))
    assert choose_backend("auto", Choices(), channels=True) == "portable"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        ({"conv2": (0, 8)}, "channels 0 to 7"),
        ({"conv2": (-1, 2)}, "channels 0 to 7"),
        ({"conv2": (2, 2)}, "one twice"),
        ({"conv2": ()}, "none"),
        ({"conv1": (0,)}, "is not selected"),
    ],
)
def test_channels_that_a_layer_does_not_have(channels, said):
    model = open_model(tiny.conv_net())
    with pytest.raises(UsageError, match=said):
        trainable_graph(model, dataclasses.replace(in_part(model, ["conv2"]), channels=channels), backend="portable")


def test_a_layer_without_channels_of_its_own():
    model = open_model(convolutions())
    selection = in_part(model, ["mixed"])
    assert selection.channels == {}
    with pytest.raises(UsageError, match="no channels that can be trained alone"):
        trainable_graph(model, dataclasses.replace(selection, channels={"mixed": (0,)}), backend="portable")


# Scores


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("block", [None, 64])
def test_scores_of_channels_equal_ripser_on_raw_activations(monkeypatch, net, block, rng):
    if block is not None:
        monkeypatch.setattr(gram, "_BLOCK", block)  # one channel at a time
    model = open_model(NETS[net]())
    x = rng.standard_normal((40, *model.inputs[0].shape[1:])).astype(np.float32)
    scores = score(model, x, scoring=Scoring(estimator="batches", batches=2, batch_size=16, channels=True))
    known = rankable(model)
    assert {layer.name for layer in scores.layers if layer.channels is not None} == set(known)
    assert set(scores.channel_layers) == {layer.name for layer in model.layers}
    raw = [activations(model, {"input": x[list(group)]}) for group in scores.samples]
    for layer in scores.layers:
        if layer.channels is None:
            continue
        assert layer.channels.elements == known[layer.name].elements
        axis = -1 if known[layer.name].last else 1
        for index in list(range(known[layer.name].count))[:3]:
            b1 = [raw_b1(values[layer.name].take(index, axis)) for values in raw]
            assert layer.channels.b1_mean[index] == np.mean(b1), (layer.name, index)


def test_scores_of_channels_leave_those_of_layers_alone(tmp_path, rng, monkeypatch):
    model = open_model(tiny.conv_net())
    x = rng.standard_normal((64, 3, 8, 8)).astype(np.float32)
    plain = score(model, x, scoring=Scoring(samples=64, subsets=3))
    both = score(model, x, scoring=Scoring(samples=64, subsets=3, channels=True))
    assert plain.channel_layers is None
    assert [dataclasses.replace(layer, channels=None) for layer in both.layers] == list(plain.layers)
    assert score_channels(model, x, plain) == both
    monkeypatch.setattr(channel_scores, "_BYTES", 1)  # a forward pass for each layer
    assert score_channels(model, x, plain) == both
    some_of_them = score_channels(model, x, plain, layers=["conv2", "fc"])
    assert some_of_them.channel_layers == ("conv2", "fc")
    assert [layer.name for layer in some_of_them.layers if layer.channels] == ["conv2"]
    both.save(tmp_path / "scores.json")
    assert load_scores(tmp_path / "scores.json") == both
    with pytest.raises(RecordError, match="another model"):
        score_channels(open_model(tiny.conv_net(seed=1)), x, plain)
    with pytest.raises(RecordError, match="Score again"):
        score_channels(model, x[:40], plain)


def test_where_memory_is_short_channels_are_scored_from_parts_of_groups(rng):
    """Parts of 16 samples, whose subset is the whole part, so that ripser gives the expected result."""
    model = open_model(tiny.conv_net())
    x = rng.standard_normal((64, 3, 8, 8)).astype(np.float32)
    plain = score(model, x, scoring=Scoring(samples=50, subset_size=16, subsets=3))
    limit = base_bytes(model) + 17 * sample_bytes(model) + 4 * 8 * 17**2  # 50 samples: three parts of 16
    found = score_channels(model, x, plain, max_memory=limit)
    (note,) = found.notes
    assert note.startswith("channels are scored from groups of 16 samples instead of 50, to stay within 2")
    assert score_channels(model, x, found, max_memory=limit).notes == found.notes
    raw = activations(model, {"input": x[list(plain.samples[0])]})["conv2"]
    parts = [raw[start : start + 16] for start in (0, 16, 32)]
    scored = next(layer.channels for layer in found.layers if layer.name == "conv2")
    for index in (0, 5):
        assert scored.b1_mean[index] == pytest.approx(np.mean([raw_b1(part[:, index]) for part in parts]))
    roomy = score_channels(model, x, plain, max_memory=10**9)
    assert roomy.notes == plain.notes
    assert roomy == score_channels(model, x, plain)
    with pytest.raises(DataError, match=r"from 16 points needs about .* over the limit .*max_memory.*subset_size"):
        score_channels(model, x, plain, max_memory=base_bytes(model) + 15 * sample_bytes(model))


def test_layers_whose_channels_are_not_ranked():
    assert set(rankable(open_model(tiny.mlp()))) == set()  # numbers, and the head
    assert set(rankable(open_model(tokens()))) == {"wide", "norm", "turned"}
    assert "mixed" not in rankable(open_model(convolutions()))


# Selection


@pytest.fixture
def scored(rng):
    model = open_model(tiny.conv_net())
    return score(
        model,
        rng.standard_normal((64, 3, 8, 8)).astype(np.float32),
        scoring=Scoring(samples=64, subsets=3, channels=True),
    )


def test_the_best_channels_are_selected(tmp_path, scored):
    selection = select(scored, strategy="all", choosing=Choosing(channel_rho=0.5))
    assert set(selection.channels) == {"conv1", "bn1", "conv2", "bn2"}  # the head is trained whole
    for layer in scored.layers:
        if layer.channels is None:
            continue
        b1, chosen = layer.channels.b1_mean, selection.channels[layer.name]
        assert len(chosen) == len(b1) // 2
        assert list(chosen) == sorted(set(chosen))
        left = [b1[i] for i in range(len(b1)) if i not in chosen]
        assert min(b1[i] for i in chosen) >= max(left)
    assert all(
        len(chosen) == 1
        for chosen in select(scored, strategy="all", choosing=Choosing(channel_rho=0.01)).channels.values()
    )
    assert select(scored, strategy="all", choosing=Choosing(channel_rho=1)) == select(scored, strategy="all")
    assert with_channels(select(scored, strategy="all"), scored, 0.5) == selection
    selection.save(tmp_path / "selection.json")
    assert load_selection(tmp_path / "selection.json") == selection


def test_equal_channels_are_taken_in_order(scored):
    layers = [
        dataclasses.replace(layer, channels=dataclasses.replace(layer.channels, b1_mean=(1.0, 2.0, 2.0, 0.0, 1.0, 1.0)))
        if layer.name == "conv1"
        else layer
        for layer in scored.layers
    ]
    selection = select(
        dataclasses.replace(scored, layers=tuple(layers)), layers=["conv1"], choosing=Choosing(channel_rho=0.67)
    )
    assert selection.channels == {"conv1": (0, 1, 2, 4)}


def test_selection_needs_scores_of_channels(scored):
    plain = dataclasses.replace(scored, channel_layers=None)
    with pytest.raises(UsageError, match=r"'conv1'.*`channels=True`"):
        select(plain, layers=["conv1"], choosing=Choosing(channel_rho=0.5))
    with pytest.raises(UsageError, match=r"'bn1'.*`channels=True`"):
        select(
            dataclasses.replace(scored, channel_layers=("conv1",)), strategy="all", choosing=Choosing(channel_rho=0.5)
        )
    for wrong in (0, -1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="channel rho must be above 0"):
            select(scored, choosing=Choosing(channel_rho=wrong))


# Files and the command line


def hostile(**changes):
    return entry("selection.json", layers=["conv2"], parameters=["conv2.weight"], **changes)


@cases(
    *[
        Case(f"{value}", ARTIFACTS, FAILURE, ("selection.json", "damaged", "select"), hostile(channels=value))
        for value in (
            [1],
            "all",
            3,
            {"conv2": 3},
            {"conv2": []},
            {"conv2": [1, 1]},
            {"conv2": [2, 1]},
            {"conv2": [-1]},
            {"conv2": [True]},
            {"conv2": [1.0]},
            {"conv2": ["1"]},
            {"conv2": None},
            {"conv1": [0]},
        )
    ],
    Case("too many", ARTIFACTS, USAGE, ("'conv2'", "channels 0 to 7"), hostile(channels={"conv2": [0, 8]})),
    Case("huge", ARTIFACTS, USAGE, ("'conv2'", "0 to 7"), hostile(channels={"conv2": [10**30]})),
    Case("rho", ARTIFACTS, FAILURE, ("channel_rho", "damaged"), hostile(channel_rho=2.0)),
    Case("ort", f"{ARTIFACTS} --backend ort", USAGE, ("channels", "portable"), hostile(channels={"conv2": [1]})),
)
def test_hostile_selections(case, refused):
    case.spoil()
    refused(case.command, case.code, *case.words)


def layer_entry(**changes):
    def spoil() -> None:
        value = json.loads(Path("scores.json").read_text())
        value["channel_layers"] = [layer["name"] for layer in value["layers"]]
        value["layers"][2].update(changes)
        Path("scores.json").write_text(json.dumps(value))

    return spoil


@cases(
    Case("not scored", f"{SELECT} --channel-rho 0.5", USAGE, ("score again", "--channels")),
    Case("zero", f"{SELECT} --channel-rho 0", USAGE, ("channel rho", "above 0")),
    Case("two", f"{SELECT} --channel-rho 2", USAGE, ("channel rho", "at most 1", "2.0")),
    Case("nan", f"{SELECT} --channel-rho nan", USAGE, ("channel rho", "nan")),
    Case("ort", f"{SELECT} --channel-rho 0.5 --backend ort", USAGE, ("channels", "portable")),
    Case("run", "run model.onnx data.npz -o out --preset none --channel-rho 2", USAGE, ("channel rho",)),
    Case(
        "run with ort",
        "run model.onnx data.npz -o out --channel-rho 0.5 --backend ort",
        USAGE,
        ("channels", "portable"),
    ),
    *[
        Case(f"scores {value}", SELECT, FAILURE, ("scores.json", "layer 2", "damaged"), layer_entry(channels=value))
        for value in (3, [], {}, {"elements": 0, "b1_mean": [1.0]}, {"elements": 4, "b1_mean": []})
    ],
    Case(
        "scores negative",
        SELECT,
        FAILURE,
        ("scores.json", "damaged"),
        layer_entry(channels={"elements": 4, "b1_mean": [-1.0]}),
    ),
)
def test_bad_calls(case, refused):
    if case.spoil is not None:
        case.spoil()
    refused(case.command, case.code, *case.words)


@pytest.mark.slow
@pytest.mark.parametrize(
    "channels",
    [
        3,
        {},
        {"axis": 0},
        {"axis": 4, "indices": [0]},
        {"axis": 0, "indices": [1, 0, 2, 3]},
        {"axis": -1, "indices": []},
    ],
)
def test_hostile_manifests(tmp_path, channels):
    _, manifest, _ = trained(tiny.conv_net(), tmp_path / "a")
    content = json.loads((manifest.folder / "manifest.json").read_text())
    content["parameters"][0]["channels"] = channels
    (manifest.folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match="damaged"):
        export_model(manifest.folder, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_indices_beyond_the_model_are_refused(tmp_path):
    _, manifest, _ = trained(tiny.conv_net(), tmp_path / "a")
    content = json.loads((manifest.folder / "manifest.json").read_text())
    first = content["parameters"][0]
    first["channels"]["indices"][-1] = 99
    (manifest.folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match=r"conv1.weight.*again"):
        export_model(manifest.folder, tmp_path / "out.onnx")


def test_the_whole_job(tmp_path, rng):
    onnx.save(tiny.conv_net(), tmp_path / "model.onnx")
    x, y = rng.standard_normal((64, 3, 8, 8)).astype(np.float32), np.arange(64) % 4
    np.savez(tmp_path / "data.npz", x=x, y=y)
    how = Adapting(
        scoring=Scoring(samples=32, subsets=2),
        choosing=Choosing(layers=("conv2", "fc"), channel_rho=0.5),
        settings=Settings(epochs=2, batch_size=16),
        measure=False,
        check=False,
    )
    data = (x, y)
    outcome = adapt(tmp_path / "model.onnx", data, tmp_path / "out", adapting=how)
    assert list(outcome.selection.channels) == ["conv2"]
    kept = load_scores(tmp_path / "out" / "scores.json")
    assert kept.channel_layers == ("conv2", "fc")
    assert with_channels(select(kept, layers=["conv2", "fc"]), kept, 0.5).channels == outcome.selection.channels
    manifest = json.loads((tmp_path / "out" / "artifacts" / "manifest.json").read_text())
    count = sum(math.prod(item["shape"]) for item in manifest["parameters"])
    assert outcome.trainable_share == pytest.approx(count / outcome.model.parameter_count)
    again = adapt(tmp_path / "model.onnx", data, tmp_path / "out", adapting=how, resume=True)
    assert again.metrics == outcome.metrics
    for other in (None, 0.25):
        changed = dataclasses.replace(how, choosing=dataclasses.replace(how.choosing, channel_rho=other))
        with pytest.raises(UsageError, match="other options"):
            adapt(tmp_path / "model.onnx", data, tmp_path / "out", adapting=changed, resume=True)


def test_commands(tmp_path, monkeypatch, rng):
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    onnx.save(tiny.conv_net(), "model.onnx")
    np.savez("data.npz", x=rng.standard_normal((48, 3, 8, 8)).astype(np.float32), y=np.arange(48) % 4)

    def run(command: str) -> str:
        done = CliRunner().invoke(cli, command.split(), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    run("score model.onnx data.npz -o scores.json --samples 32 --subsets 2 --channels")
    said = run("select scores.json -o selection.json --layers conv* --layers fc --channel-rho 0.5")
    assert "channels" in said
    assert "fc" in said
    assert "whole" in said
    whole = dataclasses.replace(load_selection("selection.json"), channels=None, channel_rho=None)
    whole.save("whole.json")
    costs = [json.loads(run(f"cost model.onnx {name}.json --json"))["selection"] for name in ("selection", "whole")]
    assert costs[0]["update_bytes"] < costs[1]["update_bytes"]
    assert costs[0]["step_multiply_adds"] < costs[1]["step_multiply_adds"]
    run("artifacts model.onnx selection.json -o artifacts --no-check")
    run("train artifacts data.npz --epochs 1")
    run("export artifacts -o adapted.onnx")
    assert "accuracy" in run("evaluate adapted.onnx data.npz --preset none")
    run("predict artifacts data.npz --preset none")
