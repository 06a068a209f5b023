"""How far two deltas are apart."""

from __future__ import annotations

import numpy as np
import pytest
from device_packages import MODEL

from adabet_onnx.device.delta import write_delta
from adabet_onnx.device.deltas import compare_deltas

pytestmark = pytest.mark.usefixtures("checked_here")


def test_how_far_two_are_apart(tmp_path):
    one = {
        "same": np.ones(3),
        "zero": np.zeros(2),
        "shape": np.ones(2),
        "a": np.ones(1),
        "w": np.array([3, 4]),
    }
    other = {"w": np.array([3, 5]), "zero": np.ones(2), "same": np.ones(3), "shape": np.ones(4), "b": np.ones(1)}
    first, second = (
        write_delta(tmp_path / name, floats(tensors), model_sha256=MODEL, entry=name)
        for name, tensors in (("a", one), ("b", other))
    )
    found = compare_deltas(first, second)
    assert (found.same_model, found.same_entry) == (True, False)
    assert (found.only_first, found.only_second) == (("a",), ("b",))
    assert {apart.name: (apart.distance, apart.relative) for apart in found.tensors} == {
        "same": (0.0, 0.0),
        "zero": (pytest.approx(2**0.5), None),
        "shape": (None, None),
        "w": (1.0, 0.2),
    }


def floats(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.astype(np.float32) for name, array in tensors.items()}
