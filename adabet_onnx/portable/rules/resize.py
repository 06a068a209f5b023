"""Resize: each axis is multiplied by a matrix of interpolation weights, its gradient by the transpose."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir

from ...model.dims import Dim, dims
from ..builder import Builder
from .registry import BackwardContext, Gradients, NodeView, rule

_MODES = ("nearest", "linear", "cubic")
_SPATIAL_RANKS = (1, 2, 3)  # number of spatial axes that pooling supports
_TRANSFORMS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
_ROUNDING = 1e-5  # larger than the error of single precision


def _resized(view: NodeView) -> dict[int, float] | None:
    """The scales of the resized axes; None if they are not constant."""
    shape, out = view.shape(0), view.out_shape(0)
    scales = dict.fromkeys(range(len(shape)), 1.0)
    given, sizes = view.array(2), view.array(3)
    if given is not None and given.size:
        axes = view.ints("axes") or list(range(len(shape)))
        scales |= {axis % len(shape): float(scale) for axis, scale in zip(axes, given.reshape(-1), strict=True)}
    elif view.has(3) and (sizes is None or sizes.size):  # the sizes need not be constant: the output's shape tells them
        pairs = enumerate(zip(shape, out, strict=True))
        scales |= {i: y / x for i, (x, y) in pairs if isinstance(x, int) and isinstance(y, int)}
    else:
        return None
    return {axis: scale for axis, scale in scales.items() if scale != 1 or shape[axis] != out[axis]}


def _check(view: NodeView) -> str | None:
    mode = view.string("mode", "nearest")
    transform = view.string("coordinate_transformation_mode", "half_pixel")
    if mode not in _MODES or transform not in _TRANSFORMS:
        return f"has the mode {mode!r} with the coordinates {transform!r}, which is not supported here"
    if view.string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "keeps the aspect ratio, which runtimes compute differently"
    scales = _resized(view)
    if scales is None:
        return "has scales that are not constant"
    for axis, scale in scales.items():
        size, count = view.shape(0)[axis], view.out_shape(0)[axis]
        if isinstance(size, str) or isinstance(count, str):
            return "resizes the batch"
        if size == count:
            # ONNX Runtime may leave such an axis unchanged; the definition does not.
            return f"has a scale of {scale} that does not change the size of axis {axis}"
        if mode == "nearest" and _matrix(view, axis, scale) is None:
            return f"samples, on axis {axis}, between two elements that not every runtime rounds to the same one"
    return None


@rule("Resize", inputs=(0,), check=_check)
def resize(context: BackwardContext) -> Gradients:
    """The gradient multiplied, along each resized axis, by the matrix of that axis."""
    scales = _resized(context)
    assert scales is not None
    matrices: dict[int, np.ndarray] = {}
    for axis, scale in scales.items():
        matrix = _matrix(context, axis, scale)
        assert matrix is not None
        matrices[axis] = matrix
    if not matrices:
        return {0: context.dy()}
    factors = {axis: _repeats(matrix) for axis, matrix in matrices.items()}
    if all(factors.values()):
        return {0: _sum_blocks(context.build, context.dy(), context.shape(0), factors)}
    gradient = context.dy()
    # The axis that shrinks most comes first, which leaves less work for the others.
    for axis in sorted(matrices, key=lambda axis: matrices[axis].shape[1] / matrices[axis].shape[0]):
        gradient = _times(context.build, gradient, axis, matrices[axis])
    return {0: gradient}


def _repeats(matrix: np.ndarray) -> int:
    """How often each element is repeated, if the matrix does nothing else; otherwise 0."""
    count, size = matrix.shape
    repeated = count % size == 0 and bool((matrix == np.repeat(np.eye(size), count // size, axis=0)).all())
    return count // size if repeated else 0


def _sum_blocks(build: Builder, gradient: ir.Value, shape: tuple[Dim, ...], factors: dict[int, int]) -> ir.Value:
    """The sum over the copies of each element."""
    rank = len(shape)
    if min(factors) >= 2 and rank - 2 in _SPATIAL_RANKS:
        kernel = [factors.get(axis, 1) for axis in range(2, rank)]
        average = build.op("AveragePool", gradient, kernel_shape=kernel, strides=kernel, shape=shape)
        return build.scale(average, math.prod(kernel))
    split: list[Dim] = []
    summed: list[int] = []
    for axis, d in enumerate(shape):
        split.append(d)
        if axis in factors:
            summed.append(len(split))
            split.append(factors[axis])
    return build.total(build.reshape(gradient, split), summed, keepdims=False)


def _times(build: Builder, value: ir.Value, axis: int, matrix: np.ndarray) -> ir.Value:
    """The value multiplied along an axis by the transpose of a matrix."""
    assert value.dtype is not None
    matrix = matrix.astype(value.dtype.numpy())
    shape = dims(value)
    result = [matrix.shape[1] if i == axis else d for i, d in enumerate(shape)]
    if axis == len(shape) - 1:
        return build.op("MatMul", value, build.constant(matrix), shape=result)
    rest = math.prod(int(d) for d in shape[axis + 1 :])
    rows = build.reshape(value, (*shape[: axis + 1], rest))
    left = build.constant(np.ascontiguousarray(matrix.T))
    product = build.op("MatMul", left, rows, shape=(*shape[:axis], matrix.shape[1], rest))
    return build.reshape(product, result)


def _matrix(view: NodeView, axis: int, scale: float) -> np.ndarray | None:
    """The interpolation weights of an axis; see `interpolation`."""
    return interpolation(
        int(view.shape(0)[axis]),
        int(view.out_shape(0)[axis]),
        scale,
        mode=view.string("mode", "nearest"),
        transform=view.string("coordinate_transformation_mode", "half_pixel"),
        rounding=view.string("nearest_mode", "round_prefer_floor"),
        cubic=view.float("cubic_coeff_a", -0.75),
        exclude_outside=bool(view.int("exclude_outside", 0)),
        antialias=bool(view.int("antialias", 0)),
    )


def interpolation(
    size: int,
    count: int,
    scale: float,
    *,
    mode: str,
    transform: str = "half_pixel",
    rounding: str = "round_prefer_floor",
    cubic: float = -0.75,
    exclude_outside: bool = False,
    antialias: bool = False,
) -> np.ndarray | None:
    """The matrix (count, size) that resizing multiplies an axis by, from the definition of the operator.

    Args:
        size: number of elements of the input.
        count: number of elements of the output.
        scale: about ``count / size``.
        mode: ``nearest``, ``linear`` or ``cubic``.
        transform: maps positions in the output to positions in the input.
        rounding: rounding of positions, with ``nearest``.
        cubic: the coefficient of ``cubic``.
        exclude_outside: whether elements outside the input have weight zero, rather than standing for the outermost
            one.
        antialias: whether the weights extend as far as the output's elements are apart.

    Returns:
        The weights; None if floating-point arithmetic decides which element is the nearest.
    """
    if mode == "nearest":
        return _nearest(size, count, scale, transform, rounding)
    places = np.array([_place(i, size, count, scale, transform, float) for i in range(count)])
    if mode == "linear" and not antialias:
        places = places.clip(0, size - 1)
    spread = max(1 / scale, 1.0) if antialias else 1.0
    reach = math.ceil((2 if mode == "cubic" else 1) * spread) + 1
    sources = np.floor(places)[:, None].astype(np.int64) + np.arange(-reach, reach + 1)
    distance = np.abs(sources - places[:, None]) / spread
    weights = _cubic(distance, cubic) if mode == "cubic" else (1 - distance).clip(0)
    if exclude_outside:
        weights = np.where((sources >= 0) & (sources < size), weights, 0)
    weights /= weights.sum(1, keepdims=True)
    matrix = np.zeros((count, size))
    np.add.at(matrix, (np.arange(count)[:, None], sources.clip(0, size - 1)), weights)
    return matrix


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def _nearest(size: int, count: int, scale: float, transform: str, rounding: str) -> np.ndarray | None:
    """The matrix of ``nearest``, or None if it depends on how positions are computed."""
    ratio = Fraction(count, size)
    exactly = ratio if abs(scale / ratio - 1) < _ROUNDING else Fraction(float(np.float32(scale)))
    single = np.float32(scale)
    matrix = np.zeros((count, size))
    for i in range(count):
        place = _place(i, size, count, exactly, transform, Fraction)
        slack = Fraction(_ROUNDING) * (1 + abs(place))
        below, nearest, above = (
            min(max(_rounded(x, rounding), 0), size - 1) for x in (place - slack, place, place + slack)
        )
        if below != above:  # on an edge: all runtimes agree only if no intermediate number is rounded
            met = Fraction(float(_place(i, size, count, single, transform, np.float32))) == place
            if not met or transform == "half_pixel_symmetric":
                return None
        matrix[i, nearest] = 1
    return matrix


def _rounded(place: Fraction, rounding: str) -> int:
    if rounding == "floor":
        return math.floor(place)
    if rounding == "ceil":
        return math.ceil(place)
    half = Fraction(1, 2)
    return math.floor(place + half) if rounding == "round_prefer_ceil" else math.ceil(place - half)


def _place(i: int, size: int, count: int, scale: Any, transform: str, kind: Callable[[int], Any]) -> Any:
    """The position in the input of element ``i`` of the output, in the arithmetic of ``kind``."""
    half = kind(1) / kind(2)
    if transform == "asymmetric":
        return kind(i) / scale
    if count == 1 and transform in ("align_corners", "pytorch_half_pixel"):
        return kind(0)
    if transform == "align_corners":
        return kind(i) * kind(size - 1) / kind(count - 1)
    place = (kind(i) + half) / scale - half
    if transform == "half_pixel_symmetric":
        place += kind(size) * half * (kind(1) - kind(count) / (scale * kind(size)))
    return place
