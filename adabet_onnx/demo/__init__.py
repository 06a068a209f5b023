"""The embedded demo: a small network for handwritten digits, adapted to digits from another camera.

``digits.onnx`` and ``digits_shifted.npz`` are package data, created by ``samples/demo`` in the source repository.
"""

from .demo import run_demo

__all__ = ["run_demo"]
