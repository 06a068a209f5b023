"""The frozen part in int8 against float32: accuracy after the same training, size and speed of the frozen graph.

    python tests/benchmarks/bench_int8.py [--pairs cifar100,...] [--seeds N]

Three pairs of a pretrained network and a new domain (see bench_compare.py), 1,000 training images, 10 epochs of SGD
with momentum 0.9 from random heads, batches of 32; the head alone and the last 10 % of the layers. Accuracy is the mean
over the seeds (of the new head, the order of samples and the validation split); sizes are of the frozen graph with its
weights; times are the medians of runs in turn, batch 32, one thread. Some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import load_external_data_for_model

from adabet_onnx import Choices, Model, Settings, Trainer, evaluate, make_artifacts, new_head, open_model, select
from adabet_onnx.data.source import open_data
from adabet_onnx.training.manifest import Manifest
from adabet_onnx.training.samples import sample_feeds

SHARED = Path(__file__).resolve().parents[3] / "shared"
PAIRS = {
    "cifar100": ("resnet20_cifar10_bn.onnx", "cifar100_20c.npz", 20),
    "flowers-mobilenetv1": ("mobilenetv1_025_vww96_bn.onnx", "flowers5_96.npz", 5),
    "flowers-mobilenetv2": ("mobilenetv2_035_imagenet128.onnx", "flowers5_96.npz", 5),
}
SAMPLES, BATCH, RUNS = 1000, 32, 15
SELECTIONS: dict[str, dict[str, Any]] = {"head": {"strategy": "head"}, "last 10 %": {"strategy": "last", "rho": 0.1}}
SETTINGS = Settings(head_init="random", epochs=10, learning_rate=0.01, batch_size=BATCH)


def frozen_bytes(manifest: Manifest) -> int:
    """Of the frozen graph, weights included."""
    model = onnx.load(manifest.file("frozen"), load_external_data=False)
    load_external_data_for_model(model, str(manifest.folder))
    return len(model.SerializeToString())


def frozen_seconds(manifests: list[Manifest]) -> list[float]:
    """Of the frozen pass over a batch, each in turn."""
    sessions = [manifest.session(manifest.initial, threads=1) for manifest in manifests]
    feeds = sample_feeds(manifests[0], BATCH)
    taken: list[list[float]] = [[] for _ in sessions]
    for run in range(RUNS + 2):
        for session, times in zip(sessions, taken, strict=True):
            began = time.perf_counter()
            session.features(feeds)
            if run >= 2:
                times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in taken]


def measured(
    model: Model, selection: dict[str, Any], data: Any, folder: Path, seed: int
) -> list[tuple[Manifest, float]]:
    """Artifacts and accuracy, in float32 and in int8."""
    found = []
    for precision in ("float32", "int8"):
        choices = Choices(optimizer="sgd", momentum=0.9, frozen_precision=precision)
        target = folder / precision
        chosen = select(model, **selection)
        manifest = make_artifacts(model, chosen, target, choices=choices, calibrate=data, check=False)
        Trainer(target, threads=1).fit(data, settings=replace(SETTINGS, seed=seed))
        found.append((manifest, evaluate(target, data, threads=1)["accuracy"]))
    return found


def main() -> None:
    """Measure pair by pair and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", default=",".join(PAIRS))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print(
        "| pair | trained | accuracy float32 | int8 | frozen graph float32 | int8 | ratio | frozen pass float32 | int8 "
        "| speed |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for pair in given.pairs.split(","):
        name, file, classes = PAIRS[pair]
        for what, selection in SELECTIONS.items():
            accuracies: list[list[float]] = []
            with tempfile.TemporaryDirectory() as scratch:
                for seed in range(given.seeds):
                    model = new_head(open_model(SHARED / "models" / name), classes, seed=seed)
                    splits = open_data(SHARED / "data" / file, model)
                    data = replace(splits, train=splits.train.subset(np.arange(min(SAMPLES, len(splits.train)))))
                    found = measured(model, selection, data, Path(scratch), seed)
                    accuracies.append([accuracy for _, accuracy in found])
                manifests = [manifest for manifest, _ in found]
                sizes, seconds = [frozen_bytes(manifest) for manifest in manifests], frozen_seconds(manifests)
            float32, int8 = np.mean(accuracies, axis=0)
            print(
                f"| {pair} | {what} | {float32:.1%} | {int8:.1%} | {sizes[0] / 1e3:.0f} kB | {sizes[1] / 1e3:.0f} kB | "
                f"{sizes[1] / sizes[0]:.2f}x | {seconds[0] * 1e3:.1f} ms | {seconds[1] * 1e3:.1f} ms | "
                f"{seconds[0] / seconds[1]:.2f}x |",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
