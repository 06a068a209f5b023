"""Fisher information of layers: the rival of b1_hat that needs labels and a backward pass.

For the activation a of a layer and the gradient g of the loss of one labelled batch with respect to it,

    Fisher = mean over all elements of (a g)^2 / 2,

as the AdaBet authors (arXiv 2510.03101) define it for comparison, after L. Theis et al., "Faster gaze prediction with
dense networks and Fisher pruning" (arXiv 1801.05787). Higher is more worth training. The gradients are written in
plain ONNX by the rules the portable backend trains with, and each layer's number is reduced in the graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from .. import runtime, seeds
from ..data.arithmetic import integer_data
from ..data.dataset import Dataset
from ..data.feeder import Feeder
from ..data.labels import align_classes, fit_labels
from ..data.preprocess import Arithmetic, Preprocessing, arithmetic_for
from ..data.source import open_data
from ..errors import DataError, ModelError
from ..model.dims import dims, dims_or_none
from ..model.logits_axes import detected_class_axis
from ..model.open import Model
from ..model.passes.unused import RemoveUnused
from ..model.prepare import trainable_graph
from ..portable.autodiff import differentiate, plan
from ..portable.builder import Builder
from ..portable.losses import build_loss
from ..portable.opset import TARGET, raise_opset
from ..portable.shapes import annotate
from ..runtime import Threads
from ..selection.record import Selection
from ..trainability.choices import Choices


def fisher_information(
    model: Model,
    data: Any,
    *,
    samples: int = 128,
    seed: int = 0,
    choices: Choices | None = None,
    preset: str = "auto",
    preprocessing: Preprocessing | Arithmetic | None = None,
    threads: Threads = None,
) -> dict[str, float]:
    """Fisher information of every layer, from one labelled batch.

    A new head is random, and so is what reaches the layers from it: their order is then that of a network that has not
    yet learnt the task.

    Args:
        model: the opened model.
        data: labelled data in any form that `Data` describes; training data where it is split.
        samples: of the batch, drawn at random.
        seed: of the drawing.
        choices: the loss, the axis of the classes (None: that of the model's Softmax or head, else see `class_axis`)
            and the label that does not count.
        preset: auto, unit, imagenet or none; see `Preprocessing`.
        preprocessing: in place of a preset.
        threads: for ONNX Runtime, or a `Runtime` with an execution provider; None is its own choice.

    Returns:
        The information by layer name, in model order.

    Raises:
        DataError: there are no labels, or they do not fit.
        ModelError: a node in the backward pass has no gradient; it is named.
    """
    choices = choices or Choices()
    dataset = align_classes(open_data(data, model).train, model.metadata("classes"), ignore=choices.ignore_label)
    dataset.need_labels("Fisher information")
    used = arithmetic_for(model, integer_data(model, dataset), preprocessing, preset=preset)
    drawn = seeds.fisher(seed).permutation(len(dataset))[:samples]
    return Fisher(model, dataset, used, choices, threads=threads).of(drawn)


class Fisher:
    """A model with Fisher information as outputs, ready to run on labelled data.

    Args:
        model: the opened model.
        dataset: labelled, its classes those of the model.
        preprocessing: how samples become input.
        choices, threads: as in `fisher_information`.

    Raises:
        DataError: there are no labels, or they do not fit.
        ModelError: a node in the backward pass has no gradient; it is named.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        preprocessing: Arithmetic,
        choices: Choices,
        *,
        threads: Threads = None,
    ) -> None:
        loss, axis, ignore = choices.loss, choices.class_axis, choices.ignore_label
        labels = dataset.need_labels("Fisher information")
        if axis is None and loss == "cross-entropy":
            axis = detected_class_axis(model)
        graph, self._names, self._inputs, self._label = _graph(model, loss, axis)
        self._labels = fit_labels(labels, loss, dims(graph.graph.outputs[0]), dataset.name, axis, ignore)
        self._session = runtime.inference_session(
            ir.to_proto(graph).SerializeToString(),
            f"{model.name} with Fisher information",
            runtime.training_options(threads),
        )
        self._feeder, self._dataset = Feeder(model, preprocessing), dataset
        self._model, self._preprocessing = model, preprocessing

    def of(self, rows: np.ndarray) -> dict[str, float]:
        """By layer name, in model order, of one batch of the samples of these indices.

        Raises:
            DataError: it is not finite.
        """
        given = self._feeder.feeds(self._dataset, rows)
        feeds = {feed: given[original] for original, feed in self._inputs}
        feeds[self._label] = np.ascontiguousarray(self._labels[rows])
        found = runtime.run_session(self._session, list(self._names.values()), feeds, self._model.name)
        values = {name: float(np.asarray(value)) for name, value in zip(self._names, found, strict=True)}
        wrong = [name for name, value in values.items() if not np.isfinite(value)]
        if wrong:
            raise DataError(
                f"the Fisher information of layer {wrong[0]!r} is not finite. Is the preprocessing right "
                f"({self._preprocessing.to_json()})?"
            )
        return values


def _graph(
    model: Model, loss: str, axis: int | None
) -> tuple[ir.Model, dict[str, str], tuple[tuple[str, str], ...], str]:
    """The training graph, each layer's output, each input's name here by its name in the model, the labels' name."""
    everything = Selection(
        model_sha256=model.sha256,
        strategy="all",
        layers=tuple(layer.name for layer in model.layers),
        parameters=tuple(dict.fromkeys(p.name for layer in model.layers for p in layer.parameters)),
    )
    prepared = trainable_graph(model, everything, backend="portable")
    made = prepared.graph.clone()
    raise_opset(made)
    annotate(made)
    graph = made.graph
    values = {value.name: value for node in graph for value in node.outputs}
    activations = {layer.name: values[layer.activation] for layer in model.layers if layer.activation in values}
    lost = [layer.name for layer in model.layers if layer.name not in activations]
    if lost:
        raise ModelError(f"the activation of layer {lost[0]!r} is not in the graph that is differentiated.")
    logits = graph.outputs[0]
    opset = made.opset_imports[""] or TARGET
    batch = next((value for value in graph.inputs if (dims_or_none(value) or (0,))[0] == "N"), None)
    if batch is None:
        raise ModelError(f"{model.name}: no input has the batch as its first dimension.")
    build = Builder(graph, opset=opset, batch=batch)
    route = plan(graph, logits, list(dict.fromkeys(activations.values())), opset=opset)
    if route.obstacles:
        raise ModelError(f"{model.name}: {route.obstacles[0]}")
    seed = ir.Value(name="seed", type=logits.type, shape=logits.shape)
    gradients = differentiate(route, seed, build)
    way_back = build.take()
    build.begin("loss")
    made_loss = build_loss(build, logits, loss, build.unique("labels"), axis=axis, gradient=True)
    assert made_loss.gradient is not None
    graph.extend(build.take())
    seed.replace_all_uses_with(made_loss.gradient)
    graph.extend(way_back)
    names: dict[str, str] = {}
    outputs = []
    for layer, activation in activations.items():
        build.begin(f"{layer}/fisher")
        gradient = gradients[activation]
        product = build.mul(activation, made_loss.gradient if gradient is seed else gradient)
        value = build.scale(build.op("ReduceMean", build.mul(product, product), keepdims=0, shape=()), 0.5)
        outputs.append(value)
        names[layer] = value.name or ""
    graph.extend(build.take())
    for value in build.initializers:
        if value.uses():
            graph.register_initializer(value)
    graph.inputs.append(made_loss.labels)
    graph.outputs.clear()
    graph.outputs.extend([logits, *outputs])
    RemoveUnused()(made)
    return made, names, tuple(prepared.inputs), made_loss.labels.name or ""
