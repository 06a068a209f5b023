"""The C# library against Python's onnxruntime: time of a step, and resident memory at step 20 and 2,000, on one thread.

    python tests/benchmarks/bench_device_csharp.py

Both train the demo's model, and ResNet-20 if the shared models are available, from the same package, batches of 8, in
new processes that alternate; prints medians of three rounds. Python feeds values back as arrays, C# alternates two sets
of them, under mono. Both run the library of .venv-inference. Two minutes on two cores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]

STEPS, BATCH, ROUNDS, EARLY = 2000, 8, 3, 20
MODELS = {
    "the demo's": (ROOT / "adabet_onnx" / "demo" / "digits.onnx", ["block4.conv2", "head"]),
    "ResNet-20": (ROOT.parent / "shared" / "models" / "resnet20_cifar10_bn.onnx", None),
}
Measured = tuple[float, float, float]


def make(model: Path, layers: list[str] | None, folder: Path) -> Path:
    """A package, with data of noise beside it."""
    import numpy as np

    from adabet_onnx import make_artifacts, make_device, open_model, select

    opened = open_model(model)
    selection = select(opened, layers=layers) if layers else select(opened, strategy="last", rho=0.1)
    make_artifacts(opened, selection, folder / "artifacts", backend="portable", check=False)
    make_device(folder / "artifacts", folder / "device")
    rng = np.random.default_rng(0)
    rng.standard_normal((25 * BATCH, *opened.inputs[0].shape[1:])).astype("<f4").tofile(folder / "x")
    rng.integers(0, 10, 25 * BATCH).astype("<i8").tofile(folder / "y")
    return folder / "device"


def by_csharp(csharp: Any, package: Path) -> Measured:
    """Milliseconds of a step, resident memory early and late, in MiB."""
    from device_csharp import Program

    data = {name: package.parent / name for name in ("x", "y")}
    command = Program(package, csharp).command(
        "fit", **data, batch=BATCH, rate=1e-3, epochs=STEPS // 25 + 1, stop=STEPS + 5
    )
    times, memory = [], {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=csharp.environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch"):
                continue
            times.append(time.perf_counter())
            if len(times) in (EARLY, STEPS):
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                memory[len(times)] = pages * os.sysconf("SC_PAGESIZE") / (1 << 20)
    gaps = [later - before for before, later in zip(times[STEPS // 2 :], times[STEPS // 2 + 1 :], strict=False)]
    return 1000 * statistics.median(gaps), memory[EARLY], memory[STEPS]


def by_python(package: Path) -> Measured:
    """The same, in this process: a fresh one, which `main` starts."""
    import numpy as np
    import onnxruntime

    content = json.loads((package / "device.json").read_text())
    [entry] = content["entries"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def session(name: str) -> Any:
        return onnxruntime.InferenceSession(str(package / name), options, providers=["CPUExecutionProvider"])

    x = np.fromfile(package.parent / "x", "<f4").reshape(-1, *content["inputs"][0]["shape"][1:])
    y = np.fromfile(package.parent / "y", "<i8")
    kept = [port["name"] for port in entry["boundary"]]
    features = dict(zip(kept, session(entry["frozen"]).run(kept, {content["inputs"][0]["name"]: x}), strict=True))
    graph, names, tensors = session(entry["step"]), entry["names"], entry["tensors"]
    state, values = (package / entry["state"]).read_bytes(), {}
    for tensor in tensors:
        count = tensor["bytes"] // 4
        inside = tensor["kind"] != "optimizer"
        flat = np.frombuffer(state, "<f4", count, tensor["offset"]) if inside else np.zeros(count, np.float32)
        values[tensor["input"]] = flat.reshape(tensor["shape"])
    outputs = [names["loss"], *(tensor["output"] for tensor in tensors)]
    times, memory = [], {}
    for step in range(1, STEPS + 1):
        begin = time.perf_counter()
        first = (step - 1) % (len(x) // BATCH) * BATCH
        feeds = {name: array[first : first + BATCH] for name, array in features.items()} | values
        feeds |= {names["labels"]: y[first : first + BATCH], names["learning_rate"]: np.array(1e-3, np.float32)}
        feeds[names["step"]] = np.array(step, np.int64)
        _, *new = graph.run(outputs, feeds)
        values = {tensor["input"]: value for tensor, value in zip(tensors, new, strict=True)}
        times.append(time.perf_counter() - begin)
        if step in (EARLY, STEPS):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory[step] = pages * os.sysconf("SC_PAGESIZE") / (1 << 20)
    return 1000 * statistics.median(times[STEPS // 2 :]), memory[EARLY], memory[STEPS]


def main() -> None:
    """Measure and print a table in Markdown."""
    from conftest import INFERENCE_PYTHON
    from device_csharp import compile_all

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        csharp = compile_all(folder)
        print("| model | by | a step | resident at step 20 | at step 2,000 |")
        print("|---|---|---|---|---|")
        for i, (title, (model, layers)) in enumerate(MODELS.items()):
            if not model.is_file():
                continue
            (folder / str(i)).mkdir()
            package = make(model, layers, folder / str(i))
            rows: dict[str, list[Measured]] = {"C#": [], "Python": []}
            for _ in range(ROUNDS):
                rows["C#"].append(by_csharp(csharp, package))
                words = [str(INFERENCE_PYTHON), __file__, str(package)]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                rows["Python"].append(tuple(json.loads(done.stdout)))
            for by, measured in rows.items():
                step, early, late = (statistics.median(column) for column in zip(*measured, strict=True))
                print(f"| {title} | {by} | {step:.2f} ms | {early:.0f} MiB | {late:.0f} MiB |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(by_python(Path(sys.argv[1]))))
    else:
        main()
