"""The process in which steps are measured: it runs them and prints their cost as JSON (see `measure`)."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from .. import runtime
from ..portable.features import Features
from ..portable.memory import micro_batch
from ..portable.session import PortableSession
from ..training.manifest import Manifest, load_manifest
from ..training.samples import sample_feeds, sample_labels
from ..training_runtime import need_runtime

_WARMUP = 2
_SECONDS, _MOST = 1.0, 500  # short steps are repeated for this time, but at most this often


def peak_memory() -> int:
    """Peak resident bytes of this process.

    On Linux it is read from VmHWM: getrusage's maximum survives exec, so a child would report its parent's peak.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _forget_peak() -> None:
    """Reset the peak to the current resident size, if the system supports it (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _give_back() -> None:
    """Return memory freed after imports to the system (with glibc): steps would reuse it and appear to take less."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True)
class _Timed:
    """The measured cost of runs: peak memory in bytes, and median time in seconds."""

    memory_bytes: int
    seconds: float


def _timed(base: int, steps: int, run: Callable[[], object]) -> _Timed:
    """Measure a function by running it several times.

    Args:
        base: resident bytes before anything was loaded.
        steps: minimum number of runs after the warm-up.
        run: the function.
    """
    times: list[float] = []
    while len(times) < _WARMUP + steps or (sum(times) < _SECONDS and len(times) < _MOST):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return _Timed(peak_memory() - base, statistics.median(times[_WARMUP:]))


def _base() -> int:
    """Resident bytes before anything is loaded."""
    _give_back()
    _forget_peak()
    return int(psutil.Process().memory_info().rss)


def _inference(manifest: Manifest, given: argparse.Namespace) -> dict[str, float]:
    base = _base()
    feeds = sample_feeds(manifest, given.batch)
    session = runtime.inference_session(
        manifest.file("model"), "the model", runtime.session_options(given.threads or None)
    )
    return asdict(_timed(base, given.steps, lambda: session.run(None, feeds)))


def _training(manifest: Manifest, given: argparse.Namespace) -> dict[str, float]:
    """Measure the frozen pass of a batch, in micro-batches, and steps that start from its features."""
    need_runtime(manifest.backend)
    base, size = _base(), given.batch // given.accumulate
    session = manifest.session(manifest.initial, threads=given.threads or None)
    labels = sample_labels(manifest, np.empty([size, *map(int, manifest.logits_shape[1:])], np.float32))
    kept: Mapping[str, np.ndarray] = {}
    frozen, before = None, None
    if manifest.frozen and isinstance(session, PortableSession):
        before = _FrozenPass(manifest, session, size)
    if before is None or not given.features:
        kept = sample_feeds(manifest, size)
    if before is not None and given.features:
        frozen, kept = _timed(base, given.steps, before.run), before.gathered()
        before.forget()
        before = None  # frees its inputs as well
        _give_back()
        _forget_peak()

    def features() -> Mapping[str, np.ndarray]:
        return kept if before is None else before.gathered()

    def step() -> None:
        if given.accumulate == 1:
            session.step(features(), labels, 1e-4)
            return
        for _ in range(given.accumulate):
            session.gradients(features(), labels)
        session.update(1e-4)

    after = _timed(base, given.steps, step)
    if frozen is None:
        return asdict(after)
    return {
        "memory_bytes": max(frozen.memory_bytes, after.memory_bytes),
        "seconds": after.seconds,
        "frozen_bytes": frozen.memory_bytes,
        "frozen_seconds": frozen.seconds * given.accumulate,
        "tail_bytes": after.memory_bytes,
    }


class _FrozenPass:
    """Computes features of the samples of a step in micro-batches, as a training does.

    Args:
        manifest: manifest of artifacts with a frozen part.
        session: the session with the frozen graph.
        size: number of samples.
    """

    def __init__(self, manifest: Manifest, session: PortableSession, size: int) -> None:
        one = manifest.predicted_bytes("predicted_frozen_bytes", 1)
        micro = micro_batch(one, manifest.predicted_bytes("predicted_step_bytes", size), size)
        self._session, self._size = session, size
        self._feeds = sample_feeds(manifest, micro)
        self._times = -(-size // micro)

    def each(self) -> Iterator[Features]:
        """Yield the features of each micro-batch."""
        for _ in range(self._times):
            yield self._session.features(self._feeds)

    def run(self) -> None:
        """Compute all features and keep none: pages of a store are not counted."""
        for _ in self.each():
            pass

    def gathered(self) -> Features:
        """Compute and return all features."""
        parts = list(self.each())
        return Features({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}).at(
            slice(self._size)
        )

    def forget(self) -> None:
        """Free the frozen graph."""
        self._session.forget_frozen()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("inference", "training"))
    parser.add_argument("folder", type=Path)
    for option, default in (("batch", 1), ("steps", 7), ("threads", 0), ("accumulate", 1), ("features", 1)):
        parser.add_argument(f"--{option}", type=int, default=default)
    given = parser.parse_args()
    runtime.onnxruntime()
    manifest = load_manifest(given.folder, verify=False)
    print(json.dumps((_inference if given.what == "inference" else _training)(manifest, given)))


if __name__ == "__main__":
    _main()
