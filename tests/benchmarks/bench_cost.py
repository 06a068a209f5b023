"""Step memory, predicted and measured: five networks, batches of 1, 8 and 32, six selections, both backends.

    python tests/benchmarks/bench_cost.py [--models resnet18,...] [--batches 1,8] [--backends portable]
        [--measured FILE]

ResNet-20, MobileNetV1 and MobileNetV2 of ../shared/models, and a ResNet-18 and a ViT-Tiny at 224 px with random
weights.
Selections: the last 10 % of the layers, 10 % spread evenly, the first 10 %, the head, all; and inference.
Step memory is measured by `cost.measure` in a fresh process with one thread: that of the frozen pass, and that of the
steps after it; a selection's is the larger. Printed is a table in Markdown of predicted and measured memory, their
difference, whether it is within 15 % or 4 MB, and whether the measurement is within the prediction's margin; then the
frozen pass and the step separately; at the end the counts. With --measured, measurements are stored in a file and not
repeated, to compare another predictor. About 40 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
SHARED = TESTS.parents[1] / "shared" / "models"
FILES = {
    "resnet20": "resnet20_cifar10_bn",
    "mobilenetv1": "mobilenetv1_025_vww96_bn",
    "mobilenetv2": "mobilenetv2_035_imagenet128",
}
MODELS = (*FILES, "resnet18", "vit_tiny")
WITHIN, BYTES = 0.15, 4e6


def selections(model: Any) -> dict[str, list[str]]:
    """Names of layers."""
    names = [layer.name for layer in model.layers]
    count = max(1, len(names) // 10)
    return {
        "late": names[-count:],
        "spread": names[len(names) // (2 * count) :: len(names) // count][:count],
        "early": names[:count],
        "head": [model.head.name],
        "all": names,
    }


def model_file(name: str, folder: Path) -> Path:
    """The file of a model, exported into the folder where it is not a shared one."""
    if name in FILES:
        return SHARED / f"{FILES[name]}.onnx"
    from models import architectures

    path = folder / f"{name}.onnx"
    path.write_bytes(architectures.export(name, size="full"))
    return path


def main() -> None:
    """Measure, predict, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--backends", default="portable,ort")
    parser.add_argument("--selections", default="inference,late,spread,early,head,all")
    parser.add_argument("--measured", type=Path, help="keep measurements in this file")
    given = parser.parse_args()
    known: dict[str, dict[str, float]] = {}
    if given.measured is not None and given.measured.is_file():
        known = json.loads(given.measured.read_text())
    print(
        "| model | backend | batch | selection | predicted MB | measured MB | difference | within | margin "
        "| frozen pass MB | step MB |"
    )
    print("|---|---|--:|---|--:|--:|--:|---|---|--:|--:|")
    rows: list[tuple[int, int, int]] = []
    for name in given.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for row in of_model(name, Path(folder), given, known):
                rows.append(row)
                if given.measured is not None:
                    given.measured.write_text(json.dumps(known, indent=1))
    good = sum(within(predicted, measured) for predicted, measured, _ in rows)
    covered = sum(measured <= predicted + margin for predicted, measured, margin in rows)
    over = max((measured - predicted) / predicted for predicted, measured, _ in rows)
    print(f"\n{good} of {len(rows)} within 15 % or 4 MB; {covered} within the margin; at most {over:+.0%} above.")


def of_model(name: str, folder: Path, given: argparse.Namespace, known: dict[str, dict[str, float]]) -> Any:
    """Predicted, measured and margin of all cases of a model."""
    from adabet_onnx import make_artifacts, open_model
    from adabet_onnx.cost.graphs import selection_with
    from adabet_onnx.cost.measure import measure_inference, measure_training
    from adabet_onnx.cost.predict import Predictor

    model = open_model(model_file(name, folder))
    batches = [int(batch) for batch in given.batches.split(",")]
    for backend in given.backends.split(","):
        predictors = {batch: Predictor(model, batch_size=batch, backend=backend) for batch in batches}
        for which, layers in {"inference": selections(model)["head"], **selections(model)}.items():
            if which not in given.selections.split(",") or (which == "inference" and backend == "ort"):
                continue
            chosen = selection_with(model, [p.name for n in layers for p in model.layer(n).parameters], layers)
            artifacts = folder / "artifacts"
            keys = {batch: f"{name} {backend} {batch} {which}" for batch in batches}
            if any(key not in known for key in keys.values()):
                make_artifacts(model, chosen, artifacts, backend=backend, check=False)
            for batch, key in keys.items():
                if key not in known:
                    measure = measure_inference if which == "inference" else measure_training
                    known[key] = asdict(measure(artifacts, batch_size=batch, steps=3, threads=1))
                costs = predictors[batch]
                predicted = costs.inference() if which == "inference" else costs.training(chosen.parameters, layers)
                seen = known[key]
                row = predicted.memory_bytes, int(seen["memory_bytes"]), predicted.margin_bytes
                both = " | ".join(
                    f"{getattr(predicted, part) / 1e6:.1f}, measured {seen[part] / 1e6:.1f}" if seen[part] else "-"
                    for part in ("frozen_bytes", "tail_bytes")
                )
                print(f"| {name} | {backend} | {batch} | {which} | {cells(*row)} | {both} |", flush=True)
                yield row


def within(predicted: int, measured: int) -> bool:
    """Whether a prediction is within the tolerance."""
    return abs(predicted - measured) <= max(WITHIN * measured, BYTES)


def cells(predicted: int, measured: int, margin: int) -> str:
    """One row's figures."""
    difference = f"{(predicted - measured) / measured:+.0%}, {(predicted - measured) / 1e6:+.1f} MB"
    good = "yes" if within(predicted, measured) else "no"
    covered = "yes" if measured <= predicted + margin else "no"
    return f"{predicted / 1e6:.1f} | {measured / 1e6:.1f} | {difference} | {good} | {covered}"


if __name__ == "__main__":
    main()
