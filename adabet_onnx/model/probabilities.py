"""Recognise probabilities in their different forms, and the logits that they are computed from.

A loss is computed from logits. Exporters write the last step from logits to probabilities as Softmax, LogSoftmax or
Sigmoid, or write it out: Exp, ReduceSum and Div, with or without the largest value subtracted; x - ReduceLogSumExp(x);
1 / (1 + Exp(-x)); for two classes the columns 1 - p and p.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from .uses import input_of, made_by

Kind = Literal["probabilities", "log-probabilities", "sigmoid", "two columns"]

SHAPE_ONLY = frozenset({"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Expand"})
_AS_IT_IS = frozenset({"Identity", "Cast"})
_LEAST_SPAN = 0.25
_BOUNDED = frozenset({"Clip", "Max", "Min"})  # these keep probabilities, or their sum, away from 0
# Further operators after logits: the largest values and their indices, rounding, comparing, rescaling.
AFTER_LOGITS = frozenset(
    {
        *SHAPE_ONLY,
        *_BOUNDED,
        *("Softmax", "LogSoftmax", "Sigmoid", "Exp", "Log", "Neg", "Reciprocal", "Add", "Sub", "Mul", "Div"),
        *("ReduceSum", "ReduceMax", "ReduceLogSumExp", "Concat", "TopK", "ArgMax", "ArgMin", "Gather", "Slice"),
        *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Where", "Round", "Shape", "Hardmax"),
    }
)


@dataclass(frozen=True)
class Tail:
    """How a value is computed from logits.

    Attributes:
        logits: the value that a loss is computed from; for two columns, the one number they are computed from.
        kind: ``probabilities`` of classes, their logarithms, independent probabilities of each output (``sigmoid``), or
            probabilities of two classes from one number (``two columns``).
        axes: axes of the logits over which probabilities sum to 1 (negative ones count from the end); empty for a
            sigmoid.
        flipped: for two columns, whether they are in the order (p, 1 - p).
    """

    logits: ir.Value
    kind: Kind
    axes: tuple[int, ...] = ()
    flipped: bool = False


def tail_of(value: ir.Value | None) -> Tail | None:
    """How a value is computed from logits, or None if the form is not recognised.

    Recognised are the forms in the module's docstring, followed by changes of shape or type, clipping away from 0 and
    1, the values of a TopK, logarithms. A division by a temperature before a Softmax is part of the logits. Not
    recognised are a Softmax of a graph input, and probabilities used in further computations.
    """
    value = _behind(value)
    node = None if value is None else value.producer()
    if value is None or node is None or node.domain not in ("", "ai.onnx"):
        return None
    tail = _named(node) or _written_out(node)
    if tail is None and node.op_type in _BOUNDED:
        tail = tail_of(_other(node))
    if tail is None and node.op_type == "TopK" and value.index() == 0:
        tail = tail_of(node.inputs[0])
    return tail if tail is not None and tail.logits.producer() is not None else None


def is_class_axis(axes: Sequence[int], shape: Sequence[int] | None) -> bool:
    """Whether probabilities that sum to 1 over these axes are those of classes.

    The classes are axis 1 of (N, C), the last of three axes, and axis 1 or the last of more (pixels); or the only axis
    other than the batch that is longer than 1. A Softmax over another axis, for example tokens, computes weights and
    is kept.

    Args:
        axes: axes of the logits; several if only one of them is longer than 1.
        shape: shape of the logits, the batch first; None if unknown: then any axis but the first is accepted.
    """
    if shape is None:
        return 0 not in axes
    rank = len(shape)
    over = [axis % rank for axis in axes if -rank <= axis < rank]
    long = [axis for axis in range(1, rank) if shape[axis] > 1]
    if not over or 0 in over:
        return False
    if set(long) <= set(over) and len(long) <= 1:
        return True
    classes = {rank - 1} if rank == 3 else {1, rank - 1}
    only = [axis for axis in over if axis in long] or over
    return len(only) == 1 and only[0] in classes


def _behind(value: ir.Value | None, through: Collection[str] = SHAPE_ONLY) -> ir.Value | None:
    """The value before changes of shape or type."""
    while value is not None:
        node = value.producer()
        if node is None or node.op_type not in through or not node.inputs:
            return value
        value = node.inputs[0]
    return None


def _made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that produces a value, ignoring changes of shape, if it has one of these operators."""
    value = _behind(value)
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in op_types and node.domain in ("", "ai.onnx") else None


def _other(node: ir.Node) -> ir.Value | None:
    """The one input that is not constant, if there is exactly one."""
    values = [value for value in node.inputs if value is not None and _number(value) is None]
    return values[0] if len(values) == 1 else None


def _number(value: ir.Value | None) -> float | None:
    """The number that all elements of a constant have; None for anything else."""
    value = _behind(value)
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size < 1 or tensor.size > 4096 or tensor.dtype == ir.DataType.STRING:
        return None
    array = tensor.numpy().ravel()
    return float(array[0]) if (array == array[0]).all() else None


def _same(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Whether two values are the same, in the same layout."""
    return one is not None and _behind(one, _AS_IT_IS) is _behind(other, _AS_IT_IS)


def _named(node: ir.Node) -> Tail | None:
    source = node.inputs[0] if node.inputs else None
    if source is None:
        return None
    if node.op_type in ("Softmax", "LogSoftmax"):
        old = (node.version or _opset(node)) < 13  # it covered all axes from this one on
        axis = node.attributes.get_int("axis", 1 if old else -1)
        axes = tuple(range(axis, 32)) if old and axis >= 0 else (axis,)
        return Tail(source, "probabilities" if node.op_type == "Softmax" else "log-probabilities", axes)
    return Tail(source, "sigmoid") if node.op_type == "Sigmoid" else None


def _opset(node: ir.Node) -> int:
    graph = node.graph
    return (graph.opset_imports.get("") or 13) if isinstance(graph, ir.Graph) else 13


def _written_out(node: ir.Node) -> Tail | None:
    a, b = (*node.inputs, None, None)[:2]
    if node.op_type == "Div":
        return _sigmoid(b) if _number(a) == 1 else _quotient(a, b)
    if node.op_type == "Reciprocal":
        return _sigmoid(a)
    if node.op_type == "Mul":
        for left, right in ((a, b), (b, a)):
            inverse = _made_by(right, "Reciprocal")
            tail = None if inverse is None else _quotient(left, inverse.inputs[0])
            if tail is not None:
                return tail
    if node.op_type == "Sub":
        return _difference(a, b)
    if node.op_type == "Log":
        inner = tail_of(a)
        return Tail(inner.logits, "log-probabilities", inner.axes) if inner and inner.kind == "probabilities" else None
    if node.op_type == "Exp":
        inner = tail_of(a)
        return Tail(inner.logits, "probabilities", inner.axes) if inner and inner.kind == "log-probabilities" else None
    return _columns(node) if node.op_type == "Concat" and len(node.inputs) == 2 else None


def _quotient(top: ir.Value | None, bottom: ir.Value | None) -> Tail | None:
    """Exp(x) / ReduceSum(Exp(x)), with possibly a small number added to the sum."""
    whole = _behind(top, _AS_IT_IS)
    exp = None if whole is None else whole.producer()
    total = _made_by(bottom, "ReduceSum", "Add", *_BOUNDED)
    if total is not None and total.op_type != "ReduceSum":
        small = [number for value in total.inputs if (number := _number(value)) is not None]
        total = _made_by(_other(total), "ReduceSum") if small and max(map(abs, small)) < 1e-3 else None
    if exp is None or exp.op_type != "Exp" or total is None or not _same(total.inputs[0], top):
        return None
    axes = _axes(total)
    return None if axes is None else Tail(_unshifted(exp.inputs[0]), "probabilities", axes)


def _difference(x: ir.Value | None, y: ir.Value | None) -> Tail | None:
    """x - ReduceLogSumExp(x), or x - Log(ReduceSum(Exp(x)))."""
    total = _made_by(y, "ReduceLogSumExp")
    if total is not None:
        source = total.inputs[0]
    else:
        log = _made_by(y, "Log")
        total = None if log is None else _made_by(log.inputs[0], "ReduceSum")
        exp = None if total is None else _made_by(total.inputs[0], "Exp")
        source = None if exp is None else exp.inputs[0]
    if total is None or source is None or not _same(source, x):
        return None
    axes = _axes(total)
    return None if axes is None else Tail(_unshifted(x), "log-probabilities", axes)


def _unshifted(value: ir.Value | None) -> ir.Value:
    """x, where the value is x - ReduceMax(x), which changes no probability; else the value."""
    assert value is not None
    node = _made_by(value, "Sub")
    if node is None:
        return value
    most = _made_by(node.inputs[1], "ReduceMax", *_BOUNDED)
    if most is not None and most.op_type in _BOUNDED:  # jax.nn.softmax guards against -inf
        most = _made_by(_other(most), "ReduceMax")
    source = node.inputs[0]
    return source if most is not None and source is not None and _same(most.inputs[0], source) else value


def _sigmoid(bottom: ir.Value | None) -> Tail | None:
    """Recognise 1 / (1 + Exp(-x)) by its divisor."""
    total = _made_by(bottom, "Add")
    if total is None or 1 not in map(_number, total.inputs):
        return None
    exp = _made_by(_other(total), "Exp")
    minus = None if exp is None else _made_by(exp.inputs[0], "Neg", "Mul")
    if minus is None or (minus.op_type == "Mul" and -1 not in map(_number, minus.inputs)):
        return None
    source = _other(minus)
    return None if source is None else Tail(source, "sigmoid")


def _columns(node: ir.Node) -> Tail | None:
    """Concat of 1 - p and p, in either order."""
    axis = node.attributes.get_int("axis", 0)
    for flipped, (complement, p) in ((False, tuple(node.inputs)), (True, tuple(reversed(node.inputs)))):
        one_minus = _made_by(complement, "Sub", "Add")
        if one_minus is None:
            continue
        if one_minus.op_type == "Sub":
            subtracted = one_minus.inputs[1] if _number(one_minus.inputs[0]) == 1 else None
        else:
            minus = _made_by(_other(one_minus), "Neg")
            subtracted = minus.inputs[0] if minus is not None and 1 in map(_number, one_minus.inputs) else None
        inner = tail_of(p) if subtracted is not None and _behind(subtracted) is _behind(p) else None
        if inner is not None and inner.kind == "sigmoid":
            return Tail(inner.logits, "two columns", (axis,), flipped)
    return None


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes of a reduction, from an attribute or a constant input; None if over all axes, or unknown."""
    if "axes" in node.attributes:
        return tuple(node.attributes.get_ints("axes", ()))
    axes = input_of(node, 1)
    tensor = None if axes is None else ir.convenience.get_const_tensor(axes)
    return None if tensor is None or tensor.size == 0 else tuple(int(axis) for axis in np.ravel(tensor.numpy()))


def behind_shape(value: ir.Value) -> tuple[ir.Value, list[ir.Node]]:
    """The value before changes of shape or type, and the nodes that perform them, the last first."""
    nodes = []
    while (node := value.producer()) is not None and node.op_type in SHAPE_ONLY and node.inputs[0] is not None:
        nodes.append(node)
        value = node.inputs[0]
    return value, nodes


def made_from(value: ir.Value, logits: ir.Value) -> bool:
    """Whether a value is computed from the logits and constants alone, by operators that follow logits.

    It may depend on the shapes of other values.
    """
    return made_by(value, logits, AFTER_LOGITS)


def describe_probabilities(outputs: Sequence[np.ndarray]) -> str | None:
    """Describe outputs that look like probabilities, given several samples with small and large inputs; None if not.

    Probabilities are nonnegative numbers whose rows sum to the same number, such as 1 or 100, along one axis; or minus
    the logarithms of such numbers; or numbers in [0, 1] throughout that span at least a quarter of that range (a few
    small outputs may lie in it by chance). Constant outputs prove nothing.

    Args:
        outputs: outputs of the model, the batch first, one array for each run.
    """
    arrays = [np.asarray(array, np.float64) for array in outputs]
    if not arrays or any(array.ndim < 1 or not array.size or not np.isfinite(array).all() for array in arrays):
        return None
    if any(array.min() < -1e-6 for array in arrays) or all(np.ptp(array) < 1e-6 for array in arrays):
        return None
    bounded = all(array.max() <= 1 + 1e-6 for array in arrays)
    for axis in range(1, arrays[0].ndim):
        if arrays[0].shape[axis] < 2:
            continue
        total = _common_sum(arrays, axis)
        if total is not None:
            return f"numbers in [0, {total:g}] that sum to {total:g} along axis {axis}"
        if _common_sum([np.exp(-array) for array in arrays], axis) == 1:
            return f"minus the logarithms of numbers that sum to 1 along axis {axis}"
    if not bounded or max(np.ptp(array) for array in arrays) < _LEAST_SPAN:
        return None
    single = all(math.prod(array.shape[1:]) == 1 for array in arrays)
    return "one number in [0, 1]" if single else "numbers in [0, 1]"


def _common_sum(arrays: Sequence[np.ndarray], axis: int) -> float | None:
    """The common sum of all rows along an axis, to three digits; None if they differ, or if it is zero."""
    sums = np.concatenate([array.sum(axis).ravel() for array in arrays])
    total = float(f"{sums.mean():.3g}")
    return total if total > 0 and np.abs(sums - total).max() < 1e-3 * total else None
