"""Shapes of the layers' activations, and where those of a layer that is the same for every sample lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir

from ..errors import ModelError
from .layers import Layer
from .merged_batch import MergedBatchAxes
from .shapes import Shapes, infer_shapes, measured_shapes
from .uses import users

_BATCH = 7919  # a large prime: shows in which axis the batch is (an LSTM's is the third) and what is merged with it
_MEASURED = (3, 2)  # batch sizes of runs: what differs is the batch


def with_shapes(
    model: ir.Model, layers: tuple[Layer, ...], name: str, dims: Mapping[str, int], notes: list[str]
) -> tuple[Layer, ...]:
    """Fill in activation shapes: by inference, and by a run on zeros where inference cannot tell.

    A layer may compute the same for every sample, as a table of positions does that is looked up by constants. Like a
    bias, its activation is then the first value that it goes into together with the batch.

    Args:
        model: the opened graph.
        layers: its layers.
        name: of the model, for messages.
        dims: sizes that were given to open dimensions, for messages.
        notes: what was taken for what is added to it.

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
            met = _meets_batch(values[where], model.graph, known)
            if met is None:
                raise ModelError(
                    f"{name}: the activation {where!r} of layer {layer.name!r} has shape {known.shape(where)} for a "
                    f"batch of {known.size(where)}, so it has no batch dimension. Export the model with a dynamic "
                    "batch dimension."
                )
            notes.append(
                f"layer {layer.name!r} gives the same for every sample; its activation is taken where it meets the "
                f"batch, at {met!r}"
            )
            where = met
        made = _filled(layer, values[where], merged, notes)
        if made.activation_size == 0:
            raise ModelError(
                f"{name}: the activation {where!r} of layer {layer.name!r} has shape {made.activation_shape}, that is, "
                "no elements. Is a size in the graph wrong?"
            )
        filled.append(made)
    return tuple(filled)


def _filled(layer: Layer, value: ir.Value, whole: MergedBatchAxes, notes: list[str]) -> Layer:
    where, known = value.name or "", whole.known
    shape, axis = known.shape(where), known.batch_axis(where)
    assert axis is not None
    merged = shape[axis] // known.size(where)
    rest = (*shape[:axis], *((merged,) if merged > 1 else ()), *shape[axis + 1 :])
    before = whole.before_batch(value) if merged > 1 else 1
    if before is None:
        notes.append(
            f"the activation {where!r} of layer {layer.name!r} has {merged} rows for each sample, which are taken to "
            "follow each other; that could not be told from the graph"
        )
    return dataclasses.replace(
        layer,
        activation=where,
        activation_shape=rest,
        batch_axis=axis,
        batch_merged=merged > 1,
        before_batch=before or 1,
    )


class _Known:
    """Shapes of values, at the batch size they were found with."""

    def __init__(self, model: ir.Model, name: str, dims: Mapping[str, int], wanted: list[str]) -> None:
        self._model, self._name, self._dims = model, name, dims
        self._inferred = infer_shapes(model, _BATCH)
        self._measured: tuple[Shapes, Shapes] = ({}, {})
        missing = [value for value in wanted if value not in self._inferred]
        if missing:
            self._measure(missing)

    def _measure(self, missing: list[str]) -> None:
        try:
            for found, batch in zip(self._measured, _MEASURED, strict=True):
                found |= measured_shapes(self._model, missing, batch)
        except ModelError as error:
            raise ModelError(
                f"{self._name}: the shape of {missing[0]!r} is unknown: {error}. {self._remedy(missing)}"
            ) from error

    def _remedy(self, missing: list[str]) -> str:
        """What to do about a graph that does not run."""
        try:
            measured_shapes(self._model, missing, 1)
        except ModelError:
            if not self._dims:
                return "Export it again, with shapes that fit."
            given = " ".join(f"{name}={size}" for name, size in self._dims.items())
            return f"Does the model take the sizes that were given, {given}? Give others, or export it again."
        return (
            "It runs with a batch of 1: that size is fixed inside the graph, though the inputs have an open batch. "
            "Export it again with an example of several samples, since an exporter may take a size of 1 as fixed."
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
            found = (axis for axis, extent in enumerate(shape) if extent and extent % _BATCH == 0)
        else:
            other = self._measured[1][value]
            found = (axis for axis, extent in enumerate(shape) if len(other) == len(shape) and extent != other[axis])
        return next(found, None)


def _meets_batch(value: ir.Value, graph: ir.Graph, known: _Known) -> str | None:
    """The first value, breadth first, that comes from this one and has a batch dimension."""
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
