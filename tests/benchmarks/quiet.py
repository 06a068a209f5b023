"""onnxruntime without its warnings: that an initializer is not used, or that one is an input as well."""

from __future__ import annotations

import onnx
import onnxruntime


def quiet_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session that prints errors only."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
