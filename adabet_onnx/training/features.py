"""The features that training steps start from: kept from one pass over the data, or computed on demand.

The frozen graph runs once over all samples and its outputs are kept in memory or in a file (`feature_store`). If there
is no room, it runs in each step. It always runs on the same number of samples, the micro-batch; an incomplete one is
padded with repetitions. So features are bit-identical whenever they are computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL
import psutil

from .. import runtime
from ..data.dataset import Dataset
from ..data.feeder import Feeder
from ..data.fingerprint import content_hash
from ..errors import OutputError, TrainingError
from ..files import make_folder
from ..model.reading import tensors
from ..portable import memory
from ..portable.features import Features
from ..portable.weights import check_external
from ..progress import Progress, silent
from ..showing import clipped, counted
from ..sizes import size_text
from ..version import __version__
from .feature_store import SUFFIX, Field, Store, file_bytes, filled, open_store, write_store
from .manifest import Manifest, TrainingSession
from .settings import Settings
from .training_data import TrainingData
from .views import Views

_SHARE = 0.25  # of the free memory that features may take by default
_SPARE = 100_000_000  # bytes to leave free on a disk


@dataclass(frozen=True)
class Computed:
    """Features that are computed on demand.

    Attributes:
        session: holds the frozen graph.
        feeder: converts samples to model input.
        data: the samples.
        micro: how many samples the frozen graph runs on at once; None if nothing is frozen, and the features are the
            model's inputs.
        views: the views of the samples.
        where: the runtime that runs the frozen graph.
    """

    session: TrainingSession
    feeder: Feeder
    data: Dataset
    micro: int | None
    views: Views
    where: runtime.Runtime = field(default_factory=runtime.Runtime)

    def of(self, rows: np.ndarray, views: np.ndarray | None = None) -> Mapping[str, np.ndarray]:
        """Return the features of these samples or, if ``views`` are given, of those views of them."""
        feeds = self.feeder.feeds(self.data, rows, views)
        if self.micro is None:
            return feeds
        parts = [self._run(feeds, start, self.micro) for start in range(0, len(rows), self.micro)]
        return Features({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def _run(self, feeds: Mapping[str, np.ndarray], start: int, count: int) -> Features:
        part = {name: array[start : start + count] for name, array in feeds.items()}
        present = len(next(iter(part.values())))
        padded = np.minimum(np.arange(count), present - 1)
        return self.session.features({name: array[padded] for name, array in part.items()}).at(slice(present))


@dataclass
class FeatureSource:
    """The features that the steps of a training start from.

    Attributes:
        computed: computes the features.
        kept: the features of all views of all samples, in the order of `Views`, if they are kept.
        message: where features are kept, or why they are not, in a line; None if there is nothing to report.
    """

    computed: Computed
    kept: Features | None = None
    message: str | None = None
    _store: Store | None = field(default=None, repr=False)

    @property
    def path(self) -> Path | None:
        """The file of features, if there is one."""
        return None if self._store is None else self._store.path

    @property
    def views(self) -> Views:
        """The views of the samples; ``source.of(*source.views.of(rows))`` returns all views of ``rows``."""
        return self.computed.views

    def of(self, rows: np.ndarray, views: np.ndarray | None = None) -> Mapping[str, np.ndarray]:
        """Return the features of these samples.

        Args:
            rows: indices of the samples.
            views: the view number of each, the same for kept and computed features; None: the samples themselves.
        """
        if self.kept is None:
            return self.computed.of(rows, views)
        return self.kept.at(self.views.places(rows, views))

    def close(self, *, keep: bool) -> None:
        """Release the kept features.

        Args:
            keep: leave the file in place, if there is one.
        """
        self.kept = None
        if self._store is not None:
            self._store.close(remove=not keep)
            self._store = None


@dataclass(frozen=True)
class Place:
    """Where a file of features is stored.

    Attributes:
        folder: the folder.
        own: whether only one training at a time stores a file there; any others are then obsolete.
    """

    folder: Path
    own: bool


def micro_batch(manifest: Manifest, batch: int, samples: int, stored: Any = None) -> int | None:
    """Return how many samples the frozen graph runs on at once; None if nothing is frozen.

    Running it takes at most as much memory as a step does (unless that is very little) and half of the free memory.

    Args:
        manifest: the manifest of the artifacts.
        batch: samples per step.
        samples: number of samples.
        stored: the value stored by the training to be resumed.
    """
    if not manifest.frozen:
        return None
    if type(stored) is int and 1 <= stored <= batch:
        return stored
    one = manifest.predicted_bytes("predicted_frozen_bytes", 1)
    step = manifest.predicted_bytes("predicted_step_bytes", batch)
    return min(memory.micro_batch(one, step, batch, psutil.virtual_memory().available // 2), samples)


def open_features(
    computed: Computed,
    manifest: Manifest,
    data: TrainingData,
    settings: Settings,
    place: Place,
    progress: Progress | None,
) -> FeatureSource:
    """Compute and keep features, or reuse a file of them, as the settings say.

    Args:
        computed: computes the features.
        manifest: the manifest of the artifacts.
        data: the training data.
        settings: the training settings.
        place: where a file is stored.
        progress: receives the progress over the samples.

    Raises:
        DataError: a sample cannot be read or fed.
        TrainingError: the frozen graph fails to run.
    """
    if manifest.backend == "ort":
        requested = settings.features in ("memory", "disk") or settings.keep_features
        message = "none are kept: with the ort backend every step computes everything" if requested else None
        return FeatureSource(computed, message=message)
    if computed.micro is None or settings.features == "off":
        return FeatureSource(computed)
    return _Keeping(computed, manifest, data, settings, place, progress or silent).source()


class _Keeping:
    """Keeps the features of one training in memory or in a file."""

    def __init__(
        self,
        computed: Computed,
        manifest: Manifest,
        data: TrainingData,
        settings: Settings,
        place: Place,
        progress: Progress,
    ) -> None:
        self._computed, self._settings, self._place, self._progress = computed, settings, place, progress
        self._manifest, self._data, self._rows = manifest, data, data.views.total
        self._fields = [
            Field(str(entry["name"]), str(entry["dtype"]), tuple(entry["shape"][1:])) for entry in manifest.boundary
        ]
        self._bytes = file_bytes(self._fields, self._rows)

    @cached_property
    def _key(self) -> str:
        return _key(self._manifest, self._data, self._computed.micro or 0, self._computed.where)

    @property
    def _path(self) -> Path:
        return self._place.folder / f"{self._key[:32]}{SUFFIX}"

    def source(self) -> FeatureSource:
        """Find or compute the features."""
        settings = self._settings
        limit = settings.memory
        if limit is None:
            limit = int(_SHARE * psutil.virtual_memory().available)
        fits, mode = self._bytes <= limit, settings.features
        if mode != "memory" and any(self._place.folder.glob(f"*{SUFFIX}")):
            source = self._opened("from an earlier training")
            if source is not None:
                return source
        reasons = []
        if mode == "memory" or (mode == "auto" and fits and not settings.keep_features):
            source = self._in_memory() if fits else None
            if source is not None:
                return source
        if mode in ("auto", "disk"):
            source, reason = self._on_disk()
            if source is not None:
                return source
            reasons.append(f"no file can be written to {self._place.folder} ({reason})")
            source = self._in_memory() if mode == "auto" and fits else None
            if source is not None:
                return source
        if mode != "disk":
            reasons.insert(0, f"`features_memory` is {size_text(limit)}")
        reason = " and ".join(reasons)
        return self._with(
            message=f"{size_text(self._bytes)} of features cannot be kept, because {reason}: every step computes them"
        )

    def _with(self, **options: Any) -> FeatureSource:
        return FeatureSource(self._computed, **options)

    def _message(self, where: str) -> str:
        each = sum(field.bytes for field in self._fields)
        size = size_text(each)
        label = f"{counted(self._rows, 'sample')} of {size}"
        if self._data.views.count > 1:
            views, samples = counted(self._rows, "view"), counted(len(self._data.data), "sample")
            label = f"{views} of {samples}, each of {size}"
        return f"{label}, {size_text(each * self._rows)} {where}"

    def _in_memory(self) -> FeatureSource | None:
        with contextlib.suppress(MemoryError):
            return self._with(
                kept=filled(self._fields, self._rows, self._chunks()), message=self._message("in memory, computed once")
            )
        return None

    def _on_disk(self) -> tuple[FeatureSource | None, str]:
        """Keep features in a file; return None and the reason if that fails."""
        try:
            make_folder(self._place.folder)
            if self._place.own:
                remove_others(self._place.folder, self._path)
            free = psutil.disk_usage(str(self._place.folder)).free
            if free < self._bytes + _SPARE:
                return None, f"{size_text(free)} are free"
            write_store(self._path, self._key, self._fields, self._rows, self._chunks())
        except (OutputError, OSError) as error:
            return None, clipped(_reason(error), 120)
        source = self._opened("computed once")
        return source, "what was written cannot be read"

    def _opened(self, origin: str) -> FeatureSource | None:
        store = open_store(self._path, self._key, self._fields, self._rows)
        if store is None:
            return None
        where = f"in {self._path}" if self._settings.keep_features else "on disk"
        return self._with(kept=store.features, message=self._message(f"{where}, {origin}"), _store=store)

    def _chunks(self) -> Iterator[Mapping[str, np.ndarray]]:
        size = self._computed.micro or 1
        views = self._data.views
        for start in range(0, self._rows, size):
            self._progress("computing features", start, self._rows)
            rows, numbers = views.rows(start, start + size)
            chunk = self._computed.of(rows, None if views.augmentation is None else numbers)
            self._check(chunk)
            yield chunk
        self._progress("computing features", self._rows, self._rows)
        self._computed.session.forget_frozen()

    def _check(self, chunk: Mapping[str, np.ndarray]) -> None:
        for each in self._fields:
            array = chunk[each.name]
            if array.shape[1:] != each.shape or array.dtype != each.dtype:
                raise TrainingError(
                    f"the frozen graph gives {each.name!r} as {array.dtype} {array.shape[1:]} for a sample, but the "
                    f"manifest says {each.dtype} {each.shape}. Make the artifacts again."
                )


def _reason(error: Exception) -> str:
    """Return a short reason why a file could not be written."""
    cause = error.__cause__ if isinstance(error, OutputError) else error
    return (cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)).lower()


def _key(manifest: Manifest, data: TrainingData, micro: int, where: runtime.Runtime) -> str:
    """SHA-256 of everything that features depend on; the graph determines the precision."""
    content = {
        "version": __version__,
        "frozen": frozen_hash(manifest),
        "boundary": manifest.boundary,
        "inputs": manifest.input_details,
        "data": content_hash(data.data, data.about["content"]),
        "preprocessing": data.about["preprocessing"],
        "taken_for": data.taken,
        "micro_batch": micro,
        "runtime": runtime.onnxruntime().__version__,
        "provider": where.providers,
        # ONNX Runtime splits a product differently on many threads, which may change the summation order (Einsum on 8).
        "threads": where.threads or [None, os.cpu_count()],
        "views": _about(data.views),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _about(views: Views) -> dict[str, Any] | None:
    """Everything that views of samples depend on."""
    if views.augmentation is None:
        return None
    return {
        "kinds": views.augmentation.kinds,
        "seed": views.augmentation.seed,
        "count": views.count,
        "training": hashlib.sha256(views.training.astype("<i8").tobytes()).hexdigest(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def frozen_hash(manifest: Manifest) -> str:
    """SHA-256 of the frozen graph and its weights, independent of their position in the file.

    Raises:
        RecordError: a file is damaged.
    """
    path, weights = manifest.file("frozen"), manifest.file("weights")
    check_external(path, weights)
    graph = onnx.load(path, load_external_data=False)
    with weights.open("rb") as file:
        for tensor in tensors(graph):
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            file.seek(int(place.get("offset") or 0))
            tensor.raw_data = hashlib.sha256(file.read(int(place["length"]))).digest()
            del tensor.external_data[:]
    return hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()


def remove_others(folder: Path, kept: Path | None) -> None:
    """Delete the feature files in a folder, such as those left by interrupted trainings.

    Args:
        folder: the folder.
        kept: the file to keep.
    """
    for pattern in (f"*{SUFFIX}", f".*{SUFFIX}.*.part"):
        for path in folder.glob(pattern):
            if path != kept:
                with contextlib.suppress(OSError):
                    path.unlink()
