"""The cost of the signals for `auto` in scoring: ratios of time and peak memory with and without them.

    python tests/benchmarks/bench_signals.py [--rounds 5]

Fresh processes, one thread, with and without in turn: ResNet-20, MobileNetV1 and MobileNetV2 of ../shared/models on
their data, and a ResNet-18 at 224 px with random weights on random images. Time is of `score` alone, its session
included; memory is the process's peak. Ratios are of the lowest time and the lowest peak of the rounds. Five minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from adabet_onnx.scoring.options import Scoring

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
SHARED = TESTS.parents[1] / "shared"
PAIRS = {
    "ResNet-20": ("resnet20_cifar10_bn", "cifar10_noise5"),
    "MobileNetV1": ("mobilenetv1_025_vww96_bn", "flowers5_96"),
    "MobileNetV2": ("mobilenetv2_035_imagenet128", "flowers5_96"),
}


def one(model: str, data: str, samples: int, signals: bool) -> None:
    """Score in this process; print seconds and peak bytes."""
    from adabet_onnx import open_model, score
    from adabet_onnx.cost.process import peak_memory
    from adabet_onnx.data.preprocess import Arithmetic
    from adabet_onnx.data.source import open_data
    from adabet_onnx.scoring import forward
    from adabet_onnx.scoring.signals import Signals

    if not signals:
        forward.stored_statistics = lambda *given: {}
        sys.modules["adabet_onnx.scoring.score"].signals = lambda *given: Signals(None, None, 0.0)
    opened = open_model(model)
    dataset = open_data(data, opened)
    used = Arithmetic() if not dataset.train.rows.integer else None
    began = time.perf_counter()
    score(opened, dataset, preprocessing=used, threads=1, scoring=Scoring(samples=samples, subsets=64))
    print(json.dumps([time.perf_counter() - began, peak_memory()]))


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=4)
    given = parser.parse_args()
    if given.one:
        model, data, samples, signals = given.one
        one(model, data, int(samples), signals == "1")
        return
    print("| model | layers | time | peak memory |")
    print("|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, data) in PAIRS.items():
            row(name, SHARED / "models" / f"{model}.onnx", SHARED / "data" / f"{data}.npz", 128, given.rounds)
        from models import architectures

        path, images = Path(folder) / "resnet18.onnx", Path(folder) / "images.npz"
        path.write_bytes(architectures.export("resnet18", size="full"))
        np.savez(images, x=np.random.default_rng(0).standard_normal((32, 3, 224, 224)).astype(np.float32))
        row("ResNet-18", path, images, 32, min(given.rounds, 3))


def row(name: str, model: Path, data: Path, samples: int, rounds: int) -> None:
    """Measure and print one model."""
    from adabet_onnx import open_model

    found: dict[str, list[list[float]]] = {"0": [], "1": []}
    for _ in range(rounds):
        for signals, values in found.items():
            command = [sys.executable, __file__, "--one", str(model), str(data), str(samples), signals]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            values.append(json.loads(done.stdout.splitlines()[-1]))
    time_, memory = (min(v[i] for v in found["1"]) / min(v[i] for v in found["0"]) for i in (0, 1))
    print(f"| {name} | {len(open_model(model).layers)} | {time_:.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
