"""The cost of scoring relative to inference, and how close sketches come to exact distances.

    python tests/benchmarks/bench_scoring.py [cost] [tau] [command] [betti] [--models resnet50,...] [--rounds 5]

cost: the forward passes of the same 64 samples with sketches of all layers and without, in fresh processes that
alternate, on one thread, with batches of 1, of 32, and of the number that `score` chooses (against one at a time).
Printed are medians over rounds of the ratio of the passes' CPU time, and peak memory: how much more than inference a
process needs that computes sketches, without the sketches themselves. ResNet-50 (the architecture of the onnx package's
light models) and ViT-Tiny have random weights, the others are looked for in ../shared.

tau: Kendall's tau between the b1_hat of all layers from sketches and from exact distances of the same samples and
subsets, for five draws of samples, subsets and signs, on the shared models and their new domains.

command: `score` on ResNet-50 with default settings, the whole command, against a process that forwards the same 128
samples one by one: CPU time and peak memory.

betti: the cost of first Betti numbers of subsets of 128 normal points on one core, and that of ripser.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.light import light_model

from adabet_onnx import Scoring, open_model, score
from adabet_onnx.kendall import kendall_tau
from adabet_onnx.model.opsets import convert_opset
from adabet_onnx.scoring.betti import Loops, distances
from adabet_onnx.scoring.passes import plan_passes
from adabet_onnx.scoring.probes import add_sketches
from adabet_onnx.scoring.signals import add_sums, stored_statistics

SHARED = Path(__file__).resolve().parents[3] / "shared"
PAIRS = {
    "resnet20": ("resnet20_cifar10_bn", "cifar100_20c.npz"),
    "resnet20-noise": ("resnet20_cifar10_bn", "cifar10_noise5.npz"),
    "resnet20-folded": ("resnet20_cifar10_folded", "cifar100_20c.npz"),
    "mobilenetv1": ("mobilenetv1_025_vww96_bn", "flowers5_96.npz"),
    "mobilenetv1-folded": ("mobilenetv1_025_vww96_folded", "flowers5_96.npz"),
    "mobilenetv2": ("mobilenetv2_035_imagenet128", "flowers5_96.npz"),
    "efficientnet": ("efficientnet_lite0_imagenet224", "grocery37_224"),
}
MADE = ("resnet50", "vit_tiny")
SAMPLES, DRAWS = 64, 5


def model_file(name: str, folder: Path) -> Path:
    """A model: of ../shared, or made with random weights."""
    if name in PAIRS:
        return SHARED / "models" / f"{PAIRS[name][0]}.onnx"
    path = folder / f"{name}.onnx"
    if not path.is_file():
        if name == "resnet50":
            onnx.save(convert_opset(light_model("resnet50"), name, []), path)
        else:
            from models import architectures

            path.write_bytes(architectures.export(name, size="full"))
    return path


def child(file: str, sketched: bool, batch: int) -> None:
    """One process: forward passes of a file, sketches gathered; figures as JSON."""
    import onnxruntime

    from adabet_onnx.cost.process import peak_memory
    from adabet_onnx.scoring.sketches import Sketches

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if sketched:
        options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    given = session.get_inputs()[0]
    extents = [extent for extent in given.shape[1:] if isinstance(extent, int)]
    rng, kept = np.random.default_rng(0), dict[str, Sketches]()
    feeds = [rng.standard_normal((batch, *extents)).astype(np.float32) for _ in range(SAMPLES // batch)]
    session.run(outputs, {given.name: feeds[0]})
    began = time.process_time()
    for x in feeds:
        found = session.run(outputs, {given.name: x})
        for name, rows in zip(outputs, found, strict=True):
            if name.endswith("/sketch"):
                if name not in kept:
                    kept[name] = Sketches(SAMPLES, rows.shape[1], half=True)
                kept[name].add(rows)
    seconds = time.process_time() - began
    sketches = sum(each.bytes for each in kept.values())
    print(json.dumps({"seconds": seconds, "bytes": peak_memory() - sketches, "sketches": sketches}))


def measured(file: Path, sketched: bool, batch: int) -> dict[str, float]:
    """Figures of one process."""
    command = [sys.executable, __file__, "--child", str(file), "--batch", str(batch), *(["--sketched"] * sketched)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def cost(name: str, folder: Path, rounds: int) -> None:
    """Print a row for each batch size."""
    file = model_file(name, folder)
    model = open_model(file)
    passes = plan_passes(model, 128, 8 << 30)
    made = add_sketches(model, [layer.name for layer in model.layers], sketch=passes.size, seed=0)
    stored = stored_statistics(model, model.graph)
    add_sums(made.model, made.outputs, {layer: made.samples[layer] for layer in stored})
    plain, sketched = folder / f"{name}-plain.onnx", folder / f"{name}-sketched.onnx"
    plain.write_bytes(model.proto().SerializeToString())
    sketched.write_bytes(ir.to_proto(made.model).SerializeToString())
    for batch, against, called in ((1, 1, "1"), (32, 32, "32"), (_power(passes.batch), 1, "default")):
        rows = [(measured(plain, False, against), measured(sketched, True, batch)) for _ in range(rounds)]
        times = [after["seconds"] / before["seconds"] for before, after in rows]
        more = [after["bytes"] / before["bytes"] for before, after in rows]
        print(
            f"| {name} | {called} | {_range(times)} | {_range(more)} | {rows[0][0]['bytes'] / 1e6:.0f} | "
            f"{rows[0][1]['sketches'] / 1e6 * 128 / SAMPLES:.0f} |",
            flush=True,
        )


def _power(number: int) -> int:
    """The largest power of two that is not larger."""
    return 1 << (number.bit_length() - 1)


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def agreement(name: str) -> None:
    """Print tau of each draw."""
    model, data = (SHARED / kind / file for kind, file in zip(("models", "data"), _files(name), strict=True))
    opened, taus = open_model(model), []
    for seed in range(DRAWS):
        found = [
            [layer.b1_hat for layer in score(opened, data, scoring=Scoring(sketch=sketch), seed=seed).layers]
            for sketch in ("auto", "off")
        ]
        taus.append(kendall_tau(*found) or 0.0)
    print(
        f"| {name} | {len(opened.layers)} | {statistics.mean(taus):.3f} | {min(taus):.3f} | "
        f"{', '.join(f'{each:.3f}' for each in taus)} |",
        flush=True,
    )


def _files(name: str) -> tuple[str, str]:
    model, data = PAIRS[name]
    return f"{model}.onnx", data


def whole_command(folder: Path, rounds: int) -> None:
    """Print the ratio of `score` to forward passes one by one."""
    file, data = folder / "resnet50.onnx", folder / "pictures.npz"
    # In a process of its own: a child's peak memory counts what its parent had when it was started.
    subprocess.run([sys.executable, __file__, "--make", str(folder)], check=True)
    plain = [sys.executable, __file__, "--plain", str(file), "--data", str(data)]
    command = [sys.executable, "-m", "adabet_onnx", "score", str(file), str(data), "-o", str(folder / "scores.json")]
    ratios, peaks = [], []
    for _ in range(rounds):
        before, after = (
            _spent(each) for each in (plain, [*command, "--preset", "imagenet", "--threads", "1", "--quiet"])
        )
        ratios.append(after[0] / before[0])
        peaks.append((before[1], after[1]))
    theirs, ours = (max(each) / 1e6 for each in zip(*peaks, strict=True))
    print(
        f"score on ResNet-50: {_range(ratios)} of the CPU time of forward passes one by one; "
        f"peak memory {ours:.0f} MB, theirs {theirs:.0f} MB"
    )


def _spent(command: list[str]) -> tuple[float, int]:
    """(CPU seconds, peak bytes) of a process."""
    import os

    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def subsets(rounds: int) -> None:
    """Print the cost of Betti numbers of subsets of a layer."""
    from ripser import ripser

    rng = np.random.default_rng(0)
    points = rng.standard_normal((128, 300))
    distance = distances(points @ points.T)
    chosen = [rng.choice(128, 32, replace=False) for _ in range(1024)]
    parts = [distance[np.ix_(subset, subset)] for subset in chosen[:64]]
    loops = Loops(distance)
    first = 1e3 * _shortest(lambda: Loops(distance), rounds)
    each = 1e6 * _shortest(lambda: loops.count(chosen), rounds) / len(chosen)
    other = 1e6 * _shortest(lambda: [ripser(part, distance_matrix=True) for part in parts], rounds) / len(parts)
    print(f"128 points: {first:.1f} ms, then {each:.0f} us a subset of 32; ripser {other:.0f} us", flush=True)


def _shortest(action: Callable[[], object], rounds: int) -> float:
    """CPU seconds, the shortest of some."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        action()
        times.append(time.process_time() - began)
    return min(times)


def make_files(folder: Path) -> None:
    """Create the files for `whole_command`."""
    model_file("resnet50", folder)
    np.savez(folder / "pictures.npz", x=np.random.default_rng(0).integers(0, 256, (128, 224, 224, 3)).astype(np.uint8))


def forward_one_by_one(file: str, data: str) -> None:
    """The baseline of `whole_command`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    for sample in np.load(data)["x"]:
        x = (sample.astype(np.float32) / 255 - mean) / std
        session.run(None, {session.get_inputs()[0].name: x.transpose(2, 0, 1)[np.newaxis]})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["cost", "tau", "command", "betti"])
    parser.add_argument("--models", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    for name in ("--child", "--plain", "--data", "--make"):
        parser.add_argument(name)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sketched", action="store_true")
    given: Any = parser.parse_args()
    if given.child:
        return child(given.child, given.sketched, given.batch)
    if given.make:
        return make_files(Path(given.make))
    if given.plain:
        return forward_one_by_one(given.plain, given.data)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if "cost" in given.parts:
            print("| model | batch | time / inference | memory / inference | inference, MB | sketches of 128, MB |")
            print("|---|--:|--:|--:|--:|--:|")
            for name in given.models.split(",") if given.models else (*MADE, *PAIRS):
                cost(name, folder, given.rounds)
        if "tau" in given.parts:
            print("| pair | layers | tau, mean | least | draws |\n|---|--:|--:|--:|---|")
            for name in given.models.split(",") if given.models else PAIRS:
                agreement(name)
        if "command" in given.parts:
            whole_command(folder, given.rounds)
        if "betti" in given.parts:
            subsets(given.rounds)
    return None


if __name__ == "__main__":
    main()
