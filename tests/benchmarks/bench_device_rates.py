"""Accuracy of each choice of a menu after training on a device, by learning rate: the choices share one.

    python tests/benchmarks/bench_device_rates.py [--seeds 3]

The menu is of the demo's model, the data the demo's. Each choice trains by the rules of docs/device-package.md from the
model's values. Printed is the mean accuracy on the test data over the seeds. Some minutes on one core.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from device_rules import run_graph, session, shuffled, stored

from adabet_onnx import Packing, make_menu

DEMO = Path(__file__).resolve().parents[2] / "adabet_onnx" / "demo"
RATES = (0.001, 0.003, 0.01, 0.03)
BATCH, EPOCHS = 32, 5


def prepared(images: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
    """Grey images as inputs, by the package's preprocessing."""
    x = images.transpose(0, 3, 1, 2).astype(np.float32)
    return (x * np.float32(given["scale"]) - np.float32(given["mean"][0])) / np.float32(given["std"][0])


def kept(folder: Path, entry: Mapping[str, Any], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs of training steps for all samples."""
    made = {} if entry["frozen"] is None else run_graph(folder / entry["frozen"], feeds)
    return {part["name"]: feeds[part["input"]] if part["input"] else made[part["name"]] for part in entry["boundary"]}


def trained(
    folder: Path, entry: Mapping[str, Any], features: dict[str, np.ndarray], labels: np.ndarray, rate: float, seed: int
) -> dict[str, np.ndarray]:
    """The tensors after training."""
    names, tensors, graph = entry["names"], entry["tensors"], session(folder / entry["step"])
    data = (folder / entry["state"]).read_bytes()
    values, step = stored(entry, data, ("parameter", "statistic", "optimizer")), 0
    values = {tensor["input"]: values[tensor["name"]] for tensor in tensors}
    for epoch in range(1, EPOCHS + 1):
        order = shuffled(len(labels), seed, epoch)
        for start in range(0, len(order), BATCH):
            step += 1
            some = order[start : start + BATCH]
            feeds = {name: array[some] for name, array in features.items()} | values
            feeds |= {names["labels"]: labels[some].astype(np.int64), names["step"]: np.array(step, np.int64)}
            found = run_graph(graph, feeds | {names["learning_rate"]: np.array(rate, np.float32)})
            values = {tensor["input"]: found[tensor["output"]] for tensor in tensors}
    return values


def main() -> None:
    """Train every choice with every rate and print the accuracies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    how = parser.parse_args()
    data = np.load(DEMO / "digits_shifted.npz")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "menu"
        content = make_menu(DEMO / "digits.onnx", folder, packing=Packing(scoring=None), check=False)
        name = content["inputs"][0]["name"]
        x, test = (prepared(data[f"x_{part}"], content["preprocessing"]) for part in ("train", "test"))
        for entry in content["entries"]:
            features, results = kept(folder, entry, {name: x}), []
            for rate in RATES:
                accuracies = []
                for seed in range(how.seeds):
                    values = trained(folder, entry, features, data["y_train"], rate, seed)
                    logits = run_graph(folder / entry["prediction"], {name: test, **values})["logits"]
                    accuracies.append(100 * float((logits.argmax(1) == data["y_test"]).mean()))
                results.append(f"{rate:g}: {statistics.mean(accuracies):.1f} %")
            print(f"{entry['name']:10} {entry['trained']:6,}  ", "  ".join(results), flush=True)


if __name__ == "__main__":
    main()
