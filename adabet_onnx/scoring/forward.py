"""The forward pass that scores are made from: a model with probes in a session, and what it leaves of each group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import runtime
from ..data.dataset import Dataset
from ..data.feeder import Feeder
from ..data.preprocess import Arithmetic
from ..errors import DataError
from ..model.channels import Channels
from ..model.open import Model
from ..runtime import Threads
from .betti import distances
from .probes import add_channel_probes, add_probes
from .signals import Sums, add_sums, stored_statistics


@dataclass(frozen=True)
class Forwarded:
    """What a forward pass of N samples left.

    Attributes:
        grams: of each layer in model order, the centred Gram matrix of its activations, float32 (N, N).
        sums: of each layer with stored statistics, what its channels' mean and variance follow from.
    """

    grams: dict[str, np.ndarray]
    sums: dict[str, Sums]

    def of(self, rows: np.ndarray) -> Forwarded:
        """The same of some of the samples, centred anew."""
        grams = {}
        for name, gram in self.grams.items():
            part = np.asarray(gram[np.ix_(rows, rows)], np.float64)
            part = part - part.mean(0) - part.mean(1)[:, np.newaxis] + part.mean()
            grams[name] = part
        return Forwarded(grams, {name: sums.of(rows) for name, sums in self.sums.items()})


class Probed:
    """A model with Gram probes and sums over channels, ready to run.

    Args:
        model: the opened model.
        preprocessing: how samples become input.
        group: the batch size that probes are sized for; others work too.
        threads: for ONNX Runtime, or a `Runtime` with an execution provider; None is its own choice.
    """

    def __init__(self, model: Model, preprocessing: Arithmetic, *, group: int, threads: Threads = None) -> None:
        probed, self._grams = add_probes(model, "gram", group=group)
        self.stored = stored_statistics(model, probed)
        self._sums = add_sums(model, probed, self._grams, self.stored)
        self._model, self._preprocessing = model, preprocessing
        self._feeder = Feeder(model, preprocessing)
        self._session = runtime.inference_session(
            probed, f"{model.name} with probes", probing_options(threads), threads
        )

    def forward(self, dataset: Dataset, indices: np.ndarray) -> Forwarded:
        """Forward the samples of these indices together.

        Raises:
            DataError: the data does not fit the model.
        """
        names = [*self._grams.values(), *(name for made in self._sums.values() for name in made.outputs)]
        values = runtime.run_session(self._session, names, self._feeder.feeds(dataset, indices), self._model.name)
        found = dict(zip(names, values, strict=True))
        return Forwarded(
            {layer: found[name] for layer, name in self._grams.items()},
            {layer: made.read(found) for layer, made in self._sums.items()},
        )

    def distances(self, layer: str, gram: np.ndarray) -> np.ndarray:
        """Distances of the points of a layer, (N, N).

        Raises:
            DataError: activations are NaN or infinite; the layer is named.
        """
        return _distances(layer, gram, self._preprocessing)


class ProbedChannels:
    """A model with a Gram probe of every channel of some layers, ready to run.

    Args:
        model: the opened model.
        preprocessing: how samples become input.
        channels: of the layers that are looked at.
        group: the batch size that probes are sized for; others work too.
        threads: for ONNX Runtime, or a `Runtime` with an execution provider; None is its own choice.

    Attributes:
        outputs: of each layer, the name of what `forward` gives for it; a Conv and the BatchNormalization after it have
            the same.
    """

    def __init__(
        self,
        model: Model,
        preprocessing: Arithmetic,
        channels: Mapping[str, Channels],
        *,
        group: int,
        threads: Threads = None,
    ) -> None:
        probed, self.outputs = add_channel_probes(model, channels, group=group)
        self._model, self._preprocessing = model, preprocessing
        self._feeder = Feeder(model, preprocessing)
        self._session = runtime.inference_session(
            probed, f"{model.name} with probes", probing_options(threads), threads
        )

    def forward(self, dataset: Dataset, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Centred Gram matrices of channels, float32 (C, N, N), by the names in ``outputs``.

        Raises:
            DataError: the data does not fit the model.
        """
        names = list(dict.fromkeys(self.outputs.values()))
        values = runtime.run_session(self._session, names, self._feeder.feeds(dataset, indices), self._model.name)
        return dict(zip(names, values, strict=True))

    def distances(self, layer: str, gram: np.ndarray) -> np.ndarray:
        """Distances of the points of a channel, (N, N).

        Raises:
            DataError: activations are NaN or infinite; the layer is named.
        """
        return _distances(layer, gram, self._preprocessing)


def _distances(layer: str, gram: np.ndarray, preprocessing: Arithmetic) -> np.ndarray:
    try:
        return distances(gram)
    except DataError as error:
        raise DataError(f"layer {layer!r}: {error}. Is the preprocessing right ({preprocessing.to_json()})?") from error


def probing_options(threads: Threads = None) -> Any:
    """Session options for a graph with Gram probes, which take much less memory this way.

    Memory patterns help the 1.19.2 of the training package and harm the newest stock runtime; both were measured
    (tests/benchmarks/bench_scoring.py).
    """
    options = runtime.session_options(threads)
    options.enable_mem_pattern = bool(runtime.installed().training)
    return options
