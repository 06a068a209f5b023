"""Memory of the commands with data in a large file: 300 MB of images, and 2 GB.

    python tests/benchmarks/bench_large_data.py [--megabytes 300 2000] [--forms npz npy] [--package FOLDER]

Each command runs once in a separate process; prints its peak of resident memory in MB, and the excess over the same
command with 3 MB of data as a share of the data: 1.0 means that all of it was held once. --package measures another
copy of the package, such as an earlier one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
SIDE, CLASSES, SMALL = 224, 10, 3
SAMPLE = 3 * SIDE * SIDE
CALL = """
import resource, sys
from adabet_onnx.cli.main import main
try:
    main()
except SystemExit as end:
    code = end.code
peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(f"PEAK {peak * 1024}", file=sys.stderr)
raise SystemExit(code)
"""
COMMANDS = {
    "score": "score model.onnx {data} -o scores.json --preset unit",
    "train": "train artifacts {data} --epochs 1 --features memory",
    "train, no features": "train artifacts {data} --epochs 1 --features off",
    "evaluate": "evaluate artifacts {data}",
    "predict": "predict artifacts {data} -q",
    "run": "run model.onnx {data} -o run --preset unit --epochs 1 --no-measure",
}
ONCE = {
    "select": "select scores.json -o selection.json --strategy last --rho 0.5",
    "artifacts": "artifacts model.onnx selection.json -o artifacts --no-check",
}


def network() -> onnx.ModelProto:
    """A small, fast network on large images."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 8, 8), "b1": (8,), "w2": (16, 8, 4, 4), "b2": (16,), "w": (16, CLASSES), "b": (CLASSES,)}
    weights = [
        numpy_helper.from_array(0.1 * rng.standard_normal(shape).astype(np.float32), n) for n, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", strides=[8, 8]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", strides=[4, 4]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["logits"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_data(folder: Path, megabytes: int, form: str) -> str:
    """Random images in a file, without all of them in memory; the path under the folder."""
    count = max(64, megabytes * 10**6 // SAMPLE)
    name = f"data-{megabytes}-{form}"
    place = folder / name
    place.mkdir()
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(place / "x.npy", "w+", np.uint8, (count, 3, SIDE, SIDE))
    for start in range(0, count, 256):
        x[start : start + 256] = rng.integers(0, 256, (min(256, count - start), 3, SIDE, SIDE), np.uint8)
    x.flush()
    y = np.arange(count) % CLASSES
    if form == "npy":
        np.save(place / "y.npy", y)
        return name
    (np.savez_compressed if form == "npz-compressed" else np.savez)(folder / f"{name}.npz", x=x, y=y)
    (place / "x.npy").unlink()
    return f"{name}.npz"


def written(folder: Path, megabytes: int, form: str) -> str:
    """The same in a separate process: a new process counts the memory of its parent in its peak."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(write_data, (folder, megabytes, form))


def peak(folder: Path, package: Path, words: str) -> int | str:
    """Bytes of peak resident memory, or the message of a command that fails."""
    environment = os.environ | {"PYTHONPATH": str(package)}
    done = subprocess.run(
        [sys.executable, "-c", CALL, *words.split()], cwd=folder, capture_output=True, text=True, env=environment
    )
    lines = done.stderr.splitlines()
    if done.returncode:
        return " ".join(line for line in lines if "PEAK" not in line)[-200:]
    return int(next(line for line in lines if line.startswith("PEAK")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[300, 2000])
    parser.add_argument("--forms", nargs="+", default=["npz", "npy"])
    parser.add_argument("--package", type=Path, default=ROOT)
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(network(), folder / "model.onnx")
        small = written(folder, SMALL, "npz")
        for words in (COMMANDS["score"], *ONCE.values(), COMMANDS["train"]):
            found = peak(folder, asked.package, words.format(data=small))
            if isinstance(found, str):
                raise SystemExit(f"{words}: {found}")
        base = {key: peak(folder, asked.package, COMMANDS[key].format(data=small)) for key in asked.commands}
        print(f"{'':28}{'3 MB':>10}{'peak, MB':>12}{'of the data':>14}")
        for megabytes in asked.megabytes:
            for form in asked.forms:
                data = written(folder, megabytes, form)
                for key in asked.commands:
                    found, least = peak(folder, asked.package, COMMANDS[key].format(data=data)), base[key]
                    if isinstance(found, str) or isinstance(least, str):
                        print(f"{key}, {megabytes} MB {form}: {found}", flush=True)
                        continue
                    share = (found - least) / (megabytes * 10**6)
                    label = f"{key}, {megabytes} MB {form}"
                    print(f"{label:32}{least / 1e6:>6.0f}{found / 1e6:>12.0f}{share:>14.2f}", flush=True)
                file = folder / data
                for path in [file] if file.is_file() else file.iterdir():
                    path.unlink()


if __name__ == "__main__":
    main()
