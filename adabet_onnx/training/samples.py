"""Random inputs and labels that fit an artifact folder, for checks and measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .. import seeds
from ..errors import AdabetError
from .manifest import Manifest

_CEILINGS = (256, 32, 8)  # of integers, the most useful first


def sample_feeds(
    manifest: Manifest, batch: int, seed: int = 0, ceilings: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """Generate random inputs by their names in the original model: normal floats, integers from 0 to below a ceiling.

    Args:
        manifest: names the inputs, their dtypes and shapes.
        batch: number of samples.
        seed: random seed.
        ceilings: by name of an integer input; 2 by default, which masks and small vocabularies also accept.
    """
    rng = seeds.check_inputs(seed)
    feeds = {}
    for entry in manifest.input_details:
        shape = [batch, *entry["shape"][1:]]
        floats = entry["dtype"].startswith("float")
        ceiling = (ceilings or {}).get(entry["name"], 2)
        values = rng.standard_normal(shape) if floats else rng.integers(0, ceiling, shape)
        feeds[entry["name"]] = values.astype(entry["dtype"])
    return feeds


def integer_ceilings(manifest: Manifest, run: Callable[[dict[str, np.ndarray]], object], batch: int) -> dict[str, int]:
    """Find how large the integers of each input may be, by trial: below 256, 32 or 8, the first that the model accepts.

    Token and byte inputs that only contain 0 and 1 leave most of an embedding unused, and a normalisation over tokens
    with hardly any variance. Inputs of 8-bit integers stay within the range of their type; boolean inputs are skipped.

    Args:
        manifest: names the inputs.
        run: computes the logits for feeds, or raises an AdabetError (an index out of range).
        batch: number of samples.
    """
    ceilings: dict[str, int] = {}
    for entry in manifest.input_details:
        kind = np.dtype(entry["dtype"])
        if kind.kind not in "iu":
            continue
        for ceiling in _CEILINGS:
            if ceiling > np.iinfo(kind).max + 1:
                continue
            try:
                run(sample_feeds(manifest, batch, 0, {**ceilings, entry["name"]: ceiling}))
            except AdabetError:
                continue
            ceilings[entry["name"]] = ceiling
            break
    return ceilings


def sample_labels(manifest: Manifest, logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """Generate random labels that fit the loss and these logits."""
    rng = seeds.check_labels(seed)
    if manifest.loss_function == "cross-entropy":
        labels = rng.integers(0, manifest.num_outputs, (len(logits), *manifest.label_shape))
        if manifest.class_weights is not None:  # labels only of classes without weight have no gradient
            labels[0] = rng.choice(np.flatnonzero(manifest.class_weights))
        return labels
    if manifest.loss_function == "bce-with-logits":
        return rng.integers(0, 2, logits.shape).astype(np.float32)
    return rng.standard_normal(logits.shape).astype(np.float32)
