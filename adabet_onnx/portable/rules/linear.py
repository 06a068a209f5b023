"""Matrix products: MatMul and Gemm.

The gradient of a weight matrix is one Gemm over all rows (for example, all tokens), and so is the gradient of the rows.
Gemm reads a transposed matrix in place; a Transpose of a frozen weight would be folded into a second copy of it when a
session is created (for 96 MB of weights, sessions grew by 281 instead of 249 MB in onnxruntime 1.32 and by 518 instead
of 298 MB in 1.19, in the same time).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...model.dims import Dim, Dims, dims, product
from ..builder import Builder
from .registry import BackwardContext, Gradients, rule


def _transposed(build: Builder, value: ir.Value) -> ir.Value:
    rank = len(dims(value))
    return build.transpose(value, [*range(rank - 2), rank - 1, rank - 2])


def _rows(extents: Sequence[Dim]) -> Dim | None:
    """The product of dimensions, or None if it is no multiple of the batch."""
    return None if sum(isinstance(d, str) for d in extents) > 1 else product(extents)


@rule("MatMul")
def matmul(context: BackwardContext) -> Gradients:
    """dA = dY B^T and dB = A^T dY, summed over the axes along which A or B was broadcast."""
    # A vector on the left is a matrix of one row, one on the right a matrix of one column.
    left_shape, right_shape, full = context.shape(0), context.shape(1), list(context.out_shape())
    if len(right_shape) == 1:
        right_shape = (*right_shape, 1)
        full.append(1)
    if len(left_shape) == 1:
        left_shape = (1, *left_shape)
        full.insert(len(full) - 1, 1)
    one_matrix = all(d == 1 for d in right_shape[:-2]) and _rows(full[:-1]) is not None
    gradients = (_by_one_matrix if one_matrix else _by_matrices)(context, left_shape, right_shape, tuple(full))
    return {
        position: context.build.reshape(gradient, context.shape(position)) for position, gradient in gradients.items()
    }


def _by_one_matrix(context: BackwardContext, left_shape: Dims, right_shape: Dims, full: Dims) -> Gradients:
    """The right operand is one matrix: all rows of the left one are multiplied by it."""
    build, gradients = context.build, {}
    rows, inner, width = product(full[:-1]), left_shape[-1], full[-1]
    dy = build.reshape(context.dy(), (rows, width))
    if context.needs_gradient(0):
        right = build.reshape(context.x(1), (inner, width))
        gradients[0] = build.op("Gemm", dy, right, transB=1, shape=(rows, inner))
    if context.needs_gradient(1):
        left = build.reshape(context.x(0), (rows, inner))
        gradients[1] = build.op("Gemm", left, dy, transA=1, shape=(inner, width))
    return gradients


def _by_matrices(context: BackwardContext, left_shape: Dims, right_shape: Dims, full: Dims) -> Gradients:
    """Both operands are stacks of matrices, or the left one is a matrix and the right one a stack."""
    build, gradients = context.build, {}
    *batch, height, width = full
    inner, dy = left_shape[-1], build.reshape(context.dy(), full)
    if context.needs_gradient(0):
        right = _transposed(build, build.reshape(context.x(1), right_shape))
        gradient = build.op("MatMul", dy, right, shape=(*batch, height, inner))
        gradients[0] = build.sum_to(gradient, left_shape)
    if context.needs_gradient(1):
        left = _transposed(build, build.reshape(context.x(0), left_shape))
        gradient = build.op("MatMul", left, dy, shape=(*batch, inner, width))
        gradients[1] = build.sum_to(gradient, right_shape)
    return gradients


@rule("Gemm")
def gemm(context: BackwardContext) -> Gradients:
    """Y = alpha A' B' + beta C, where A' and B' may be transposed: dA' = alpha dY B'^T, dB' = alpha A'^T dY."""
    build, dy, gradients = context.build, context.dy(), {}
    flip_a, flip_b, alpha = context.int("transA", 0), context.int("transB", 0), context.float("alpha", 1)
    if context.needs_gradient(0):
        b, shape = context.x(1), context.shape(0)
        if flip_a:
            gradients[0] = build.op("Gemm", b, dy, transA=flip_b, transB=1, alpha=alpha, shape=shape)
        else:
            gradients[0] = build.op("Gemm", dy, b, transB=1 - flip_b, alpha=alpha, shape=shape)
    if context.needs_gradient(1):
        a, shape = context.x(0), context.shape(1)
        if flip_b:
            gradients[1] = build.op("Gemm", dy, a, transA=1, transB=flip_a, alpha=alpha, shape=shape)
        else:
            gradients[1] = build.op("Gemm", a, dy, transA=1 - flip_a, alpha=alpha, shape=shape)
    if context.needs_gradient(2):
        gradients[2] = build.scale(build.sum_to(dy, context.shape(2)), context.float("beta", 1))
    return gradients
