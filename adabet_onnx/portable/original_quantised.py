"""The frozen part of a quantised file as it came: the nodes that the float32 graph was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ..model.passes.dequantise import input_ranges, is_quantised
from ..model.passes.unused import RemoveUnused
from ..model.prepare import Prepared
from ..model.trial import compare, random_feeds
from .graph_split import Boundary
from .opset import lower_opset, raise_opset

_MOST = 0.5  # of the features' size; a graph of something else differs by more
_ON_THE_FLY = "DynamicQuantize"  # what operators begin with whose ranges are those of the batch that they are run on
_CLIPPED = "/clipped"  # what stands for a QuantizeLinear that cut negative numbers off


def original_frozen(prepared: Prepared, frozen: ir.Model, boundary: Sequence[Boundary]) -> ir.Model | None:
    """The frozen graph with the file's own quantised numbers.

    Args:
        prepared: whose model may be quantised.
        frozen: the same in float32.
        boundary: what it gives; some of it is computed.

    Returns:
        None where the model is not quantised, nothing before the boundary is, the boundary is not to be found in the
        file's own graph, or that quantises on the fly: then a sample's features depend on the others in its batch.
    """
    if prepared.model.quantised is None or not all(kept.given is not None or kept.as_it_is for kept in boundary):
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
    if not is_quantised(quantised_frozen) or any(node.op_type.startswith(_ON_THE_FLY) for node in graph.all_nodes()):
        return None
    raise_opset(quantised_frozen)
    lower_opset(quantised_frozen)
    plain = frozen.clone()
    plain.graph.outputs[:] = [value for value in plain.graph.outputs if value.name in outputs]
    RemoveUnused()(plain)
    difference = compare(quantised_frozen, plain, ranges=input_ranges(quantised_frozen))
    return quantised_frozen if difference is not None and difference <= _MOST else None


def _value(graph: ir.Graph, name: str) -> ir.Value | None:
    """What stands for a value of the float32 graph: where it is quantised, the numbers that it is then taken for."""
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
