"""Vector-Jacobian rules by family; importing this package registers all of them."""

from . import activations, elementwise, functions, reductions
from .registry import differentiable_operators, find

__all__ = ["activations", "differentiable_operators", "elementwise", "find", "functions", "reductions"]
