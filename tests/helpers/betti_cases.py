"""Matrices of distances with first Betti numbers by ripser, for ports of the counting to other languages."""

from __future__ import annotations

import struct

import numpy as np
from conftest import ROOT
from scipy.spatial.distance import squareform

FILE = ROOT / "tests" / "device_sources" / "betti-1000.bin"


def betti_cases() -> list[tuple[int, int, np.ndarray]]:
    """(bytes of a length, number, distances) of each matrix."""
    content = FILE.read_bytes()
    magic, count = struct.unpack_from("<4sI", content)
    assert (magic, count) == (b"BET1", 1000)
    matrices: list[tuple[int, int, np.ndarray]] = []
    at = 8
    for _ in range(count):
        points, width, number = struct.unpack_from("<HHI", content, at)
        lengths = np.frombuffer(content, f"<f{width}", points * (points - 1) // 2, at + 8)
        at += 8 + lengths.nbytes
        matrices.append((width, number, squareform(lengths.astype(float)) if points > 1 else np.zeros((1, 1))))
    assert at == len(content)
    return matrices


def square() -> np.ndarray:
    """The distances of the corners of a square, which have one loop."""
    return np.array([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]], float)
