"""Shifts of CIFAR-10 made from the clean images: blur and contrast.

    python tests/benchmarks/choice/shifts.py FOLDER

Writes blur.npz (Gaussian, sigma 1.2 pixels) and contrast.npz (a fifth of the contrast about each image's mean), with
the labels and the split of ../shared/data/cifar10_clean.npz.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

CLEAN = Path(__file__).resolve().parents[4] / "shared" / "data" / "cifar10_clean.npz"
SIGMA, CONTRAST = 1.2, 0.2


def blur(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W, 3) as uint8, blurred."""
    return as_bytes(gaussian_filter(images.astype(np.float32), (0, SIGMA, SIGMA, 0)))


def contrast(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W, 3) as uint8, with less contrast."""
    values = images.astype(np.float32)
    mean = values.mean(axis=(1, 2, 3), keepdims=True)
    return as_bytes(mean + CONTRAST * (values - mean))


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Rounded to uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


SHIFTS = {"blur": blur, "contrast": contrast}


def make(folder: Path, name: str) -> Path:
    """The file of a shift, created if it does not exist."""
    path = folder / f"{name}.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with np.load(CLEAN) as clean:
            arrays = dict(clean)
        for part in ("x_train", "x_test"):
            arrays[part] = SHIFTS[name](arrays[part])
        np.savez_compressed(path, **arrays)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    for shift in SHIFTS:
        print(make(given.folder, shift))
