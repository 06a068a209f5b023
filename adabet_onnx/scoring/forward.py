"""The forward passes that scores are computed from: a model with probes in a session, and its results for samples.

There are two forms: sketches, with samples forwarded in batches of any size; and exact distances by Gram matrices
inside the graph, with all samples forwarded together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from .. import runtime
from ..data.dataset import Dataset
from ..data.feeder import Feeder
from ..data.preprocess import Arithmetic
from ..errors import DataError
from ..model.channels import Channels
from ..model.open import Model
from ..progress import Progress, silent
from ..runtime import Threads
from .betti import distances
from .passes import Passes
from .probes import add_channel_probes, add_probes, add_sketches
from .signals import ChannelSums, StoredStatistics, SumOutputs, add_sums, join_sums, stored_statistics
from .sketches import Sketches


@dataclass(frozen=True)
class Forwarded:
    """The results of forward passes of N samples.

    Attributes:
        grams: for each layer in model order, the centred Gram matrix of its activations, float32 (N, N).
        sums: for each layer with stored statistics, the sums that its channels' mean and variance follow from.
    """

    grams: dict[str, np.ndarray]
    sums: dict[str, ChannelSums]

    def of(self, rows: np.ndarray) -> Forwarded:
        """Return the results for some of the samples, centred again."""
        grams = {}
        for name, gram in self.grams.items():
            part = np.asarray(gram[np.ix_(rows, rows)], np.float64)
            part = part - part.mean(0) - part.mean(1)[:, np.newaxis] + part.mean()
            grams[name] = part
        return Forwarded(grams, {name: sums.of(rows) for name, sums in self.sums.items()})


class Probed(Protocol):
    """A model with probes, ready to run.

    Attributes:
        stored: stored statistics, by layer.
    """

    stored: dict[str, StoredStatistics]

    def forward(self, dataset: Dataset, indices: np.ndarray, progress: Progress = silent) -> Forwarded:
        """Forward the samples of these indices.

        Args:
            dataset: the data.
            indices: the samples to forward.
            progress: called with a description, the samples done and the total number of samples.

        Raises:
            DataError: the data does not fit the model.
        """

    def distances(self, layer: str, gram: np.ndarray) -> np.ndarray:
        """Return the distances of a layer's points, (N, N).

        Raises:
            DataError: activations are NaN or infinite; the message names the layer.
        """


class GramProbed:
    """A model with Gram probes and sums over channels, which forwards all samples of a group together.

    Args:
        model: the opened model.
        preprocessing: converts samples to model input.
        group: the batch size that the probes are optimised for; others also work.
        threads: number of threads for ONNX Runtime, or a `Runtime` with an execution provider; None: ONNX Runtime
            decides.
    """

    def __init__(self, model: Model, preprocessing: Arithmetic, *, group: int, threads: Threads = None) -> None:
        probed, self._grams = add_probes(model, "gram", group=group)
        values = {value.name or "": value for node in probed.graph for value in node.outputs}
        self.stored = stored_statistics(model, probed)
        sources = {layer.name: values[layer.activation] for layer in model.layers if layer.name in self.stored}
        self._sums = add_sums(probed, self._grams, sources)
        self._run = _ProbeSession(model, preprocessing, probed, threads)

    def forward(self, dataset: Dataset, indices: np.ndarray, progress: Progress = silent) -> Forwarded:
        """See `Probed`."""
        progress("forward passes", 0, len(indices))
        results = self._run(dataset, indices)
        progress("forward passes", len(indices), len(indices))
        return Forwarded(
            {layer: results[name] for layer, name in self._grams.items()},
            {layer: outputs.read(results) for layer, outputs in self._sums.items()},
        )

    def distances(self, layer: str, gram: np.ndarray) -> np.ndarray:
        """See `Probed`."""
        return _distances(layer, gram, self._run.preprocessing)


class SketchProbed:
    """A model with sketches of activations and sums over channels, which forwards samples in small batches.

    Args:
        model: the opened model.
        preprocessing: converts samples to model input.
        passes: the plan of the passes and their sketches.
        seed: random seed of the signs.
        threads: number of threads for ONNX Runtime, or a `Runtime` with an execution provider; None: ONNX Runtime
            decides.
    """

    def __init__(
        self, model: Model, preprocessing: Arithmetic, passes: Passes, *, seed: int = 0, threads: Threads = None
    ) -> None:
        self._model, self._preprocessing, self._passes = model, preprocessing, passes
        self._seed, self._threads = seed, threads
        self.stored = stored_statistics(model, model.graph)
        self._ready: dict[int, _SketchPass] = {}

    def forward(self, dataset: Dataset, indices: np.ndarray, progress: Progress = silent) -> Forwarded:
        """See `Probed`."""
        grams: dict[str, np.ndarray] = {}
        sums: dict[str, ChannelSums] = {}
        count, parts = len(indices), self._passes.parts
        for number in range(len(parts)):

            def report(description: str, done: int, _: int, before: int = number * count) -> None:
                progress(description, before + done, len(parts) * count)

            results = self._pass(number).forward(dataset, indices, report)
            grams |= results.grams
            sums |= results.sums
        order = [layer.name for layer in self._model.layers]
        return Forwarded({name: grams[name] for name in order}, sums)

    def distances(self, layer: str, gram: np.ndarray) -> np.ndarray:
        """See `Probed`."""
        return _distances(layer, gram, self._preprocessing)

    def _pass(self, number: int) -> _SketchPass:
        """Return one of the passes; only one at a time is kept in memory."""
        if number not in self._ready:
            self._ready.clear()
            names = self._passes.parts[number]
            made = add_sketches(self._model, names, sketch=self._passes.size, seed=self._seed)
            sources = {name: made.samples[name] for name in names if name in self.stored}
            sums = add_sums(made.model, made.outputs, sources)
            run = _ProbeSession(self._model, self._preprocessing, made.model, self._threads)
            self._ready[number] = _SketchPass(run, made.outputs, sums, self._passes)
        return self._ready[number]


@dataclass(frozen=True)
class _SketchPass:
    """A pass over the samples that computes sketches of some layers."""

    run: _ProbeSession
    outputs: dict[str, str]
    sums: dict[str, SumOutputs]
    passes: Passes

    def forward(self, dataset: Dataset, indices: np.ndarray, progress: Progress) -> Forwarded:
        """Return Gram matrices and sums of these layers."""
        sketches: dict[str, Sketches] = {}
        sums: dict[str, list[ChannelSums]] = {name: [] for name in self.sums}
        for start in range(0, len(indices), self.passes.batch):
            progress("forward passes", start, len(indices))
            results = self.run(dataset, indices[start : start + self.passes.batch])
            for name, output in self.outputs.items():
                rows = results.pop(output)
                if name not in sketches:
                    sketches[name] = Sketches(len(indices), rows.shape[1], half=self.passes.half)
                sketches[name].add(rows)
            for name, outputs in self.sums.items():
                sums[name].append(outputs.read(results))
        progress("forward passes", len(indices), len(indices))
        grams = {name: sketches.pop(name).gram() for name in self.outputs}
        return Forwarded(grams, {name: join_sums(parts) for name, parts in sums.items()})


class ProbedChannels:
    """A model with a Gram probe of every channel of some layers, ready to run.

    Args:
        model: the opened model.
        preprocessing: converts samples to model input.
        channels: the channels of the layers to score.
        group: the batch size that the probes are optimised for; others also work.
        threads: number of threads for ONNX Runtime, or a `Runtime` with an execution provider; None: ONNX Runtime
            decides.

    Attributes:
        outputs: for each layer, the name of its result from `forward`; a Conv and the BatchNormalization after it share
            one.
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
        self._run = _ProbeSession(model, preprocessing, probed, threads)

    def forward(self, dataset: Dataset, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return centred Gram matrices of channels, float32 (C, N, N), by the names in ``outputs``.

        Raises:
            DataError: the data does not fit the model.
        """
        return self._run(dataset, indices)

    def distances(self, layer: str, gram: np.ndarray) -> np.ndarray:
        """Return the distances of a channel's points, (N, N).

        Raises:
            DataError: activations are NaN or infinite; the message names the layer.
        """
        return _distances(layer, gram, self._run.preprocessing)


class _ProbeSession:
    """An inference session of a graph with probes, fed with samples."""

    def __init__(self, model: Model, preprocessing: Arithmetic, probed: ir.Model, threads: Threads) -> None:
        self._name, self.preprocessing = model.name, preprocessing
        self._feeder = Feeder(model, preprocessing)
        self._outputs = list(dict.fromkeys(value.name or "" for value in probed.graph.outputs))
        self._session = runtime.inference_session(
            probed, f"{model.name} with probes", probing_options(threads), threads
        )

    def __call__(self, dataset: Dataset, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Run some samples and return the outputs by name."""
        feeds = self._feeder.feeds(dataset, indices)
        values = runtime.run_session(self._session, self._outputs, feeds, self._name)
        return dict(zip(self._outputs, values, strict=True))


def _distances(layer: str, gram: np.ndarray, preprocessing: Arithmetic) -> np.ndarray:
    try:
        return distances(gram)
    except DataError as error:
        raise DataError(f"layer {layer!r}: {error}. Is the preprocessing right ({preprocessing.to_json()})?") from error


def probing_options(threads: Threads = None) -> Any:
    """Return session options with which a graph with probes takes much less memory.

    Measurements show that memory patterns help version 1.19.2 of the training package and harm the newest stock runtime
    (tests/benchmarks/bench_scoring.py).
    """
    options = runtime.session_options(threads)
    options.enable_mem_pattern = bool(runtime.installed().training)
    return options
