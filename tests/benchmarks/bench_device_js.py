"""Training a device package with samples/web/core in node and WebAssembly, against the same loop in Python.

    python tests/benchmarks/bench_device_js.py MODEL.onnx [--layers a,b] [--epochs 200] [--rounds 3]

Random samples, batch 8, ten steps an epoch, one thread, each measurement in a fresh process, the runtimes in turn. The
loop in Python runs the package's own step.onnx with the values fed back, with numpy and onnxruntime alone. Printed are
the median of the milliseconds of a step (of the second half; over rounds, with range), and the resident memory in MiB
at step 20 and at the last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "helpers")]
BATCH, STEPS, RATE, EARLY = 8, 10, 1e-4, 20


def in_python(folder: Path, epochs: int) -> dict[str, Any]:
    """What training costs in this process."""
    import onnxruntime
    import psutil

    content = json.loads((folder / "device" / "device.json").read_text())
    entry, options = content["entries"][0], onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    x = np.fromfile(folder / "x.bin", np.float32).reshape(-1, *content["inputs"][0]["shape"][1:])
    y = np.fromfile(folder / "y.bin", np.int64)
    given = {content["inputs"][0]["name"]: x}
    if entry["frozen"] is not None:
        frozen = onnxruntime.InferenceSession(str(folder / "device" / entry["frozen"]), options)
        names = [value.name for value in frozen.get_outputs()]
        parts = [frozen.run(None, {frozen.get_inputs()[0].name: x[i : i + BATCH]}) for i in range(0, len(x), BATCH)]
        given |= {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*parts, strict=True), strict=True)}
    features = {port["name"]: given[port["input"] or port["name"]] for port in entry["boundary"]}
    session = onnxruntime.InferenceSession(str(folder / "device" / entry["step"]), options)
    state = np.fromfile(folder / "device" / entry["state"], np.float32)
    state = np.pad(state, (0, max(t["offset"] + t["bytes"] for t in entry["tensors"]) // 4))  # the optimizer's are zero
    values = {}
    for tensor in entry["tensors"]:
        begin = tensor["offset"] // 4
        values[tensor["input"]] = state[begin : begin + tensor["bytes"] // 4].reshape(tensor["shape"])
    names, outputs = entry["names"], [entry["names"]["loss"], *(tensor["output"] for tensor in entry["tensors"])]
    taken = {value.name for value in session.get_inputs()}
    times, memory = [], {}
    for number in range(1, epochs * STEPS + 1):
        began = time.perf_counter()
        rows = np.arange(BATCH) + (number - 1) % STEPS * BATCH
        feeds = {name: array[rows] for name, array in features.items()} | values
        feeds |= {names["labels"]: y[rows], names["learning_rate"]: np.float32(RATE), names["step"]: np.int64(number)}
        found = session.run(outputs, {name: np.asarray(feeds[name]) for name in taken})
        values = {tensor["input"]: array for tensor, array in zip(entry["tensors"], found[1:], strict=True)}
        times.append(1000 * (time.perf_counter() - began))
        if number in (EARLY, epochs * STEPS):
            memory[str(number)] = psutil.Process().memory_info().rss / 2**20
    return {"times": times, "memory": memory}


def package(folder: Path, model: str, layers: str | None) -> None:
    """Write a package and data."""
    from adabet_onnx import Packing, make_artifacts, make_device, open_model, select

    opened = open_model(model)
    chosen = {"strategy": "all"} if layers is None else {"layers": layers.split(",")}
    make_artifacts(opened, select(opened, **chosen), folder / "artifacts", backend="portable")
    content = make_device(folder / "artifacts", folder / "device", packing=Packing(scoring=None))
    rng = np.random.default_rng(0)
    shape = (STEPS * BATCH, *content["inputs"][0]["shape"][1:])
    rng.standard_normal(shape).astype(np.float32).tofile(folder / "x.bin")
    rng.integers(0, content["labels"]["classes"], STEPS * BATCH).tofile(folder / "y.bin")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="of one float32 input, with classes")
    parser.add_argument("--layers", help="to train, with commas between; all where it is left out")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)  # measure Python in this process
    options = parser.parse_args()
    if options.here is not None:
        print(json.dumps(in_python(options.here, options.epochs)))
        return
    from device_js import RUNTIMES, compiled, job

    last = options.epochs * STEPS
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("Python", *RUNTIMES)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package(folder, options.model, options.layers)
        (folder / "compiled").mkdir()
        core = compiled(folder / "compiled")
        settings = {"epochs": options.epochs, "batch": BATCH, "rate": RATE, "at": [EARLY, last]}
        files = {"package": folder / "device", "x": folder / "x.bin", "y": folder / "y.bin"}
        for _ in range(options.rounds):
            command = [sys.executable, __file__, options.model, "--epochs", str(options.epochs), "--here", str(folder)]
            bare = os.environ | {"PYTHONPATH": str(TESTS / "processes")}  # onnxruntime-training would import torch
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=bare)
            found["Python"].append(json.loads(done.stdout))
            for runtime in RUNTIMES:
                found[runtime].append(job(core, "measure", runtime, **files, **settings))
    print(f"{'':18}{'ms a step':>24}{f'MiB at {EARLY}':>12}{f'at {last}':>12}")
    for name, rounds in found.items():
        times = [statistics.median(one["times"][last // 2 :]) for one in rounds]
        spread = f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"
        early, late = (statistics.median(one["memory"][str(at)] for one in rounds) for at in (EARLY, last))
        print(f"{name:18}{spread:>24}{early:12.0f}{late:12.0f}")


if __name__ == "__main__":
    main()
