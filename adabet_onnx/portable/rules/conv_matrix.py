"""Depthwise convolutions of small images as matrix products, each channel's kernel written as a matrix.

With P positions in a channel of the result and Q in a channel of the image, the matrix is (P, Q); each of its elements
is an element of the kernel or 0. All samples of a channel then make one product. It multiplies more than necessary, but
ONNX Runtime computes a depthwise convolution whose weight is not a constant as one product for every sample and
channel, and likewise its transpose, which takes far longer while images are small.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir

from ...model.dims import dims
from ..builder import Builder
from .conv_geometry import Geometry


def weight_by_matrix(build: Builder, image: ir.Value, gradient: ir.Value, g: Geometry) -> ir.Value:
    """The gradient of the weight: the gradient of the matrices, (C, P, N) times (C, N, Q), summed by kernel element."""
    left = build.transpose(_channels_first(build, gradient, g.positions), [0, 2, 1])
    products = build.op("MatMul", left, _channels_first(build, image, g.pixels))
    flat = build.reshape(products, [g.channels, g.positions * g.pixels])
    return build.op("MatMul", flat, build.transpose(_incidence(build, gradient, g), [1, 0]))


def image_by_matrix(build: Builder, gradient: ir.Value, weight: ir.Value, g: Geometry) -> ir.Value:
    """The gradient of the convolved image: (C, N, P) times the matrices, (C, P, Q)."""
    products = build.op("MatMul", _channels_first(build, gradient, g.positions), _matrices(build, weight, g))
    return build.reshape(build.transpose(products, [1, 0, 2]), [dims(gradient)[0], g.channels, *g.size])


def result_by_matrix(build: Builder, image: ir.Value, weight: ir.Value, g: Geometry) -> ir.Value:
    """The convolution: (C, N, Q) times the matrices, (C, Q, P)."""
    products = channels_by_matrix(build, _channels_first(build, image, g.pixels), weight, g)
    return build.reshape(build.transpose(products, [1, 0, 2]), [dims(image)[0], g.channels, *g.out])


def channels_by_matrix(build: Builder, images: ir.Value, weight: ir.Value, g: Geometry) -> ir.Value:
    """The convolution of images with the channel axis first, (C, N, Q); the result is (C, N, P)."""
    return build.op("MatMul", images, _matrices(build, weight, g, transposed=True))


def _matrices(build: Builder, weight: ir.Value, g: Geometry, *, transposed: bool = False) -> ir.Value:
    """The matrix of each channel, (C, P, Q); transposed, (C, Q, P)."""
    met = _incidence(build, weight, g, transposed=transposed)
    matrices = build.op("MatMul", build.reshape(weight, [g.channels, g.taps]), met)
    return build.reshape(
        matrices, [g.channels, g.pixels, g.positions] if transposed else [g.channels, g.positions, g.pixels]
    )


def _channels_first(build: Builder, value: ir.Value, positions: int) -> ir.Value:
    """(N, C, ...) as (C, N, positions)."""
    shape = dims(value)
    return build.transpose(build.reshape(value, [shape[0], shape[1], positions]), [1, 0, 2])


def _incidence(build: Builder, like: ir.Value, g: Geometry, *, transposed: bool = False) -> ir.Value:
    """Which element of the result uses which element of the image at each kernel element: 1 or 0.

    (taps, P Q); transposed, (taps, Q P).
    """
    assert like.dtype is not None
    met = np.zeros((g.taps, g.positions, *g.size), like.dtype.numpy())
    for tap, offsets in enumerate(itertools.product(*map(range, g.kernel))):
        for position, place in enumerate(itertools.product(*map(range, g.out))):
            rows = zip(place, offsets, g.strides, g.dilations, g.begins, strict=True)
            at = tuple(o * s + k * d - b for o, k, s, d, b in rows)
            if all(0 <= i < n for i, n in zip(at, g.size, strict=True)):
                met[tap, position][at] = 1
    met = met.reshape(g.taps, g.positions, g.pixels)
    return build.constant((met.swapaxes(1, 2) if transposed else met).reshape(g.taps, -1), "meetings")
