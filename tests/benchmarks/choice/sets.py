"""Ideas for what to train: accuracy of sets of parameters on six tasks, against their step memory.

    python tests/benchmarks/choice/sets.py FOLDER [--tasks noise,blur,...] [--jobs 2]

The tasks are those of ../bench_compare.py: ResNet-20 on 20 classes of CIFAR-100, on noise, blur and low contrast, and
MobileNetV1 and MobileNetV2 on flowers. 1,000 training images, batches of 32, 6 epochs of SGD with momentum 0.9, one
seed, test accuracy of the best of three learning rates (so figures are optimistic, equally for all). The head is always
trained. Memory is predicted, for undivided batches, as a share of training all layers. Rows in FOLDER are not measured
again. About an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from adabet_onnx.data.preprocess import Preprocessing
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training.settings import Settings

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from bench_compare import PAIRS, SHARED  # noqa: E402
from choice import shifts  # noqa: E402

RATES = (0.003, 0.01, 0.03)
TRAINING = Choices(optimizer="sgd", momentum=0.9)


def sets(model: Any) -> dict[str, list[str]]:
    """Names of parameters."""
    layers = [layer for layer in model.layers if layer.name != model.head.name]
    norms = [layer for layer in layers if layer.is_norm]
    count = len(layers)

    def of(chosen: list[Any]) -> list[str]:
        return [parameter.name for layer in chosen for parameter in layer.parameters]

    found = {"head": []}
    found |= {f"last {share}%": of(layers[-max(1, count * share // 100) :]) for share in (10, 20, 40)}
    found["first 10%"] = of(layers[: max(1, count // 10)])
    found["middle 10%"] = of(layers[count * 45 // 100 : count * 45 // 100 + max(1, count // 10)])
    if norms:
        for share in (25, 50, 75, 100):
            found[f"normalisations, last {share}%"] = of(norms[-max(1, len(norms) * share // 100) :])
        found["biases of normalisations"] = [layer.parameters[1].name for layer in norms]
        found["scales of normalisations"] = [layer.parameters[0].name for layer in norms]
        found["first 10% and normalisations"] = list(dict.fromkeys([*found["first 10%"], *of(norms)]))
    found["all"] = of(layers)
    return found


def train(task: str, what: str, rate: float, folder: Path) -> float | None:
    """Test accuracy, or None if the training failed."""
    from adabet_onnx import Trainer, TrainingError, export_model, make_artifacts, open_model
    from adabet_onnx.cost.graphs import selection_with
    from adabet_onnx.data.source import open_data
    from adabet_onnx.study.runs import used_data
    from adabet_onnx.training.evaluation import evaluate

    model = opened(task)
    splits = used_data(open_data(data_of(task, folder), model), 1000)
    used = Preprocessing().resolve(model, integer_data=True)
    head = [parameter.name for parameter in model.head.parameters]
    selection = selection_with(model, [*sets(model)[what], *head])
    with tempfile.TemporaryDirectory() as scratch:
        artifacts = Path(scratch) / "artifacts"
        make_artifacts(model, selection, artifacts, backend="portable", check=False, choices=TRAINING)
        try:
            Trainer(artifacts, threads=1).fit(
                splits,
                epochs=6,
                batch_size=32,
                learning_rate=rate,
                preprocessing=used,
                settings=Settings(validation=0.0),
            )
        except TrainingError:
            return None
        adapted = open_model(export_model(artifacts, Path(scratch) / "adapted.onnx", check=False))
    return float(evaluate(adapted, splits.for_evaluation, preprocessing=used, threads=1)["accuracy"])


def opened(task: str) -> Any:
    """The model, with a new head where the task has other classes."""
    from adabet_onnx import open_model
    from adabet_onnx.model.head import new_head

    name, _, options = PAIRS[task]
    model = open_model(SHARED / "models" / name)
    if "--num-classes" in options:
        model = open_model(new_head(model, int(options[options.index("--num-classes") + 1]), seed=0).proto())
    return model


def data_of(task: str, folder: Path) -> Path:
    """The file of a task's data."""
    name = PAIRS[task][1]
    return SHARED / "data" / name if name else shifts.make(folder / "data", task)


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", default=",".join(PAIRS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    from adabet_onnx.cost.predict import Predictor

    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.folder / "sets.json"
    known: dict[str, float | None] = json.loads(path.read_text()) if path.is_file() else {}
    tasks = given.tasks.split(",")
    for task in tasks:
        data_of(task, given.folder)
    jobs = [
        (task, what, rate)
        for task in tasks
        for what in sets(opened(task))
        for rate in RATES
        if f"{task} | {what} | {rate}" not in known
    ]
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        running = [(job, pool.submit(train, *job, given.folder)) for job in jobs]
        for (task, what, rate), future in running:
            known[f"{task} | {what} | {rate}"] = future.result()
            path.write_text(json.dumps(known, indent=1))
    for task in tasks:
        model = opened(task)
        costs = Predictor(model, batch_size=32, backend="portable", choices=TRAINING)
        head = [parameter.name for parameter in model.head.parameters]
        everything = costs.everything().memory_bytes
        print(f"\n{task} (inference: {costs.inference().memory_bytes / everything:.2f})\n")
        print("| trained, with the head | accuracy | rate | step memory |\n|---|--:|--:|--:|")
        for what, names in sets(model).items():
            outcomes = [(known[f"{task} | {what} | {rate}"] or 0.0, -rate) for rate in RATES]
            best, rate = max(outcomes)
            memory = costs.training([*names, *head]).memory_bytes / everything
            print(f"| {what} | {best:.1%} | {-rate:g} | {memory:.2f}x |", flush=True)


if __name__ == "__main__":
    main()
