"""Fixtures of the tests of data."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def images(rng) -> np.ndarray:
    """Ten uint8 images (N, H, W, C) of 8 x 6 pixels, no two extents alike."""
    return rng.integers(0, 256, (10, 8, 6, 3), dtype=np.uint8)
