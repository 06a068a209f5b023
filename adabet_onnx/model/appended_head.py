"""A new head on top of the outputs: a linear classifier, with all layers kept unchanged."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ..errors import ModelError
from ..pieces import path_of
from .logits_axes import axes_of, class_axis, detected_class_axis, shape_text
from .open import Model

_NAME = "new_head"


def append_head(graph: ir.Model, model: Model, classes: int, rng: np.random.Generator) -> str:
    """Append a linear classifier over the class axis of the logits, in place; return a note.

    It is a Gemm for (N, C), a MatMul and an Add where the classes are the last axis, and a Conv with kernel size 1
    where they are axis 1 of more than two.

    Args:
        graph: a copy of the model's graph.
        model: the opened model before the change.
        classes: the number of outputs.
        rng: generator for the fresh weights, which are uniform in +-1/sqrt(C).

    Raises:
        ModelError: the logits are one number per sample, or their first axis is not the batch.
    """
    axes = axes_of(model.graph, model.logits)
    shape = axes.batch_first(model.name)
    if axes.batch != 0 or len(shape) < 2:
        raise ModelError(
            f"{model.name}: a head can be appended to logits of shape (N, C), (N, steps, C) or (N, C, H, W), but "
            f"{model.logits!r} has {shape_text(axes.shape)}. Name a value of such a shape: "
            f"`open_model({path_of(model.name)}, logits='NAME')`."
        )
    axis = class_axis(shape, detected_class_axis(model), "cross-entropy")
    assert axis is not None
    features = int(shape[axis])
    if axis not in (1, len(shape) - 1):
        raise ModelError(
            f"{model.name}: the classes are axis {axis} of {shape_text(shape)}, neither axis 1 nor the last."
        )
    logits = next(value for node in graph.graph for value in node.outputs if value.name == model.logits)
    old = next((value for value in graph.graph.outputs if value.dtype in (None, ir.DataType.FLOAT)), logits)
    name, prefix = old.name or "", _free_name(graph)
    old.name = f"{name}_before_{prefix}"
    bound = 1 / math.sqrt(features)
    bias = _initializer(graph, f"{prefix}.bias", np.zeros(classes, np.float32))
    if axis == len(shape) - 1 and len(shape) > 2:
        weight = _initializer(graph, f"{prefix}.weight", _uniform(rng, bound, features, classes))
        product = ir.node("MatMul", [logits, weight], name=f"{prefix}/MatMul")
        product.outputs[0].name = f"{prefix}/product"
        nodes = [product, ir.node("Add", [product.outputs[0], bias], name=f"{prefix}/Add")]
    else:
        ones = [1] * (len(shape) - 2)
        weight = _initializer(graph, f"{prefix}.weight", _uniform(rng, bound, classes, features, *ones))
        kind = ("Conv", {"kernel_shape": ones}) if ones else ("Gemm", {"transB": 1})
        nodes = [ir.node(kind[0], [logits, weight, bias], kind[1], name=f"{prefix}/{kind[0]}")]
    graph.graph.extend(nodes)
    output = nodes[-1].outputs[0]
    output.name, output.dtype = name, ir.DataType.FLOAT
    graph.graph.outputs.clear()
    graph.graph.outputs.append(output)
    counted = "1 number" if features == 1 else f"{features} numbers"
    return (
        f"a linear classifier {prefix!r} was appended to the outputs; it reads the {counted} along axis {axis} of "
        f"{shape_text(shape)}; all layers stay unchanged"
    )


def _uniform(rng: np.random.Generator, bound: float, *shape: int) -> np.ndarray:
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def _initializer(graph: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    graph.graph.register_initializer(value)
    return value


def _free_name(graph: ir.Model) -> str:
    """A name that no tensor or node begins with."""
    names = [*graph.graph.initializers, *(node.name or "" for node in graph.graph)]
    name = _NAME
    while any(other.startswith(name) for other in names):
        name += "_"
    return name
