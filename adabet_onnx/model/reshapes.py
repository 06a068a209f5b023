"""Reshape targets that repeat a size which has changed elsewhere: a fixed batch, an old number of classes.

A Reshape keeps the elements in row-major order, so an axis lands where as many elements lie from one index of it to
the next as before. That finds the right entry of the target even where several are equal, or where the axis is merged
with another: batch * heads, or steps * batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .merged_batch import MergedBatchAxes
from .shapes import Shapes, infer_shapes

_SIZES = (7919, 7907)


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
    known = _Changed(before, now, size)
    merged = MergedBatchAxes(known)
    for node in model.graph:
        data, shape = (node.inputs[0], node.inputs[1]) if node.op_type == "Reshape" else (None, None)
        constant = ir.convenience.get_const_tensor(shape) if shape is not None else None
        if data is None or constant is None:
            continue
        old, new = before.get(data.name or ""), now.get(data.name or "")
        result = before.get(node.outputs[0].name or "")
        if not old or not new or not result or len(old) != len(new):
            continue
        axis = known.batch_axis(data.name or "")
        if axis is None:
            continue
        target = constant.numpy().astype(np.int64).copy()
        inner = old[axis] // size // (merged.before_batch(data) or 1)  # of what the axis is merged with
        place = _lands(axis, inner * math.prod(old[axis + 1 :]), result, size, target)
        if place is None:
            continue
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
        known.now = now = infer()  # another only after this node, and what comes before it alone was asked about


def fix_reshape_targets(model: ir.Model) -> None:
    """Give Reshapes whose target the graph computes a constant one, in place, where only the batch is open in it.

    Exporters compute (N, -1, C) from the shape of the input. What they compute is the same at any batch size but for
    one axis, which becomes -1.

    Args:
        model: a graph whose inputs are fixed but for the batch.
    """
    computed = [
        node
        for node in model.graph
        if node.op_type == "Reshape" and node.inputs[1] and ir.convenience.get_const_tensor(node.inputs[1]) is None
    ]
    if not computed:
        return
    small, large = (infer_shapes(model, size) for size in _SIZES)
    for node in computed:
        name = node.outputs[0].name or ""
        extents = list(zip(small.get(name, ()), large.get(name, ()), strict=False))
        target = np.array([a if a == b else -1 for a, b in extents], np.int64)
        if len(extents) == len(small.get(name, ())) > 0 and np.count_nonzero(target < 1) <= 1 and 0 not in target:
            _set_target(model.graph, node, target)


class _Changed:
    """Shapes before the change, and which axis has changed."""

    def __init__(self, before: Shapes, now: Shapes, size: int) -> None:
        self.now = now
        self._before, self._size = before, size

    def shape(self, value: str) -> tuple[int, ...]:
        return self._before[value]

    def size(self, value: str) -> int:
        return self._size

    def batch_axis(self, value: str) -> int | None:
        old, new = self._before.get(value, ()), self.now.get(value, ())
        changed = [axis for axis, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
        return changed[0] if len(changed) == 1 and len(old) == len(new) else None


def _lands(axis: int, within: int, result: tuple[int, ...], size: int, target: np.ndarray) -> int | None:
    """The axis of a Reshape's result that holds what has changed, alone or merged; None if there is none.

    Where the size was 1, several may: then the one that is no more than that, the same axis before others, then one
    that the target leaves open, then one of which it is the outer part (batch * heads), the last axis last.

    Args:
        axis: which it was.
        within: elements from one index of it to the next.
        result: shape of the result before the change.
        size: what it was.
        target: of the Reshape.
    """
    found = {}
    for place, extent in enumerate(result):
        step = math.prod(result[place + 1 :])
        if extent > 0 and extent % size == 0 and step and within % step == 0 and step * extent % (within * size) == 0:
            alone = step == within and extent == size
            outer = step * extent == within * size and place != len(result) - 1
            found[place] = (not alone, not (alone and place == axis), target[place] != -1, not outer)
    return min(found, key=lambda place: (*found[place], place), default=None)


def _set_target(graph: ir.Graph, node: ir.Node, target: np.ndarray) -> None:
    name = f"{node.name}/shape"
    while name in graph.initializers:
        name += "'"
    value = ir.Value(name=name, const_value=ir.tensor(target, name=name))
    graph.register_initializer(value)
    node.replace_input_with(1, value)
