"""What a file of a few bytes may ask for: sizes that no model has are refused before anything is run or allocated."""

from __future__ import annotations

import math

import onnx_ir as ir

from ..errors import ModelError
from .shapes import infer_shapes

MOST_BYTES = 1 << 30  # of one value at a batch of one
_BYTES = 4
_MOST_RANK = 64


def check_sizes(model: ir.Model, name: str) -> None:
    """See that no value of the graph is larger than any model's, as far as shapes can be inferred.

    Raises:
        ModelError: one is, or an extent is negative.
    """
    weights = {*model.graph.initializers}
    for value, shape in infer_shapes(model, 1).items():
        if value in weights:
            continue
        if len(shape) > _MOST_RANK or any(extent < 0 for extent in shape):
            raise ModelError(
                f"{name}: value {value[:200]!r} has the shape {list(shape)[:9]}, which no tensor has. The file is "
                "damaged: copy or export it again."
            )
        if math.prod(shape) * _BYTES > MOST_BYTES:
            raise ModelError(
                f"{name}: value {value[:200]!r} has the shape {list(shape)[:9]}, {math.prod(shape) * _BYTES:.2g} bytes "
                f"for a single sample; up to {MOST_BYTES / 2**30:.0f} GiB is supported. Is a size in the graph wrong?"
            )
