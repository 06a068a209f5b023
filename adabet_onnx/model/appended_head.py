"""A new head on the outputs: a linear classifier, with all layers kept as they are."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ..errors import ModelError
from ..pieces import path_of
from .logits_axes import axes_of, class_axis, detected_class_axis, written
from .open import Model

_NAME = "new_head"


def append_head(graph: ir.Model, model: Model, classes: int, rng: np.random.Generator) -> str:
    """Put a linear classifier of what the classes' axis holds on the logits, in place; return a note.

    It is a Gemm for (N, C), a MatMul and Add where the classes are the last axis, and a Conv of size 1 where they are
    axis 1 of several.

    Args:
        graph: a copy of the model's graph.
        model: what it was.
        classes: the number of outputs.
        rng: of the fresh weights, uniform in +-1/sqrt(C).

    Raises:
        ModelError: the logits are one number per sample, or their first axis is not the batch.
    """
    axes = axes_of(model.graph, model.logits)
    shape = axes.batch_first(model.name)
    if axes.batch != 0 or len(shape) < 2:
        raise ModelError(
            f"{model.name}: a head can be appended to logits of shape (N, C), (N, steps, C) or (N, C, H, W), but "
            f"{model.logits!r} has {written(axes.shape)}. Name a value of such a shape: "
            f"`open_model({path_of(model.name)}, logits='NAME')`."
        )
    at = class_axis(shape, detected_class_axis(model), "cross-entropy")
    assert at is not None
    given = int(shape[at])
    if at not in (1, len(shape) - 1):
        raise ModelError(f"{model.name}: the classes are axis {at} of {written(shape)}, neither axis 1 nor the last.")
    logits = next(value for node in graph.graph for value in node.outputs if value.name == model.logits)
    old = next((value for value in graph.graph.outputs if value.dtype in (None, ir.DataType.FLOAT)), logits)
    name, free = old.name or "", _free_name(graph)
    old.name = f"{name}_before_{free}"
    bound = 1 / math.sqrt(given)
    bias = _initializer(graph, f"{free}.bias", np.zeros(classes, np.float32))
    if at == len(shape) - 1 and len(shape) > 2:
        weight = _initializer(graph, f"{free}.weight", _uniform(rng, bound, given, classes))
        product = ir.node("MatMul", [logits, weight], name=f"{free}/MatMul")
        product.outputs[0].name = f"{free}/product"
        nodes = [product, ir.node("Add", [product.outputs[0], bias], name=f"{free}/Add")]
    else:
        ones = [1] * (len(shape) - 2)
        weight = _initializer(graph, f"{free}.weight", _uniform(rng, bound, classes, given, *ones))
        kind = ("Conv", {"kernel_shape": ones}) if ones else ("Gemm", {"transB": 1})
        nodes = [ir.node(kind[0], [logits, weight, bias], kind[1], name=f"{free}/{kind[0]}")]
    graph.graph.extend(nodes)
    made = nodes[-1].outputs[0]
    made.name, made.dtype = name, ir.DataType.FLOAT
    graph.graph.outputs.clear()
    graph.graph.outputs.append(made)
    counted = "1 number" if given == 1 else f"{given} numbers"
    return (
        f"a linear classifier {free!r} was put on the outputs, of the {counted} along axis {at} of {written(shape)}; "
        "all layers stay as they are"
    )


def _uniform(rng: np.random.Generator, bound: float, *shape: int) -> np.ndarray:
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def _initializer(graph: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    graph.graph.register_initializer(value)
    return value


def _free_name(graph: ir.Model) -> str:
    """A name that no tensor or node begins with."""
    taken = [*graph.graph.initializers, *(node.name or "" for node in graph.graph)]
    name = _NAME
    while any(other.startswith(name) for other in taken):
        name += "_"
    return name
