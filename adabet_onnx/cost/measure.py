"""Memory and time of training steps and of inference, each measured in a fresh process.

Step memory is the peak resident memory of a fresh process during training steps minus its resident memory when
imports are done and no model is loaded; for inference likewise.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from .. import runtime
from ..errors import CheckError
from ..training.manifest import load_manifest
from ..training.samples import sample_feeds, sample_labels
from ..training_runtime import need_runtime

_WARMUP = 2
_SECONDS, _MOST = 1.0, 500  # short steps are repeated for so long, but no more than so often
_TIMEOUT = 900  # seconds


@dataclass(frozen=True)
class Cost:
    """What one step takes: peak memory in bytes (see the module) and the median time in seconds."""

    memory_bytes: int
    seconds: float


def measure_training(
    folder: Path, *, batch_size: int, accumulate: int = 1, steps: int = 7, threads: int | None = None
) -> Cost:
    """Cost of a training step (forward, backward, update) of an artifact folder.

    Args:
        folder: the artifacts.
        batch_size: samples of an update.
        accumulate: into how many parts a batch is cut, whose gradients are gathered; the time is that of all of them
            and of the update.
        steps: updates that are timed, at least.
        threads: for ONNX Runtime.

    Raises:
        CheckError: the process died or failed.
    """
    return _measure("training", folder, batch_size, steps, threads, accumulate)


def measure_inference(folder: Path, *, batch_size: int, steps: int = 7, threads: int | None = None) -> Cost:
    """Cost of a forward pass of an artifact folder's original model.

    Raises:
        CheckError: the process died or failed.
    """
    return _measure("inference", folder, batch_size, steps, threads)


def _measure(what: str, folder: Path, batch_size: int, steps: int, threads: int | None, accumulate: int = 1) -> Cost:
    command = [sys.executable, "-m", "adabet_onnx.cost.measure", what, str(folder), str(batch_size), str(steps)]
    try:
        done = subprocess.run(
            [*command, str(threads or 0), str(accumulate)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
        return Cost(**json.loads(done.stdout.strip().splitlines()[-1]))
    except subprocess.TimeoutExpired as error:
        raise CheckError(f"measuring {what} took longer than {_TIMEOUT} s; give a smaller `batch_size`.") from error
    except (ValueError, IndexError, TypeError) as error:
        reason = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise CheckError(
            f"measuring {what} failed: {reason}. Out of memory? Give a smaller `batch_size`, or `measure=False`."
        ) from error


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
