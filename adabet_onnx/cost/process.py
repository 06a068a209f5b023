"""The process in which steps are measured: it starts, runs them, says what they took, and ends (see `measure`)."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from .. import runtime
from ..training.manifest import load_manifest
from ..training.samples import sample_feeds, sample_labels
from ..training_runtime import need_runtime

_WARMUP = 2
_SECONDS, _MOST = 1.0, 500  # short steps are repeated for so long, but no more than so often


def peak_memory() -> int:
    """Peak resident bytes of this process.

    On Linux from VmHWM: getrusage's maximum survives exec, so a child would report its parent's peak.
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
    """Set the peak back to what is resident now, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _give_back() -> None:
    """Return to the system what imports have freed (with glibc): steps would live in it and seem to take less."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _step(
    what: str, folder: Path, batch: int, threads: int | None, accumulate: int = 1
) -> tuple[int, Callable[[], object]]:
    """Resident bytes before anything is loaded, and a function that runs one step."""
    runtime.onnxruntime()
    manifest = load_manifest(folder, verify=False)
    if what == "training":
        need_runtime(manifest.backend)
    _give_back()
    _forget_peak()
    base = int(psutil.Process().memory_info().rss)
    feeds = sample_feeds(manifest, batch // accumulate)
    if what == "inference":
        session = runtime.inference_session(manifest.file("model"), "the model", runtime.session_options(threads))
        return base, lambda: session.run(None, feeds)
    trainer = manifest.session(manifest.initial, threads=threads)
    shape = [batch // accumulate, *manifest.content["logits_shape"][1:]]
    labels = sample_labels(manifest, np.empty(shape, np.float32))

    def step() -> None:
        if accumulate == 1:
            trainer.step(feeds, labels, 1e-4)
            return
        for _ in range(accumulate):
            trainer.gradients(feeds, labels)
        trainer.update(1e-4)

    return base, step


def _main() -> None:
    what, folder, batch, steps, threads, accumulate = sys.argv[1:]
    base, step = _step(what, Path(folder), int(batch), int(threads) or None, int(accumulate))
    times: list[float] = []
    while len(times) < _WARMUP + int(steps) or (sum(times) < _SECONDS and len(times) < _MOST):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    print(json.dumps({"memory_bytes": peak_memory() - base, "seconds": statistics.median(times[_WARMUP:])}))


if __name__ == "__main__":
    _main()
