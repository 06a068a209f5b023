"""Repairs that make a graph trainable by onnxruntime-training, one per file.

Each is an onnx_ir pass that changes the graph in place and says whether it did; none changes what the graph
computes. What goes wrong without it stands in each file.
"""
