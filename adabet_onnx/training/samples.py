"""Random inputs and labels that fit an artifact folder, for checks and measurements."""

from __future__ import annotations

import numpy as np

from .manifest import Manifest


def sample_feeds(manifest: Manifest, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs by their names in the original model: normal floats, integers 0 or 1."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for entry in manifest.input_details:
        shape = [batch, *entry["shape"][1:]]
        floats = entry["dtype"].startswith("float")
        values = rng.standard_normal(shape) if floats else rng.integers(0, 2, shape)
        feeds[entry["name"]] = values.astype(entry["dtype"])
    return feeds


def sample_labels(manifest: Manifest, logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """Random labels that fit the loss and these logits."""
    rng = np.random.default_rng([seed, 5])
    if manifest.loss_function == "cross-entropy":
        return rng.integers(0, manifest.num_outputs, (len(logits), *manifest.label_shape))
    if manifest.loss_function == "bce-with-logits":
        return rng.integers(0, 2, logits.shape).astype(np.float32)
    return rng.standard_normal(logits.shape).astype(np.float32)
