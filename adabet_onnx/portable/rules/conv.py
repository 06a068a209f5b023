"""Convolutions and their transposes."""

from __future__ import annotations

import onnx_ir as ir

from ...model.dims import dims
from ..builder import Builder
from .conv_geometry import Geometry, check, geometry
from .conv_matrix import image_by_matrix
from .conv_strategy import by_matrix
from .conv_weight import crop, weight_gradient
from .registry import BackwardContext, Gradients, rule

_FEW_CHANNELS = 8
_LARGE = 128  # positions


@rule("Conv", check=check)
def conv(context: BackwardContext) -> Gradients:
    """The image's gradient is a transposed convolution of the output's gradient."""
    g = geometry(context)
    gradients: Gradients = {}
    if context.needs_gradient(0):
        frozen = context.array(1) is not None and not context.needs_gradient(1)
        gradients[0] = image_gradient(context.build, context.dy(), context.x(1), g, frozen=frozen)
    if context.needs_gradient(1):
        gradients[1] = weight_gradient(context.build, context.x(0), context.dy(), g)
    return gradients | _bias(context)


@rule("ConvTranspose", check=check)
def conv_transpose(context: BackwardContext) -> Gradients:
    """Image and result swap roles: the input's gradient is a convolution of the output's gradient."""
    b, g = context.build, geometry(context)
    gradients: Gradients = {}
    if context.needs_gradient(0):
        gradients[0] = _convolved(b, context.dy(), context.x(1), g)
    if context.needs_gradient(1):
        gradients[1] = weight_gradient(b, context.dy(), context.x(0), g)
    return gradients | _bias(context)


def image_gradient(build: Builder, gradient: ir.Value, weight: ir.Value, g: Geometry, *, frozen: bool) -> ir.Value:
    """The gradient of the convolved image, by ConvTranspose, by Conv with a flipped weight, or by matrix products.

    Args:
        build: makes the nodes.
        gradient: gradient of the result.
        weight: the kernel.
        g: the geometry of the convolution.
        frozen: whether the weight is a constant.
    """
    if not frozen and by_matrix(g):
        return image_by_matrix(build, gradient, weight, g)
    flipped = not g.strided and (_flip_frozen(g) if frozen else _flip_trained(g))
    return (by_conv if flipped else by_conv_transpose)(build, gradient, weight, g)


# Measured by tests/benchmarks/bench_conv_rules.py.


def _flip_frozen(g: Geometry) -> bool:
    """Whether a flipped constant weight is faster.

    ONNX Runtime folds the flip away, and its Conv of a constant is 1.2 times as fast as ConvTranspose, and up to 7
    times when depthwise. This does not hold for few channels or a single window, nor for 1x1 on large images, which it
    copies.
    """
    if g.groups == 1 and g.channels <= _FEW_CHANNELS:
        return False
    if g.taps == 1:
        return g.groups > 1 or g.positions < _LARGE
    return g.positions > 1


def _flip_trained(g: Geometry) -> bool:
    """Whether a flipped trained weight is better.

    Both take equally long. Conv copies the weight; ConvTranspose makes the columns of an image, which need less memory
    than those copies in deep layers. Neither applies to 1x1, for which Conv is faster.
    """
    if g.groups > 1 or g.channels <= _FEW_CHANNELS:
        return False
    copies, columns = 2 * g.features, g.positions  # each times channels and kernel elements
    return g.taps == 1 or copies <= columns


def by_conv_transpose(build: Builder, gradient: ir.Value, weight: ir.Value, g: Geometry) -> ir.Value:
    """ConvTranspose with the weight unchanged."""
    return build.op(
        "ConvTranspose",
        gradient,
        weight,
        group=g.groups,
        dilations=list(g.dilations),
        output_padding=[max(-end, 0) for end in g.ends],
        pads=[*g.begins, *(max(end, 0) for end in g.ends)],
        # On an axis with one element any stride works; output_padding must be smaller than it.
        strides=[max(s, 1 - end) for s, end in zip(g.strides, g.ends, strict=True)],
        shape=[dims(gradient)[0], g.channels, *g.size],
    )


def by_conv(build: Builder, gradient: ir.Value, weight: ir.Value, g: Geometry) -> ir.Value:
    """Conv with the weight flipped; only for a convolution without strides."""
    margins = [(k - 1) * d for k, d in zip(g.kernel, g.dilations, strict=True)]
    begins = [m - b for m, b in zip(margins, g.begins, strict=True)]
    ends = [m - e for m, e in zip(margins, g.ends, strict=True)]
    convolved = build.op(
        "Conv",
        gradient,
        _flip(build, weight, g),
        group=g.groups,
        dilations=list(g.dilations),
        pads=[max(p, 0) for p in (*begins, *ends)],
    )
    # Padding beyond the kernel's margin: the gradient of the padding is cropped.
    return crop(build, convolved, [max(-b, 0) for b in begins], g.size)


def _flip(build: Builder, weight: ir.Value, g: Geometry) -> ir.Value:
    """The weight with its channel axes swapped, (C, O/g, ...), and every spatial axis reversed."""
    if not g.depthwise:
        split = (g.groups, g.group_features, g.group_channels, *g.kernel)
        weight = build.transpose(build.reshape(weight, split), [0, 2, 1, *range(3, g.rank + 3)])
    weight = build.reshape(weight, (g.channels, g.group_features, *g.kernel))
    turned = [(axis, k) for axis, k in enumerate(g.kernel, 2) if k > 1]
    if not turned:
        return weight
    starts, ends, steps = [-1] * len(turned), [-1 - k for _, k in turned], [-1] * len(turned)
    axes = [axis for axis, _ in turned]
    inputs = [build.ints(*numbers) for numbers in (starts, ends, axes, steps)]
    return build.op("Slice", weight, *inputs, shape=dims(weight))


def _convolved(build: Builder, image: ir.Value, weight: ir.Value, g: Geometry) -> ir.Value:
    """The convolution with this geometry."""
    convolved = build.op(
        "Conv",
        image,
        weight,
        group=g.groups,
        dilations=list(g.dilations),
        pads=[*g.begins, *(max(end, 0) for end in g.ends)],
        strides=list(g.strides),
    )
    return crop(build, convolved, [0] * g.rank, g.out)


def _bias(context: BackwardContext) -> Gradients:
    """The bias's gradient: the sum over samples and positions."""
    if not context.needs_gradient(2):
        return {}
    axes = [axis for axis in range(len(context.out_shape())) if axis != 1]
    return {2: context.build.total(context.dy(), axes, keepdims=False)}
