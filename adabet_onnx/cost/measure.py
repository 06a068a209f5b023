"""Measure memory and time of training steps and of inference, each in a fresh process.

Step memory is the peak resident memory of a fresh process during training steps minus its resident memory after imports
and before a model is loaded; likewise for inference. The part of the model that training does not change is computed
before the steps, by the frozen pass, and then freed, so the memory of a training is that of the frozen pass or that of
a step after it, whichever is more. Features kept for more samples than one step takes are not counted.
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
    """The measured cost of a step.

    Attributes:
        memory_bytes: peak memory, see the module.
        seconds: median time of a step, after the frozen pass.
        frozen_bytes: peak memory of the frozen pass; 0 if nothing is frozen.
        frozen_seconds: median time of the frozen pass over the samples of a step.
        tail_bytes: peak memory of the steps after the frozen pass; 0 if nothing is frozen.
    """

    memory_bytes: int
    seconds: float
    frozen_bytes: int = 0
    frozen_seconds: float = 0.0
    tail_bytes: int = 0


def measure_training(
    folder: Path,
    *,
    batch_size: int,
    accumulate: int = 1,
    steps: int = 7,
    threads: int | None = None,
    features: bool = True,
) -> Cost:
    """Measure training with an artifact folder: the frozen pass, and a step (forward, backward, update) after it.

    Args:
        folder: the artifacts.
        batch_size: samples of an update.
        accumulate: number of micro-batches with accumulated gradients; the time is that of all of them and the update.
        steps: minimum number of updates that are timed.
        threads: number of threads for ONNX Runtime.
        features: whether features are kept; otherwise the frozen graph runs in each step and stays loaded.

    Raises:
        CheckError: the process crashed or failed.
    """
    options = {"batch": batch_size, "accumulate": accumulate, "steps": steps, "threads": threads or 0}
    return _measure("training", folder, options | {"features": int(features)})


def measure_inference(folder: Path, *, batch_size: int, steps: int = 7, threads: int | None = None) -> Cost:
    """Measure a forward pass of an artifact folder's original model.

    Raises:
        CheckError: the process crashed or failed.
    """
    return _measure("inference", folder, {"batch": batch_size, "steps": steps, "threads": threads or 0})


def _measure(what: str, folder: Path, options: dict[str, int]) -> Cost:
    command = [sys.executable, "-m", "adabet_onnx.cost.process", what, str(folder)]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        return Cost(**json.loads(done.stdout.strip().splitlines()[-1]))
    except subprocess.TimeoutExpired as error:
        raise CheckError(f"measuring {what} took longer than {_TIMEOUT} s; give a smaller `batch_size`.") from error
    except (ValueError, IndexError, TypeError) as error:
        reason = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise CheckError(
            f"measuring {what} failed: {reason}. Out of memory? Give a smaller `batch_size`, or `measure=False`."
        ) from error
