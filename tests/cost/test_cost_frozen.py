"""Costs of the frozen pass and of the steps after it: predicted, measured, added up, and searched."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from models import tiny
from models.deep import residual

from adabet_onnx import UsageError, make_artifacts, open_model, select
from adabet_onnx.cli.main import cli
from adabet_onnx.cost.graphs import selection_with
from adabet_onnx.cost.measure import Cost, measure_training
from adabet_onnx.cost.overview import overview
from adabet_onnx.cost.predict import Predictor
from adabet_onnx.cost.words import measured_sentence, ratio_text
from adabet_onnx.portable.memory import micro_batch
from adabet_onnx.scoring.record import LayerScore, Scores
from adabet_onnx.selection.budget import Budget
from adabet_onnx.selection.options import Choosing
from adabet_onnx.sizes import size_text

pytestmark = pytest.mark.slow


def towers(layers: int = 4, width: int = 900):
    """A chain of matrix products with scaled results: nearly all memory is weights."""
    rng = np.random.default_rng(3)
    weights, nodes, value = {}, [], "input"
    for i in range(layers):
        size = 4 if i == layers - 1 else width
        weights[f"l{i}.weight"] = (rng.standard_normal((size, width)) / 20).astype(np.float32)
        weights[f"l{i}.bias"] = np.zeros(size, np.float32)
        made = "logits" if i == layers - 1 else f"l{i}.out"
        nodes.append(tiny.node("Gemm", [value, f"l{i}.weight", f"l{i}.bias"], [made], f"l{i}", transB=1))
        value = made
        if i < layers - 1:
            nodes.append(tiny.node("Relu", [made], [f"l{i}.relu"], f"l{i}.relu"))
            weights[f"s{i}.weight"] = np.ones(width, np.float32)
            nodes.append(tiny.node("Mul", [f"l{i}.relu", f"s{i}.weight"], [f"s{i}.out"], f"s{i}"))
            value = f"s{i}.out"
    return tiny.build(nodes, weights, input_shape=("N", width), output_shape=("N", 4))


MODELS = {
    "conv_net": tiny.conv_net,
    "residual": lambda: residual(4, width=24, size=28),
    "towers": towers,
    "recurrent": lambda: tiny.recurrent(steps=12, width=16, units=64),
}


def parameters(model, layers):
    return [parameter.name for name in layers for parameter in model.layer(name).parameters]


@pytest.mark.parametrize("name", MODELS)
def test_frozen_pass_and_step_measure_as_predicted(name, tmp_path):
    """In a new process: the last two layers, and one in the middle."""
    model = open_model(MODELS[name]())
    names = [layer.name for layer in model.layers]
    for count, layers in enumerate((names[-2:], [names[len(names) // 2]])):
        predictor = Predictor(model, batch_size=32, backend="portable")
        found = predictor.training(parameters(model, layers), layers)
        folder = tmp_path / str(count)
        make_artifacts(
            model, selection_with(model, parameters(model, layers), layers), folder, backend="portable", check=False
        )
        kept = measure_training(folder, batch_size=32, steps=1, threads=1)
        off = measure_training(folder, batch_size=32, steps=1, threads=1, features=False)
        assert bool(kept.frozen_bytes) == bool(found.stored_bytes)
        for predicted, measured in (
            (found.memory_bytes, kept.memory_bytes),
            (found.frozen_bytes, kept.frozen_bytes),
            (found.tail_bytes, kept.tail_bytes or kept.memory_bytes),
            (found.without_features_bytes, off.memory_bytes),
        ):
            assert abs(predicted - measured) <= max(0.15 * measured, 6e6)  # pages of libraries: 2 MB, by machine
        assert kept.memory_bytes == max(kept.frozen_bytes, kept.tail_bytes or kept.memory_bytes)
        assert kept.memory_bytes <= found.memory_bytes + found.margin_bytes
        assert (kept.frozen_seconds > 0) == bool(found.stored_bytes)


def test_a_head_by_hand():
    """10 to 16 to 3: the frozen pass has the first product, a step the second and its weights' gradient."""
    model = open_model(tiny.mlp())
    found = Predictor(model, batch_size=4, backend="portable").training(parameters(model, [model.head.name]))
    assert found.frozen_multiply_adds == 4 * 10 * 16
    assert found.forward_multiply_adds == 4 * 16 * 3
    assert found.step_multiply_adds == 2 * 4 * 16 * 3
    assert found.stored_bytes == 4 * 16
    training = found.of_training(samples=100, epochs=5)
    assert training.stored_bytes == 6400
    assert training.multiply_adds == 25 * 640 + 5 * 25 * 384
    assert training.without_features == 5 * 25 * (640 + 384)
    assert training.share == pytest.approx(training.multiply_adds / training.without_features)


def test_micro_batches_add_up():
    model = open_model(residual(2))
    names = parameters(model, [layer.name for layer in model.layers[-4:]])
    predictor = Predictor(model, batch_size=8, backend="portable")
    whole, parts = predictor.training(names), predictor.training(names, accumulate=4)
    assert parts.frozen_multiply_adds == whole.frozen_multiply_adds > 0
    assert parts.step_multiply_adds == whole.step_multiply_adds
    assert parts.stored_bytes == whole.stored_bytes > 0
    assert parts.frozen_bytes <= whole.frozen_bytes


@pytest.mark.parametrize("batch", [1, 2, 7, 32, 33])
def test_the_micro_batch_is_an_even_part_that_takes_no_more_than_a_step(batch):
    for one, step in itertools.product((1, 999_999, 3_000_000, 50_000_000), (0, 10_000_000, 90_000_000)):
        micro = micro_batch(one, step, batch)
        assert 1 <= micro <= batch
        assert micro == 1 or micro * one <= max(4_000_000, min(step, 32_000_000))
        times = -(-batch // micro)
        assert -(-batch // times) == micro  # no fewer in as many runs


@pytest.mark.parametrize("name", ["residual", "towers"])
def test_what_larger_and_smaller_sets_take_at_least(name):
    model = open_model(residual(2) if name == "residual" else towers())
    predictor = Predictor(model, batch_size=8, backend="portable")
    rng = np.random.default_rng(0)
    names = [layer.name for layer in model.layers]
    for _ in range(12):
        small = set(rng.choice(len(names), 2, replace=False).tolist())
        large = small | set(rng.choice(len(names), 2, replace=False).tolist())
        less, more = (predictor.training(parameters(model, [names[i] for i in sorted(s)])) for s in (small, large))
        assert more.memory_bytes >= 0.98 * less.with_more_bytes  # the gaps in the arena differ
        assert less.memory_bytes >= 0.98 * more.with_fewer_bytes
        assert more.step_multiply_adds >= less.step_multiply_adds
        assert less.with_more_bytes <= less.tail_bytes
        assert less.with_fewer_bytes <= max(0, less.frozen_bytes)


def scored(model, values) -> Scores:
    layers = tuple(
        LayerScore(
            layer.name, layer.op_type, tuple(p.name for p in layer.parameters), layer.parameter_count, 10, False,
            (1,), value, value, 0.0, 0,
        )
        for layer, value in zip(model.layers, values, strict=True)
    )  # fmt: skip
    return Scores(model.sha256, "subsets", 32, ((0,),), layers, head=model.head.name)


def test_an_earlier_layer_keeps_to_a_budget_that_the_last_one_does_not():
    """With the last layer, all weights are frozen; with the first, all are in the step. The best set is found."""
    model = open_model(towers())
    predictor = Predictor(model, batch_size=1, backend="portable")
    alone = [predictor.training(parameters(model, [layer.name])) for layer in model.layers]
    taken = [found.memory_bytes + found.margin_bytes for found in alone]
    least = taken.index(min(taken))
    assert 0 < least < len(taken) - 1
    scores = scored(model, (3.0, 2.0, 5.0, 1.0, 4.0, 6.0, 9.0))
    for limit in (min(taken), (min(taken) + taken[-1]) // 2, max(taken)):
        budget = Choosing(rho=0.5, budget=Budget(max_memory=limit))
        fitting = {}
        for size in (1, 2, 3):
            for some in itertools.combinations(range(7), size):
                found = predictor.training(parameters(model, [model.layers[i].name for i in some]))
                if found.memory_bytes + found.margin_bytes <= limit:
                    fitting[some] = sum(scores.layers[i].b1_hat for i in some)
        selection = select(scores, costs=predictor, choosing=budget)
        chosen = [layer.b1_hat for layer in scores.layers if layer.name in selection.layers]
        assert sum(chosen) == max(fitting.values())
        assert selection.budget.gap == 0
        last = select(scores, strategy="last", rho=0.5, costs=predictor, choosing=Choosing(budget=Budget(limit)))
        assert last.budget.memory_bytes <= limit
    with pytest.raises(UsageError, match=f"with {model.layers[least].name}"):
        select(scores, costs=predictor, choosing=Choosing(budget=Budget(max_memory=min(taken) - 1)))


def test_a_head_that_is_required_may_need_an_earlier_layer():
    model = open_model(towers())
    predictor = Predictor(model, batch_size=1, backend="portable")
    names = [layer.name for layer in model.layers]
    found = [predictor.training(parameters(model, sorted({name, names[-1]}))) for name in names]
    *others, head = [one.memory_bytes + one.margin_bytes for one in found]
    assert min(others) < head
    limit = (min(others) + head) // 2
    choosing = Choosing(strategy="last", rho=0.3, head="always", budget=Budget(max_memory=limit))
    selection = select(scored(model, [1.0] * 7), costs=predictor, choosing=choosing)
    assert model.head.name in selection.layers
    assert len(selection.layers) > 1
    assert selection.budget.memory_bytes <= limit


def test_a_table_says_what_is_kept_and_what_that_saves(tmp_path: Path, capsys):
    path, model = tmp_path / "net.onnx", tiny.conv_net()
    path.write_bytes(model.SerializeToString())
    select(path, strategy="head").save(tmp_path / "selection.json")
    given = ["cost", str(path), str(tmp_path / "selection.json"), "--batch-size", "4"]
    cli.main([*given, "--training-samples", "500", "--epochs", "3"], standalone_mode=False)
    text = " ".join(capsys.readouterr().out.split())
    found = overview(path, tmp_path / "selection.json", batch_size=4, samples=500, epochs=3)
    assert all(line in text for line in found.frozen())
    assert "the frozen pass, once for each sample" in text
    assert re.search(r"3 epochs over 500 samples: [\d.,]+ [MG] multiply-adds, 0\.\d+ of the [\d.,]+ [MG] without", text)
    assert "(+) margin: " in text
    cli.main([*given, "--training-samples", "500", "--epochs", "3", "--json"], standalone_mode=False)
    training = json.loads(capsys.readouterr().out)["selection"]["training"]
    assert (training["samples"], training["epochs"]) == (500, 3)
    assert training["multiply_adds"] < training["without_features_multiply_adds"]
    assert cli.commands["cost"].epilog.count("without_features_multiply_adds") == 1
    with pytest.raises(UsageError, match="at least 1 sample"):
        overview(path, batch_size=4, samples=0)


def bars(axis) -> dict[str, float]:
    """Heights of the bars by label, stacked or not."""
    below = [label.get_text().replace("\n", " ") for label in axis.get_xticklabels()]
    found = dict.fromkeys(below, 0.0)
    for bar in axis.patches:
        found[below[round(bar.get_x() + bar.get_width() / 2)]] += bar.get_height()
    return found


@pytest.mark.parametrize("measure", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_picture_has_the_pass_and_a_step_after_it(measure):
    model = open_model(tiny.conv_net())
    found = overview(model, select(model, strategy="head"), batch_size=4, samples=500, epochs=3, measure=measure)
    figure = found.plot()
    memory, work = figure.axes
    predicted, row = found.selection.prediction, found.selection
    after = "a step after it, selection"
    assert list(bars(memory)) == ["inference", "frozen pass, once", after, "training, all layers"]
    heights = bars(memory)
    assert heights["frozen pass, once"] == pytest.approx(predicted.frozen_bytes / 1e6)
    assert heights[after] == pytest.approx(predicted.tail_bytes / 1e6)
    assert heights["training, all layers"] == pytest.approx(found.everything.prediction.memory_bytes / 1e6)
    values = bars(work)
    if measure:
        assert values["frozen pass, once"] == pytest.approx(1e3 * row.measured_frozen_seconds)
        assert values[after] == pytest.approx(1e3 * row.measured_seconds)
        levels = [line.get_ydata()[0] for line in memory.lines]
        measured = row.measured_frozen_bytes, row.measured_tail_bytes
        assert levels[1:3] == pytest.approx([count / 1e6 for count in measured])
    else:
        assert values["frozen pass, once"] == pytest.approx(predicted.frozen_multiply_adds / 1e6)
        assert values[after] == pytest.approx(predicted.step_multiply_adds / 1e6)
        assert not memory.lines
    text = " ".join(figure.get_supxlabel().split())
    assert f"features kept: {size_text(predicted.stored_bytes)} per sample" in text
    assert re.search(r"3 epochs over 500 samples: [\d.,]+ [MG] multiply-adds, 0\.\d+ of the", text)
    assert ("of the time without kept features" in text) == measure


def test_ratios_have_enough_digits():
    ratios = (1.234, 0.5, 0.1, 0.0996, 0.0154, 0.00487, 0.00001)
    assert [ratio_text(ratio) for ratio in ratios] == [
        *("1.23", "0.50", "0.10", "0.10", "0.015", "0.0049", "less than 0.0001"),
    ]


def test_little_saving_is_called_little():
    cost = Cost(14_000_000, 0.1, frozen_bytes=1_000_000, frozen_seconds=0.001, tail_bytes=13_000_000)
    options = {"batch_size": 4, "samples": 500, "views": 500, "epochs": 3}
    assert measured_sentence(cost, **options).endswith("without kept features: keeping them saves little here")
    assert "little" not in measured_sentence(dataclasses.replace(cost, frozen_seconds=0.1), **options)


def test_the_picture_of_what_has_nothing_frozen_has_no_pass():
    model = open_model(tiny.conv_net())
    figure = overview(model, select(model, strategy="all"), batch_size=4).plot()
    assert list(bars(figure.axes[0])) == ["inference", "training, selection", "training, all layers"]
    assert not figure.get_supxlabel()
