"""What a step costs when the frozen part has run: small shared models, one thread, a batch of 32, in turn.

    python tests/benchmarks/bench_features.py [--models resnet20,...] [--rounds 15] [--selections adabet,late,head]

For ResNet-20 with 20 classes, MobileNetV1 0.25 and MobileNetV2 0.35 with 5, each with a new head, of ../shared/models:
the uncut step (`assemble.whole_graphs`), the frozen pass, the step after it, and inference. Each round runs all four in
one process, one after the other; printed are medians, and the medians of the ratios of a round. Also the bytes that are
kept of a sample, and the folder's size against the model's. About two minutes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from adabet_onnx import make_artifacts, new_head, runtime, score, select
from adabet_onnx.model.prepare import trainable_graph
from adabet_onnx.portable.assemble import whole_graphs
from adabet_onnx.portable.opset import lower_opset
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.trainability.choices import Choices

SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"
MODELS = {
    "resnet20": ("resnet20_cifar10_bn", 20),
    "mobilenetv1": ("mobilenetv1_025_vww96_bn", 5),
    "mobilenetv2": ("mobilenetv2_035_imagenet128", 5),
}
BATCH, WARMUP, RHO = 32, 3, 0.1


def chosen(model: Any, strategy: str) -> Any:
    """A selection of a tenth of the layers, or of the head."""
    images = np.random.default_rng(0).standard_normal((64, *model.inputs[0].shape[1:])).astype(np.float32)
    scores = score(model, images, scoring=Scoring(samples=64))
    if strategy == "late":
        names = [layer.name for layer in model.layers]
        return select(scores, layers=names[-max(1, int(RHO * len(names))) :])
    return select(scores, strategy=strategy, rho=RHO)


def runs(model: Any, selection: Any, folder: Path) -> tuple[dict[str, Callable[[], object]], Any]:
    """A function for each thing that is measured, and the artifacts' manifest."""
    manifest = make_artifacts(model, selection, folder, backend="portable", check=False)
    whole = whole_graphs(trainable_graph(model, selection, backend="portable"), Choices().recipe)
    lower_opset(whole.step)
    uncut = runtime.inference_session(whole.step, "the uncut step", runtime.training_options(1))
    inference = runtime.inference_session(manifest.file("model"), "the model", runtime.session_options(1))
    training = manifest.session(manifest.initial, threads=1)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((BATCH, *model.inputs[0].shape[1:])).astype(np.float32)
    feeds, labels = {model.inputs[0].name: x}, rng.integers(0, manifest.num_outputs, BATCH)
    content, features = manifest.content, training.features(feeds)
    given = {entry["input"]: training.parameter(entry["name"]) for entry in (*content["parameters"], *content["state"])}
    given |= {content["labels"]: labels, content["learning_rate"]: np.array(1e-4, np.float32)}
    given |= {content["step"]: np.array(1), content["inputs"][0]: x}
    return {
        "uncut": lambda: uncut.run(None, given),
        "frozen": lambda: training.features(feeds),
        "tail": lambda: training.step(features, labels, 1e-4),
        "inference": lambda: inference.run(None, feeds),
    }, manifest


def measure(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each function in every round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(WARMUP + rounds):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if number >= WARMUP:
                times[name].append(time.perf_counter() - began)
    return times


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--selections", default="adabet,late,head")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    print(
        "| model | selection | uncut ms | frozen ms | tail ms | inference ms | tail / uncut | (frozen + tail) / uncut "
        "| tail / inference | kept bytes | folder / (1.1 model + 3 trained + 1 MB) |\n" + "|---" * 11 + "|"
    )
    for name in given.models.split(","):
        file, classes = MODELS[name]
        model = new_head(SHARED / f"{file}.onnx", classes)
        size = len(ir.to_proto(model.graph).SerializeToString())
        for strategy in given.selections.split(","):
            with tempfile.TemporaryDirectory() as folder:
                functions, manifest = runs(model, chosen(model, strategy), Path(folder) / "a")
                times = measure(functions, given.rounds)
                taken = sum(path.stat().st_size for path in manifest.folder.iterdir())
                allowed = 1.1 * size + 3 * 4 * manifest.trainable_count + 1e6
            shown = [f"{1e3 * statistics.median(times[key]):.2f}" for key in times]
            uncut, frozen, tail, inference = (np.array(times[key]) for key in times)
            for ratio in (tail / uncut, (frozen + tail) / uncut, tail / inference):
                shown.append(f"{statistics.median(ratio):.2f}")
            shown += [str(sum(entry["bytes"] for entry in manifest.content["boundary"])), f"{taken / allowed:.2f}"]
            print(f"| {name} | {strategy} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
