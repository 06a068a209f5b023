"""The C library against Python's onnxruntime: time of a step, resident memory at step 20 and 2,000. One thread each.

    python tests/benchmarks/bench_device_c.py

Both train the demo's model, and ResNet-20 if the shared models are available, from the same package, batches of 8, in
new processes that alternate; prints medians of three rounds. Python feeds values back as arrays, C alternates two sets
of them. Both run the library of .venv-inference; samples/c is compiled with -O2. Two minutes on two cores.
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


def resident(process: int | str) -> float:
    """Memory of a process, in MiB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


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


def by_c(program: Path, package: Path, library: Path) -> tuple[float, float, float]:
    """Milliseconds of a step, resident memory early and late."""
    folder = package.parent
    command = [program, package, "fit", "--x", folder / "x", "--y", folder / "y", "--batch", BATCH, "--rate", 1e-3]
    command += ["--epochs", STEPS // 25, "--stop", STEPS]
    environment = {**os.environ, "ADABET_ONNXRUNTIME": str(library)}
    words = [str(word) for word in command]
    times, memory = [], {}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        step = 0
        for line in process.stdout:
            if line.startswith("epoch"):
                continue
            step += 1
            times.append(time.perf_counter())
            if step in (EARLY, STEPS - 1):  # at the last step it may have ended before it is inspected
                memory[step] = resident(process.pid)
    gaps = [later - before for before, later in zip(times[STEPS // 2 :], times[STEPS // 2 + 1 :], strict=False)]
    return 1000 * statistics.median(gaps), memory[EARLY], memory[STEPS - 1]


PYTHON = """
import json, os, resource, statistics, sys, time
from pathlib import Path
import numpy as np, onnxruntime
package, steps, batch, early = Path(sys.argv[1]), *map(int, sys.argv[2:])
content = json.loads((package / "device.json").read_text())
entry = content["entries"][0]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.enable_mem_pattern = 1, False
def session(name):
    return onnxruntime.InferenceSession(str(package / name), options, providers=["CPUExecutionProvider"])
x = np.fromfile(package.parent / "x", "<f4").reshape(-1, *content["inputs"][0]["shape"][1:])
y = np.fromfile(package.parent / "y", "<i8")
frozen, kept = session(entry["frozen"]), [b["name"] for b in entry["boundary"]]
rows = [frozen.run(kept, {content["inputs"][0]["name"]: x[i:i + 1]}) for i in range(len(x))]
features = {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(kept)}
del frozen, rows
graph, names, tensors = session(entry["step"]), entry["names"], entry["tensors"]
data, values = (package / entry["state"]).read_bytes(), {}
for t in tensors:
    values[t["input"]] = np.zeros(t["shape"], np.float32)
    if t["kind"] != "optimizer":
        values[t["input"]].ravel()[:] = np.frombuffer(data, "<f4", t["bytes"] // 4, t["offset"])
outputs = [names["loss"], *(t["output"] for t in tensors)]
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)
times, memory = [], {}
for step in range(1, steps + 1):
    begin = time.perf_counter()
    first = (step - 1) % (len(x) // batch) * batch
    feeds = {name: array[first:first + batch] for name, array in features.items()} | values
    feeds |= {names["labels"]: y[first:first + batch], names["learning_rate"]: np.array(1e-3, np.float32)}
    feeds[names["step"]] = np.array(step, np.int64)
    loss, *new = graph.run(outputs, feeds)
    values = {t["input"]: value for t, value in zip(tensors, new)}
    times.append(time.perf_counter() - begin)
    if step in (early, steps - 1):
        memory[step] = resident()
print(json.dumps([1000 * statistics.median(times[steps // 2:]), memory[early], memory[steps - 1]]))
"""


def by_python(python: Path, package: Path) -> tuple[float, float, float]:
    """The same."""
    words = [python, "-c", PYTHON, package, STEPS, BATCH, EARLY]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
    found: Any = json.loads(done.stdout)
    return found[0], found[1], found[2]


def main() -> None:
    """Measure and print a table in Markdown."""
    from conftest import INFERENCE_PYTHON
    from device_c import C, build
    from device_commands import runtime_library

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build(C, folder / "c", "-DCMAKE_C_FLAGS=-O2") / "adabet-device"
        print("| model | by | a step | resident at step 20 | at step 2,000 |")
        print("|---|---|---|---|---|")
        for i, (title, (model, layers)) in enumerate(MODELS.items()):
            if not model.is_file():
                continue
            (folder / str(i)).mkdir()
            package = make(model, layers, folder / str(i))
            rows: dict[str, list[tuple[float, float, float]]] = {"C": [], "Python": []}
            for _ in range(ROUNDS):
                rows["C"].append(by_c(program, package, runtime_library()))
                rows["Python"].append(by_python(INFERENCE_PYTHON, package))
            for by, measured in rows.items():
                step, early, late = (statistics.median(column) for column in zip(*measured, strict=True))
                print(f"| {title} | {by} | {step:.2f} ms | {early:.0f} MiB | {late:.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
