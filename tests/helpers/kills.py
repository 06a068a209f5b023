"""Trainings that are killed at random moments and resumed, compared with an uninterrupted one.

    python tests/helpers/kills.py COUNT SEED FOLDER

Each training is a fork of this process, which has imported everything but run nothing, and is killed by SIGKILL at a
random moment of the duration of a complete one; every other one is killed once more while it resumes. Prints a JSON
object: the number of kills, in total, while features were written, during training, and before or after; the resumed
trainings, and how many of them ended with other parameters or left feature files.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests, in which models is

import scipy.stats  # noqa: F401 (or each training would import it at its end)
from models import deep

from adabet_onnx import Settings, Trainer, make_artifacts, open_model, select
from adabet_onnx.portable import memory
from adabet_onnx.training.history import LAST
from adabet_onnx.training.manifest import load_manifest

SETTINGS = Settings(epochs=3, batch_size=16, learning_rate=0.01, features="disk")


def make(folder: Path) -> None:
    """Artifacts and data."""
    model = open_model(deep.residual(3, size=16, classes=4))
    layers = ["blocks.2.conv2", "fc"]
    make_artifacts(model, select(model, layers=layers), folder / "a", backend="portable", check=False)
    rng = np.random.default_rng(0)
    np.savez(folder / "data.npz", x=rng.standard_normal((240, 3, 16, 16), np.float32), y=rng.integers(0, 4, 240))


def train(folder: Path, resume: bool) -> None:
    """Train or resume; features are computed in many small pieces, so that there is time to be killed."""
    memory._LEAST = memory._MOST = 1
    Trainer(folder / "a", threads=1).fit(folder / "data.npz", settings=SETTINGS, resume=resume)


def forked(work: Callable[[], None]) -> int:
    """Run a function in a fork; returns the process id."""
    number = os.fork()
    if number == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return number


def done(work: Callable[[], None]) -> float:
    """Run it to the end; returns the seconds it took."""
    began = time.perf_counter()
    _, status = os.waitpid(forked(work), 0)
    if status:
        raise SystemExit(f"a training ended with {status}")
    return time.perf_counter() - began


def killed(work: Callable[[], None], seconds: float) -> bool:
    """Kill it after so many seconds; returns whether it was still running."""
    number = forked(work)
    time.sleep(seconds)
    os.kill(number, signal.SIGKILL)
    _, status = os.waitpid(number, 0)
    return os.WIFSIGNALED(status)


def parameters(folder: Path) -> dict[str, bytes]:
    """All trained values and the optimizer's state."""
    values, _ = load_manifest(folder / "a").read_checkpoint(folder / "a" / LAST, "adabet_onnx")
    return {name: value.tobytes() for name, value in values.items()}


def phase(folder: Path, was_killed: bool) -> str:
    """The phase in which a training was killed."""
    names = [path.name for path in (folder / "a" / "training").glob("*")] if was_killed else []
    names += [path.name for path in (folder / "a" / "training").glob(".*.part")] if was_killed else []
    if any(name.endswith(".part") and ".features." in name for name in names):
        return "writing"
    return "training" if any(name.endswith(".features") for name in names) else "else"


def main() -> None:
    """Kill and compare."""
    count, seed, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    done(lambda: make(folder))
    done(lambda: train(folder, False))
    expected = parameters(folder)
    whole = min(done(lambda: train(folder, False)) for _ in range(3))
    rng, phases, kills, resumed, other, left = random.Random(seed), Counter[str](), 0, 0, 0, 0
    while kills < count:
        shutil.rmtree(folder / "a" / "training", ignore_errors=True)
        for again in range(1 + resumed % 2):
            was_killed = killed(lambda again=again: train(folder, again > 0), rng.uniform(0, whole))
            phases[phase(folder, was_killed)] += 1
            kills += was_killed
        done(lambda: train(folder, True))
        resumed += 1
        other += parameters(folder) != expected
        left += any(".features" in path.name for path in folder.rglob("*"))
    print(json.dumps({"kills": kills, **phases, "resumed": resumed, "other": other, "left": left}))


if __name__ == "__main__":
    main()
