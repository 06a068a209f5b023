"""Reshape targets that repeat a size which has changed elsewhere: a fixed batch, an old number of classes.

A Reshape keeps the elements in row-major order, so an axis lands where as many elements per step lie before it
as before. That finds the right entry of the target even where several are equal, or where the axis is merged
with another (batch * heads).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .shapes import Shapes


def follow(model: ir.Model, size: int, before: Shapes, infer: Callable[[], Shapes], *, dynamic: bool) -> None:
    """Change constant targets in place, so that each Reshape follows one axis whose size has changed.

    Args:
        model: the graph; what changed is changed already.
        size: what it was: every axis that follows is a multiple of it.
        before: shapes before the change.
        infer: gives the shapes of the graph as it is now.
        dynamic: the new size is only known at run time (the batch), so the target says -1 or 0 there.
    """
    now = infer()
    for node in model.graph:
        data, shape = (node.inputs[0], node.inputs[1]) if node.op_type == "Reshape" else (None, None)
        constant = ir.convenience.get_const_tensor(shape) if shape is not None else None
        if data is None or constant is None:
            continue
        old, new = before.get(data.name or ""), now.get(data.name or "")
        result = before.get(node.outputs[0].name or "")
        if not old or not new or not result or len(old) != len(new):
            continue
        changed = [axis for axis, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
        place = _lands(old, changed[0], result, size) if len(changed) == 1 else None
        if place is None:
            continue
        axis = changed[0]
        target = constant.numpy().astype(np.int64).copy()
        copies = node.attributes.get_int("allowzero", 0) == 0
        if target[place] == -1 or (target[place] == 0 and place == axis and copies):
            continue
        if not dynamic:
            target[place] = result[place] * new[axis] // old[axis]
        elif place == axis and old[axis] == result[place] and copies:
            target[place] = 0
        else:
            target[target == -1] = [result[index] for index in np.flatnonzero(target == -1)]
            target[place] = -1
        _set_target(model.graph, node, target)
        now = infer()


def _lands(old: tuple[int, ...], axis: int, result: tuple[int, ...], size: int) -> int | None:
    """The axis of the result that ``axis`` becomes, whole or its outer part, maybe merged; None if there is none."""
    outer = math.prod(old[:axis])
    places = [
        place
        for place, extent in enumerate(result)
        if math.prod(result[:place]) == outer and extent > 0 and extent % size == 0
    ]
    return axis if axis in places else next(iter(places), None)


def _set_target(graph: ir.Graph, node: ir.Node, target: np.ndarray) -> None:
    name = f"{node.name}/shape"
    while name in graph.initializers:
        name += "'"
    value = ir.Value(name=name, const_value=ir.tensor(target, name=name))
    graph.register_initializer(value)
    node.replace_input_with(1, value)
