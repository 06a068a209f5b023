"""BatchNormalization, LayerNormalization, InstanceNormalization and GroupNormalization.

All of them compute x_hat = (x - mean) / std over some axes, then scale and shift it. With g the gradient of x_hat,

    dx = (g - mean(g) - x_hat mean(g x_hat)) / std

if the statistics are those of x itself, and dx = g / std if they are stored. The operator BatchNormalization computes
(x - mean) / std * scale + bias in one pass for given vectors, so it yields all of mean(g) + x_hat mean(g x_hat) at
once, in a view of x in which each set of elements that is normalized together is a channel.

Mean and variance of x are recomputed, in two passes, rather than kept. (LayerNormalization could compute x_hat in one
node, but it took 2.6 times as long as four plain nodes in onnxruntime 1.19, and 0.8 times in 1.32.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ...model.dims import Dim, Dims, dims, multiple, product, times
from ..builder import Builder
from .registry import BackwardContext, Gradients, NodeView, rule

_TRAINING_MODE = 14  # from this opset on, BatchNormalization has the attribute
_PER_CHANNEL = 21  # from this opset on, GroupNormalization's scale and bias are per channel


def _batch_normalization(
    build: Builder,
    x: ir.Value,
    scale: ir.Value,
    bias: ir.Value,
    mean: ir.Value,
    variance: ir.Value,
    *,
    epsilon: float,
) -> ir.Value:
    return build.op("BatchNormalization", x, scale, bias, mean, variance, epsilon=epsilon, shape=dims(x))


def _moments(build: Builder, x: ir.Value, axes: Sequence[int]) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Mean over axes, difference from it, and variance. (Two passes: a mean of squares would lose digits.)"""
    mean = build.reduce("ReduceMean", x, axes)
    centered = build.sub(x, mean)
    return mean, centered, build.reduce("ReduceMean", build.mul(centered, centered), axes)


def _inverse_std(build: Builder, variance: ir.Value, epsilon: float) -> ir.Value:
    """1 / sqrt(variance + epsilon)."""
    std = build.op("Sqrt", build.add(variance, build.scalar(epsilon, variance)))
    return build.div(build.scalar(1, std), std)


def _filled(build: Builder, number: float, like: ir.Value) -> ir.Value:
    """A constant with the static shape of another value, filled with a number."""
    assert like.dtype is not None
    shape = [d for d in dims(like) if isinstance(d, int)]
    return build.constant(np.full(shape, number, like.dtype.numpy()))


def _over(build: Builder, value: ir.Value, count: Dim) -> ir.Value:
    """A vector divided by a number of elements that may depend on the batch."""
    if isinstance(count, int):
        return build.scale(value, 1 / count)
    return build.div(value, build.scale(build.cast_like(build.batch_size(), value), multiple(count)))


def _flat(build: Builder, value: ir.Value) -> ir.Value:
    return build.reshape(value, (product(dims(value)),))


def _static(shape: Sequence[Dim]) -> bool:
    return all(isinstance(d, int) for d in shape)


# BatchNormalization


def _is_training(view: NodeView) -> bool:
    return view.opset >= _TRAINING_MODE and view.int("training_mode", 0) != 0


def _check_batch_normalization(view: NodeView) -> str | None:
    if view.opset < _TRAINING_MODE and any(value.name for value in view.node.outputs[1:]):
        return f"has outputs for training, which before opset {_TRAINING_MODE} runtimes do not compute"
    if not _static(view.shape(1)):
        return "has a number of channels that depends on the batch"
    if _is_training(view) and sum(isinstance(d, str) for d in view.shape()) > 1:
        return "has the batch in two dimensions"
    return None


@rule("BatchNormalization", inputs=(0, 1, 2), check=_check_batch_normalization)
def batch_normalization(context: BackwardContext) -> Gradients:
    """With stored statistics, an affine function of each channel; otherwise the formula above."""
    return _by_batch(context) if _is_training(context) else _by_stored(context)


def _by_stored(context: BackwardContext) -> Gradients:
    build, dy, scale, epsilon = context.build, context.dy(), context.x(1), context.float("epsilon", 1e-5)
    axes = [i for i in range(len(context.shape())) if i != 1]
    mean, variance = context.x(3), context.x(4)
    gradients = {}
    if context.needs_gradient(0):  # the same node without its shift
        zeros = _filled(build, 0, scale)
        gradients[0] = _batch_normalization(build, dy, scale, zeros, zeros, variance, epsilon=epsilon)
    if context.needs_gradient(1):
        ones, zeros = _filled(build, 1, scale), _filled(build, 0, scale)
        x_hat = _batch_normalization(build, context.x(0), ones, zeros, mean, variance, epsilon=epsilon)
        gradients[1] = build.total(build.mul(dy, x_hat), axes, keepdims=False)
    if context.needs_gradient(2):
        gradients[2] = build.total(dy, axes, keepdims=False)
    return gradients


def _by_batch(context: BackwardContext) -> Gradients:
    build, dy, scale, epsilon = context.build, context.dy(), context.x(1), context.float("epsilon", 1e-5)
    axes = [i for i in range(len(context.shape())) if i != 1]
    gradients = {}
    if context.needs_gradient(0) or context.needs_gradient(2):
        gradients[2] = build.total(dy, axes, keepdims=False)
    if context.needs_gradient(0) or context.needs_gradient(1):
        mean, centered, variance = _moments(build, context.x(0), axes)
        mean, variance = _flat(build, mean), _flat(build, variance)
        inverse = _inverse_std(build, variance, epsilon)
        gradients[1] = build.mul(build.total(build.mul(dy, centered), axes, keepdims=False), inverse)
    if context.needs_gradient(0):
        count = product(d for i, d in enumerate(context.shape()) if i != 1)
        factor = build.mul(scale, inverse)
        slope, shift = (build.mul(factor, _over(build, gradients[i], count)) for i in (1, 2))
        zeros = _filled(build, 0, scale)
        direct = _batch_normalization(build, dy, scale, zeros, zeros, variance, epsilon=epsilon)
        through = _batch_normalization(build, context.x(0), slope, shift, mean, variance, epsilon=epsilon)
        gradients[0] = build.sub(direct, through)
    return {position: gradients[position] for position in context.gradient_inputs}


# LayerNormalization


def _check_layer_normalization(view: NodeView) -> str | None:
    shape = view.shape()
    axis = view.int("axis", -1) % len(shape)
    if not _static(shape[axis:]):
        return "normalizes over the batch"
    if view.shape(1) != shape[axis:]:
        return f"has a scale of shape {view.shape(1)} for normalized dimensions {shape[axis:]}"
    if view.has(2) and view.shape(2) != shape[axis:]:
        return f"has a bias of shape {view.shape(2)} for normalized dimensions {shape[axis:]}"
    if sum(isinstance(d, str) for d in shape) > 1:
        return "has the batch in two dimensions"
    return None


@rule("LayerNormalization", inputs=(0, 1, 2), check=_check_layer_normalization)
def layer_normalization(context: BackwardContext) -> Gradients:
    """The formula above; the elements normalized together form a row, along which the scale varies."""
    build, shape, epsilon = context.build, context.shape(), context.float("epsilon", 1e-5)
    axis = context.int("axis", -1) % len(shape)
    rows, width = product(shape[:axis]), math.prod(d for d in shape[axis:] if isinstance(d, int))
    dy = build.reshape(context.dy(), (1, rows, width))
    gradients = {}
    if context.needs_gradient(2):
        gradients[2] = build.reshape(build.total(dy, [0, 1]), context.shape(2))
    if not (context.needs_gradient(0) or context.needs_gradient(1)):
        return gradients
    x = build.reshape(context.x(0), (1, rows, width))
    mean, centered, variance = _moments(build, x, [2])
    inverse = _inverse_std(build, variance, epsilon)
    if context.needs_gradient(1):  # summed over the rows by a product with 1 / std, which saves a pass
        weights = build.reshape(inverse, (1, rows))
        products = build.reshape(build.mul(dy, centered), (rows, width))
        gradients[1] = build.reshape(build.op("MatMul", weights, products, shape=(1, width)), context.shape(1))
    if context.needs_gradient(0):
        g = build.mul(dy, build.reshape(context.x(1), (1, 1, width)))
        shift = build.mul(build.reduce("ReduceMean", g, [2]), inverse)
        slope = build.mul(build.reduce("ReduceMean", build.mul(g, centered), [2]), build.mul(inverse, inverse))
        vectors = [_flat(build, value) for value in (slope, shift, mean, variance)]
        gradient = build.sub(build.mul(g, inverse), _batch_normalization(build, x, *vectors, epsilon=epsilon))
        gradients[0] = build.reshape(gradient, shape)
    return gradients


# InstanceNormalization and GroupNormalization


def _check_groups(view: NodeView) -> str | None:
    shape = view.shape()
    if not _static(shape[1:]):
        return "has channels or spatial dimensions that depend on the batch"
    return None


@rule("InstanceNormalization", inputs=(0, 1, 2), check=_check_groups)
def instance_normalization(context: BackwardContext) -> Gradients:
    """The formula above; each channel is a group."""
    channels = context.shape(1)[0]
    assert isinstance(channels, int)
    return _by_group(context, channels, context.x(1) if context.needs_gradient(0) else None)


@rule("GroupNormalization", inputs=(0, 1, 2), check=_check_groups)
def group_normalization(context: BackwardContext) -> Gradients:
    """The formula above for each group of channels."""
    build, groups, channels = context.build, context.int("num_groups", 1), context.shape()[1]
    assert isinstance(channels, int)
    if context.opset >= _PER_CHANNEL:
        return _by_group(context, groups, context.x(1) if context.needs_gradient(0) else None)
    each = channels // groups
    scale = None
    if context.needs_gradient(0):
        scale = build.expand(build.reshape(context.x(1), (groups, 1)), (groups, each))
    gradients = _by_group(context, groups, scale)
    for position in gradients.keys() - {0}:
        summed = build.total(build.reshape(gradients[position], (groups, each)), [1])
        gradients[position] = build.reshape(summed, context.shape(position))
    return gradients


def _by_group(context: BackwardContext, groups: int, scale: ir.Value | None) -> Gradients:
    """Gradients of the input and of a scale and bias per channel.

    Args:
        context: the node in the backward pass.
        groups: number of groups into which the channels are divided.
        scale: one element per channel; None if the input needs no gradient.
    """
    build, shape, epsilon = context.build, context.shape(), context.float("epsilon", 1e-5)
    samples, channels = shape[0], math.prod(d for d in shape[1:2] if isinstance(d, int))
    area = math.prod(d for d in shape[2:] if isinstance(d, int))
    each = channels // groups
    by_channel: Dims = (samples, channels, area)
    by_group: Dims = (samples, groups, each)
    dy = build.reshape(context.dy(), by_channel)
    gradients = {}
    if context.needs_gradient(0) or context.needs_gradient(2):
        shift = build.total(dy, [2])
    if context.needs_gradient(2):
        gradients[2] = build.reshape(build.total(shift, [0]), (channels,))
    if not (context.needs_gradient(0) or context.needs_gradient(1)):
        return gradients
    x = build.reshape(context.x(0), (samples, groups, each * area))
    mean, centered, variance = _moments(build, x, [2])
    inverse = _inverse_std(build, variance, epsilon)
    slope = build.total(build.mul(dy, build.reshape(centered, by_channel)), [2])
    slope = build.mul(build.reshape(slope, by_group), inverse)
    if context.needs_gradient(1):
        gradients[1] = build.reshape(build.total(slope, [0]), (channels,))
    if scale is not None:
        factor = build.mul(build.reshape(scale, (1, groups, each)), inverse)
        direct = build.mul(dy, build.reshape(factor, (samples, channels, 1)))
        # factor already contains 1 / std, by which the sums of slope and shift are multiplied.
        sums = [build.mul(build.reshape(value, by_group), factor) for value in (slope, shift)]
        means = [build.scale(build.total(value, [2]), 1 / (each * area)) for value in sums]
        vectors = [_flat(build, value) for value in (*means, mean, variance)]
        rows = build.reshape(x, (1, times(samples, groups), each * area))
        through = _batch_normalization(build, rows, *vectors, epsilon=epsilon)
        gradients[0] = build.reshape(build.sub(direct, build.reshape(through, by_channel)), shape)
    return gradients
