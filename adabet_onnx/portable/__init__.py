"""A training step in plain ONNX: gradients written at build time with standard operators, for any ONNX Runtime."""
