"""The portable backend against onnxruntime-training and torch: step time and step memory, single-threaded, paired.

    python tests/benchmarks/bench_portable.py [--rounds 3] [--models resnet18,mobilenetv2,vit_tiny]

ResNet-18, MobileNetV2 and a ViT-Tiny with random weights at 224 px, batch 8, for the last 10 % of the layers, 10 %
spread evenly, the head, and all layers. Each measurement is a fresh process with one thread; the three runtimes
alternate, round by round. Step memory is the peak of resident memory during training steps minus what is resident when
imports are done and no model is loaded. Torch runs the module itself in eager mode, evaluation mode (as the others do:
stored statistics), with the same parameters frozen, and the same AdamW. Inference is that of the trained graph in this
environment's onnxruntime.
onnxruntime-training is measured as our ort backend sets it up (frozen weights as constants, frozen normalisations
folded) and with frozen weights in its checkpoint, as its own generator does it.
Printed are medians of the ratios of a round; the last column is the whole process's peak against inference's.
About 25 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from adabet_onnx.scoring.options import Scoring
from adabet_onnx.trainability.choices import Choices

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
MODELS = ("resnet18", "mobilenetv2", "vit_tiny")
RATIOS = (
    ("time", "ort"),
    ("time", "ort, checkpoint"),
    ("time", "torch"),
    ("time", "inference"),
    ("memory", "ort"),
    ("memory", "ort, checkpoint"),
    ("memory", "torch"),
    ("peak", "inference"),
)
BATCH, SEED, STEPS, WARMUP = 8, 0, 6, 2


def selections(model: Any) -> dict[str, list[str]]:
    """The last 10 %, 10 % spread, the head, all."""
    names = [layer.name for layer in model.layers]
    count = max(1, len(names) // 10)
    spread = names[len(names) // (2 * count) :: len(names) // count][:count]
    return {
        "late": names[-count:],
        "spread": spread,
        "head": [model.head.name],
        "all": names,
    }


def measured(what: str, folder: Path) -> dict[str, float]:
    """Run this file in a new process: seconds of a step, its memory and the process's peak."""
    command = [sys.executable, __file__, "--measure", what, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} in {folder}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(what: str, folder: Path) -> dict[str, float]:
    """In the fresh process: time steps and read memory."""
    import time

    import psutil

    from adabet_onnx.cost.process import _forget_peak, peak_memory

    about = json.loads((folder / "about.json").read_text())
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal(about["shape"]).astype(np.float32)
    labels = rng.integers(0, about["classes"], BATCH)
    if what == "torch":
        import torch
        from models import architectures

        torch.set_num_threads(1)
        torch.set_num_interop_threads(1)
        _forget_peak()
        base = psutil.Process().memory_info().rss
        module, *_ = architectures.module(about["model"], size="full")
        _forget_peak()  # creating its weights is not part of training
        trained = set(about["parameters"])
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in trained)
        optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-4)
        tensors, targets = torch.from_numpy(x), torch.from_numpy(labels)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(module(tensors), targets).backward()
            optimizer.step()
    else:
        from adabet_onnx import runtime
        from adabet_onnx.training.manifest import load_manifest
        from adabet_onnx.training_runtime import need_runtime

        manifest = load_manifest(folder / ("portable" if what == "inference" else what), verify=False)
        runtime.onnxruntime()
        if what != "inference":
            need_runtime(manifest.backend)
        _forget_peak()
        base = psutil.Process().memory_info().rss
        feeds = {manifest.feed_names[0][0]: x}
        if what == "inference":
            session = runtime.inference_session(manifest.file("model"), "the model", runtime.session_options(1))

            def step() -> None:
                session.run(None, feeds)
        else:
            training = manifest.session(manifest.initial, threads=1)

            def step() -> None:
                training.step(feeds, labels, 1e-4)

    times = []
    for _ in range(WARMUP + STEPS):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    peak = peak_memory()
    return {"time": statistics.median(times[WARMUP:]), "memory": peak - base, "peak": peak}


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--selections", default="late,spread,head,all")
    parser.add_argument("--measure", nargs=2)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure[0], Path(given.measure[1]))))
        return
    from models import architectures

    from adabet_onnx import open_model, score

    heads = [f"{key} / {other}" for key, other in RATIOS]
    print(f"| model | selection | {' | '.join(heads)} |")
    print("|---" * (2 + len(heads)) + "|")
    for name in given.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            (path / "model.onnx").write_bytes(architectures.export(name, size="full"))
            model = open_model(path / "model.onnx")
            images = np.random.default_rng(SEED).standard_normal((32, *model.inputs[0].shape[1:])).astype(np.float32)
            scores = score(
                model, images, scoring=Scoring(samples=32, subsets=1)
            )  # select needs some scores; the values do not matter
            for which, layers in selections(model).items():
                if which not in given.selections.split(","):
                    continue
                row = compare(path, model, scores, name, layers, given.rounds)
                print(f"| {name} | {which} | {row} |", flush=True)


def compare(path: Path, model: Any, scores: Any, name: str, layers: list[str], rounds: int) -> str:
    """One row."""
    from adabet_onnx import make_artifacts, select

    selection = select(scores, layers=layers)
    manifests = {
        backend: make_artifacts(model, selection, path / backend, backend=backend, check=False)
        for backend in ("portable", "ort")
    }
    make_artifacts(
        model, selection, path / "ort, checkpoint", backend="ort", check=False, choices=Choices(frozen="checkpoint")
    )
    about = {
        "model": name,
        "shape": [BATCH, *model.inputs[0].shape[1:]],
        "classes": manifests["portable"].num_outputs,
        "parameters": manifests["portable"].parameters,
    }
    (path / "about.json").write_text(json.dumps(about))
    ratios: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        found = {what: measured(what, path) for what in ("portable", *sorted({other for _, other in RATIOS}))}
        for key, other in RATIOS:
            ratios.setdefault((key, other), []).append(found["portable"][key] / found[other][key])
    return " | ".join(f"{statistics.median(values):.2f}" for values in ratios.values())


if __name__ == "__main__":
    main()
