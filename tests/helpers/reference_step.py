"""One step of gradient descent on an ONNX file in float64, by torch alone, without the package."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
import torch
import torch_oracle
from onnx import numpy_helper


def with_copies(proto: onnx.ModelProto, whole: Collection[str]) -> onnx.ModelProto:
    """The model in which every vector has one consumer: the second and further ones get a copy ``name/node/input``.

    Args:
        proto: the model; its nodes have names.
        whole: vectors that stay one tensor.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    vectors = {
        tensor.name: tensor
        for tensor in made.graph.initializer
        if len(tensor.dims) == 1 and tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in whole
    }
    seen: set[str] = set()
    for node in made.graph.node:
        for position, name in enumerate(node.input):
            if name not in vectors:
                continue
            if name in seen:
                copy = made.graph.initializer.add()
                copy.CopyFrom(vectors[name])
                copy.name = node.input[position] = f"{name}/{node.name}/{position}"
            seen.add(name)
    return made


def stepped(
    proto: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    labels: np.ndarray,
    parameters: Sequence[str],
    *,
    loss: str,
    logits: str,
    rate: float,
    class_axis: int = 1,
    dtype: torch.dtype = torch.float64,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model after a step, and its parameters' gradients, computed in ``dtype``.

    A parameter that the model computes from constants (a folded chain) takes the place of the node that makes it; one
    that stands in a branch of an If is trained there.

    Raises:
        KeyError: a parameter that does not exist in the model.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for name, tensor in _in_branches(made.graph).items():
        if name in parameters:  # the outer value replaces the one in the branch
            made.graph.initializer.add().CopyFrom(tensor)
    stored = {tensor.name: tensor for tensor in made.graph.initializer}
    computed = [name for name in parameters if name not in stored]
    if computed:
        weights = torch_oracle.constants(made)
        for name in computed:
            node = next((node for node in made.graph.node if name in node.output), None)
            if node is None:
                raise KeyError(f"{name!r} was trained, but it is nothing in the original model")
            made.graph.node.remove(node)
            made.graph.initializer.append(numpy_helper.from_array(weights[name].astype(np.float32), name))
    _, gradients = torch_oracle.gradients(
        made, feeds, labels, parameters, loss=loss, logits=logits, class_axis=class_axis, dtype=dtype
    )
    for tensor in made.graph.initializer:
        if tensor.name in gradients:
            value = numpy_helper.to_array(tensor).astype(np.float64) - rate * gradients[tensor.name]
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return made, gradients


def _in_branches(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    found = {}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found |= {tensor.name: tensor for tensor in attribute.g.initializer}
    return found
