"""Rewrites of graphs for opening and training, one per module.

Each is an onnx_ir pass that changes the graph in place and returns whether it did; none changes what the graph
computes. The module's docstring says why the pass is needed.
"""
