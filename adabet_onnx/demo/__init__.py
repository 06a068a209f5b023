"""The embedded demo: a small network for handwritten digits, adapted to digits from another camera.

``digits.onnx`` and ``digits_shifted.npz`` are package data; ``samples/demo`` in the source repository makes them.
"""

from .demo import run_demo

__all__ = ["run_demo"]
