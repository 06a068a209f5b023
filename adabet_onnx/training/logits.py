"""Computation of a model's logits for samples, with inference only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from .. import runtime
from ..data.dataset import Dataset
from ..data.feeder import Feeder
from ..data.preprocess import Arithmetic
from ..errors import DataError, ModelError
from ..model.open import Model
from ..model.passes.logits_only import LogitsOnly
from ..progress import Progress
from ..runtime import Threads

_BATCH, _LEAST_BATCH = 64, 2  # two, so that interactions between samples are detected
_BATCH_BYTES = 16 << 20  # of logits
_ALONE = 0.01  # tolerance between a sample's logits alone and in a batch: rounding is far below


def logits_session(graph: ir.Model, logits: str, name: str, threads: Threads = None) -> Any:
    """Create an inference session whose only output is the logits, batch first.

    Raises:
        ModelError: the logits have no separate batch axis.
    """
    cut = graph.clone()
    LogitsOnly(logits, name)(cut)
    return runtime.inference_session(
        ir.to_proto(cut).SerializeToString(), name, runtime.session_options(threads), threads
    )


def compute_logits(
    model: Model,
    dataset: Dataset,
    preprocessing: Arithmetic,
    *,
    batch_size: int = _BATCH,
    threads: Threads = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Compute the logits of every sample, in order: float32 (N, ...), even if the model returns (T, N, C).

    Raises:
        DataError: the data does not fit the model, or logits are NaN or infinite.
        ModelError: the logits have no separate batch axis, or a sample's logits depend on the other samples.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "threads": threads, "progress": progress}
    return np.concatenate(list(logits_in_batches(model, dataset, preprocessing, **options)))


def logits_in_batches(
    model: Model,
    dataset: Dataset,
    preprocessing: Arithmetic,
    *,
    batch_size: int = _BATCH,
    threads: Threads = None,
    progress: Progress | None = None,
) -> Iterator[np.ndarray]:
    """Yield the logits batch by batch, so that not all of them have to be kept.

    Raises:
        DataError: as for `compute_logits`.
        ModelError: likewise.
    """
    graph = model.quantised.graph if model.quantised is not None and model.quantised.whole else model.graph
    session = logits_session(graph, model.logits, model.name, threads)
    feeder = Feeder(model, preprocessing)
    if progress is not None:
        progress("evaluating", 0, len(dataset))
    for start in range(0, len(dataset), batch_size):
        indices = np.arange(start, min(start + batch_size, len(dataset)))
        part = _run(session, feeder.feeds(dataset, indices), model.name)
        if part.ndim == 0 or len(part) != len(indices):
            raise ModelError(
                f"{model.name} gives logits of shape {part.shape} for {len(indices)} samples. Export it with a dynamic "
                "batch dimension."
            )
        if start == 0 and len(indices) > 1:
            ends = indices[[0, -1]]
            alone = [_run(session, feeder.feeds(dataset, ends[i : i + 1]), model.name) for i in range(2)]
            check_alone(np.concatenate(alone), part[[0, -1]], model.name)
        if not np.isfinite(part).all():
            raise DataError(
                f"the outputs of {model.name} are NaN or infinite for {dataset.name}. Is the preprocessing right "
                f"({preprocessing.to_json()})? Otherwise the model itself is damaged."
            )
        if progress is not None:
            progress("evaluating", int(indices[-1]) + 1, len(dataset))
        yield part


def batch_for(sample: np.ndarray) -> int:
    """Return a batch size for which the logits stay small, even if they are per pixel or token.

    Args:
        sample: logits of one sample.
    """
    return int(min(_BATCH, max(_LEAST_BATCH, _BATCH_BYTES // max(sample.nbytes, 1))))


def _run(session: Any, feeds: dict[str, np.ndarray], name: str) -> np.ndarray:
    return np.asarray(runtime.run_session(session, None, feeds, name)[0])


def check_alone(alone: np.ndarray, together: np.ndarray, name: str) -> None:
    """Check that samples have the same logits alone as in a batch.

    They differ if an input's first axis is time rather than the batch, so that a recurrent network or attention runs
    over it, or if a Reshape moves samples to the wrong axis.

    Args:
        alone: logits of the first and the last sample of a batch, each from a separate run (a recurrent network changes
            at least one of the two).
        together: the same logits from a run of the batch.
        name: name of the model, for the message.

    Raises:
        ModelError: they differ by more than 1 % of the largest.
    """
    size = max(float(np.abs(together).max(initial=0.0)), 1e-3)
    difference = float(np.abs(alone - together).max(initial=0.0)) / size
    if difference > _ALONE:
        raise ModelError(
            f"{name}: the logits of a sample differ by {difference:.0%} of the largest when other samples are in its "
            "batch, so samples affect each other (or the model is random). Is the first dimension of every input the "
            "batch, and not time? Export the model with the batch first, for inference."
        )
