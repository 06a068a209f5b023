"""Whether a Scan treats each sample independently, which it does if its body does and keeps the layout of its states.

The samples come first in every state and in every slice that the body receives, and the body captures constants alone.
If the body's outputs have the samples first as well, the next iteration receives the same layouts as this one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import onnx
import onnx_ir as ir

from ..errors import AdabetError
from ..model.dims import dims_or_none
from ..model.shapes import BATCH, serialised_tensor
from ..model.uses import captured, subgraphs
from .sample_layout import Place, SampleLayout
from .shapes import annotate

_FIRST = SampleLayout(0)
Places = Callable[[ir.Model, Collection[str]], Mapping[ir.Value, Place]]


def scanned(
    node: ir.Node, known_places: Mapping[ir.Value, Place], model: ir.Model, places: Places
) -> list[SampleLayout] | None:
    """Where the samples are in the outputs of a Scan; None if they mix, or if this cannot be determined.

    Args:
        node: a Scan of opset 9 or newer.
        known_places: places of the values that it reads.
        model: the model that contains it, for its opsets.
        places: finds the places in a graph.
    """
    scan_inputs = node.attributes.get_int("num_scan_inputs", 0)
    states = len(node.inputs) - (scan_inputs or 0)
    axes = list(node.attributes.get_ints("scan_input_axes", ()) or [0] * (scan_inputs or 0))
    out_axes = list(node.attributes.get_ints("scan_output_axes", ()) or [0] * (len(node.outputs) - states))
    expected = [_FIRST] * states + [SampleLayout(1 if axis == 0 else 0) for axis in axes]
    if (model.opset_imports.get("") or 0) < 9 or any(axis not in (0, 1) for axis in (*axes, *out_axes)):
        return None
    if [None if value is None else known_places.get(value) for value in node.inputs] != expected:
        return None
    body = _body(node, model, [None] * states + axes)
    if body is None:
        return None
    inside = places(body, [value.name or "" for value in body.graph.inputs])
    if any(inside.get(value) != _FIRST for value in body.graph.outputs):
        return None
    return [_FIRST] * states + [SampleLayout(1 if axis == 0 else 0) for axis in out_axes]


def _body(node: ir.Node, model: ir.Model, axes: list[int | None]) -> ir.Model | None:
    """The body as a model whose inputs have the samples first; None if it captures more than constants."""
    (body,) = subgraphs(node)
    outside = captured(node)
    if any(value.const_value is None or not value.is_initializer() for value in outside):
        return None
    graph = ir.serde.serialize_graph(body)
    graph.initializer.extend(serialised_tensor(value) for value in outside)
    for given, value, axis in zip(graph.input, node.inputs, axes, strict=True):
        extents = None if value is None else dims_or_none(value)
        if value is None or extents is None or value.dtype is None:
            return None
        rest = [extent for i, extent in enumerate(extents) if i != axis][1:]
        if not all(isinstance(extent, int) for extent in rest):
            return None
        given.CopyFrom(onnx.helper.make_tensor_value_info(given.name, value.dtype.value, [BATCH, *rest]))
    del graph.value_info[:]
    for made in graph.output:
        made.type.tensor_type.ClearField("shape")
    proto = onnx.ModelProto(ir_version=max(model.ir_version, 4), graph=graph)
    proto.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in model.opset_imports.items())
    alone = ir.from_proto(proto)
    try:
        annotate(alone)
    except (AdabetError, ValueError):
        return None
    return alone
