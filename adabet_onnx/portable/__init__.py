"""A training step in plain ONNX: gradients are written at build time with standard operators, for any ONNX Runtime."""
