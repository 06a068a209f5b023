"""Scoring: probes, Betti numbers, estimators, and what happens when samples or memory are short."""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import tiny
from ripser import ripser
from scipy.spatial.distance import pdist, squareform

from adabet_onnx import DataError, UsageError, open_model, runtime, score
from adabet_onnx.data.feeder import Feeder
from adabet_onnx.data.preprocess import NONE, Preprocessing
from adabet_onnx.data.source import open_data
from adabet_onnx.scoring.betti import distances, first_betti_number
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.scoring.probes import add_probes
from adabet_onnx.scoring.record import load_scores, standard_error

PAIRS = [
    ("resnet20_cifar10_bn", "cifar100_20c"),
    ("resnet20_cifar10_folded", "cifar10_noise5"),
    ("mobilenetv1_025_vww96_bn", "flowers5_96"),
    ("mobilenetv1_025_vww96_folded", "flowers5_96"),
    ("mobilenetv2_035_imagenet128", "flowers5_96"),
]


def raw_b1(points: np.ndarray) -> int:
    """Ripser on the points themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # activations have more columns than rows
        bars = ripser(points.reshape(len(points), -1), maxdim=1)["dgms"][1]
    return int((bars[:, 1] > bars[:, 0]).sum())


def activations(model, feeds):
    """Raw activations of all layers by name."""
    probed, names = add_probes(model, "activations")
    session = runtime.inference_session(ir.to_proto(probed).SerializeToString(), "probed")
    return dict(zip(names, session.run(list(names.values()), feeds), strict=True))


@pytest.fixture
def images(rng):
    return rng.standard_normal((300, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def model():
    return open_model(tiny.conv_net())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data"), PAIRS)
def test_batches_estimator_equals_ripser_on_raw_activations(shared, name, data):
    model = open_model(shared / "models" / f"{name}.onnx")
    dataset = open_data(shared / "data" / f"{data}.npz", model).train
    scores = score(model, dataset, scoring=Scoring(estimator="batches", batches=2))
    feeder = Feeder(model, Preprocessing().resolve(model, integer_data=True))
    for number, group in enumerate(scores.samples):
        raw = activations(model, feeder.feeds(dataset, np.array(group)))
        found = {layer.name: layer.b1[number] for layer in scores.layers}
        assert found == {layer: raw_b1(array) for layer, array in raw.items()}


def test_circle_has_one_loop_and_line_none():
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert first_betti_number(squareform(pdist(circle))) == 1
    line = np.linspace(0, 1, 24)[:, None]
    assert first_betti_number(squareform(pdist(line))) == 0
    assert first_betti_number(np.zeros((3, 3))) == 0


def test_distances_from_a_gram_matrix(rng):
    points = rng.standard_normal((20, 7))
    centred = points - points.mean(0)
    np.testing.assert_allclose(distances(centred @ centred.T), squareform(pdist(points)), atol=1e-6)
    with pytest.raises(DataError):
        distances(np.full((4, 4), np.nan))


def test_gram_probe_is_exact_far_from_the_origin(rng):
    # Activations at an offset of 1000: without centring, float32 Gram distances would go wrong.
    points = rng.standard_normal((32, 3, 8, 8)).astype(np.float32)
    proto = tiny.conv_net()
    bias = next(t for t in proto.graph.initializer if t.name == "bn1.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(6, 1000, np.float32), "bn1.bias"))
    model = open_model(proto)
    raw = activations(model, {"input": points})["bn1"]
    assert raw.mean() > 900
    scores = score(
        model, points, preprocessing=NONE, scoring=Scoring(estimator="batches", batches=1, order="sequential")
    )
    assert next(layer for layer in scores.layers if layer.name == "bn1").b1 == (raw_b1(raw.astype(np.float64)),)


def test_both_kinds_of_probe_agree_with_each_other(model, images):
    probed, names = add_probes(model, "gram")
    session = runtime.inference_session(ir.to_proto(probed).SerializeToString(), "probed")
    grams = dict(zip(names, session.run(list(names.values()), {"input": images[:16]}), strict=True))
    for name, raw in activations(model, {"input": images[:16]}).items():
        flat = raw.reshape(16, -1).astype(np.float64)
        flat -= flat.mean(0)
        np.testing.assert_allclose(grams[name], flat @ flat.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("opset", [12, 13, 17, 18, 21])
def test_probes_at_every_opset(opset):
    net = tiny.conv_net(opset=opset)
    probed, names = add_probes(open_model(net), "gram")
    proto = ir.to_proto(probed)
    onnx.checker.check_model(proto)
    outputs = runtime.inference_session(proto.SerializeToString(), "probed").run(
        list(names.values()), {"input": np.zeros((5, 3, 8, 8), np.float32)}
    )
    assert [array.shape for array in outputs] == [(5, 5)] * len(names)


def test_score_is_b1_mean_over_points_times_activation_size(model, images):
    scores = score(model, images)
    assert scores.estimator == "subsets"
    assert scores.points == 32
    assert [len(group) for group in scores.samples] == [128]
    for layer in scores.layers:
        assert len(layer.b1) == scores.settings["subsets_per_group"]
        assert layer.b1_mean == pytest.approx(np.mean(layer.b1))
        assert layer.b1_hat == pytest.approx(layer.b1_mean / (32 * layer.activation_size))
    by_rank = sorted(scores.layers, key=lambda layer: layer.rank)
    assert [layer.rank for layer in by_rank] == list(range(1, len(by_rank) + 1))
    assert all(a.b1_hat >= b.b1_hat for a, b in itertools.pairwise(by_rank))


def test_subsets_are_those_of_the_distance_matrix(model, images):
    """With subsets of the whole group there is one, and it is the batches estimator's number."""
    whole = score(model, images, scoring=Scoring(samples=32, subset_size=32, order="sequential"))
    batches = score(model, images, scoring=Scoring(estimator="batches", batches=1, batch_size=32, order="sequential"))
    assert [layer.b1 for layer in whole.layers] == [layer.b1 for layer in batches.layers]


def test_labels_do_not_matter_and_seeds_do(model, images):
    first, again = score(model, images), score(model, (images, np.zeros(300, np.int64)))
    assert first == dataclasses.replace(again, classes=first.classes)
    other = score(model, images, seed=1)
    assert other.samples != first.samples
    assert score(model, images, scoring=Scoring(order="sequential")).samples == (tuple(range(128)),)


def test_a_ragged_group_is_left_out_and_counted(model, images):
    scores = score(model, images, scoring=Scoring(samples=300))
    assert [len(group) for group in scores.samples] == [128, 128]
    assert scores.settings["samples_left_out"] == 44
    assert any("44 samples" in note for note in scores.notes)
    few = score(model, images[:50])
    assert [len(group) for group in few.samples] == [50]
    assert any("50 samples" in note for note in few.notes)


def test_too_few_samples(model, images):
    with pytest.raises(DataError, match="needs 32 samples, but the data has 20"):
        score(model, images[:20])
    with pytest.raises(DataError, match="needs 128 samples, but the data has 100"):
        score(model, images[:100], scoring=Scoring(estimator="batches"))


def test_without_sketches_a_memory_limit_makes_groups_smaller_and_says_so(model, images):
    scores = score(model, images, scoring=Scoring(samples=256, max_memory=20_600_000, sketch="off"))
    group = scores.settings["group"]
    assert 32 <= group < 128
    assert all(len(indices) == group for indices in scores.samples)
    assert any(f"groups of {group} samples instead of 128" in note for note in scores.notes)
    with pytest.raises(DataError, match=r"Raise `Scoring.max_memory"):
        score(model, images, scoring=Scoring(max_memory=20_010_000, sketch="off"))


def test_nan_activations_are_named(model, images):
    broken = images.copy()
    broken[7] = 1e30  # finite, but its products are not
    with pytest.raises(DataError, match="conv1"):
        score(model, broken, scoring=Scoring(samples=300, order="sequential"))


@pytest.mark.parametrize(
    "settings",
    [{"estimator": "all"}, {"order": "random"}, {"subset_size": 3}, {"subsets": 0}, {"samples": 16}, {"samples": -1}],
)
def test_impossible_settings(model, images, settings):
    with pytest.raises(UsageError):
        score(model, images, scoring=Scoring(**settings))


def test_scores_survive_their_file(model, images, tmp_path):
    scores = score(model, images)
    scores.save(tmp_path / "scores.json")
    assert load_scores(tmp_path / "scores.json") == scores


def test_several_inputs_as_batches_of_dicts(rng):
    nodes = [
        onnx.helper.make_node("Concat", ["input", "second"], ["both"], axis=1),
        onnx.helper.make_node("Gemm", ["both", "w", "b"], ["logits"]),
    ]
    weights = {"w": rng.standard_normal((9, 3)).astype(np.float32), "b": np.zeros(3, np.float32)}
    float32 = onnx.TensorProto.FLOAT
    sizes = {"input": 4, "second": 5}
    inputs = [onnx.helper.make_tensor_value_info(name, float32, ["N", size]) for name, size in sizes.items()]
    outputs = [onnx.helper.make_tensor_value_info("logits", float32, ["N", 3])]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = onnx.helper.make_graph(nodes, "two inputs", inputs, outputs, tensors)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    first, second = rng.standard_normal((64, 4)), rng.standard_normal((64, 5))
    batches = [{"input": first[i : i + 20], "second": second[i : i + 20]} for i in range(0, 64, 20)]
    model = open_model(proto)
    listed = score(model, batches, scoring=Scoring(samples=64, order="sequential"))
    assert (
        listed.layers
        == score(model, {"input": first, "second": second}, scoring=Scoring(samples=64, order="sequential")).layers
    )


def test_standard_error_is_that_of_disjoint_batches_or_larger():
    b1 = np.array([3, 5, 4, 8])
    assert standard_error(b1, 32, 128) == pytest.approx(np.std(b1, ddof=1) / 2)
    many = np.tile(b1, 16)
    naive = np.std(many, ddof=1) / np.sqrt(64)
    assert standard_error(many, 32, 128) > 3 * naive
    assert standard_error(np.array([3]), 32, 32) == 0


def test_batch_that_is_not_the_first_axis_or_is_merged(rng):
    """An LSTM puts the batch third, and a model may merge it with the tokens: one point is still one sample."""
    float32 = onnx.TensorProto.FLOAT
    weights = {
        "lstm.W": rng.standard_normal((1, 24, 5)).astype(np.float32),
        "lstm.R": rng.standard_normal((1, 24, 6)).astype(np.float32),
        "mix.weight": rng.standard_normal((6, 4)).astype(np.float32),
        "fc.weight": rng.standard_normal((28, 3)).astype(np.float32),
    }
    shapes = {"tokens": [-1, 6], "flat": [-1, 28], "axes": [1]}
    nodes = [
        onnx.helper.make_node("Transpose", ["input"], ["steps"], perm=[1, 0, 2]),
        onnx.helper.make_node("LSTM", ["steps", "lstm.W", "lstm.R"], ["y"], "/lstm", hidden_size=6),
        onnx.helper.make_node("Squeeze", ["y", "axes"], ["states"]),
        onnx.helper.make_node("Transpose", ["states"], ["by_sample"], perm=[1, 0, 2]),
        onnx.helper.make_node("Reshape", ["by_sample", "tokens"], ["rows"]),
        onnx.helper.make_node("MatMul", ["rows", "mix.weight"], ["mixed"], "/mix"),
        onnx.helper.make_node("Reshape", ["mixed", "flat"], ["samples"]),
        onnx.helper.make_node("MatMul", ["samples", "fc.weight"], ["logits"], "/fc"),
    ]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    tensors += [onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in shapes.items()]
    graph = onnx.helper.make_graph(
        nodes,
        "steps",
        [onnx.helper.make_tensor_value_info("input", float32, ["N", 7, 5])],
        [onnx.helper.make_tensor_value_info("logits", float32, ["N", 3])],
        tensors,
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    model = open_model(proto)
    assert {layer.name: layer.activation_size for layer in model.layers} == {"lstm": 42, "mix": 28, "fc": 3}
    points = rng.standard_normal((32, 7, 5)).astype(np.float32)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("y", "mixed"))
    session = runtime.inference_session(proto.SerializeToString(), "outputs")
    logits, y, mixed = session.run(None, {"input": points})
    scores = score(model, points, scoring=Scoring(samples=32, order="sequential"))
    expected = {"lstm": np.moveaxis(y, 2, 0), "mix": mixed.reshape(32, 28), "fc": logits}
    assert {layer.name: layer.b1 for layer in scores.layers} == {name: (raw_b1(x),) for name, x in expected.items()}
