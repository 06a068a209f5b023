"""How far rounding alone moves a model's logits.

Two graphs that compute the same in another order differ by it. Mostly that is 1e-6 of the largest logit; where a
network takes logarithms of small numbers, or differences of large ones, as those with a spectrogram inside, it is more.
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
    """The largest change of logits when every float32 number of the graph and of the samples moves by its last bit.

    Args:
        graph: the model.
        logits: the name of its logits.
        name: of the model, for messages.
        feeds: samples by input name: (batch, ...).
        expected: the logits of these samples.

    Returns:
        The change, of several that are tried, in the units of the logits.

    Raises:
        ModelError: the model cannot run.
    """
    rng, worst = seeds.rounding(), 0.0
    for _ in range(_TRIES):
        moved = graph.clone()
        for key, value in moved.graph.initializers.items():
            if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
                value.const_value = ir.tensor(_moved(value.const_value.numpy(), rng), name=key)
        session = logits_session(moved, logits, name)
        samples = {key: _moved(array, rng) if array.dtype == np.float32 else array for key, array in feeds.items()}
        found = runtime.run_session(session, None, samples, name)[0]
        worst = max(worst, float(np.abs(found - expected).max()))
    return worst


def _moved(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    signs = rng.choice(np.array([-1, 1], np.float32), array.shape)
    return np.asarray(array * (1 + np.float32(_ROUNDING) * signs), np.float32)
