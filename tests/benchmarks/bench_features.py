"""The cost of training after the frozen part has run once: against training without that, and against other libraries.

    python tests/benchmarks/bench_features.py [--models resnet20,...] [--selections late,...] [--rounds 9]
        [--parts steps,memory,training] [--batch 32] [--seconds 60]

ResNet-20, MobileNetV1 0.25, MobileNetV2 0.35 (128 px) and EfficientNet-Lite0 of ../shared/models; ResNet-18,
MobileNetV2 and a ViT-Tiny with random weights at 224 px. Each has a new head, with as many classes as the table says.
The last 10 % of the layers, AdaBet's 10 %, or the head; AdamW; one thread; a batch of 32, of 16 at 224 px.

Steps: each round runs, one after the other in one process, the step without the store (``features="off"``: the frozen
part, then the rest), the uncut step (one graph from the model's input on), the frozen pass, the step after it,
inference, and steps with the same parameters of onnxruntime-training (the ort backend's), torch (eager, all else
frozen) and onnxsim (`compile_training_loop`; only here: ``pip install onnxsim``, 0.8.1 was used). Short functions run
several times in a row. Times are medians, ratios medians of the ratios of a round. Rounds end after `--seconds`, but
there are at least three.

Memory: step memory against inference's, each in a fresh process, as `cost` measures it (more than 100 MB of
inference counts for the bar).

Training: `Trainer.fit`, 10 epochs over 1,000 samples with and without the store, and of the ort backend; fewer samples
where one of these would take longer than `--seconds` (the ratios hardly depend on how many there are). Kept in memory.

Everything takes hours on two cores: choose some models, selections or parts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from rivals import architectures, onnxsim_step, torch_step

from adabet_onnx import Settings, Trainer, make_artifacts, new_head, runtime, score, select
from adabet_onnx.cost.measure import measure_inference, measure_training
from adabet_onnx.data.preprocess import NONE
from adabet_onnx.model.prepare import trainable_graph
from adabet_onnx.portable.assemble import whole_graphs
from adabet_onnx.portable.opset import lower_opset
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training.manifest import load_manifest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"
STORED = {  # file and classes
    "resnet20": ("resnet20_cifar10_bn", 20),
    "mobilenetv1_025": ("mobilenetv1_025_vww96_bn", 5),
    "mobilenetv2_035": ("mobilenetv2_035_imagenet128", 5),
    "efficientnet_lite0": ("efficientnet_lite0_imagenet224", 37),
}
MADE, MADE_CLASSES = ("resnet18", "mobilenetv2", "vit_tiny"), 37
MODELS, SELECTIONS, PARTS = (*STORED, *MADE), ("late", "adabet", "head"), ("steps", "memory", "training")
WARMUP, LEAST_ROUNDS, RHO, SAMPLES, EPOCHS = 2, 3, 0.1, 1000, 10
TIMES = ("without", "uncut", "frozen", "tail", "inference", "ort", "torch", "onnxsim")
AGAINST = ("inference", "without", "uncut", "ort", "torch", "onnxsim")
SHORT = 0.05  # seconds that a function runs in a round; the first of several runs does not count
LOUD = 100e6  # bytes of inference from which its memory counts
Step = Callable[[], object]


@dataclass
class Job:
    """A model, its selection and where its artifacts are.

    Attributes:
        name: of the model.
        model: with its new head.
        classes: of the head.
        strategy: late, adabet or head.
        selection: what is trained.
        batch: samples of a step.
        folder: of the artifacts.
        found: measurements by their names in the summary.
    """

    name: str
    model: Any
    classes: int
    strategy: str
    selection: Any
    batch: int
    folder: Path
    found: dict[str, float] = field(default_factory=dict)

    def manifest(self, backend: str) -> Any:
        """The artifacts of a backend, created on first use."""
        if not (self.folder / backend).exists():
            make_artifacts(self.model, self.selection, self.folder / backend, backend=backend, check=False)
        return load_manifest(self.folder / backend, verify=False)

    def data(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Random samples and labels."""
        rng = np.random.default_rng(1)
        x = rng.standard_normal((count, *self.model.inputs[0].shape[1:]), np.float32)
        return x, rng.integers(0, self.classes, count)


def opened(name: str, folder: Path) -> tuple[Any, int]:
    """A model with a new head, and its classes."""
    if name in STORED:
        file, classes = STORED[name]
        return new_head(SHARED / f"{file}.onnx", classes), classes
    (folder / "model.onnx").write_bytes(architectures.export(name, size="full"))
    return new_head(folder / "model.onnx", MADE_CLASSES), MADE_CLASSES


def chosen(model: Any, strategy: str) -> Any:
    """A selection of a tenth of the layers, or of the head."""
    if strategy == "late":
        names = [layer.name for layer in model.layers]
        return select(model, layers=names[-max(1, int(RHO * len(names))) :])
    if strategy == "head":
        return select(model, strategy="head")
    shape = model.inputs[0].shape[1:]
    scoring = Scoring(samples=32, subsets=1) if shape[-1] == 224 else Scoring(samples=64)
    images = np.random.default_rng(0).standard_normal((64, *shape)).astype(np.float32)
    return select(score(model, images, scoring=scoring), strategy=strategy, rho=RHO)


def own_steps(job: Job, x: np.ndarray, labels: np.ndarray) -> dict[str, Step]:
    """What this package runs."""
    manifest = job.manifest("portable")
    whole = whole_graphs(trainable_graph(job.model, job.selection, backend="portable"), Choices().recipe)
    lower_opset(whole.step)
    uncut = runtime.inference_session(whole.step, "the uncut step", runtime.training_options(1))
    inference = runtime.inference_session(manifest.file("model"), "the model", runtime.session_options(1))
    training, without = (manifest.session(manifest.initial, threads=1) for _ in range(2))
    feeds = {job.model.inputs[0].name: x}
    content, features = manifest.content, training.features(feeds)
    given = {entry["input"]: training.parameter(entry["name"]) for entry in (*content["parameters"], *content["state"])}
    given |= {content["labels"]: labels, content["learning_rate"]: np.array(1e-4, np.float32)}
    given |= {content["step"]: np.array(1), content["inputs"][0]: x}
    return {
        "without": lambda: without.step(feeds, labels, 1e-4),
        "uncut": lambda: uncut.run(None, given),
        "frozen": lambda: training.features(feeds),
        "tail": lambda: training.step(features, labels, 1e-4),
        "inference": lambda: inference.run(None, feeds),
    }


def ort_step(job: Job, x: np.ndarray, labels: np.ndarray) -> Step:
    """onnxruntime-training's, as the ort backend sets it up."""
    manifest = job.manifest("ort")
    session, feeds = manifest.session(manifest.initial, threads=1), {manifest.feed_names[0][0]: x}
    return lambda: session.step(feeds, labels, 1e-4)


def steps(job: Job) -> dict[str, Step]:
    """The steps to compare. A rival that is not installed is left out, and a line says so."""
    x, labels = job.data(job.batch)
    found = own_steps(job, x, labels)
    prepared = trainable_graph(job.model, job.selection, backend="portable")
    original: onnx.ModelProto = ir.to_proto(prepared.original)
    known = job.name if job.name in MADE else None
    others: dict[str, Callable[[], Step]] = {
        "ort": lambda: ort_step(job, x, labels),
        "torch": lambda: torch_step(known, original, prepared.trainable, x, labels, job.classes),
        "onnxsim": lambda: onnxsim_step(prepared.proto(), prepared.trainable, x, labels, job.classes),
    }
    for name, make in others.items():
        try:
            found[name] = make()
        except Exception as error:
            print(f"<!-- {job.name}, {job.strategy}: no {name}: {str(error).splitlines()[0][:200]} -->", flush=True)
    return found


def measure(functions: dict[str, Step], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of each function in every round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    started = time.perf_counter()
    for number in range(WARMUP + rounds):
        if number >= WARMUP + LEAST_ROUNDS and time.perf_counter() - started > seconds:
            break
        for name, function in functions.items():
            taken = in_a_row(function)
            if number >= WARMUP:
                times[name].append(taken)
    return times


def in_a_row(function: Step) -> float:
    """Seconds of a run in a series of equal ones, as in training, so that caches are warm."""
    found: list[float] = []
    while not found or sum(found) < SHORT:
        began = time.perf_counter()
        function()
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:] or found)


def measured_steps(job: Job, rounds: int, seconds: float) -> list[str]:
    """Cells of a row: milliseconds, then ratios of the step after the frozen pass."""
    times = measure(steps(job), rounds, seconds)
    cells = [f"{1e3 * statistics.median(times[name]):.2f}" if name in times else "-" for name in TIMES]
    for name in AGAINST:
        if name in times:
            ratio = statistics.median(a / b for a, b in zip(times["tail"], times[name], strict=True))
            job.found[name] = ratio
            cells.append(f"{ratio:.3f}")
        else:
            cells.append("-")
    job.found["step"] = statistics.median(times["without"])
    return cells


def measured_memory(job: Job) -> list[str]:
    """Cells of a row: MB of a step and of inference, and their ratio."""
    folder = job.manifest("portable").folder
    step = measure_training(folder, batch_size=job.batch, steps=3, threads=1).memory_bytes
    inference = measure_inference(folder, batch_size=job.batch, steps=3, threads=1).memory_bytes
    if inference > LOUD:
        job.found["memory"] = step / inference
    return [f"{step / 1e6:.0f}", f"{inference / 1e6:.0f}", f"{step / inference:.2f}"]


def trained(job: Job, backend: str, features: str, x: np.ndarray, labels: np.ndarray) -> float:
    """Seconds of a training."""
    trainer = Trainer(job.manifest(backend).folder, threads=1)
    settings = Settings(epochs=EPOCHS, batch_size=job.batch, validation=0, features=features)
    began = time.perf_counter()
    trainer.fit((x, labels), settings=settings, preprocessing=NONE)
    return time.perf_counter() - began


def measured_training(job: Job, rounds: int, seconds: float) -> list[str]:
    """Cells of a row: samples, seconds with the store, without and on onnxruntime-training, and ratios."""
    guess = job.found.get("step")
    if guess is None:
        guess = statistics.median(measure({"step": own_steps(job, *job.data(job.batch))["without"]}, 3, 1)["step"])
    batches = min(-(-SAMPLES // job.batch), max(1, int(seconds / EPOCHS / guess)))
    x, labels = job.data(min(SAMPLES, batches * job.batch))
    kinds = {"with": ("portable", "memory"), "without": ("portable", "off"), "ort": ("ort", "off")}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, (backend, features) in kinds.items():
            times[name].append(trained(job, backend, features, x, labels))
    cells = [f"{len(x):,}", *(f"{statistics.median(found):.1f}" for found in times.values())]
    for name in ("without", "ort"):
        ratio = statistics.median(a / b for a, b in zip(times["with"], times[name], strict=True))
        job.found[f"training, {name}"] = ratio
        cells.append(f"{ratio:.2f}")
    return cells


def heads(parts: list[str]) -> list[str]:
    """Of the table."""
    found = ["model", "classes", "batch", "selection"]
    if "steps" in parts:
        found += [f"{name} ms" for name in TIMES] + [f"tail / {name}" for name in AGAINST]
    if "memory" in parts:
        found += ["step MB", "inference MB", "memory ratio"]
    if "training" in parts:
        found += ["samples", "10 epochs s", "without s", "ort s", "with / without", "with / ort"]
    return found


def summary(jobs: list[Job]) -> list[str]:
    """A line for each measured item of the target."""

    def values(key: str, strategy: str | None = None) -> list[float]:
        return [job.found[key] for job in jobs if key in job.found and strategy in (None, job.strategy)]

    late, head = values("inference", "late"), values("inference", "head")
    items = [
        ("late: tail / inference, median", statistics.median(late) if late else None, 0.4),
        ("late: tail / inference, largest", max(late, default=None), 1.0),
        ("head: tail / inference, largest", max(head, default=None), 0.05),
        ("late: tail / onnxsim, largest", max(values("onnxsim", "late"), default=None), 0.4),
        ("tail / onnxsim, largest of all selections", max(values("onnxsim"), default=None), 0.4),
        ("step memory / inference's, largest", max(values("memory"), default=None), 0.7),
        ("late: training / without the store, largest", max(values("training, without", "late"), default=None), 0.55),
        ("late: training / onnxruntime-training, largest", max(values("training, ort", "late"), default=None), 0.5),
    ]
    return [
        f"- {text}: {found:.3f} (at most {most}: {'holds' if found <= most else 'FAILS'})"
        for text, found, most in items
        if found is not None
    ]


def listed(text: str) -> list[str]:
    """Of an option."""
    return text.split(",")


def main() -> None:
    """Measure and print a table in Markdown, and the summary."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=listed, default=list(MODELS))
    parser.add_argument("--selections", type=listed, default=list(SELECTIONS))
    parser.add_argument("--parts", type=listed, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--training-rounds", type=int, default=3)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    names = heads(given.parts)
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|", flush=True)
    jobs = []
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            model, classes = opened(name, Path(folder))
            batch = given.batch or (16 if model.inputs[0].shape[-1] == 224 else 32)
            for strategy in given.selections:
                place = Path(folder) / strategy
                place.mkdir()
                job = Job(name, model, classes, strategy, chosen(model, strategy), batch, place)
                cells = [name, str(classes), str(batch), strategy]
                if "steps" in given.parts:
                    cells += measured_steps(job, given.rounds, given.seconds)
                if "memory" in given.parts:
                    cells += measured_memory(job)
                if "training" in given.parts:
                    cells += measured_training(job, given.training_rounds, given.seconds)
                print(f"| {' | '.join(cells)} |", flush=True)
                jobs.append(job)
    print("\n" + "\n".join(summary(jobs)))


if __name__ == "__main__":
    main()
