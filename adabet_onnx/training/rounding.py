"""Measures how far rounding alone changes a model's logits.

Two graphs that compute the same function in a different order differ by rounding. Usually that is 1e-6 of the largest
logit; it is more if a network takes logarithms of small numbers or differences of large ones, for example in a
spectrogram.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from .. import runtime, seeds
from .logits import logits_session

_ROUNDING = 2.0**-23  # of a float32
_TRIES = 3


def logits_rounding(
    graph: ir.Model, logits: str, name: str, feeds: Mapping[str, np.ndarray], expected: np.ndarray
) -> float:
    """Measure the largest change of the logits when every float32 number in graph and samples changes by its last bit.

    Args:
        graph: the model.
        logits: the name of its logits.
        name: name of the model, for messages.
        feeds: samples by input name: (batch, ...).
        expected: the logits of these samples.

    Returns:
        The largest change over several trials, in the units of the logits.

    Raises:
        ModelError: the model fails to run.
    """
    rng, worst = seeds.rounding(), 0.0
    for _ in range(_TRIES):
        perturbed = graph.clone()
        for key, value in perturbed.graph.initializers.items():
            if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
                value.const_value = ir.tensor(_perturbed(value.const_value.numpy(), rng), name=key)
        session = logits_session(perturbed, logits, name)
        samples = {key: _perturbed(array, rng) if array.dtype == np.float32 else array for key, array in feeds.items()}
        values = runtime.run_session(session, None, samples, name)[0]
        worst = max(worst, float(np.abs(values - expected).max()))
    return worst


def _perturbed(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    signs = rng.choice(np.array([-1, 1], np.float32), array.shape)
    return np.asarray(array * (1 + np.float32(_ROUNDING) * signs), np.float32)
