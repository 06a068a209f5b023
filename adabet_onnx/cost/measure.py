"""Memory and time of training steps and of inference, each measured in a fresh process.

Step memory is the peak resident memory of a fresh process during training steps minus its resident memory when
imports are done and no model is loaded; for inference likewise.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckError

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
    command = [sys.executable, "-m", "adabet_onnx.cost.process", what, str(folder), str(batch_size), str(steps)]
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
