"""What a graph computes for each sample independently: where the samples are in a value, if this can be determined.

A value that depends on model inputs alone may be computed once and kept, sample by sample, only if no sample's part of
it depends on the other samples of its batch. Rules decide this for one operator at a time, from the shapes that
`shapes.annotate` found; values that no rule accepts are treated as mixed.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from ..model.constant_values import is_random
from ..model.dims import dims_or_none, multiple
from ..model.uses import reads, subgraphs
from .batch_sizes import BatchSizeProbe, from_size
from .sample_layout import Kind, Place, SampleLayout, batch_axes
from .sample_loops import scanned
from .sample_node import Parts, SampledNode
from .sample_rules import FILLING, RULES


def places(model: ir.Model, data: Collection[str]) -> dict[ir.Value, Place]:
    """The place of the samples in every value of a graph.

    Args:
        model: a graph with shapes and sorted nodes.
        data: names of the inputs that are model inputs, which have the batch first; all other inputs change in
            training.
    """
    graph = model.graph
    known_places: dict[ir.Value, Place] = dict.fromkeys(graph.initializers.values(), Kind.CONSTANT)
    for value in graph.inputs:
        known_places[value] = SampleLayout(0) if value.name in data else Kind.TAIL
    sizes = BatchSizeProbe(model, known_places)
    for node in graph:
        for value, place in zip(node.outputs, _placed(node, known_places, sizes, model), strict=True):
            known_places[value] = place
    return known_places


def _placed(node: ir.Node, known_places: dict[ir.Value, Place], sizes: BatchSizeProbe, model: ir.Model) -> list[Place]:
    read = [known_places.get(value, Kind.TAIL) for value in reads(node) if value is not None]
    tail: list[Place] = [Kind.TAIL] * len(node.outputs)
    if Kind.TAIL in read or is_random(node):
        return tail
    if all(place is Kind.CONSTANT for place in read):
        return [Kind.CONSTANT] * len(node.outputs)
    if from_size(node, known_places):
        return [Kind.SIZE]
    if node.op_type == "Scan" and node.domain in ("", "ai.onnx"):
        return list(scanned(node, known_places, model, places) or tail)
    if node.domain not in ("", "ai.onnx") or any(True for _ in subgraphs(node)):
        return tail
    if not any(isinstance(place, SampleLayout) for place in read) and node.op_type not in FILLING:
        grown = any(batch_axes(dims_or_none(value)) != [] for value in node.outputs)
        return tail if grown else [Kind.SIZE] * len(node.outputs)
    rule = RULES.get(node.op_type)
    if rule is None:
        return tail
    sampled = SampledNode.of(node, known_places, sizes)
    parts = None if sampled is None else rule(sampled)
    if parts is None:
        return tail
    made = [_in_output(value, parts, node) for value in node.outputs]
    named = [place for value, place in zip(node.outputs, made, strict=True) if value.name]
    return tail if Kind.TAIL in named else made


def _in_output(value: ir.Value, parts: Parts, node: ir.Node) -> Place:
    extents = dims_or_none(value)
    axes = batch_axes(extents)
    if extents is None or not axes or len(axes) != 1:
        return Kind.TAIL
    before, after = parts
    extent = extents[axes[0]]
    assert isinstance(extent, str)
    if node.op_type == "Split" and multiple(extent) % after == 0:
        before = multiple(extent) // after
    return SampleLayout(axes[0], before, after) if multiple(extent) == before * after else Kind.TAIL
