"""Frozen weights embedded in the graphs or kept in the checkpoint: step time and memory, the basis of the default.

    python tests/benchmarks/bench_frozen.py

For each model and selection both kinds of artifact are measured in fresh processes, alternating; printed are the
medians of the ratios embedded / checkpoint. About five minutes on two cores.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np

from adabet_onnx import make_artifacts, open_model, score, select
from adabet_onnx.cost.measure import measure_training
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.trainability.choices import Choices

SHARED = Path(__file__).resolve().parents[3] / "shared"
MODELS = ("resnet20_cifar10_bn", "mobilenetv1_025_vww96_bn", "mobilenetv2_035_imagenet128")
ROUNDS = 3


def main() -> None:
    """Measure and print a table in Markdown."""
    print("| model | selection | time, embedded / checkpoint | memory, embedded / checkpoint |")
    print("|---|---|---|---|")
    for name in MODELS:
        model = open_model(SHARED / "models" / f"{name}.onnx")
        images = np.random.default_rng(0).standard_normal((32, *model.inputs[0].shape[1:])).astype(np.float32)
        scores = score(model, images, scoring=Scoring(samples=32))
        for strategy in ("adabet", "first", "head"):
            with tempfile.TemporaryDirectory() as folder:
                kinds = ("embedded", "checkpoint")
                for kind in kinds:
                    selection = select(scores, strategy=strategy)
                    make_artifacts(model, selection, Path(folder) / kind, check=False, choices=Choices(frozen=kind))
                times, memory = [], []
                for _ in range(ROUNDS):
                    first, second = (measure_training(Path(folder) / kind, batch_size=8) for kind in kinds)
                    times.append(first.seconds / second.seconds)
                    memory.append(first.memory_bytes / second.memory_bytes)
            row = f"| {name} | {strategy} | {statistics.median(times):.2f} | {statistics.median(memory):.2f} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
