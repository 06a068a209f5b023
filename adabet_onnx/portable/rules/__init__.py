"""Vector-Jacobian rules by family; importing this package registers all of them."""

from . import (
    activations,
    einsum,
    elementwise,
    functions,
    linear,
    local_normalization,
    normalization,
    reductions,
    softmax,
)
from .registry import differentiable_operators, find

__all__ = [
    "activations",
    "differentiable_operators",
    "einsum",
    "elementwise",
    "find",
    "functions",
    "linear",
    "local_normalization",
    "normalization",
    "reductions",
    "softmax",
]
