"""Update Reshape targets that repeat a size which has changed elsewhere: a fixed batch, an old number of classes.

A Reshape keeps the elements in row-major order, so an axis ends up where its stride in elements is the same as before.
That identifies the right entry of the target even if several are equal, or if the axis is merged with another:
batch * heads, or steps * batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .merged_batch import MergedBatchAxes
from .shapes import Shapes, infer_shapes

_SIZES = (7919, 7907)


def update_reshapes(model: ir.Model, size: int, before: Shapes, infer: Callable[[], Shapes], *, dynamic: bool) -> None:
    """Change constant targets in place, so that each Reshape follows one axis whose size has changed.

    Args:
        model: the graph after the change.
        size: the old size: every axis that follows is a multiple of it.
        before: shapes before the change.
        infer: returns the shapes of the graph in its current state.
        dynamic: whether the new size is only known at run time (the batch), so that the target becomes -1 or 0 there.
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
        inner = old[axis] // size // (merged.before_batch(data) or 1)  # the factor that the axis is merged with
        position = _position_in_result(axis, inner * math.prod(old[axis + 1 :]), result, size, target)
        if position is None:
            continue
        copies = node.attributes.get_int("allowzero", 0) == 0
        if target[position] == -1 or (target[position] == 0 and position == axis and copies):
            continue
        if not dynamic:
            target[position] = result[position] * new[axis] // old[axis]
        elif position == axis and old[axis] == result[position] and copies:
            target[position] = 0
        else:
            target[target == -1] = [result[index] for index in np.flatnonzero(target == -1)]
            target[position] = -1
        _set_target(model.graph, node, target)
        known.now = now = infer()  # only shapes after this node change, and only earlier ones were queried


def fix_reshape_targets(model: ir.Model) -> None:
    """Replace computed Reshape targets by constant ones, in place, where only the batch varies.

    Exporters compute (N, -1, C) from the shape of the input. The result is the same at any batch size except for one
    axis, which becomes -1.

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
    """Shapes before the change, and the axis that has changed."""

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


def _position_in_result(axis: int, within: int, result: tuple[int, ...], size: int, target: np.ndarray) -> int | None:
    """The axis of a Reshape's result that holds the changed axis, alone or merged; None if there is none.

    If the size was 1, several axes may qualify. Preferred are, in this order: an axis that holds nothing else, the same
    axis as before, one that the target leaves open, one whose outer part it is (batch * heads), the last axis last.

    Args:
        axis: the changed axis before the Reshape.
        within: its stride in elements.
        result: shape of the result before the change.
        size: the old size.
        target: the target of the Reshape.
    """
    preferences = {}
    for position, extent in enumerate(result):
        step = math.prod(result[position + 1 :])
        if extent > 0 and extent % size == 0 and step and within % step == 0 and step * extent % (within * size) == 0:
            alone = step == within and extent == size
            outer = step * extent == within * size and position != len(result) - 1
            preferences[position] = (not alone, not (alone and position == axis), target[position] != -1, not outer)
    return min(preferences, key=lambda position: (*preferences[position], position), default=None)


def _set_target(graph: ir.Graph, node: ir.Node, target: np.ndarray) -> None:
    name = f"{node.name}/shape"
    while name in graph.initializers:
        name += "'"
    value = ir.Value(name=name, const_value=ir.tensor(target, name=name))
    graph.register_initializer(value)
    node.replace_input_with(1, value)
