"""Vector-Jacobian rules by family; importing this package registers all of them."""

from . import (
    activations,
    conv,
    einsum,
    elementwise,
    functions,
    indexing,
    linear,
    local_normalization,
    normalization,
    pad,
    pooling,
    recurrent,
    reductions,
    resize,
    shaping,
    slicing,
    softmax,
)
from .registry import differentiable_operators, find_rule

__all__ = [
    "activations",
    "conv",
    "differentiable_operators",
    "einsum",
    "elementwise",
    "find_rule",
    "functions",
    "indexing",
    "linear",
    "local_normalization",
    "normalization",
    "pad",
    "pooling",
    "recurrent",
    "reductions",
    "resize",
    "shaping",
    "slicing",
    "softmax",
]
