"""Optimize a long graph with ONNX Runtime in pieces.

The time that ONNX Runtime up to 1.19 takes grows with the square of the number of nodes: 24 s for the 15,000 nodes of a
step that trains all of 301 layers, and 1.5 s for the same nodes in pieces of 1,000. Its rewrites concern a few
neighbouring nodes, so only those across a cut are missed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import onnx
import onnx_ir as ir

from ..model.shapes import serialised_tensor
from ..model.uses import reads
from ..portable.order import execution_order

Optimize = Callable[[onnx.ModelProto], onnx.ModelProto]
WHOLE = 3_000  # maximum number of nodes of a graph that is optimized as a whole
_PIECE = 1_000  # nodes per piece


def cut(model: ir.Model) -> bool:
    """Whether a graph is to be optimized with `by_pieces`: it is long and all its values have a dtype."""
    graph = model.graph
    return len(graph) > WHOLE and all(value.dtype is not None for node in graph for value in node.outputs if value.name)


def by_pieces(model: ir.Model, optimize: Optimize) -> ir.Model:
    """Optimize a graph in pieces; the result's nodes are in execution order.

    Args:
        model: a sorted graph with a name for every value.
        optimize: optimizes a piece with ONNX Runtime.
    """
    order = execution_order(list(model.graph))
    known = {value.name for node in order for value in node.outputs} | set(model.graph.initializers)
    known |= {value.name for value in model.graph.inputs}
    nodes: list[onnx.NodeProto] = []
    infos: dict[str, onnx.ValueInfoProto] = {}
    tensors: dict[str, onnx.TensorProto] = {}
    imports: dict[str, int] = {}
    for number, piece in enumerate(_pieces(model, order)):
        result = optimize(piece)
        _rename(result.graph, known, f"piece{number}/")
        nodes += result.graph.node
        infos |= {info.name: info for info in (*result.graph.value_info, *result.graph.output)}
        tensors |= {tensor.name: tensor for tensor in result.graph.initializer}
        imports |= {entry.domain: entry.version for entry in result.opset_import}
    merged = onnx.ModelProto(ir_version=model.ir_version)
    merged.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in imports.items())
    merged.graph.name = model.graph.name or "graph"
    merged.graph.node.extend(nodes)
    merged.graph.initializer.extend(tensors.values())
    merged.graph.input.extend(ir.serde.serialize_value(value) for value in model.graph.inputs)
    merged.graph.output.extend(ir.serde.serialize_value(value) for value in model.graph.outputs)
    outputs = {value.name for value in model.graph.outputs}
    merged.graph.value_info.extend(info for name, info in infos.items() if name not in outputs)
    whole = ir.from_proto(merged)
    _sort(whole.graph, {node.name or "": i for i, node in enumerate(model.graph)})
    return whole


def _sort(graph: ir.Graph, place: dict[str, int]) -> None:
    """Sort nodes by execution order; ONNX Runtime treats nodes that it created as the last ones of the file."""
    nodes = list(graph)
    nodes.sort(key=lambda node: place.get(node.name or "", len(place)))
    order = execution_order(nodes)
    graph.remove(nodes)
    graph.extend(order)


def _pieces(model: ir.Model, order: Sequence[ir.Node]) -> Iterator[onnx.ModelProto]:
    """Split a graph into models of `_PIECE` nodes each; values that a later piece reads become outputs."""
    last = {value: i for i, node in enumerate(order) for value in reads(node) if value is not None}
    last |= dict.fromkeys(model.graph.outputs, len(order))
    for start in range(0, len(order), _PIECE):
        nodes = order[start : start + _PIECE]
        end = start + len(nodes)
        made = [value for node in nodes for value in node.outputs if value.name]
        read = dict.fromkeys(value for node in nodes for value in reads(node) if value is not None)
        inside = set(made)
        outside = [value for value in read if value not in inside]
        proto = onnx.ModelProto(ir_version=model.ir_version)
        proto.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in model.opset_imports.items())
        proto.graph.name = "piece"
        proto.graph.node.extend(ir.serde.serialize_node(node) for node in nodes)
        weights = [value for value in outside if value.const_value is not None]
        proto.graph.initializer.extend(serialised_tensor(value) for value in weights)
        proto.graph.input.extend(ir.serde.serialize_value(v) for v in outside if v.const_value is None)
        proto.graph.output.extend(ir.serde.serialize_value(v) for v in made if last.get(v, -1) >= end)
        yield proto


def _rename(graph: onnx.GraphProto, known: Collection[str | None], prefix: str) -> None:
    """Add a prefix to the names that ONNX Runtime created, in place; empty names mark missing inputs or outputs."""

    def renamed(name: str) -> str:
        return name if not name or name in known else f"{prefix}{name}"

    for node in graph.node:
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
    for entry in (*graph.initializer, *graph.value_info, *graph.output):
        entry.name = renamed(entry.name)
