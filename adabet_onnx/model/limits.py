"""Limits on what a file may request: values that no real model has are rejected before native code sees them.

Shape inference and ONNX Runtime divide by strides and groups, and allocate memory according to shapes; a zero or a
size of terabytes may terminate the process, without an exception that could be caught.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnx_ir as ir

from ..errors import ModelError
from .constant_values import DIVISIONS
from .shapes import Shapes, infer_shapes
from .uses import input_of

MOST_BYTES = 1 << 30  # of one value at a batch of one
_BYTES = 4
_MOST_RANK = 64
_MOST_DEPTH = 32  # of nested subgraphs: their checker is recursive
_MOST_NUMBER = 2**31 - 1
_MOST_NUMBERS = 100_000  # in one attribute
# Attributes that are counts.
_COUNTS = frozenset(
    {
        "block_size",
        "blocksize",
        "dilations",
        "group",
        "hidden_size",
        "kernel_shape",
        "kv_num_heads",
        "num_groups",
        "num_heads",
        "num_outputs",
        "q_num_heads",
        "size",
        "strides",
    }
)
_MOST_TRIPS = 100_000  # of a loop that collects a value in each, which takes 1.6 kB
# Convolutions, by the position of their weight, and poolings: onnxruntime terminates the process if ranks differ.
_CONVOLUTIONS = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}
_POOLINGS = frozenset({"AveragePool", "LpPool", "MaxPool"})
_MAY_BE_ZERO = frozenset({"block_size"})


def check_nodes(proto: onnx.ModelProto, name: str) -> None:
    """Check that attributes are plausible, names and comments are text, and subgraphs are not nested too deeply.

    Raises:
        ModelError: a check fails; the message names the node.
    """
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    _check_text((proto.graph.name, proto.graph.doc_string, *(value.doc_string for value in values)), name)
    for graph_nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node, depth in all_nodes(graph_nodes):
            _check_text((node.name, node.doc_string, *(graph.name for graph in _graphs(node))), name)
            if depth > _MOST_DEPTH:
                raise ModelError(f"{name}: subgraphs are nested more than {_MOST_DEPTH} deep. Export it again.")
            for attribute in node.attribute:
                wrong = _wrong(attribute)
                if wrong:
                    called = node.name or (node.output[0] if node.output else "")
                    raise ModelError(
                        f"{name}: node {called[:200]!r} ({node.op_type[:99]}) has attribute {attribute.name[:99]!r} "
                        f"with {wrong}. Export it again."
                    )


def _check_text(texts: Iterable[str | bytes], name: str) -> None:
    """Reject text that is not UTF-8: protobuf returns it as bytes, which onnx_ir reads but cannot write again."""
    for text in texts:
        if isinstance(text, bytes):
            raise ModelError(
                f"{name} is not a valid ONNX model: the name or comment {text[:80]!r} is not UTF-8 text. The file is "
                "damaged: copy or export it again."
            )


def _wrong(attribute: onnx.AttributeProto) -> str | None:
    numbers = [attribute.i] if attribute.type == onnx.AttributeProto.INT else attribute.ints
    if len(numbers) > _MOST_NUMBERS:
        return f"{len(numbers)} numbers; up to {_MOST_NUMBERS} are supported"
    if attribute.name in _COUNTS:
        least = 0 if attribute.name in _MAY_BE_ZERO else 1
        wrong = next((number for number in numbers if not least <= number <= _MOST_NUMBER), None)
    elif attribute.name == "pads":
        wrong = next((number for number in numbers if abs(number) > _MOST_NUMBER), None)
    else:
        return None
    return None if wrong is None else f"the number {wrong}, which no valid ONNX model has there"


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Nodes and those in their subgraphs, each with its depth."""
    stack = [(node, 0) for node in nodes]
    while stack:
        node, depth = stack.pop()
        yield node, depth
        if depth > _MOST_DEPTH:
            continue
        for graph in _graphs(node):
            stack += [(inner, depth + 1) for inner in graph.node]


def _graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of a node."""
    for attribute in node.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            yield from (attribute.g, *attribute.graphs)


def check_sizes(model: ir.Model, name: str) -> None:
    """Check that no value is implausibly large, as far as shapes can be inferred, and no integer is divided by zero.

    A loop that certainly collects more values than memory holds is rejected too: it would terminate ONNX Runtime.

    Raises:
        ModelError: a check fails, or an extent is negative.
    """
    check_divisions(model, name)
    for node in model.graph.all_nodes():
        trips = _collected(node)
        if trips > _MOST_TRIPS:
            raise ModelError(
                f"{name}: node {node.name!r} (Loop) collects a value in each of {trips} trips; up to {_MOST_TRIPS} are "
                "supported. Is a number in the graph wrong?"
            )
    for propagate in (False, True):  # propagation itself allocates vectors, so check what is known without it first
        shapes = infer_shapes(model, 1, propagate=propagate)
        _check_shapes(shapes, {*model.graph.initializers}, name)
    for node in model.graph:
        _check_ranks(node, shapes, name)


def check_divisions(model: ir.Model, name: str) -> None:
    """Check that no integer is divided by a constant zero, which would terminate the process.

    Raises:
        ModelError: a node divides by zero; the message names it.
    """
    for node in model.graph.all_nodes():
        if node.op_type in DIVISIONS and len(node.inputs) > 1 and node.inputs[1] is not None:
            divisor = ir.convenience.get_const_tensor(node.inputs[1])
            if divisor is not None and divisor.dtype.is_integer() and not np.all(divisor.numpy()):
                raise ModelError(
                    f"{name}: node {node.name!r} ({node.op_type}) divides integers by zero. Export it again."
                )


def _check_ranks(node: ir.Node, shapes: Shapes, name: str) -> None:
    """Check that a convolution or pooling has as many axes as its input."""
    if node.domain or not node.inputs or node.inputs[0] is None:
        return
    kernel_rank = None
    if node.op_type in _CONVOLUTIONS:
        position = _CONVOLUTIONS[node.op_type]
        weight = input_of(node, position)
        kernel = shapes.get(weight.name or "") if weight is not None else None
        kernel_rank = None if kernel is None else len(kernel)
    elif node.op_type in _POOLINGS and "kernel_shape" in node.attributes:
        kernel_rank = 2 + len(node.attributes["kernel_shape"].as_ints())
    shape = shapes.get(node.inputs[0].name or "")
    if shape is None or kernel_rank is None or len(shape) == kernel_rank:
        return
    advice = "Export it again."
    if node.inputs[0].is_graph_input() and len(shape) == kernel_rank - 1:
        extents = ", ".join(map(str, shape))
        advice = f"Is the input a sample without a batch? Export the model with an input of shape (1, {extents})."
    raise ModelError(
        f"{name}: node {node.name!r} ({node.op_type}) has a kernel for {kernel_rank} dimensions, including batch and "
        f"channels, but its input {node.inputs[0].name!r} has {len(shape)}. {advice}"
    )


def _collected(node: ir.Node) -> int:
    """Number of trips of a loop that collects values and that no condition can end earlier; else 0."""
    if node.op_type != "Loop" or node.domain not in ("", "ai.onnx"):
        return 0
    attribute = node.attributes.get("body")
    if attribute is None or attribute.type != ir.AttributeType.GRAPH or not node.inputs or node.inputs[0] is None:
        return 0
    body, trips = attribute.as_graph(), ir.convenience.get_const_tensor(node.inputs[0])
    carried = len(body.inputs) - 2
    if carried < 0 or len(body.outputs) <= 1 + carried:
        return 0
    if trips is None or trips.size != 1 or not trips.dtype.is_integer():
        return 0
    condition, producer = body.outputs[0], body.outputs[0].producer()
    while producer is not None and producer.op_type == "Identity" and producer.inputs[0] is not None:
        condition, producer = producer.inputs[0], producer.inputs[0].producer()
    certain = condition is body.inputs[1] or ir.convenience.get_const_tensor(condition) is not None
    return int(trips.numpy().reshape(-1)[0]) if certain else 0


def _check_shapes(shapes: Shapes, weights: set[str], name: str) -> None:
    for value, shape in shapes.items():
        if value in weights:
            continue
        if len(shape) > _MOST_RANK or any(extent < 0 for extent in shape):
            raise ModelError(
                f"{name}: value {value[:200]!r} has the shape {list(shape)[:9]}, which no tensor has. The file is "
                "damaged: copy or export it again."
            )
        if math.prod(shape) * _BYTES > MOST_BYTES:
            raise ModelError(
                f"{name}: value {value[:200]!r} has the shape {list(shape)[:9]}, {math.prod(shape) * _BYTES:.2g} bytes "
                f"for a single sample; up to {MOST_BYTES / 2**30:.0f} GiB is supported. Is a size in the graph wrong?"
            )
