"""Normalisations that most likely have no scale and bias in the source model."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from .layers import Layer

# torch's exporters: /norm/Constant_1_output_0, val_3, onnx::InstanceNormalization_12
_NAMELESS = re.compile(r"(^|/)(Constant(_\d+)?_output_\d+|_?v?(al)?_?\d+|onnx::\w+)$")


def plain_norms(model: ir.Model, layers: Collection[Layer]) -> tuple[Layer, ...]:
    """Normalisations with scale 1 and bias 0 throughout, which ONNX requires even if the network has none.

    Their tensors must be unnamed: torch writes ``affine=False`` this way, and the InstanceNormalization of a GroupNorm.
    Named tensors of ones and zeros do not count: they belong to an untrained normalisation.

    Args:
        model: the opened graph.
        layers: its layers.
    """
    return tuple(layer for layer in layers if layer.is_norm and all(_is_plain(model, p) for p in _named(layer)))


def _named(layer: Layer) -> list[tuple[str, int]]:
    return [(parameter.name, parameter.position) for parameter in layer.parameters]


def _is_plain(model: ir.Model, parameter: tuple[str, int]) -> bool:
    name, position = parameter
    tensor = model.graph.initializers[name].const_value
    if tensor is None or not _NAMELESS.search(name):
        return False
    return bool((np.asarray(tensor.numpy()) == (1 if position == 1 else 0)).all())
