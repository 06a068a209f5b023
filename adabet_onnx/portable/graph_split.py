"""Graphs split at a cut: one from the model's inputs to the kept values, and those that start from the kept values."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..model.dims import Dim, Dims, count, dims, product
from ..model.passes.unused import RemoveUnused
from ..model.shapes import BATCH
from .batch_sizes import from_size, shown_dims
from .builder import Builder
from .cut import Crossing, Cut, find_cut
from .early_end import early_end
from .sample_layout import SampleLayout


@dataclass(frozen=True)
class Boundary:
    """A value that is kept for each sample.

    Attributes:
        name: name of the frozen graph's output, and of the other graphs' input for it.
        shape: its shape, with the samples ("N") first.
        dtype: type of its elements, as NumPy names it.
        bytes: size of one sample.
        given: the model's input that it is, unchanged; None if it is computed.
        value: its name in the graph that was split.
        samples_first: whether that value already has the samples first, as they are kept.
    """

    name: str
    shape: Dims
    dtype: str
    bytes: int
    given: str | None = None
    value: str = ""
    samples_first: bool = True


def split_at_cut(
    models: Sequence[ir.Model], data: Sequence[str], labels: str, allowed: Collection[str] | None
) -> tuple[ir.Model, tuple[Boundary, ...], str | None]:
    """Split graphs at the cheapest cut.

    Args:
        models: the graphs of a training, the step first. They are changed in place: their inputs become the values that
            cross the cut.
        data: names of the model's inputs.
        labels: name of the labels' input, which has the batch first.
        allowed: operators that may be used; None for all.

    Returns:
        The graph from the model's inputs to the cut, the values that cross it, and what `early_end` says.
    """
    cut = find_cut(models, data)
    note = early_end(models[0].graph, data, cut.places[0])
    names = _unused_names(models, cut.crossings)
    boundary = tuple(_boundary_of(crossing, name, data) for crossing, name in zip(cut.crossings, names, strict=True))
    frozen = _before(models[0], cut.crossings, boundary, data, allowed)
    for position, model in enumerate(models):
        _after(model, cut, position, boundary, data, labels, allowed)
    return frozen, boundary, note


def _unused_names(models: Sequence[ir.Model], crossings: Sequence[Crossing]) -> list[str]:
    """A value's own name if it is kept unchanged; otherwise a new one."""
    taken = {value.name for model in models for node in model.graph for value in node.outputs}
    taken |= {value.name for model in models for value in model.graph.inputs}
    taken |= {name for model in models for name in model.graph.initializers}
    names = []
    for crossing in crossings:
        name = base = crossing.value.name or "kept"
        number = 0
        if crossing.value.producer() is None or not _samples_first(crossing.layout):
            while name in taken:
                number += 1
                name = f"{base}/kept" if number == 1 else f"{base}/kept_{number}"
        taken.add(name)
        names.append(name)
    return names


def _samples_first(layout: SampleLayout) -> bool:
    return layout == SampleLayout(0)


def _boundary_of(crossing: Crossing, name: str, data: Collection[str]) -> Boundary:
    value = crossing.value
    assert value.dtype is not None
    given = value.name if value.producer() is None and value.name in data else None
    shape = _kept_shape(dims(value), crossing.layout)
    size = math.ceil(count(shape, 1) * value.dtype.itemsize)
    samples_first = _samples_first(crossing.layout)
    return Boundary(name, shape, str(value.dtype.numpy()), size, given, value.name or "", samples_first)


def _samples_apart(shape: Dims, layout: SampleLayout) -> tuple[list[Dim], int]:
    """A shape with the samples in a separate axis, and the position of that axis."""
    before = [layout.before] if layout.before > 1 else []
    after = [layout.after] if layout.after > 1 else []
    parts: list[Dim] = [*shape[: layout.axis], *before, BATCH, *after, *shape[layout.axis + 1 :]]
    return parts, layout.axis + len(before)


def _kept_shape(shape: Dims, layout: SampleLayout) -> Dims:
    parts, axis = _samples_apart(shape, layout)
    return (BATCH, *parts[:axis], *parts[axis + 1 :])


def _before(
    model: ir.Model,
    crossings: Sequence[Crossing],
    boundary: Sequence[Boundary],
    data: Sequence[str],
    allowed: Collection[str] | None,
) -> ir.Model:
    frozen = model.clone()
    graph = frozen.graph
    values = {value.name: value for value in graph.inputs}
    values |= {value.name: value for node in graph for value in node.outputs if value.name}
    build = Builder(graph, opset=frozen.opset_imports[""] or 0, allowed=allowed)
    build.begin("boundary")
    inputs = {value.name: value for value in graph.inputs}
    outputs = []
    for crossing, kept in zip(crossings, boundary, strict=True):
        value = values[crossing.value.name]
        parts, axis = _samples_apart(dims(value), crossing.layout)
        stored = build.reshape(value, parts)
        stored = build.transpose(stored, [axis, *(i for i in range(len(parts)) if i != axis)])
        if stored is value and value.producer() is None:
            stored = _copy(build, value)
        stored.name = kept.name
        outputs.append(stored)
    graph.extend(build.take())
    for value in build.initializers:
        if value.uses():
            graph.register_initializer(value)
    graph.name = "frozen"
    graph.inputs.clear()
    graph.inputs.extend(inputs[name] for name in data)
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    RemoveUnused()(frozen)
    return frozen


def _copy(build: Builder, value: ir.Value) -> ir.Value:
    if build.allows("Identity"):
        return build.op("Identity", value)
    return build.op("Reshape", value, build.ints(*[0] * len(dims(value))), shape=dims(value))


def _after(
    model: ir.Model,
    cut: Cut,
    position: int,
    boundary: Sequence[Boundary],
    data: Collection[str],
    labels: str,
    allowed: Collection[str] | None,
) -> None:
    graph, numbers, places = model.graph, cut.numbers[position], cut.places[position]
    by_number: dict[int, list[ir.Value]] = {}
    for value, number in numbers.items():
        by_number.setdefault(number, []).append(value)
    inputs = [
        ir.Value(name=kept.name, type=crossing.value.type, shape=ir.Shape(kept.shape))
        for crossing, kept in zip(cut.crossings, boundary, strict=True)
    ]
    batch = inputs[0] if inputs else next(value for value in graph.inputs if value.name == labels)
    build = Builder(graph, opset=model.opset_imports[""] or 0, batch=batch, allowed=allowed)
    build.begin("boundary")
    for crossing, given in zip(cut.crossings, inputs, strict=True):
        used = [value for value in by_number.get(crossing.number, ()) if value.uses()]
        if used:
            restored = _original_layout(build, given, dims(crossing.value), crossing.layout)
            for value in used:
                value.replace_all_uses_with(restored)
    for node in list(graph):
        if from_size(node, places):
            node.outputs[0].replace_all_uses_with(_shape_from_batch(build, node))
    made, first = build.take(), next(iter(graph), None)
    if first is not None:
        graph.insert_before(first, made)
    rest = [value for value in graph.inputs if value.name not in data]
    graph.inputs.clear()
    graph.inputs.extend([*inputs, *rest])
    for value in build.initializers:
        if value.uses():
            graph.register_initializer(value)
    RemoveUnused()(model)


def _original_layout(build: Builder, kept: ir.Value, shape: Dims, layout: SampleLayout) -> ir.Value:
    parts, axis = _samples_apart(shape, layout)
    back = [*range(1, axis + 1), 0, *range(axis + 1, len(parts))]
    return build.reshape(build.transpose(kept, back), shape)


def _shape_from_batch(build: Builder, node: ir.Node) -> ir.Value:
    """A shape computed from the batch size, without the value that has this shape."""
    value = node.inputs[0]
    assert value is not None
    if node.op_type == "Shape":
        return build.runtime_dims(shown_dims(node))
    total = build.runtime_dims([product(dims(value))])
    return build.op("Reshape", total, build.constant(np.zeros(0, np.int64)), shape=[])
