"""Agreement of a device's scores with `score` by exact distances: by sketch, samples, points and subsets.

    python tests/benchmarks/bench_device_scoring.py [demo] [resnet20] [mobilenetv2] [--draws 5]

Each draw takes 128 other samples of the new domain. The reference is `score` by exact distances of all of them, with
1,024 subsets of 32. A device takes the first of them, by the rule of docs/device-package.md, from sketches whose seed
is the draw's number. Printed are Kendall's tau-b over all layers (mean of the draws, and the lowest), the memory of the
sketches that a device keeps, and the seconds from sketches to scores, on one core. The row "score again" compares the
reference with that of the next draw: the effect of other samples alone. Models and data are looked for in ../shared;
those of the demo are in the package. A quarter of an hour.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adabet_onnx import Scores, Scoring, open_model, score
from adabet_onnx import runtime as ort
from adabet_onnx.data.feeder import Feeder
from adabet_onnx.data.preprocess import preprocessing_from_json
from adabet_onnx.data.source import open_data
from adabet_onnx.device.parts import ScoredLayer, ScoringPlan
from adabet_onnx.device.scoring import scores
from adabet_onnx.kendall import kendall_tau
from adabet_onnx.model.open import Model
from adabet_onnx.scoring.probes import add_probes

ROOT = Path(__file__).resolve().parents[2]
SHARED, DEMO = ROOT.parent / "shared", ROOT / "adabet_onnx" / "demo"
PAIRS = {
    "demo": (DEMO / "digits.onnx", DEMO / "digits_shifted.npz"),
    "resnet20": (SHARED / "models" / "resnet20_cifar10_bn.onnx", SHARED / "data" / "cifar100_20c.npz"),
    "mobilenetv2": (SHARED / "models" / "mobilenetv2_035_imagenet128.onnx", SHARED / "data" / "flowers5_96.npz"),
}
SAMPLES, SUBSETS = 128, 1024
SKETCHES = (64, 256, 512, 1024, 2048, 8192)
USUAL = (2048, 64, 32, 64)  # sketch, samples, points, subsets
MANY = (256, 512, 1024)  # sketches, of 128 samples
OTHERS = (  # samples, points, subsets
    (32, 32, 1),
    (32, 16, 64),
    (64, 16, 64),
    (64, 32, 16),
    (64, 32, 256),
    (64, 64, 1),
    (128, 32, 64),
    (128, 32, 256),
)
Row = tuple[int, int, int, int]


def sketches(model: Model, feeds: dict[str, np.ndarray], size: int, seed: int) -> tuple[list[Any], list[np.ndarray]]:
    """(what a plan says of the layers, their sketches of all samples), one sample at a time."""
    probed, outputs = add_probes(model, "sketch", sketch=size, seed=seed)
    session = ort.inference_session(probed, "the probed model", threads=1)
    rows: list[list[np.ndarray]] = []
    for i in range(SAMPLES):
        found = ort.run_session(session, list(outputs.values()), {n: x[i : i + 1] for n, x in feeds.items()}, "it")
        rows.append([np.asarray(array).reshape(-1) for array in found])
    numbers = [np.stack(column) for column in zip(*rows, strict=True)]
    sizes = {layer.name: layer.activation_size for layer in model.layers}
    layers = [
        ScoredLayer(name, output, array.shape[1], sizes[name])
        for (name, output), array in zip(outputs.items(), numbers, strict=True)
    ]
    return layers, numbers


def one_draw(model: Model, data: Path, reference: Scores, seed: int, rows: list[Row]) -> dict[Row, tuple[float, ...]]:
    """Tau, bytes of sketches and seconds of each row."""
    (indices,) = reference.samples
    arithmetic = preprocessing_from_json(reference.preprocessing, "scores")
    feeds = Feeder(model, arithmetic).feeds(open_data(data, model).train, np.array(indices))
    expected, found, kept = [layer.b1_hat for layer in reference.layers], {}, {}
    for row in sorted(rows):
        size, samples, points, subsets = row
        if size not in kept:
            kept = {size: sketches(model, feeds, size, seed)}
        layers, numbers = kept[size]
        plan = ScoringPlan("probes.onnx", samples, points, subsets, seed, tuple(layers))
        first = [array[:samples] for array in numbers]
        began = time.perf_counter()
        ranked = scores(plan, first)
        seconds = time.perf_counter() - began
        tau = kendall_tau([ranked[layer.name] for layer in reference.layers], expected)
        found[row] = (tau or 0.0, sum(array.nbytes for array in first), seconds)
    return found


def measure(name: str, draws: int) -> None:
    """Print the rows of a model."""
    file, data = PAIRS[name]
    model = open_model(file)
    how = Scoring(samples=SAMPLES, subsets=SUBSETS, sketch="off")
    references = [score(model, data, scoring=how, seed=seed, threads=1) for seed in range(draws)]
    rows = [(size, *USUAL[1:]) for size in SKETCHES] + [(USUAL[0], *other) for other in OTHERS]
    rows += [(size, SAMPLES, *USUAL[2:]) for size in MANY]
    found = [one_draw(model, data, reference, seed, rows) for seed, reference in enumerate(references)]
    for row in rows:
        taus = [draw[row][0] for draw in found]
        print(
            f"| {name} | {row[0]} | {row[1]} | {row[2]} | {row[3]} | {statistics.mean(taus):.3f} | {min(taus):.3f} | "
            f"{found[0][row][1] / 1e6:.2f} MB | {statistics.median(draw[row][2] for draw in found):.2f} s |",
            flush=True,
        )
    hats = [[layer.b1_hat for layer in reference.layers] for reference in references]
    again = [kendall_tau(hats[i], hats[i - 1]) or 0.0 for i in range(draws)]
    print(
        f"| {name} | score again | {SAMPLES} | 32 | {SUBSETS} | {statistics.mean(again):.3f} | {min(again):.3f} | | |"
    )


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=list(PAIRS))
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    print("| model | sketch | samples | points | subsets | tau, mean | lowest | sketches | time |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in given.models:
        measure(name, given.draws)


if __name__ == "__main__":
    main()
