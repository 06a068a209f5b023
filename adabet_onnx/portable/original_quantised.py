"""The frozen part of a quantised model in its original quantised form, rather than the float32 graph made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ..model.passes.dequantise import input_ranges, is_quantised
from ..model.passes.unused import RemoveUnused
from ..model.prepare import Prepared
from ..model.trial_runs import compare, random_feeds
from .graph_split import Boundary
from .opset import lower_opset, raise_opset

_TOLERANCE = 0.5  # relative to the features; a graph that computes something else differs by more
_DYNAMIC = "DynamicQuantize"  # prefix of operators that measure ranges on the batch they are run on
_CLIPPED = "/clipped"  # suffix of the value that stands for a QuantizeLinear that cut off negative numbers


def original_frozen(prepared: Prepared, frozen: ir.Model, boundary: Sequence[Boundary]) -> ir.Model | None:
    """The frozen graph with the quantised numbers of the model file.

    Args:
        prepared: the prepared model, which may be quantised.
        frozen: the frozen graph in float32.
        boundary: its outputs; some of them are computed.

    Returns:
        None if the model is not quantised, nothing before the boundary is, or the boundary does not exist in the file's
        graph. Also None if that graph quantises dynamically: then a sample's features depend on the others in its
            batch.
    """
    if prepared.model.quantised is None or not all(kept.given is not None or kept.samples_first for kept in boundary):
        return None
    quantised_frozen = prepared.model.quantised.graph.clone()
    graph = quantised_frozen.graph
    outputs = {kept.name: _value(graph, kept.value) for kept in boundary if kept.given is None}
    shapes = {kept.name: kept.shape for kept in boundary}
    renamed = dict(prepared.inputs)
    taken = set(renamed.values())
    for value in graph.inputs:
        value.name = renamed.get(value.name or "", value.name)
    for value in (value for node in graph for value in node.outputs):
        if value.name in outputs or value.name in taken:
            value.name = f"{value.name}/before"
    graph.outputs.clear()
    for name, output in outputs.items():
        if output is None or output.is_graph_input() or output in graph.outputs:
            return None
        output.name = name
        output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shapes[name])
        graph.outputs.append(output)
    RemoveUnused()(quantised_frozen)
    if not is_quantised(quantised_frozen) or any(node.op_type.startswith(_DYNAMIC) for node in graph.all_nodes()):
        return None
    raise_opset(quantised_frozen)
    lower_opset(quantised_frozen)
    plain = frozen.clone()
    plain.graph.outputs[:] = [value for value in plain.graph.outputs if value.name in outputs]
    RemoveUnused()(plain)
    difference = compare(quantised_frozen, plain, ranges=input_ranges(quantised_frozen))
    return quantised_frozen if difference is not None and difference <= _TOLERANCE else None


def _value(graph: ir.Graph, name: str) -> ir.Value | None:
    """The value of the quantised graph that corresponds to one of the float32 graph; dequantised, if quantised."""
    made = {value.name: value for node in graph for value in node.outputs}
    value, node = made.get(name), None
    if value is None and name.endswith(_CLIPPED):
        node = next((node for node in graph if node.name == name.removesuffix(_CLIPPED)), None)
    elif value is not None:
        node = next((user for user, place in value.uses() if user.op_type == "QuantizeLinear" and place == 0), None)
    if node is None:
        return value if value is not None and value.dtype in (None, ir.DataType.FLOAT) else None
    back = [user for user, place in node.outputs[0].uses() if user.op_type == "DequantizeLinear" and place == 0]
    return back[0].outputs[0] if back else None


def trial_feeds(prepared: Prepared, frozen: ir.Model) -> Mapping[str, np.ndarray] | None:
    """Random samples by the names of the frozen graph's inputs, in the range that the file quantises them to."""
    quantised = prepared.model.quantised
    ranges = {} if quantised is None else input_ranges(quantised.graph)
    renamed = dict(prepared.inputs)
    return random_feeds(frozen, {renamed.get(name, name): bounds for name, bounds in ranges.items()})
