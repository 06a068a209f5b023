"""Costs and gains of training some output channels of a layer: the best by Betti number, and random ones.

    python tests/benchmarks/bench_channels.py [--seeds 3] [--rho 0.2] [--channel-rho 0.5,0.25]

For each model and seed AdaBet chooses layers; they are trained whole, and in part, with the same data order, rate and
number of epochs. Printed are mean and standard deviation of the test accuracy, the size of the update and the step
memory (measured for the first seed, in fresh processes), against the whole layers'. About 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bench_main_job import JOBS, SHARED

from adabet_onnx import Trainer, export_model, make_artifacts, open_model, score, select
from adabet_onnx.cost.measure import measure_training
from adabet_onnx.data.preprocess import Preprocessing
from adabet_onnx.data.source import open_data
from adabet_onnx.model.head import new_head
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.selection.record import Selection
from adabet_onnx.selection.strategies import with_channels
from adabet_onnx.training.evaluation import evaluate
from adabet_onnx.training.manifest import load_manifest
from adabet_onnx.training.settings import Settings


def at_random(selection: Selection, counts: dict[str, int], seed: int) -> Selection:
    """The same number of channels of each layer, drawn at random."""
    rng = np.random.default_rng([seed, 7])
    drawn = {
        layer: tuple(sorted(int(i) for i in rng.choice(counts[layer], len(channels), replace=False)))
        for layer, channels in (selection.channels or {}).items()
    }
    return dataclasses.replace(selection, channels=drawn)


def train(model: Any, selection: Selection, data: Any, used: Any, rate: float, seed: int, *, measure: bool) -> Any:
    """Test accuracy, bytes of the update, step memory (or None)."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "artifacts"
        make_artifacts(model, selection, folder, backend="portable", check=False)
        manifest = load_manifest(folder)
        session = manifest.session(manifest.initial)
        update = sum(session.parameter(name).nbytes for name in manifest.parameters)
        memory = measure_training(folder, batch_size=32, threads=1).memory_bytes if measure else None
        Trainer(folder, threads=1).fit(
            data, preprocessing=used, learning_rate=rate, epochs=10, settings=Settings(seed=seed)
        )
        adapted = open_model(export_model(folder, Path(place) / "adapted.onnx", check=False))
        return evaluate(adapted, data.for_evaluation, preprocessing=used, threads=1)["accuracy"], update, memory


def main() -> None:
    """Run and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rho", type=float, default=0.2)
    parser.add_argument("--channel-rho", default="0.5,0.25")
    given = parser.parse_args()
    print("| model and data | channels | accuracy | update kB | step memory MB |\n|---|---|--:|--:|--:|")
    for name, samples, classes, rate in JOBS:
        found: dict[str, list[Any]] = {}
        for seed in range(given.seeds):
            model = new_head(open_model(SHARED / "models" / name), classes, seed=seed)
            data = open_data(SHARED / "data" / samples, model)
            used = Preprocessing().resolve(model, integer_data=data.train.rows.integer)
            scores = score(model, data, preprocessing=used, seed=seed, scoring=Scoring(channels=True))
            whole = select(scores, rho=given.rho)
            counts = {layer.name: len(layer.channels.b1_mean) for layer in scores.layers if layer.channels is not None}
            ways = {"all": whole}
            for share in map(float, given.channel_rho.split(",")):
                best = with_channels(whole, scores, share)
                ways |= {f"{share:.0%}, best": best, f"{share:.0%}, random": at_random(best, counts, seed)}
            for way, selection in ways.items():
                row = train(model, selection, data, used, float(rate), seed, measure=not seed)
                found.setdefault(way, []).append(row)
        for way, rows in found.items():
            accuracies = [accuracy for accuracy, _, _ in rows]
            spread = statistics.stdev(accuracies) if len(rows) > 1 else 0.0
            cells = [f"{name} on {samples}", way, f"{statistics.mean(accuracies):.1%} ± {spread:.1%}"]
            cells += [f"{statistics.mean(size for _, size, _ in rows) / 1e3:.0f}", f"{rows[0][2] / 1e6:.1f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
