"""Training by the uncut step, from the model's inputs: training from features must equal it."""

from __future__ import annotations

from typing import Any

import numpy as np

from adabet_onnx import runtime
from adabet_onnx.model.prepare import Prepared, trainable_graph
from adabet_onnx.portable.assemble import whole_graphs
from adabet_onnx.portable.opset import lower_opset
from adabet_onnx.trainability.choices import Choices


class Uncut:
    """Values and the whole graphs.

    Args:
        model: opened.
        selection: what is trained.
        choices: of the artifacts.
    """

    def __init__(self, model: Any, selection: Any, choices: Choices | None = None) -> None:
        self._prepared: Prepared = trainable_graph(model, selection, backend="portable")
        graphs = whole_graphs(self._prepared, (choices or Choices()).for_model(model).recipe)
        self._names, self._count = graphs.names, 0
        options = runtime.training_options(1)
        self._sessions = {}
        for what, graph in (("step", graphs.step), ("evaluation", graphs.evaluation)):
            lower_opset(graph)
            self._sessions[what] = runtime.inference_session(graph, f"the whole {what}", options)
        stored = self._prepared.graph.graph.initializers
        self.values: dict[str, np.ndarray] = {}
        for tensor in (*self._names.parameters, *self._names.state):
            value = stored.get(tensor.name)
            there = value is not None and value.const_value is not None
            array = value.const_value.numpy() if there else np.zeros(tensor.shape, np.float32)
            self.values[tensor.name] = array.astype(np.float32).reshape(tensor.shape)

    def _given(self, what: str, feeds: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, np.ndarray]:
        given = {feed: feeds[name] for name, feed in self._prepared.inputs} | {self._names.labels: labels}
        tensors = (*self._names.parameters, *self._names.state)
        given |= {tensor.input: self.values[tensor.name] for tensor in tensors}
        wanted = {value.name for value in self._sessions[what].get_inputs()}
        return {name: array for name, array in given.items() if name in wanted}

    def step(self, feeds: dict[str, np.ndarray], labels: np.ndarray, rate: float) -> tuple[float, np.ndarray]:
        """One step: loss and logits."""
        self._count += 1
        tensors = (*self._names.parameters, *self._names.state)
        given = self._given("step", feeds, labels)
        given |= {self._names.learning_rate: np.array(rate, np.float32), self._names.step: np.array(self._count)}
        names = [self._names.loss, self._names.logits, *(tensor.output for tensor in tensors)]
        loss, logits, *new = self._sessions["step"].run(names, given)
        self.values = {tensor.name: array for tensor, array in zip(tensors, new, strict=True)}
        return float(loss.reshape(-1)[0]), logits

    def evaluate(self, feeds: dict[str, np.ndarray], labels: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and logits."""
        names = [self._names.loss, self._names.logits]
        loss, logits = self._sessions["evaluation"].run(names, self._given("evaluation", feeds, labels))
        return float(loss.reshape(-1)[0]), logits


def assert_equal_training(
    uncut: Uncut, manifest: Any, feeds: dict[str, np.ndarray], steps: int = 20, *, alone: bool = True
) -> None:
    """Train both, one from features, and compare every bit.

    Args:
        uncut: the training by the whole graphs.
        manifest: of the artifacts.
        feeds: a batch.
        steps: number of steps.
        alone: use features that were computed sample by sample, which are bit-identical on the CPU except where a
            product has the samples in its columns; otherwise those of the batch, which must be close.
    """
    from adabet_onnx.portable.features import Features
    from adabet_onnx.training.samples import sample_labels

    session = manifest.session(manifest.initial, threads=1)
    count = len(next(iter(feeds.values())))
    labels = sample_labels(manifest, np.zeros((count, *manifest.content["logits_shape"][1:]), np.float32))
    parts = [session.features({name: array[i : i + 1] for name, array in feeds.items()}) for i in range(count)]
    features = Features({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    if not alone:
        apart, features = features, session.features(feeds)
        for name, array in features.items():
            largest = max(1.0, float(np.abs(array).max(initial=0)))
            np.testing.assert_allclose(apart[name], array, rtol=0, atol=1e-5 * largest)
    assert [(name, ["N", *array.shape[1:]], str(array.dtype)) for name, array in features.items()] == [
        (entry["name"], entry["shape"], entry["dtype"]) for entry in manifest.content["boundary"]
    ]
    for _ in range(steps):
        expected, found = uncut.step(feeds, labels, 1e-3), session.step(features, labels, 1e-3)
        assert found[0] == expected[0]
        np.testing.assert_array_equal(found[1], expected[1])
    for name, value in uncut.values.items():
        np.testing.assert_array_equal(session.parameter(name), value)
    for given in (feeds, features):
        np.testing.assert_array_equal(session.evaluate(given, labels)[1], uncut.evaluate(feeds, labels)[1])
