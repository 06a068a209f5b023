"""Checks whether the measured memory of a selection within a budget ever exceeds the budget.

    python tests/benchmarks/bench_budget.py [--budgets 50] [--seed 0] [--models resnet20,resnet18,...]

Each budget draws a model (ResNet-20, MobileNetV1 and MobileNetV2 of ../shared, a ResNet-18 and a ViT-Tiny with random
weights at 224 px), a batch size (1, 8 or 32), a backend, a strategy with random scores, a rho, and a limit between the
memory of the cheapest layer and that of all layers. The selection's step memory is measured in a new process. Prints
the limit, the prediction with its margin, the measurement, the layers given up, how close the search came to the best,
and how long it took. About 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from adabet_onnx import UsageError, make_artifacts, open_model, select
from adabet_onnx.cost.measure import measure_training
from adabet_onnx.cost.predict import Predictor
from adabet_onnx.scoring.record import LayerScore, Scores
from adabet_onnx.selection.budget import Budget
from adabet_onnx.selection.options import Choosing
from adabet_onnx.sizes import size_text

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
SHARED = TESTS.parents[1] / "shared" / "models"
FILES = {
    "resnet20": SHARED / "resnet20_cifar10_bn.onnx",
    "mobilenetv1": SHARED / "mobilenetv1_025_vww96_bn.onnx",
    "mobilenetv2": SHARED / "mobilenetv2_035_imagenet128.onnx",
    "resnet18": None,
    "vit_tiny": None,
}
STRATEGIES = ("adabet", "b1", "size", "last", "random", "norm-bias", "all")


def opened(name: str, folder: Path) -> Any:
    """The model, exported first if it has random weights."""
    path = FILES[name]
    if path is None:
        path = folder / f"{name}.onnx"
        if not path.exists():
            from models import architectures

            path.write_bytes(architectures.export(name, size="full"))
    return open_model(path)


def random_scores(model: Any, rng: np.random.Generator) -> Scores:
    """Random Betti numbers: the search does not depend on their origin."""
    layers = []
    for layer in model.layers:
        b1 = int(rng.integers(0, 25))
        hat = b1 / (32 * layer.activation_size)
        names = tuple(dict.fromkeys(parameter.name for parameter in layer.parameters))
        facts = (names, layer.parameter_count, layer.activation_size, layer.is_norm)
        layers.append(LayerScore(layer.name, layer.op_type, *facts, (b1,), float(b1), hat, 0.0, 0))
    return Scores(model.sha256, "subsets", 32, ((0,),), tuple(layers), head=model.head.name)


def main() -> None:
    """Draw, select, measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--budgets", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", default=",".join(FILES))
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    print("| model | batch | backend | strategy | limit | predicted | measured | given up | gap | tried | seconds |")
    print("|---" * 11 + "|")
    over = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for number in range(given.budgets):
            name = str(rng.choice(given.models.split(",")))
            batch, backend = int(rng.choice([1, 8, 32])), str(rng.choice(["portable", "ort"]))
            strategy, rho = str(rng.choice(STRATEGIES)), float(rng.uniform(0.05, 0.5))
            model = opened(name, folder)
            scores = random_scores(model, rng)
            costs = Predictor(model, batch_size=batch, backend=backend)
            least, most = costs.training(select(scores, strategy="head").parameters), costs.everything()
            share = rng.uniform(0.02, 1)
            low, high = least.memory_bytes + least.margin_bytes, most.memory_bytes + most.margin_bytes
            limit = int(low + share * max(0, high - low))
            began = time.perf_counter()
            try:
                selection = select(
                    scores,
                    strategy=strategy,
                    rho=rho,
                    seed=number,
                    costs=costs,
                    choosing=Choosing(budget=Budget(max_memory=limit)),
                )
            except UsageError as error:
                print(f"| {name} | {batch} | {backend} | {strategy} | {size_text(limit)} | {error} |", flush=True)
                continue
            took = time.perf_counter() - began
            make_artifacts(model, selection, folder / "artifacts", backend=backend, check=False)
            measured = measure_training(folder / "artifacts", batch_size=batch).memory_bytes
            over += measured > limit
            spent = selection.budget
            assert spent is not None
            cells = [name, batch, backend, strategy, size_text(limit), size_text(spent.memory_bytes)]
            cells += [size_text(measured) + (" **over**" if measured > limit else ""), len(spent.given_up)]
            cells += [f"{spent.gap:.1%}", spent.tried, f"{took:.1f}"]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print(f"\n{over} of {given.budgets} selections measured above their budget")


if __name__ == "__main__":
    main()
