"""Losses and their gradients with respect to the logits.

With x the logits, t the target and C classes:

cross-entropy    mean over labels of -sum_c q_c log softmax(x)_c, where q is 1 - s + s/C at the label and s/C elsewhere
                 (s: label smoothing; torch.nn.CrossEntropyLoss); gradient (softmax(x) - q) / count. With a weight w
                 for each class, q is multiplied by w_c, and the sum is divided by the sum of the labels' weights, as in
                 torch: gradient (softmax(x) sum_c q_c - q) / sum. (If all these weights are 0, it is divided by 1.)
mse              mean of (x - t)^2
l1               mean of |x - t|
bce-with-logits  mean of max(x, 0) - x t + log(1 + exp(-|x|))

Per-pixel or per-token labels equal to -100 are excluded from the cross-entropy and from its mean, as in torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..data.labels import IGNORED
from ..errors import UsageError
from ..model.dims import Dim, Dims, dims, product
from ..model.logits_axes import class_axis, label_shape
from .builder import Builder


@dataclass(frozen=True)
class Loss:
    """A loss in a graph.

    Attributes:
        labels: the graph input for the labels.
        value: the loss, float32 of shape ().
        gradient: its gradient with respect to the logits, in their shape; None if it was not requested.
    """

    labels: ir.Value
    value: ir.Value
    gradient: ir.Value | None


def build_loss(
    build: Builder,
    logits: ir.Value,
    loss: str,
    labels: str,
    *,
    label_smoothing: float = 0.0,
    class_weights: tuple[float, ...] | None = None,
    axis: int | None = None,
    gradient: bool = True,
) -> Loss:
    """Write a loss.

    Args:
        build: receives the nodes.
        logits: float32, with the batch first.
        loss: one of vocabulary.LOSSES.
        labels: name of the labels' input.
        label_smoothing: for cross-entropy, 0 to 1.
        class_weights: for cross-entropy, one for each class; an empty tuple means 1 for each (to predict the memory of
            a step before weights are known).
        axis: axis of the classes; see `class_axis`.
        gradient: also write the gradient.

    Raises:
        ModelError: the shape of the logits is unknown.
        UsageError: a wrong class axis, logits of shape (N,) with cross-entropy, or a wrong number of class weights.
    """
    shape = dims(logits)
    class_position = class_axis(shape, axis, loss)
    labels_input = ir.Value(
        name=labels,
        type=ir.TensorType(ir.DataType.INT64 if loss == "cross-entropy" else ir.DataType.FLOAT),
        shape=ir.Shape(label_shape(shape, class_position)),
    )
    if class_position is not None:
        targets = _Targets(class_position, label_smoothing, class_weights)
        value, seed = _cross_entropy(build, logits, labels_input, targets, gradient)
    else:
        value, seed = _ELEMENTWISE[loss](build, logits, labels_input, gradient)
    return Loss(labels_input, value, seed)


@dataclass(frozen=True)
class _Targets:
    """How labels become targets of the cross-entropy: axis of the classes, smoothing, and weights."""

    axis: int
    smoothing: float
    weights: tuple[float, ...] | None

    def class_weights(self, classes: int, one_each: list[int]) -> np.ndarray | None:
        """The weights as a constant that broadcasts over the logits."""
        if self.weights is None:
            return None
        if len(self.weights) not in (0, classes):
            raise UsageError(f"`class_weights` has {len(self.weights)} numbers, but there are {classes} classes.")
        return np.array(self.weights or [1.0] * classes, np.float32).reshape(one_each)


def _cross_entropy(
    build: Builder, x: ir.Value, labels: ir.Value, targets: _Targets, gradient: bool
) -> tuple[ir.Value, ir.Value | None]:
    shape, axis, smoothing = dims(x), targets.axis, targets.smoothing
    classes = shape[axis]
    assert isinstance(classes, int)
    z = build.sub(x, build.reduce("ReduceMax", x, [axis]))
    e = build.op("Exp", z)
    s = build.total(e, [axis])
    one_each = [1] * len(shape)
    one_each[axis] = classes
    index = build.constant(np.arange(classes, dtype=np.int64).reshape(one_each))
    expanded = build.op("Unsqueeze", labels, build.ints(axis))
    q = build.op("Cast", build.op("Equal", expanded, index), to=int(ir.DataType.FLOAT))
    weights, counts, mass = targets.class_weights(classes, one_each), None, None
    if weights is not None:
        weight_row = build.constant(weights)
        weighted = build.mul(q, weight_row)  # 0 where the label is ignored, since no class has its index
        counts = build.total(weighted, range(len(shape)))
    if smoothing:
        q = build.add(build.scale(q, 1 - smoothing), build.scalar(smoothing / classes, q))
    log = build.op("Log", s)
    if weights is not None:
        q = build.mul(q, weight_row) if smoothing else weighted
        mass = build.total(q, [axis])
        log = build.mul(log, mass)
    each = build.sub(log, build.total(build.mul(q, z), [axis]))
    valid = None
    if len(shape) > 2:
        ignored = build.op("Equal", expanded, build.constant(np.full([1] * len(shape), IGNORED, np.int64)))
        valid = build.sub(build.scalar(1, x), build.op("Cast", ignored, to=int(ir.DataType.FLOAT)))
        each = build.mul(each, valid)
    if counts is not None:
        count = build.add(counts, build.sub(build.scalar(1, counts), build.sign(counts)))  # 1 in place of 0
    elif valid is not None:
        count = build.at_least(build.total(valid, range(len(shape))), 1)
    else:
        count = _number(build, shape[:1], x)
    value = _total(build, build.div(each, count))
    if not gradient:
        return value, None
    shares = build.div(e, s)
    seed = build.sub(shares if mass is None else build.mul(shares, mass), q)
    if valid is not None:
        seed = build.mul(seed, valid)
    return value, build.div(seed, count)


def _mse(build: Builder, x: ir.Value, t: ir.Value, gradient: bool) -> tuple[ir.Value, ir.Value | None]:
    difference = build.sub(x, t)
    count = _number(build, dims(x), x)
    value = _total(build, build.div(build.mul(difference, difference), count))
    return value, build.div(build.scale(difference, 2), count) if gradient else None


def _l1(build: Builder, x: ir.Value, t: ir.Value, gradient: bool) -> tuple[ir.Value, ir.Value | None]:
    difference = build.sub(x, t)
    count = _number(build, dims(x), x)
    value = _total(build, build.div(build.op("Abs", difference), count))
    return value, build.div(build.sign(difference), count) if gradient else None


def _bce_with_logits(build: Builder, x: ir.Value, t: ir.Value, gradient: bool) -> tuple[ir.Value, ir.Value | None]:
    count = _number(build, dims(x), x)
    decayed = build.op("Exp", build.op("Neg", build.op("Abs", x)))
    softplus = build.op("Log", build.add(decayed, build.scalar(1, x)))
    each = build.add(build.sub(build.op("Relu", x), build.mul(x, t)), softplus)
    value = _total(build, build.div(each, count))
    return value, build.div(build.sub(build.op("Sigmoid", x), t), count) if gradient else None


_ELEMENTWISE = {"mse": _mse, "l1": _l1, "bce-with-logits": _bce_with_logits}


def _number(build: Builder, extents: Dims, like: ir.Value) -> ir.Value:
    """The number of elements, as a float with the rank of another value."""
    count: Dim = product(extents)
    rank = len(dims(like))
    if isinstance(count, int):
        return build.scalar(count, like)
    return build.reshape(build.op("Cast", build.runtime_dims([count]), to=int(ir.DataType.FLOAT)), [1] * rank)


def _total(build: Builder, value: ir.Value) -> ir.Value:
    return build.total(value, range(len(dims(value))), keepdims=False)
