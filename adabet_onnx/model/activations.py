"""Shapes of the layers' activations, and which value stands in for an activation without a batch axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir

from ..errors import ModelError
from .layers import Layer
from .merged_batch import MergedBatchAxes
from .shapes import Shapes, infer_shapes, measured_shapes
from .uses import users

_BATCH = 7919  # a large prime: reveals the batch axis (an LSTM's is the third) and what is merged with it
_MEASURED = (3, 2)  # batch sizes of the runs: the axis that differs is the batch


def with_shapes(
    model: ir.Model, layers: tuple[Layer, ...], name: str, dims: Mapping[str, int], notes: list[str]
) -> tuple[Layer, ...]:
    """Fill in activation shapes by inference, or by a run on zeros where inference finds none.

    A layer may compute the same for every sample, for example a position table that is looked up by constants. Its
    activation is then the first value downstream that has a batch axis.

    Args:
        model: the opened graph.
        layers: its layers.
        name: of the model, for messages.
        dims: sizes given for open dimensions, for messages.
        notes: receives a sentence for every assumption made.

    Raises:
        ModelError: the graph cannot run, or an activation never meets the batch.
    """
    known = _Known(model, name, dims, [layer.activation for layer in layers])
    values = {value.name or "": value for node in model.graph for value in node.outputs}
    merged = MergedBatchAxes(known)
    filled = []
    for layer in layers:
        where = layer.activation
        if known.batch_axis(where) is None:
            batched = _first_with_batch(values[where], model.graph, known)
            if batched is None:
                raise ModelError(
                    f"{name}: the activation {where!r} of layer {layer.name!r} has shape {known.shape(where)} for a "
                    f"batch of {known.size(where)}, so it has no batch dimension. Export the model with a dynamic "
                    "batch dimension."
                )
            notes.append(
                f"layer {layer.name!r} computes the same for every sample; its activation is taken at {batched!r}, the "
                "first value after it with a batch axis"
            )
            where = batched
        layer_with_shape = _filled(layer, values[where], merged, notes)
        if layer_with_shape.activation_size == 0:
            raise ModelError(
                f"{name}: the activation {where!r} of layer {layer.name!r} has shape "
                f"{layer_with_shape.activation_shape} and therefore no elements. Is a size in the graph wrong?"
            )
        filled.append(layer_with_shape)
    return tuple(filled)


def _filled(layer: Layer, value: ir.Value, merged_axes: MergedBatchAxes, notes: list[str]) -> Layer:
    where, known = value.name or "", merged_axes.known
    shape, axis = known.shape(where), known.batch_axis(where)
    assert axis is not None
    merged = shape[axis] // known.size(where)
    sample_shape = (*shape[:axis], *((merged,) if merged > 1 else ()), *shape[axis + 1 :])
    before = merged_axes.before_batch(value) if merged > 1 else 1
    if before is None:
        notes.append(
            f"the activation {where!r} of layer {layer.name!r} has {merged} rows for each sample; they are assumed to "
            "be adjacent, which the graph does not show"
        )
    return dataclasses.replace(
        layer,
        activation=where,
        activation_shape=sample_shape,
        batch_axis=axis,
        batch_merged=merged > 1,
        before_batch=before or 1,
    )


class _Known:
    """Shapes of values, and the batch size at which each was determined."""

    def __init__(self, model: ir.Model, name: str, dims: Mapping[str, int], names: list[str]) -> None:
        self._model, self._name, self._dims = model, name, dims
        self._inferred = infer_shapes(model, _BATCH)
        self._measured: tuple[Shapes, Shapes] = ({}, {})
        missing = [value for value in names if value not in self._inferred]
        if missing:
            self._measure(missing)

    def _measure(self, missing: list[str]) -> None:
        try:
            for shapes, batch in zip(self._measured, _MEASURED, strict=True):
                shapes |= measured_shapes(self._model, missing, batch)
        except ModelError as error:
            raise ModelError(
                f"{self._name}: the shape of {missing[0]!r} is unknown: {error}. {self._remedy(missing)}"
            ) from error

    def _remedy(self, missing: list[str]) -> str:
        """Advice for a graph that does not run."""
        try:
            measured_shapes(self._model, missing, 1)
        except ModelError:
            if not self._dims:
                return "Export it again, with shapes that fit."
            given = " ".join(f"{name}={size}" for name, size in self._dims.items())
            return f"Does the model accept the given sizes ({given})? Give others, or export it again."
        return (
            "It runs with a batch of 1: that size is fixed inside the graph, although the batch dimension of the "
            "inputs is open. Export it again with an example of several samples, since an exporter may treat a size of "
            "1 as fixed."
        )

    def shape(self, value: str) -> tuple[int, ...]:
        if value in self._inferred:
            return self._inferred[value]
        if value not in self._measured[0]:
            self._measure([value])
        return self._measured[0][value]

    def size(self, value: str) -> int:
        return _BATCH if value in self._inferred else _MEASURED[0]

    def batch_axis(self, value: str) -> int | None:
        shape = self.shape(value)
        if value in self._inferred:
            candidates = (axis for axis, extent in enumerate(shape) if extent and extent % _BATCH == 0)
        else:
            other = self._measured[1][value]
            candidates = (
                axis for axis, extent in enumerate(shape) if len(other) == len(shape) and extent != other[axis]
            )
        return next(candidates, None)


def _first_with_batch(value: ir.Value, graph: ir.Graph, known: _Known) -> str | None:
    """The first value in breadth-first order that is computed from this one and has a batch dimension."""
    queue, seen = [value], {value}
    for current in queue:
        if known.batch_axis(current.name or "") is not None:
            return current.name
        for node in users(current, graph):
            for output in node.outputs[:1]:
                if output.name and output not in seen:
                    seen.add(output)
                    queue.append(output)
    return None
