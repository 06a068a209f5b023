"""Flower's records and aggregations, imported on first use."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import RuntimeMissingError, TrainingError
from .messages import Reply, Tensors
from .options import Fleet

ARRAYS, METRICS, SAMPLES = "arrays", "metrics", "num-examples"
_MOMENTUM, _RATE_OF_ADAM = 0.9, 0.01


def need_flower() -> None:
    """Check that Flower is installed.

    Raises:
        RuntimeMissingError: it is not installed.
    """
    try:
        import flwr.app  # noqa: F401
    except ImportError as error:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        old = f" It needs Python 3.11 or newer, and this is {python}." if sys.version_info < (3, 11) else ""
        raise RuntimeMissingError(
            f"Flower is not installed ({error}). Install it: pip install 'adabet-onnx[fleet]'.{old}"
        ) from error


def to_arrays(tensors: Tensors) -> Any:
    """Return Flower's record of tensors; nothing is pickled."""
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in tensors.items()})


def from_arrays(record: Any) -> dict[str, np.ndarray]:
    """Return the tensors of Flower's record.

    Raises:
        TrainingError: an entry is not an array.
    """
    tensors = {}
    for name, array in record.items():
        try:
            tensors[str(name)] = np.array(array.numpy())
        except Exception as error:  # NumPy may raise anything on untrusted bytes
            raise TrainingError(f"tensor {name!r} cannot be read: {error}") from error
    return tensors


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence Flower's log of every round, which repeats fleet.jsonl."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


class FlowerStrategy:
    """Flower's aggregations, applied to checked replies only.

    Args:
        fleet: the options, which name the aggregation and its parameters.

    Raises:
        RuntimeMissingError: Flower is not installed.
    """

    partial = False

    def __init__(self, fleet: Fleet) -> None:
        need_flower()
        with quietly():
            self._inner = _inner(fleet)
        self._fleet = fleet
        self._names: list[str] = []

    def aggregate(self, number: int, current: Tensors, replies: Sequence[Reply]) -> dict[str, np.ndarray]:
        """Return the new values, see `Aggregation`.

        Raises:
            TrainingError: the aggregation fails.
        """
        self._names = list(current)
        before = to_arrays(current)
        if hasattr(self._inner, "m_t"):  # FedAdam: moments by name
            self._inner.current_arrays = {name: np.asarray(array) for name, array in current.items()}
        elif hasattr(self._inner, "momentum_vector"):
            self._inner.current_arrays = before
        try:
            with quietly():
                arrays, _ = self._wrapped(before, len(replies)).aggregate_train(
                    number, [_CheckedReply(reply) for reply in replies]
                )
        except Exception as error:  # Flower's exceptions share no base class
            raise TrainingError(f"{self._fleet.aggregation} failed in round {number}: {error}") from error
        if arrays is None:
            raise TrainingError(f"{self._fleet.aggregation} returned no values in round {number}.")
        aggregated = from_arrays(arrays)
        values = {name: aggregated[name].astype(np.float32).reshape(array.shape) for name, array in current.items()}
        for name, array in values.items():
            if not np.isfinite(array).all():
                raise TrainingError(f"{self._fleet.aggregation} returned values for {name!r} that are not finite.")
        return values

    def _wrapped(self, before: Any, replies: int) -> Any:
        """Return the aggregation, wrapped for differential privacy if that is enabled."""
        if self._fleet.privacy_noise is None or self._fleet.privacy_clip is None:
            return self._inner
        from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping

        noise, clip = self._fleet.privacy_noise, self._fleet.privacy_clip
        made = DifferentialPrivacyServerSideFixedClipping(self._inner, noise, clip, replies)
        made.current_arrays = before
        return made

    def state(self) -> dict[str, np.ndarray]:
        """Return the momentum and the moments of FedAdam."""
        memory: dict[str, np.ndarray] = {}
        for kind in ("m_t", "v_t"):
            moments: Mapping[str, Any] = getattr(self._inner, kind, None) or {}
            memory |= {f"{kind}:{name}": np.asarray(array, np.float32) for name, array in moments.items()}
        momentum = getattr(self._inner, "momentum_vector", None)
        if momentum is None:
            return memory
        memory |= {
            f"momentum:{name}": np.asarray(array, np.float32) for name, array in zip(self._names, momentum, strict=True)
        }
        return memory

    def restore(self, state: Tensors) -> None:
        """Restore the result of `state`."""
        for kind in ("m_t", "v_t"):
            moments = {name.partition(":")[2]: a for name, a in state.items() if name.startswith(f"{kind}:")}
            if moments:
                setattr(self._inner, kind, moments)
        momentum = {name.partition(":")[2]: a for name, a in state.items() if name.startswith("momentum:")}
        if momentum:
            self._names, self._inner.momentum_vector = list(momentum), list(momentum.values())


def _inner(fleet: Fleet) -> Any:
    """Create Flower's strategy for the aggregation."""
    from flwr.serverapp import strategy

    if fleet.aggregation == "fedavgm":
        return strategy.FedAvgM(server_learning_rate=fleet.server_rate or 1.0, server_momentum=_MOMENTUM)
    if fleet.aggregation == "fedadam":
        return strategy.FedAdam(eta=fleet.server_rate or _RATE_OF_ADAM)
    if fleet.aggregation == "fedmedian":
        return strategy.FedMedian()
    if fleet.aggregation == "krum":
        return strategy.Krum(num_malicious_nodes=fleet.malicious)
    return strategy.FedAvg()


class _CheckedReply:
    """A checked reply with the interface of a Flower message, which could only be created inside a run of Flower."""

    def __init__(self, reply: Reply) -> None:
        from flwr.app import MetricRecord, RecordDict

        metrics = MetricRecord({SAMPLES: float(reply.samples)})
        self.content = RecordDict({ARRAYS: to_arrays(reply.tensors), METRICS: metrics})

    def has_error(self) -> bool:
        """Return False: the reply was checked."""
        return False
