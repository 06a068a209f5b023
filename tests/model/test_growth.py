"""Predictions for large graphs by the fast method equal those from the whole graph."""

from __future__ import annotations

import dataclasses

import onnx
import pytest
from models.deep import residual

from adabet_onnx import open_model, select
from adabet_onnx.cost import pieces
from adabet_onnx.cost.predict import Predictor
from adabet_onnx.scoring.record import LayerScore, Scores
from adabet_onnx.selection.options import Choosing

BLOCKS = 3


@pytest.fixture(scope="module")
def model():
    return open_model(residual(BLOCKS))


class Slow(Predictor):
    """Builds and optimizes the whole step for every set of parameters and every number of micro-batches."""

    def training(self, parameters, layers=None, **options):
        key = (tuple(parameters), options.get("accumulate", 1))
        if key not in self._known:
            self._known[key] = self._fresh(parameters, layers, **options)
        return self._known[key]

    def dearer(self, layer, other):
        return False

    def _fresh(self, parameters, layers, **options):
        fresh = Predictor(self.model, batch_size=self.batch_size, backend=self.backend, choices=self.choices)
        return fresh.training(parameters, layers, **options)


def scores(model, shift: float) -> Scores:
    layers = [
        LayerScore(
            layer.name, layer.op_type, tuple(p.name for p in layer.parameters), layer.parameter_count,
            layer.activation_size or 1, layer.is_norm, (1,), 1.0, 0.01, 0.0, 0, shift if layer.is_norm else None,
            None, 40.0,
        )
        for layer in model.layers
    ]  # fmt: skip
    return Scores(model.sha256, "subsets", 32, ((0,),), tuple(layers), head=model.head.name)


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "max_accumulate"), [(0.0, 1), (0.2, None)])
def test_auto_selects_what_whole_steps_built_for_every_question_select(model, shift, max_accumulate, monkeypatch):
    asked = {"choosing": Choosing(strategy="auto", max_accumulate=max_accumulate)}
    made = scores(model, shift)
    expected = select(made, costs=Slow(model, batch_size=8, backend="portable"), **asked)
    monkeypatch.setattr(pieces, "WHOLE", 200)
    monkeypatch.setattr(pieces, "_PIECE", 150)
    found = select(made, costs=Predictor(model, batch_size=8, backend="portable"), **asked)
    assert (found.layers, found.parameters) == (expected.layers, expected.parameters)
    assert found.budget.accumulate == expected.budget.accumulate
    assert found.budget.memory_share == pytest.approx(expected.budget.memory_share, rel=0.02)
    assert dataclasses.replace(found, budget=None) == dataclasses.replace(expected, budget=None)


@pytest.mark.slow
@pytest.mark.parametrize("pick", [slice(None), slice(-8, None), slice(1, None, 2)])
def test_a_step_that_is_optimized_by_pieces_takes_what_the_whole_takes(model, pick, monkeypatch):
    names = [parameter.name for layer in model.layers[pick] for parameter in layer.parameters]

    def predict():
        predictor = Predictor(model, batch_size=8, backend="portable")
        return [predictor.training(names, accumulate=parts) for parts in (1, 4)]

    whole = predict()
    cuts = []
    monkeypatch.setattr(pieces, "WHOLE", 100)
    monkeypatch.setattr(pieces, "_PIECE", 200)
    original = pieces._pieces
    monkeypatch.setattr(pieces, "_pieces", lambda *given: cuts.extend(found := [*original(*given)]) or found)
    for found, expected in zip(predict(), whole, strict=True):
        # Patterns across a border of two pieces are missed, and pieces are far smaller here than in use.
        assert found.memory_bytes == pytest.approx(expected.memory_bytes, rel=0.02)
        assert found.step_multiply_adds == expected.step_multiply_adds
        assert found.saved_bytes == expected.saved_bytes
    assert len(cuts) > 1


@pytest.mark.slow
def test_a_layer_that_is_known_to_take_more_is_predicted_to(model):
    """Also with shortcuts around a layer: the sum of a block reads the input of its first convolution."""
    predictor = Predictor(model, batch_size=8, backend="portable")
    layers = {layer.name: layer for layer in model.layers}
    last = [parameter.name for layer in model.layers[-5:] for parameter in layer.parameters]
    earlier = [layer.name for layer in model.layers[:-5]]
    known = [(a, b) for a in earlier for b in earlier if predictor.dearer(a, b)]
    assert ("blocks.0.conv1", "blocks.1.conv2") in known
    assert ("blocks.0.bn1", "blocks.0.bn2") in known
    for name in earlier:
        assert (name, name) not in known
        assert ("blocks.1.bn1", name) not in known or not name.startswith(("stem", "blocks.0"))

    def predict(name, parts):
        names = [parameter.name for parameter in layers[name].parameters]
        return predictor.training([*names, *last], accumulate=parts)

    for a, b in known:
        for parts in (1, 8):
            more, less = predict(a, parts), predict(b, parts)
            assert more.saved_bytes >= less.saved_bytes
            assert more.memory_bytes >= 0.98 * less.memory_bytes  # the gaps in the arena differ
            assert more.step_multiply_adds >= less.step_multiply_adds
            assert more.update_bytes >= less.update_bytes


def test_nothing_is_known_where_an_input_is_kept_for_others(model):
    deep = residual(BLOCKS)
    weights = deep.graph.initializer
    weights.append(onnx.helper.make_tensor("gate", onnx.TensorProto.FLOAT, [1], [0.5]))
    place = next(i for i, node in enumerate(deep.graph.node) if node.name == "blocks.0.bn1")
    deep.graph.node[place].output[0] = "before"
    deep.graph.node.insert(place + 1, onnx.helper.make_node("Mul", ["before", "blocks.0.conv1"], ["blocks.0.bn1"]))
    predictor = Predictor(open_model(deep), batch_size=8, backend="portable")
    assert not predictor.dearer("blocks.0.bn1", "blocks.0.bn2")
    assert predictor.dearer("blocks.0.conv1", "blocks.0.conv2")


def test_the_graph_of_a_step_is_optimized_once_for_all_numbers_of_parts(model, monkeypatch):
    from adabet_onnx.cost import memory

    made = []
    original = memory.optimized_step
    monkeypatch.setattr(memory, "optimized_step", lambda *given: made.append(given) or original(*given))
    predictor = Predictor(model, batch_size=8, backend="portable")
    names = [parameter.name for parameter in model.layers[-1].parameters]
    several = [predictor.training(names, accumulate=parts).memory_bytes for parts in (1, 2, 4, 8)]
    assert len(made) == 2  # of the frozen pass and of the step
    alone = Predictor(model, batch_size=8, backend="portable").training(names, accumulate=4)
    assert several[2] == alone.memory_bytes
