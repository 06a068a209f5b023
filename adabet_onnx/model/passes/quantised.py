"""The real numbers that quantised ones represent: scales, zero points, ranges of types, dequantised weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...errors import ModelError

_RANGES = {
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT16: (0, 65535),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT2: (0, 3),
    ir.DataType.INT2: (-2, 1),
}
_MARKS = ("_quantized", "_quantised", "_quant", "_q", ".int8", "_int8")  # suffixes that quantisers add to names
_OUTPUT_MARKS = ("_DequantizeLinear_Output", "_DequantizeLinear", "_dequantized", "_dequant")


@dataclass(frozen=True)
class QuantisationGrid:
    """The mapping from quantised to real numbers: (q - zero) * scale.

    Attributes:
        scale: one number, or one per channel or block.
        zero: the zero points, of the same shape or one number.
        dtype: type of the quantised numbers; None if the file does not state it.
    """

    scale: np.ndarray
    zero: np.ndarray
    dtype: ir.DataType | None

    def same(self, other: QuantisationGrid) -> bool:
        """Whether equal quantised numbers represent equal real numbers."""
        return np.allclose(self.scale, other.scale, rtol=1e-5) and np.array_equal(self.zero, other.zero)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The smallest and largest real number; None if channels differ or the type is not an integer type."""
        low_high = _RANGES.get(self.dtype) if self.dtype is not None else None
        if low_high is None or self.scale.size != 1:
            return None
        scale, zero = float(self.scale.reshape(-1)[0]), float(self.zero.reshape(-1)[0])
        return (low_high[0] - zero) * scale, (low_high[1] - zero) * scale

    def real(self, array: np.ndarray, axis: int, block: int = 0) -> np.ndarray:
        """Dequantise an array: scales lie along ``axis``, each for ``block`` numbers if that is not 0.

        Raises:
            ValueError: shapes do not fit.
        """
        scale, zero = (_spread(part, array, axis, block) for part in (self.scale, self.zero))
        return np.asarray((array.astype(np.float64) - zero) * scale, np.float32)


def _spread(part: np.ndarray, array: np.ndarray, axis: int, block: int) -> np.ndarray:
    if part.size == 1:
        return part.reshape(())
    if part.ndim == 1 and array.ndim > 0:
        axis %= array.ndim
        return part.reshape([-1 if index == axis else 1 for index in range(array.ndim)])
    if block:
        repeated = np.repeat(part, block, axis)
        return np.take(repeated, range(array.shape[axis]), axis)
    return part


def grid_of(
    node: ir.Node, scale: ir.Value | None, zero: ir.Value | None, default: ir.DataType | None = None
) -> QuantisationGrid:
    """The grid given by two constant inputs of a node.

    Raises:
        ModelError: they are not constant.
    """
    scales = ir.convenience.get_const_tensor(scale) if scale is not None else None
    zeros = ir.convenience.get_const_tensor(zero) if zero is not None else None
    if scales is None or (zeros is None and zero is not None):
        raise cannot(node, "its scale or zero point is computed in the graph")
    if zeros is None:
        return QuantisationGrid(scales.numpy().astype(np.float64), np.zeros(()), default)
    return QuantisationGrid(scales.numpy().astype(np.float64), zeros.numpy().astype(np.float64), zeros.dtype)


def cannot(node: ir.Node, why: str) -> ModelError:
    """The error for a node that cannot be converted back to float32."""
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return ModelError(
        f"the model is quantised, and node {node.name!r} ({kind}) cannot be converted back to float32: {why}. Give the "
        "original float32 model."
    )


def float_name(quantised: str, output: str, used: set[str]) -> str:
    """A name for a dequantised weight: its name without the quantiser's suffix, if that is free."""
    names = [quantised[: -len(mark)] for mark in _MARKS if quantised.endswith(mark)]
    names += [output[: -len(mark)] for mark in _OUTPUT_MARKS if output.endswith(mark)]
    return next((name for name in [*names, output] if name and name not in used), f"{quantised}/float32")
