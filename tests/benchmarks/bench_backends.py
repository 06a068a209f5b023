"""Both backends do the same main job: test accuracy over three seeds, on real pretrained models.

    python tests/benchmarks/bench_backends.py [--seeds 3]

For each model and seed the same new head and the same selection (AdaBet's, made with that seed) are trained by either
backend with the same data order, rate and number of epochs. Printed are mean and standard deviation of the accuracies
and the standard error of the mean. About 40 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_main_job import JOBS, SHARED

BACKENDS = ("portable", "ort")


def accuracy(model: str, data: str, classes: int, rate: str, backend: str, seed: int) -> float:
    """Of one run, on the test data."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "adabet_onnx", "run", SHARED / "models" / model, SHARED / "data" / data]
        options = [
            "--num-classes",
            str(classes),
            "--lr",
            rate,
            "-o",
            folder,
            "--quiet",
            "--no-measure",
            "--threads",
            "1",
        ]
        choice = ["--backend", backend, "--seed", str(seed)]
        subprocess.run([*command, *options, *choice], check=True)
        return float(json.loads((Path(folder) / "run.json").read_text())["after"]["accuracy"])


def main() -> None:
    """Run and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print("| model and data | portable | ort | difference | standard error |")
    print("|---|---|---|---|---|")
    for model, data, classes, rate in JOBS:
        found = {
            backend: [accuracy(model, data, classes, rate, backend, seed) for seed in range(given.seeds)]
            for backend in BACKENDS
        }
        cells = [f"{statistics.mean(a):.1%} ± {statistics.stdev(a):.1%}" for a in found.values()]
        difference = statistics.mean(found["portable"]) - statistics.mean(found["ort"])
        error = max(statistics.stdev(a) for a in found.values()) / len(found["ort"]) ** 0.5
        print(f"| {model} on {data} | {' | '.join(cells)} | {difference:+.1%} | {error:.1%} |", flush=True)


if __name__ == "__main__":
    main()
