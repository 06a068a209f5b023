"""Models in half precision or double, and quantised by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

TYPES = {
    "float16": (TensorProto.FLOAT16, np.float16, 0.02),
    "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16, 0.1),
    "double": (TensorProto.DOUBLE, np.float64, 1e-5),
}


def converted(proto: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """All weights, inputs and outputs in another type."""
    number, dtype, _ = TYPES[kind]
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = number
    return proto


def quantise(
    proto: onnx.ModelProto, folder: Path, *, style: str, per_channel: bool = False, activations: str = "QUInt8"
) -> onnx.ModelProto:
    """By onnxruntime's own quantiser, calibrated on random numbers."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    rng = np.random.default_rng(5)
    source, target = folder / "float.onnx", folder / "quantised.onnx"
    onnx.save(proto, source)
    if style == "dynamic":
        kind = quantization.QuantType.QUInt8  # the runtime has no ConvInteger for the other
        quantization.quantize_dynamic(source, target, per_channel=per_channel, weight_type=kind)
        return onnx.load(target)
    shape = [extent.dim_value or 8 for extent in proto.graph.input[0].type.tensor_type.shape.dim]

    class Calibration(quantization.CalibrationDataReader):
        left = 4

        def get_next(self):
            self.left -= 1
            return {"input": rng.uniform(-1, 1, shape).astype(np.float32)} if self.left >= 0 else None

    quantization.quantize_static(
        source,
        target,
        Calibration(),
        quant_format=getattr(quantization.QuantFormat, style),
        per_channel=per_channel,
        activation_type=getattr(quantization.QuantType, activations),
        weight_type=quantization.QuantType.QInt8,
    )
    return onnx.load(target)
