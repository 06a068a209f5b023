"""Batch normalisations that Keras 3 writes as arithmetic, put together again as single nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

# Operators that may be between a variable and the node that uses it.
FOLDED = ("Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Normalisation:
    """A batch normalisation written as arithmetic: its output, input and parameters, as names of values.

    ``shaped`` is the variance as used in the arithmetic, reshaped to its axis.
    """

    output: str
    x: str
    variance: str
    mean: str
    gamma: str | None
    beta: str | None
    epsilon: float
    shaped: str


def find_normalisations(
    view: dict[str, tuple[str, list[str]]], variables: set[str], numbers: dict[str, float]
) -> Iterator[Normalisation]:
    """Find x * inv + (beta - mean * inv) with inv = rsqrt(variance + epsilon) * gamma; gamma or beta may be missing.

    Args:
        view: operator and inputs of each value, by its name.
        variables: names of the values that are variables.
        numbers: constant scalars by name.
    """

    def variable(value: str | None) -> str | None:
        while value is not None and value not in variables:
            operator, inputs = view.get(value, ("", []))
            value = inputs[0] if operator in ("Identity", "Reshape", "ReadVariableOp") else None
        return value

    def pairs(value: str, operator: str) -> list[tuple[str, str]]:
        kind, inputs = view.get(value, ("", []))
        return [(inputs[0], inputs[1]), (inputs[1], inputs[0])] if kind == operator else []

    def inverse(value: str) -> tuple[str, str | None, float] | None:
        """Return the reshaped variance, gamma and epsilon if the value is inv."""
        for root, gamma in [*pairs(value, "Mul"), (value, None)]:
            operator, inputs = view.get(root, ("", []))
            if operator != "Rsqrt" or (gamma is not None and variable(gamma) is None):
                continue
            for variance, epsilon in pairs(inputs[0], "Add"):
                if variable(variance) and epsilon in numbers:
                    return variance, gamma, numbers[epsilon]
        return None

    for output in list(view):
        for scaled, offset in pairs(output, "Add"):
            for x, factor in pairs(scaled, "Mul"):
                inverse_parts = inverse(factor)
                operator, inputs = view.get(offset, ("", []))
                beta, shift = inputs if operator == "Sub" else (None, offset)
                mean = next((one for one, other in pairs(shift, "Mul") if other == factor), None)
                if mean is not None and beta is None:  # -mean * inv
                    mean = view[mean][1][0] if view.get(mean, ("", []))[0] == "Neg" else None
                names = [variable(mean), variable(beta), variable(inverse_parts[1]) if inverse_parts else None]
                if inverse_parts is None or names[0] is None or (beta is not None and names[1] is None):
                    continue
                variance = str(variable(inverse_parts[0]))
                yield Normalisation(
                    output, x, variance, names[0], names[2], names[1], inverse_parts[2], inverse_parts[0]
                )


def fuse_images(graph: Any, variables: dict[str, str], shapes: dict[str, Any]) -> dict[str, str]:
    """Replace, in place, each batch normalisation of images by one node, before tf2onnx moves their channels.

    Returns:
        Names, by node, of the scales and shifts that were added to normalisations without them.
    """
    import tensorflow as tf

    nodes = {node.name: node for node in graph.node}
    scalars = [node for node in graph.node if node.op == "Const" and shapes[node.name].rank == 0]
    numbers = {
        node.name: float(tf.make_ndarray(node.attr["value"].tensor))
        for node in scalars
        if node.attr["dtype"].type == tf.float32.as_datatype_enum
    }
    view = {
        node.name: (
            {"AddV2": "Add"}.get(node.op, node.op),
            [name.split(":")[0] for name in node.input if name[0] != "^"],
        )
        for node in graph.node
    }
    added = {}
    for norm in list(find_normalisations(view, set(variables), numbers)):
        axis = channel_axis(tuple(shapes[norm.shaped]), 4)
        if shapes[norm.x].rank != 4 or axis not in (1, 3):
            continue
        parts = []
        for given, name, fill in ((norm.gamma, "ones", 1.0), (norm.beta, "zeros", 0.0)):
            if given is None:
                given = f"{norm.output}/{name}"
                constant(graph, given, np.full(shapes[norm.variance], fill, np.float32))
                added[given] = f"{module(variables[norm.variance])}/{name}"
            parts.append(given)
        node = nodes[norm.output]
        x = next(name for name in nodes[scaled_by(view, norm)].input if name.split(":")[0] == norm.x)
        node.op = "FusedBatchNormV3"
        node.ClearField("attr")
        node.ClearField("input")
        node.input.extend([x, *parts, norm.mean, norm.variance])
        for key in ("T", "U"):
            node.attr[key].type = tf.float32.as_datatype_enum
        node.attr["epsilon"].f = norm.epsilon
        node.attr["is_training"].b = False
        node.attr["data_format"].s = b"NHWC" if axis == 3 else b"NCHW"
    return added


def scaled_by(view: dict[str, tuple[str, list[str]]], norm: Normalisation) -> str:
    """Return the name of the value x * inv."""
    return next(value for value in view[norm.output][1] if norm.x in view[value][1])


def fuse_others(proto: onnx.ModelProto) -> None:
    """Replace, in place, each remaining batch normalisation by one node: those of vectors, sequences and volumes."""
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    known = [*inferred.value_info, *inferred.input]
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in known}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    numbers = {
        name: numpy_helper.to_array(tensor).item()
        for name, tensor in tensors.items()
        if tensor.data_type == onnx.TensorProto.FLOAT and int(np.prod(tensor.dims)) == 1
    }
    producers = {node.output[0]: node for node in proto.graph.node}
    view = {value: (node.op_type, list(node.input)) for value, node in producers.items()}
    for value, (operator, inputs) in list(view.items()):
        if operator == "Reciprocal" and view.get(inputs[0], ("", []))[0] == "Sqrt":
            view[value] = ("Rsqrt", view[inputs[0]][1])
    for norm in list(find_normalisations(view, set(tensors), numbers)):
        rank = ranks.get(norm.x, 0)
        axis = channel_axis(tuple(tensors[norm.variance].dims), rank)
        if rank < 2 or axis is None or axis == 0:
            continue
        parts = []
        for given, name in ((norm.gamma, "ones"), (norm.beta, "zeros"), (norm.mean, ""), (norm.variance, "")):
            if given is None:
                given = f"{module(norm.variance)}/{name}"
                values = np.full(int(np.prod(tensors[norm.variance].dims)), float(name == "ones"), np.float32)
                proto.graph.initializer.append(numpy_helper.from_array(values, given))
            else:
                flat = numpy_helper.to_array(tensors[given]).ravel()
                tensors[given].CopyFrom(numpy_helper.from_array(flat, given))
            parts.append(given)
        order = [0, axis, *(other for other in range(1, rank) if other != axis)]
        moved = order != sorted(order)
        node = producers[norm.output]
        position_of_node = list(proto.graph.node).index(node)
        name = module(norm.variance)
        before, after = (f"{name}/first", f"{name}/normalised") if moved else (norm.x, norm.output)
        made = [onnx.helper.make_node("BatchNormalization", [before, *parts], [after], name, epsilon=norm.epsilon)]
        if moved:
            inverse_order = [int(position) for position in np.argsort(order)]
            made.insert(0, onnx.helper.make_node("Transpose", [norm.x], [before], before, perm=order))
            made.append(onnx.helper.make_node("Transpose", [after], [norm.output], after, perm=inverse_order))
        proto.graph.node.remove(node)
        for offset, each in enumerate(made):
            proto.graph.node.insert(position_of_node + offset, each)
    drop_unused(proto)


def drop_unused(proto: onnx.ModelProto) -> None:
    """Remove, in place, nodes and initializers that nothing uses."""
    used = {value.name for value in proto.graph.output}
    for node in reversed(list(proto.graph.node)):
        if used & set(node.output):
            used |= set(node.input) | inner_names(node)
        else:
            proto.graph.node.remove(node)
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name not in used]:
        proto.graph.initializer.remove(tensor)


def inner_names(node: onnx.NodeProto) -> set[str]:
    """Return the names of the values that the bodies of a loop or branch use."""
    inner = [inside for attribute in node.attribute for inside in attribute.g.node]
    return {name for inside in inner for name in inside.input}.union(*(inner_names(inside) for inside in inner))


def channel_axis(shape: tuple[int, ...], rank: int) -> int | None:
    """Return the channel axis of a tensor with this rank, from the shape of the values broadcast over it."""
    long = [axis for axis, extent in enumerate(shape) if extent != 1]
    if not shape or len(long) > 1:
        return None
    return rank - len(shape) + (long[0] if long else len(shape) - 1)


def module(name: str) -> str:
    """Return the name of the layer that a variable belongs to."""
    return name.rpartition("/")[0]


def constant(graph: Any, name: str, array: np.ndarray) -> str:
    """Add a constant to a TensorFlow graph."""
    import tensorflow as tf

    node = graph.node.add(name=name, op="Const")
    node.attr["dtype"].type = tf.as_dtype(array.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
    return name


def fold(proto: onnx.ModelProto, names: set[str]) -> None:
    """Apply operators that only change the layout of variables to the variables themselves, in place."""
    from onnx.reference import ReferenceEvaluator

    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    done = False
    while not done:
        done = True
        for node in list(proto.graph.node):
            source = node.input[0] if node.input else ""
            users = [other for other in proto.graph.node if source in other.input]
            if node.op_type not in FOLDED or source not in names or len(users) != 1:
                continue
            if not all(name in tensors for name in node.input):
                continue
            feeds = {name: numpy_helper.to_array(tensors[name]) for name in node.input}
            result = np.ascontiguousarray(ReferenceEvaluator(node).run(None, feeds)[0])
            tensors[source].CopyFrom(numpy_helper.from_array(result, source))
            for other in proto.graph.node:
                for position, value in enumerate(other.input):
                    if value == node.output[0]:
                        other.input[position] = source
            proto.graph.node.remove(node)
            done = False
