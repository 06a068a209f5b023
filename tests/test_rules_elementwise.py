"""Gradient rules of arithmetic and activations."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from rule_checks import check_differences, check_torch

node = helper.make_node


def values(*shape: int, seed: int = 0, low: float | None = None, high: float = 2.0) -> np.ndarray:
    """Random float32 numbers: normal, or uniform between two bounds."""
    rng = np.random.default_rng([seed, *shape])
    drawn = rng.standard_normal(shape) if low is None else rng.uniform(low, high, shape)
    return drawn.astype(np.float32)


X = values(3, 4, 5)
CASES = {
    "relu": (node("Relu", ["x"], ["y"]), {"x": X}, ["x"]),
    "add": (node("Add", ["x", "w"], ["y"]), {"x": X, "w": values(4, 1, seed=1)}, ["x", "w"]),
    "mul": (node("Mul", ["x", "w"], ["y"]), {"x": X, "w": values(5, seed=1)}, ["x", "w"]),
}


@pytest.mark.parametrize("case", CASES)
def test_against_torch(case, torch_oracle):
    check_torch(torch_oracle, *CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_against_finite_differences(case):
    check_differences(*CASES[case])
