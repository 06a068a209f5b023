"""What steps begin with, by sample: kept from one pass over the data, or computed when it is asked for.

The frozen graph is run once over all samples and what it gives is kept: in memory, or in a file (`store`). Where there
is no room it is run in each step. It always runs on as many samples, the micro-batch, the last ones of a batch filled
up with repetitions; so features are the same, to the last bit, whenever they are computed.
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

_SHARE = 0.25  # of the free memory that features may take unasked
_SPARE = 100_000_000  # bytes that are left free on a disk


@dataclass(frozen=True)
class Computed:
    """Features that are computed when they are asked for.

    Attributes:
        session: that has the frozen graph.
        feeder: makes input of samples.
        data: the samples.
        micro: how many the frozen graph is run on; None where there is nothing frozen: then what is given for samples
            are the model's inputs.
        views: of the samples.
        where: the frozen graph runs.
    """

    session: TrainingSession
    feeder: Feeder
    data: Dataset
    micro: int | None
    views: Views
    where: runtime.Runtime = field(default_factory=runtime.Runtime)

    def of(self, rows: np.ndarray, views: np.ndarray | None = None) -> Mapping[str, np.ndarray]:
        """Of these samples; where a view is named for each, of that."""
        feeds = self.feeder.feeds(self.data, rows, views)
        if self.micro is None:
            return feeds
        parts = [self._run(feeds, start, self.micro) for start in range(0, len(rows), self.micro)]
        return Features({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def _run(self, feeds: Mapping[str, np.ndarray], start: int, count: int) -> Features:
        part = {name: array[start : start + count] for name, array in feeds.items()}
        here = len(next(iter(part.values())))
        whole = np.minimum(np.arange(count), here - 1)
        return self.session.features({name: array[whole] for name, array in part.items()}).at(slice(here))


@dataclass
class FeatureSource:
    """What steps of a training begin with.

    Attributes:
        computed: how it is computed.
        kept: of all views of all samples, in the order of `Views`, where it is kept.
        said: where it is, or why it is nowhere, in a line; None where there is nothing to say.
    """

    computed: Computed
    kept: Features | None = None
    said: str | None = None
    _store: Store | None = field(default=None, repr=False)

    @property
    def path(self) -> Path | None:
        """The file, where there is one."""
        return None if self._store is None else self._store.path

    @property
    def views(self) -> Views:
        """Of the samples: ``source.of(*source.views.of(rows))`` is of all views of these."""
        return self.computed.views

    def of(self, rows: np.ndarray, views: np.ndarray | None = None) -> Mapping[str, np.ndarray]:
        """Of these samples.

        Args:
            rows: which samples.
            views: the number of the view of each, the same whether it is kept or computed; None: the samples
                themselves.
        """
        if self.kept is None:
            return self.computed.of(rows, views)
        return self.kept.at(self.views.places(rows, views))

    def close(self, *, keep: bool) -> None:
        """Let go of what is kept.

        Args:
            keep: leave the file there, if there is one.
        """
        self.kept = None
        if self._store is not None:
            self._store.close(remove=not keep)
            self._store = None


@dataclass(frozen=True)
class Place:
    """Where a file of features is put.

    Attributes:
        folder: in which.
        own: whether only one training at a time puts one there: others are then of no use.
    """

    folder: Path
    own: bool


def micro_batch(manifest: Manifest, batch: int, samples: int, stored: Any = None) -> int | None:
    """How many samples the frozen graph is run on; None where nothing is frozen.

    Its run takes as much memory as a step does at most, if that is not very little, and half of what is free.

    Args:
        manifest: of the artifacts.
        batch: samples of a step.
        samples: how many there are.
        stored: what a training that goes on began with.
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
    used: TrainingData,
    settings: Settings,
    place: Place,
    progress: Progress | None,
) -> FeatureSource:
    """Compute features and keep them, or find them kept, as the settings say.

    Args:
        computed: how they are computed.
        manifest: of the artifacts.
        used: the data.
        settings: of the training.
        place: where a file is put.
        progress: told of the samples.

    Raises:
        DataError: a sample cannot be read or fed.
        TrainingError: the frozen graph cannot be run.
    """
    if manifest.backend == "ort":
        asked = settings.features in ("memory", "disk") or settings.keep_features
        said = "none are kept: with the ort backend every step computes everything" if asked else None
        return FeatureSource(computed, said=said)
    if computed.micro is None or settings.features == "off":
        return FeatureSource(computed)
    return _Keeping(computed, manifest, used, settings, place, progress or silent).source()


class _Keeping:
    """Where and how the features of one training are kept."""

    def __init__(
        self,
        computed: Computed,
        manifest: Manifest,
        used: TrainingData,
        settings: Settings,
        place: Place,
        progress: Progress,
    ) -> None:
        self._computed, self._settings, self._place, self._progress = computed, settings, place, progress
        self._manifest, self._used, self._rows = manifest, used, used.views.total
        self._fields = [
            Field(str(entry["name"]), str(entry["dtype"]), tuple(entry["shape"][1:])) for entry in manifest.boundary
        ]
        self._bytes = file_bytes(self._fields, self._rows)

    @cached_property
    def _key(self) -> str:
        return _key(self._manifest, self._used, self._computed.micro or 0, self._computed.where)

    @property
    def _path(self) -> Path:
        return self._place.folder / f"{self._key[:32]}{SUFFIX}"

    def source(self) -> FeatureSource:
        """Find or make them."""
        settings = self._settings
        limit = settings.memory
        if limit is None:
            limit = int(_SHARE * psutil.virtual_memory().available)
        fits, wanted = self._bytes <= limit, settings.features
        if wanted != "memory" and any(self._place.folder.glob(f"*{SUFFIX}")):
            there = self._opened("from an earlier training")
            if there is not None:
                return there
        refused = []
        if wanted == "memory" or (wanted == "auto" and fits and not settings.keep_features):
            made = self._in_memory() if fits else None
            if made is not None:
                return made
        if wanted in ("auto", "disk"):
            made, reason = self._on_disk()
            if made is not None:
                return made
            refused.append(f"no such file can be made in {self._place.folder} ({reason})")
            made = self._in_memory() if wanted == "auto" and fits else None
            if made is not None:
                return made
        if wanted != "disk":
            refused.insert(0, f"`features_memory` is {size_text(limit)}")
        because = " and ".join(refused)
        return self._with(said=f"{size_text(self._bytes)} fit nowhere, for {because}: every step computes its own")

    def _with(self, **what: Any) -> FeatureSource:
        return FeatureSource(self._computed, **what)

    def _said(self, where: str) -> str:
        size = size_text(sum(field.bytes for field in self._fields))
        what = f"{counted(self._rows, 'sample')} of {size}"
        if self._used.views.count > 1:
            what = f"{counted(self._rows, 'view')} of {counted(len(self._used.data), 'sample')}, each of {size}"
        return f"{what}, {size_text(self._bytes)} {where}"

    def _in_memory(self) -> FeatureSource | None:
        with contextlib.suppress(MemoryError):
            return self._with(
                kept=filled(self._fields, self._rows, self._chunks()), said=self._said("in memory, computed once")
            )
        return None

    def _on_disk(self) -> tuple[FeatureSource | None, str]:
        """What is kept in a file; or None, and why."""
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
        made = self._opened("computed once")
        return made, "what was written cannot be read"

    def _opened(self, how: str) -> FeatureSource | None:
        store = open_store(self._path, self._key, self._fields, self._rows)
        if store is None:
            return None
        where = f"in {self._path}" if self._settings.keep_features else "on disk"
        return self._with(kept=store.features, said=self._said(f"{where}, {how}"), _store=store)

    def _chunks(self) -> Iterator[Mapping[str, np.ndarray]]:
        size = self._computed.micro or 1
        views = self._used.views
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
            found = chunk[each.name]
            if found.shape[1:] != each.shape or found.dtype != each.dtype:
                raise TrainingError(
                    f"the frozen graph gives {each.name!r} as {found.dtype} {found.shape[1:]} for a sample, but the "
                    f"manifest says {each.dtype} {each.shape}. Make the artifacts again."
                )


def _reason(error: Exception) -> str:
    """Why a file could not be written, in a few words."""
    cause = error.__cause__ if isinstance(error, OutputError) else error
    return (cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)).lower()


def _key(manifest: Manifest, used: TrainingData, micro: int, where: runtime.Runtime) -> str:
    """SHA-256 of everything that features depend on. The graph includes the precision they are computed in."""
    what = {
        "version": __version__,
        "frozen": frozen_hash(manifest),
        "boundary": manifest.boundary,
        "inputs": manifest.input_details,
        "data": content_hash(used.data, used.about["content"]),
        "preprocessing": used.about["preprocessing"],
        "taken_for": used.taken,
        "micro_batch": micro,
        "runtime": runtime.onnxruntime().__version__,
        "provider": where.providers,
        # ONNX Runtime cuts a product otherwise on many threads, which may sum it up in another order (an Einsum on 8).
        "threads": where.threads or [None, os.cpu_count()],
        "views": _about(used.views),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


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
    """SHA-256 of the frozen graph and its weights, wherever in their file these lie.

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
    """Delete the files of features in a folder, of which an interrupted training may have left some.

    Args:
        folder: where they are.
        kept: the one that stays.
    """
    for pattern in (f"*{SUFFIX}", f".*{SUFFIX}.*.part"):
        for path in folder.glob(pattern):
            if path != kept:
                with contextlib.suppress(OSError):
                    path.unlink()
