"""A weight that is another one times a factor and remembers both, so that it need not be stored twice."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


class Scaled(ir.Tensor[np.ndarray]):
    """The product of a float32 tensor and a factor, rounded as ONNX's Mul rounds it.

    Args:
        source: the tensor.
        factor: the factor, which is broadcast.
        name: name of the product.

    Attributes:
        source: the tensor.
        factor: the factor in float32.
    """

    def __init__(self, source: ir.TensorProtocol, factor: np.ndarray, name: str) -> None:
        self.source, self.factor = source, factor.astype(np.float32)
        super().__init__(source.numpy().astype(np.float32) * self.factor, name=name)
