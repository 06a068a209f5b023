"""Sketches: their definition, by arithmetic without random numbers; and scores from them.

A sketch with signs s has squared distances that are sums over pairs of elements of s_i s_j d_i d_j. Over the rows of a
Hadamard matrix the mean of s_i s_j is 0 for two elements, and 1 for one with itself. So the mean over these rows is
exactly the squared distance of the elements that are used: no test depends on chance.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from models import shaped, tiny
from models.hidden import norm_net
from test_channels import convolutions, tokens
from test_scoring import activations

from adabet_onnx import Choosing, DataError, RecordError, UsageError, load_scores, open_model, score, select
from adabet_onnx.data.preprocess import NONE, Arithmetic
from adabet_onnx.data.source import open_data
from adabet_onnx.kendall import kendall_tau
from adabet_onnx.scoring.betti import distances
from adabet_onnx.scoring.forward import GramProbed, SketchProbed
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.scoring.passes import Passes, base_bytes, plan_passes, sample_bytes
from adabet_onnx.scoring.probes import add_probes
from adabet_onnx.scoring.signals import signals
from adabet_onnx.scoring.sketch import MOST
from adabet_onnx.scoring.sketches import Sketches

SIGNS = "probes/signs/stored"
SAMPLES = 6


def squared(points: np.ndarray) -> np.ndarray:
    """Squared distances of rows, in double precision."""
    flat = points.reshape(len(points), -1).astype(np.float64)
    return ((flat[:, np.newaxis] - flat[np.newaxis]) ** 2).sum(-1)


def hadamard(size: int) -> np.ndarray:
    """Rows of signs, at least ``size`` of them, whose columns are orthogonal."""
    rows = np.ones((1, 1), np.int8)
    while len(rows) < size:
        rows = np.block([[rows, rows], [rows, -rows]])
    return rows[:, :size]


def sketches(model, size: int, x: np.ndarray, **how) -> dict[str, np.ndarray]:
    """Sketches by layer."""
    probed, names = add_probes(model, "sketch", sketch=size, **how)
    return {layer: tiny.run(probed, x, output=name) for layer, name in names.items()}


def with_all_signs(model, size: int, x: np.ndarray) -> dict[str, np.ndarray]:
    """Mean squared distances of sketches, over signs that are orthogonal."""
    probed, names = add_probes(model, "sketch", sketch=size)
    proto = ir.to_proto(probed)
    onnx.checker.check_model(proto)
    rows: list[dict[str, np.ndarray]] = [{}]
    for stored in [tensor for tensor in proto.graph.initializer if tensor.name == SIGNS]:
        proto.graph.initializer.remove(stored)
        proto.graph.input.append(onnx.helper.make_tensor_value_info(SIGNS, stored.data_type, stored.dims))
        rows = [{SIGNS: row} for row in hadamard(stored.dims[0])]
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [session.run(list(names.values()), {"input": x, **row}) for row in rows]
    for each in found[0]:
        assert each.shape[0] == len(x)
        assert each.shape[1] <= 2 * MOST * size
    return {layer: np.mean([squared(each[at]) for each in found], axis=0) for at, layer in enumerate(names)}


def closeness(found: np.ndarray, points: np.ndarray) -> float:
    """Largest difference to squared distances of points, where the longest is 1."""
    expected = squared(points)
    return float(np.abs(found - expected).max() / expected.max())


def grids(activation: np.ndarray):
    """The activation, and the elements at every second, third, ... position along each axis."""
    for steps in itertools.product(*(range(1, extent + 1) for extent in activation.shape[2:])):
        yield activation[(slice(None), slice(None), *(slice(None, None, step) for step in steps))]


def samples_for(model, rng: np.random.Generator, count: int = SAMPLES) -> np.ndarray:
    return rng.standard_normal((count, *model.inputs[0].shape[1:])).astype(np.float32)


HIDDEN = {1: 0.0, 3: 1e-4, 4: 1e-30, 6: 1e-6}
NETS = {
    "norm": lambda opset: norm_net(opset=opset),
    "hidden": lambda opset: norm_net(opset=opset, hidden=HIDDEN),
    "all hidden": lambda opset: norm_net(opset=opset, hidden=dict.fromkeys(range(8), 0.0)),
    "folded": lambda opset: norm_net(opset=opset, norm=False),
    "groups": lambda opset: norm_net(opset=opset, hidden=HIDDEN, group=2),
    "depthwise": lambda opset: norm_net(opset=opset, hidden=HIDDEN, group=4),
    "strides": lambda opset: norm_net(opset=opset, hidden=HIDDEN, strides=[2, 1], pads=[1, 0, 0, 2]),
    "dilations": lambda opset: norm_net(opset=opset, hidden=HIDDEN, dilations=[2, 3], pads=[2, 3, 2, 3]),
    "same": lambda opset: norm_net(opset=opset, hidden=HIDDEN, auto_pad="SAME_UPPER", strides=[2, 2]),
    "valid": lambda opset: norm_net(opset=opset, hidden=HIDDEN, auto_pad="VALID", strides=[2, 1]),
    "1d": lambda opset: norm_net(opset=opset, extents=(70,), hidden=HIDDEN, strides=[2]),
    "3d": lambda opset: norm_net(opset=opset, extents=(4, 3, 5), hidden=HIDDEN, group=2),
    "conv_net": lambda opset: tiny.conv_net(opset=opset),
    "convolutions": lambda _: convolutions(),
    "tokens": lambda _: tokens(),
    "time first": lambda _: shaped.time_major(),
    "lstm": lambda _: shaped.time_major_lstm(),
    "merged": lambda _: shaped.time_major(merged=True),
}
ONE_OPSET = ("convolutions", "tokens", "time first", "lstm", "merged")


# What a sketch is


@pytest.mark.parametrize(
    ("net", "opset"),
    [(net, opset) for net in NETS for opset in (12, 13, 17, 18, 21) if opset == 17 or net not in ONE_OPSET],
)
def test_where_there_are_no_more_than_k_elements_distances_are_exact(net, opset, rng):
    model = open_model(NETS[net](opset))
    x = samples_for(model, rng)
    found = sketches(model, 1 << 20, x)
    assert list(found) == [layer.name for layer in model.layers]
    for name, raw in activations(model, {"input": x}).items():
        assert found[name].dtype == np.float32
        if squared(raw).max() < 1e-9:
            assert squared(found[name]).max() < 1e-9
        else:
            assert closeness(squared(found[name]), raw) < 1e-4, name


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("size", [5, 48])
def test_distances_are_right_on_average(net, size, rng):
    """Exactly those of the elements that are used: all, or those at a regular grid of positions, of all channels."""
    model = open_model(NETS[net](17))
    x = samples_for(model, rng)
    found = with_all_signs(model, size, x)
    for name, raw in activations(model, {"input": x}).items():
        if squared(raw).max() < 1e-9:
            assert found[name].max() < 1e-9
            continue
        used = next((part for part in grids(raw) if closeness(found[name], part) < 1e-3), None)
        assert used is not None, name
        if used.size < raw.size:
            assert used[0].size >= size, "thinned more than is good for the variance of distances"


@pytest.mark.parametrize("opset", [12, 13, 18, 21])
def test_sums_at_every_opset(opset, rng):
    model = open_model(norm_net(opset=opset, hidden=HIDDEN))
    x = samples_for(model, rng)
    found = with_all_signs(model, 200, x)
    for name, raw in activations(model, {"input": x}).items():
        assert closeness(found[name], raw) < 1e-4


@pytest.mark.parametrize("batches_of", [1, 4])
@pytest.mark.parametrize("size", [200, 400, 600])
def test_of_a_conv_before_a_norm_it_is_that_of_its_own_output(size, batches_of, rng):
    """The same elements with the same signs: distance for distance."""
    paired, plain = (open_model(norm_net(norm=norm)) for norm in (True, False))
    x = samples_for(paired, rng, batches_of)
    x = np.concatenate([x, x[::-1] + 1])
    one, other = (squared(sketches(model, size, x)["conv"]) for model in (paired, plain))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * other.max())


def test_signs_are_those_of_the_seed_and_even(rng):
    model = open_model(tiny.conv_net())
    x = samples_for(model, rng)
    one, again, other = (sketches(model, 32, x, seed=seed)["conv1"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(squared(one), squared(other))
    probed, _ = add_probes(model, "sketch", sketch=32, seed=3)
    signs = next(onnx.numpy_helper.to_array(t) for t in ir.to_proto(probed).graph.initializer if t.name == SIGNS)
    assert set(signs.tolist()) == {-1, 1}
    assert abs(signs.astype(int).sum()) < 5 * math.sqrt(len(signs))


def test_the_spread_of_distances_is_that_of_k_numbers(rng):
    """A relative standard deviation of sqrt(2 / k), of activations that differ everywhere alike."""
    model = open_model(norm_net(norm=False))
    x = samples_for(model, rng, 2)
    exact = squared(activations(model, {"input": x})["conv"])[0, 1]
    found = [squared(sketches(model, 128, x, seed=seed)["conv"])[0, 1] / exact for seed in range(60)]
    assert np.mean(found) == pytest.approx(1, abs=0.06)
    assert 0.5 < np.std(found) / math.sqrt(2 / 128) < 1.6


# Batches and passes


def measured(model, x, **how):
    """The results of a forward pass with these settings of `Passes`."""
    names = tuple(layer.name for layer in model.layers)
    passes = Passes(**{"batch": 3, "size": 64, "half": False, "parts": (names,)} | how)
    return SketchProbed(model, NONE, passes).forward(open_data({"x": x}, model).train, np.arange(len(x)))


@pytest.mark.parametrize("batch", [1, 5, 32])
@pytest.mark.parametrize("parts", [1, 3])
def test_neither_batches_nor_passes_change_anything(batch, parts, rng):
    model = open_model(tiny.conv_net())
    x = samples_for(model, rng, 33)  # the last batch is smaller
    names = [layer.name for layer in model.layers]
    cut = (tuple(names),) if parts == 1 else (tuple(names[:2]), tuple(names[2:4]), tuple(names[4:]))
    base, found = measured(model, x), measured(model, x, batch=batch, parts=cut)
    assert list(found.grams) == names
    for name, gram in base.grams.items():
        np.testing.assert_allclose(found.grams[name], gram, rtol=1e-4, atol=1e-5 * np.abs(gram).max())
    assert list(found.sums) == list(base.sums) == ["bn1", "bn2"]
    for name, sums in base.sums.items():
        np.testing.assert_allclose(found.sums[name].sums, sums.sums, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(found.sums[name].squares, sums.squares, rtol=1e-4)


def test_scores_do_not_depend_on_memory_where_sketches_stay_as_large(rng):
    model = open_model(tiny.conv_net())
    x = samples_for(model, rng, 64)
    how = {"samples": 64, "subsets": 16, "sketch": 128}
    roomy = score(model, x, scoring=Scoring(**how, max_memory="1GB"))
    one = base_bytes(model) + sample_bytes(model)
    tight = score(model, x, scoring=Scoring(**how, max_memory=one + int(64 * 2 * 2 * 128 * MOST)))
    assert (roomy.settings["passes"], roomy.settings["sketch_half_precision"]) == (1, False)
    assert roomy.settings["forwarded_at_once"] > tight.settings["forwarded_at_once"] == 1
    assert tight.settings["passes"] > 1
    assert tight.settings["sketch_half_precision"] is True
    assert any("passes over the samples, to stay within 2" in note for note in tight.notes)
    assert roomy.notes == ()
    for one_of, other in zip(tight.layers, roomy.layers, strict=True):
        assert one_of.b1_mean == pytest.approx(other.b1_mean, rel=0.05)
        assert one_of.shift == (other.shift and pytest.approx(other.shift, rel=1e-4))


# Numbers that are far from zero, or none


@pytest.mark.parametrize("offset", [1e3, 1e4])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("half", [False, True])
def test_an_offset_takes_no_digits(offset, norm, half, rng):
    """Distances are those without it, but for what float32 rounds: 1e-3 at 1e4."""
    name = "bn" if norm else "conv"
    near, far = (open_model(norm_net(norm=norm, offset=value)) for value in (0.0, offset))
    x = samples_for(near, rng, 32)
    for size, tolerance in ((1 << 13, 1e-2 if half else 1e-3), (64, 3e-2 if half else 1e-2)):
        one, other = (distances(measured(model, x, half=half, size=size).grams[name]) for model in (near, far))
        np.testing.assert_allclose(other, one, rtol=tolerance, atol=tolerance * one.max() * 0.1)


@pytest.mark.parametrize("size", ["auto", 64])
def test_b1_of_what_has_an_offset(size, rng):
    """Exact where a sketch is the activation; else rounding may change the order of nearly equal lengths."""
    x = samples_for(open_model(norm_net()), rng, 64)
    how = Scoring(samples=64, subsets=32, sketch=size)
    near, far = (
        score(open_model(norm_net(offset=value)), x, preprocessing=NONE, scoring=how).layers[1] for value in (0.0, 1e3)
    )
    assert near.name == far.name == "bn"
    if size == "auto":
        assert far.b1 == near.b1
    else:
        assert far.b1_mean == pytest.approx(near.b1_mean, rel=0.02)


def test_half_precision_keeps_distances(rng):
    rows = (5 + rng.standard_normal((40, 3000))).astype(np.float32)
    whole, half = (Sketches(40, 3000, half=half) for half in (False, True))
    for part in np.split(rows, [7, 8, 39]):
        whole.add(part)
        half.add(part)
    assert half.bytes == whole.bytes // 2
    for gram in (whole.gram(), half.gram()):
        np.testing.assert_allclose(gram.sum(0), 0, atol=1)  # centred, which signals require
    np.testing.assert_allclose(distances(whole.gram()), np.sqrt(squared(rows)), rtol=1e-5, atol=1e-3)
    ratio = distances(half.gram())[np.triu_indices(40, 1)] / distances(whole.gram())[np.triu_indices(40, 1)]
    assert ratio.max() / ratio.min() < 1.003, "a factor that all have changes no order"


@pytest.mark.parametrize(("first", "value"), [("Sqrt", -1.0), ("Reciprocal", 0.0), ("Identity", 1e30)])
@pytest.mark.parametrize("at", [0, 13])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("size", [8, 1 << 13])
@pytest.mark.parametrize("hidden", [None, HIDDEN])
def test_what_is_no_number_is_refused_with_the_layer_named(first, value, at, half, size, hidden, rng):
    """NaN, infinite, and numbers so large that products are infinite."""
    model = open_model(norm_net(first=first, hidden=hidden))
    x = 1 + np.abs(samples_for(model, rng, 20))
    x[at] = value
    found = measured(model, x, batch=6, size=size, half=half)
    probed = SketchProbed(model, NONE, plan_passes(model, 20, 10**9))
    for name in ("conv", "bn"):
        with pytest.raises(DataError, match=rf"layer '{name}': activations are NaN or infinite.*preprocessing right"):
            probed.distances(name, found.grams[name])


def test_score_refuses_a_single_number_that_is_none(rng):
    """At a position that a thinned layer may leave out; the layers behind it do not."""
    model = open_model(norm_net(first="Sqrt", extents=(40, 40)))
    x = np.abs(samples_for(model, rng, 40))
    x[7, 1, 20, 21] = -1
    with pytest.raises(DataError, match=r"layer '.*': activations are NaN"):
        score(model, x, preprocessing=NONE, scoring=Scoring(samples=40, order="sequential", sketch=64))


# The option


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sketch": "some"}, "`sketch` must be a whole number, auto or off, not 'some'"),
        ({"sketch": 63}, "a sketch of 63 numbers is too small for an activation: use at least 64"),
        ({"sketch": -1}, "a sketch of -1 numbers"),
        ({"sketch": 100.5}, "`sketch` must be a whole number or text, not 100.5"),
        ({"sketch": True}, "`sketch` must be a whole number or text, not True"),
        ({"sketch": None}, "`sketch` must be a whole number or text, not None"),
        ({"sketch": 100, "estimator": "batches"}, "the estimator batches uses exact distances"),
    ],
)
def test_sizes_that_are_none(settings, said):
    with pytest.raises(UsageError) as raised:
        Scoring(**settings)
    assert said in str(raised.value)


def test_sizes(rng):
    assert Scoring().sketching
    assert not Scoring(sketch="off").sketching
    assert not Scoring(estimator="batches").sketching
    assert not Scoring(estimator="batches", sketch="off").sketching
    assert type(Scoring(sketch=np.int64(100)).sketch) is int
    model = open_model(tiny.conv_net())
    x = samples_for(model, rng, 40)
    found = {size: score(model, x, scoring=Scoring(samples=40, subsets=8, sketch=size)) for size in ("off", "auto", 64)}
    assert {size: scores.settings["sketch"] for size, scores in found.items()} == {"off": None, "auto": 8192, 64: 64}
    assert found["auto"].samples == found["off"].samples == found[64].samples
    b1 = {size: [layer.b1 for layer in scores.layers] for size, scores in found.items()}
    assert b1["auto"] == b1["off"], "activations are smaller than sketches"
    assert b1[64] != b1["off"]
    assert found[64].layers[-1].b1 == found["off"].layers[-1].b1


def test_distances_without_sketches_are_exact(rng):
    model = open_model(tiny.conv_net())
    x = samples_for(model, rng, 20)
    probed = GramProbed(model, NONE, group=20)
    found = probed.forward(open_data({"x": x}, model).train, np.arange(20))
    for name, raw in activations(model, {"input": x}).items():
        np.testing.assert_allclose(distances(found.grams[name]) ** 2, squared(raw), rtol=1e-3, atol=1e-3)


def test_a_ranking_by_sketches_is_nearly_that_by_distances(rng):
    model = open_model(convolutions())
    x = samples_for(model, rng, 64)
    exact, sketched = (
        [layer.b1_hat for layer in score(model, x, scoring=Scoring(samples=64, subsets=64, sketch=size)).layers]
        for size in ("off", 256)
    )
    assert kendall_tau(exact, sketched) > 0.8


def test_files_with_and_without_sketches(rng, tmp_path):
    model = open_model(tiny.conv_net())
    scores = score(model, samples_for(model, rng, 40), scoring=Scoring(samples=40, subsets=8, sketch=100))
    file = tmp_path / "scores.json"
    scores.save(file)
    assert load_scores(file) == scores
    content = json.loads(file.read_text())
    assert content["version"] == 2
    entries = {"sketch": 100, "sketch_half_precision": False, "forwarded_at_once": 32, "passes": 1}
    assert entries.items() <= content["settings"].items()
    for name in entries:
        del content["settings"][name]
    file.write_text(json.dumps(content | {"version": 1}))
    old = load_scores(file)
    assert old.layers == scores.layers
    assert select(old, choosing=Choosing(rho=0.3)).layers == select(scores, choosing=Choosing(rho=0.3)).layers
    file.write_text(json.dumps(content | {"version": 3}))
    with pytest.raises(RecordError, match="up to version 2"):
        load_scores(file)


def test_reports_tell_what_changes_scores(rng):
    model = open_model(tiny.conv_net())
    scores = score(model, samples_for(model, rng, 40), scoring=Scoring(samples=40, subsets=8, sketch=100))
    assert list(scores.estimator_summary()) == [
        *("estimator", "points", "samples", "seed", "order", "group", "subsets_per_group", "samples_left_out", "data"),
        "sketch",
    ]
    halved = dataclasses.replace(scores, settings={**scores.settings, "sketch_half_precision": True})
    assert halved.estimator_summary()["sketch_half_precision"] is True


# Memory


@pytest.fixture(scope="module")
def wide():
    """A model whose activations are large: 256 KB and 512 KB."""
    return open_model(norm_net(extents=(64, 64), made=16))


def planned(model, limit: int) -> Passes | str:
    """The plan for 256 samples and 4,096 numbers, or the error."""
    try:
        return plan_passes(model, 256, limit, 4096)
    except DataError as error:
        return str(error)


def test_plans_from_generous_to_absurd(wide):
    """With less memory: smaller batches, then half precision, more passes, smaller sketches, and finally an error."""
    base, one = base_bytes(wide), sample_bytes(wide)
    seen = []
    for extra in [10**9, *(int(20e6 / 1.25**power) for power in range(40))]:
        plan = planned(wide, base + one + extra)
        if isinstance(plan, str):
            assert "Raise `Scoring(max_memory=...)`, or score fewer `samples`" in plan
            seen.append(None)
            continue
        assert [name for part in plan.parts for name in part] == [layer.name for layer in wide.layers]
        each = {layer.name: min(plan.size, layer.activation_size) for layer in wide.layers}
        kept = max(sum(each[name] for name in part) for part in plan.parts) * 256 * (2 if plan.half else 4)
        assert base + plan.batch * one + kept <= base + one + extra, "kept to"
        assert any("passes over" in note for note in plan.notes) == (len(plan.parts) > 1)
        assert any(f"sketches of {plan.size} numbers instead of 4096" in n for n in plan.notes) == (plan.size < 4096)
        seen.append((plan.half, len(plan.parts), plan.batch))
    assert seen[0] == (False, 1, seen[0][2])
    assert seen[0][2] > 1
    assert seen[-1] is None
    assert {half for half, *_ in filter(None, seen)} == {False, True}
    assert max(parts for _, parts, _ in filter(None, seen)) > 1
    refused = [plan is None for plan in seen]
    assert refused == sorted(refused), "more memory is never worse"
    halves = [plan[0] for plan in seen if plan]
    assert halves == sorted(halves)


def test_a_conv_and_its_norm_are_in_one_pass_where_both_fit():
    """Their sketches are computed together; in separate passes they would use other elements."""
    model = open_model(tiny.conv_net())
    least = base_bytes(model) + sample_bytes(model)
    of_pair = 2 * 100 * 64 * 2  # in half precision
    assert plan_passes(model, 100, least + of_pair * 3 // 2, 64).parts == (("conv1", "bn1"), ("conv2", "bn2", "fc"))
    alone = plan_passes(model, 100, least + of_pair * 3 // 4, 64).parts
    assert alone == (("conv1",), ("bn1",), ("conv2",), ("bn2", "fc"))


def test_sketches_become_smaller_where_passes_would_be_many():
    model = open_model(deep(30))
    limit = base_bytes(model) + sample_bytes(model)
    plan = plan_passes(model, 512, limit + 512 * 8192 * 2)
    assert 1024 <= plan.size < 8192
    assert plan.notes[0].startswith(f"sketches of {plan.size} numbers instead of 8192, to stay within ")
    assert [name for part in plan.parts for name in part] == [layer.name for layer in model.layers]
    assert plan_passes(model, 512, limit + 512 * 64 * 4, 64).size == 64, "what is asked for is not made smaller"
    with pytest.raises(DataError, match=r"one sample at a time needs about .* over the limit of .*max_memory"):
        plan_passes(model, 512, limit)


def deep(layers: int) -> onnx.ModelProto:
    """Convolutions in a row on (N, 4, 64, 64), and a head."""
    values = {f"w{i}": tiny.normal(4, 4, 1, 1) for i in range(layers)} | {"fc": tiny.normal(4, 3)}
    nodes = [tiny.node("Conv", [f"x{i}" if i else "input", f"w{i}"], [f"x{i + 1}"], f"/c{i}") for i in range(layers)]
    nodes += [
        tiny.node("GlobalAveragePool", [f"x{layers}"], ["pooled"], "/pool"),
        tiny.node("Flatten", ["pooled"], ["flat"], "/flat"),
        tiny.node("MatMul", ["flat", "fc"], ["logits"], "/fc"),
    ]
    return tiny.build(nodes, values, input_shape=("N", 4, 64, 64), output_shape=("N", 3))


# The probed file


@pytest.mark.parametrize("opset", [12, 17, 21])
def test_the_probed_file(opset, rng):
    model = open_model(norm_net(extents=(40, 40), hidden=HIDDEN, opset=opset))
    probed, names = add_probes(model, "sketch", sketch=64, seed=5)
    proto = ir.to_proto(probed)
    onnx.checker.check_model(proto, full_check=True)
    stored = {entry.key: json.loads(entry.value) for entry in proto.metadata_props if "adabet_onnx." in entry.key}
    assert stored["adabet_onnx.probes"] == names
    assert stored["adabet_onnx.sketch"] == {"size": 64, "seed": 5}
    assert [value.name for value in proto.graph.output] == list(names.values())
    x = samples_for(model, rng, 5)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    together = session.run(None, {"input": x})
    alone = [session.run(None, {"input": x[i : i + 1]}) for i in range(5)]
    for at, found in enumerate(together):
        expected = np.concatenate([each[at] for each in alone])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    before = {tensor.name for tensor in model.proto().graph.initializer}
    new = [onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer if tensor.name not in before]
    assert [tensor.dtype for tensor in new if tensor.size > 64] == [np.int8], "the signs, once for all layers"
    assert proto.ByteSize() - model.proto().ByteSize() < 20_000
    assert "adabet_onnx.sketch" not in {entry.key for entry in ir.to_proto(add_probes(model, "gram")[0]).metadata_props}


@pytest.mark.parametrize("size", [0, -3])
def test_a_sketch_of_no_numbers(size):
    with pytest.raises(UsageError, match="at least 1 number"):
        add_probes(open_model(tiny.conv_net()), "sketch", sketch=size)


# Signals


def test_signals_are_those_over_all_positions_or_nearly(rng):
    """Equal where all are used; from some positions of a large map within a few percent."""
    model = open_model(norm_net(extents=(48, 48), hidden={2: 0.0, 5: 0.0}))
    x = (1 + 2 * samples_for(model, rng, 40)).astype(np.float32)
    exact = GramProbed(model, NONE, group=40).forward(open_data({"x": x}, model).train, np.arange(40))
    probed = SketchProbed(model, NONE, plan_passes(model, 40, 10**9))
    wanted = signals([exact.grams["bn"]], [exact.sums["bn"]], probed.stored["bn"])
    assert wanted.dead == 0.25
    for size, tolerance in ((1 << 20, 1e-4), (256, 0.1)):
        found = measured(model, x, size=size)
        got = signals([found.grams["bn"]], [found.sums["bn"]], probed.stored["bn"])
        assert got.dead == wanted.dead
        assert got.shift == pytest.approx(wanted.shift, rel=tolerance)
        used = 48 * 48 if size == 1 << 20 else found.sums["bn"].elements
        assert found.sums["bn"].elements == used <= 48 * 48
    assert used < 48 * 48, "it was thinned"


def test_preprocessing_comes_before(rng):
    """As with bytes scaled to 0..1, whose sketch differs from that of the bytes."""
    model = open_model(tiny.conv_net())
    x = rng.integers(0, 256, (40, 3, 8, 8)).astype(np.uint8)
    names = tuple(layer.name for layer in model.layers)
    probed = SketchProbed(model, Arithmetic(scale=1 / 255), Passes(7, 64, False, (names,)))
    found = probed.forward(open_data({"x": x}, model).train, np.arange(40))
    np.testing.assert_allclose(
        found.grams["fc"], measured(model, (x / 255).astype(np.float32)).grams["fc"], rtol=1e-3, atol=1e-5
    )
