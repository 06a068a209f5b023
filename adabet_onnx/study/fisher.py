"""Fisher information of layers: an alternative to b1_hat that needs labels and a backward pass.

For the activation a of a layer and the gradient g of the loss of one labelled batch with respect to it,

    Fisher = mean over all elements of (a g)^2 / 2,

as the AdaBet authors (arXiv 2510.03101) define it for comparison, after L. Theis et al., "Faster gaze prediction with
dense networks and Fisher pruning" (arXiv 1801.05787). Layers with higher values are more worth training. The gradients
are written in plain ONNX by the rules of the portable backend, and each layer's value is reduced in the graph.
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
from ..portable.autodiff import plan
from ..portable.builder import Builder
from ..portable.loss_gradients import add_loss_gradients
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
    """Compute the Fisher information of every layer from one labelled batch.

    If the head is new, its random weights determine the gradients of all layers: their order is then that of a network
    that has not learnt the task yet.

    Args:
        model: the opened model.
        data: labelled data in any form that `Data` describes; training data where it is split.
        samples: size of the batch, which is drawn at random.
        seed: random seed of the draw.
        choices: the loss, the axis of the classes (None: that of the model's Softmax or head, else see `class_axis`)
            and the label to ignore.
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
    """A model whose outputs are the Fisher information of its layers, ready to run on labelled data.

    Args:
        model: the opened model.
        dataset: labelled data with the classes of the model.
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
        """Fisher information by layer name, in model order, from one batch of the samples at these indices.

        Raises:
            DataError: the information of a layer is not finite.
        """
        given = self._feeder.feeds(self._dataset, rows)
        feeds = {feed: given[original] for original, feed in self._inputs}
        feeds[self._label] = np.ascontiguousarray(self._labels[rows])
        outputs = runtime.run_session(self._session, list(self._names.values()), feeds, self._model.name)
        values = {name: float(np.asarray(value)) for name, value in zip(self._names, outputs, strict=True)}
        not_finite = [name for name, value in values.items() if not np.isfinite(value)]
        if not_finite:
            raise DataError(
                f"the Fisher information of layer {not_finite[0]!r} is not finite. Check the "
                f"preprocessing ({self._preprocessing.to_json()})."
            )
        return values


def _graph(
    model: Model, loss: str, axis: int | None
) -> tuple[ir.Model, dict[str, str], tuple[tuple[str, str], ...], str]:
    """The graph; each layer's output name; each input's name in the model and in the graph; the name of the labels."""
    prepared = trainable_graph(model, _all_layers(model), backend="portable")
    fisher = prepared.graph.clone()
    raise_opset(fisher)
    annotate(fisher)
    graph, opset = fisher.graph, fisher.opset_imports[""] or TARGET
    activations = _activations(model, graph)
    batch = next((value for value in graph.inputs if (dims_or_none(value) or (0,))[0] == "N"), None)
    if batch is None:
        raise ModelError(f"{model.name}: no input has the batch as its first dimension.")
    build = Builder(graph, opset=opset, batch=batch)
    path = plan(graph, graph.outputs[0], list(dict.fromkeys(activations.values())), opset=opset)
    if path.obstacles:
        raise ModelError(f"{model.name}: {path.obstacles[0]}")
    loss_gradients = add_loss_gradients(graph, path, loss, build, axis=axis)
    names: dict[str, str] = {}
    outputs = []
    for layer, activation in activations.items():
        build.begin(f"{layer}/fisher")
        product = build.mul(activation, loss_gradients.gradients[activation])
        value = build.scale(build.op("ReduceMean", build.mul(product, product), keepdims=0, shape=()), 0.5)
        outputs.append(value)
        names[layer] = value.name or ""
    graph.extend(build.take())
    for value in build.initializers:
        if value.uses():
            graph.register_initializer(value)
    graph.inputs.append(loss_gradients.labels)
    logits = graph.outputs[0]
    graph.outputs.clear()
    graph.outputs.extend([logits, *outputs])
    RemoveUnused()(fisher)
    return fisher, names, tuple(prepared.inputs), loss_gradients.labels.name or ""


def _all_layers(model: Model) -> Selection:
    return Selection(
        model_sha256=model.sha256,
        strategy="all",
        layers=tuple(layer.name for layer in model.layers),
        parameters=tuple(dict.fromkeys(p.name for layer in model.layers for p in layer.parameters)),
    )


def _activations(model: Model, graph: ir.Graph) -> dict[str, ir.Value]:
    """The activation of each layer in a graph.

    Raises:
        ModelError: one is missing.
    """
    values = {value.name: value for node in graph for value in node.outputs}
    missing = [layer.name for layer in model.layers if layer.activation not in values]
    if missing:
        raise ModelError(f"the activation of layer {missing[0]!r} is not in the graph that is differentiated.")
    return {layer.name: values[layer.activation] for layer in model.layers}
