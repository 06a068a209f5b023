"""How the commands grow with the number of layers: residual networks of 102, 302 and 1,002 layers.

    python tests/benchmarks/bench_growth.py [--layers 102 302 1002]

Each command runs once, in a process of its own; printed are processor seconds, those of its children included, and how
many times the time of the smallest network the largest takes, which is to be compared with how many times the layers it
has. Then the time of ``select --strategy auto`` on the MiniLM of bench_pairs.py, where that can be built.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_pairs import BANKING, UnavailableError, build_minilm
from models.deep import residual

COMMANDS = {
    "inspect": "inspect model.onnx",
    "check": "check model.onnx",
    "new-head": "new-head model.onnx --num-classes 7 -o head.onnx",
    "score": "score model.onnx data.npz -o scores.json --preset none --samples 32 --subsets 8",
    "select": "select scores.json -o selection.json --rho 0.1",
    "select auto": "select scores.json -o auto.json --strategy auto",
    "cost": "cost model.onnx selection.json",
    "artifacts": "artifacts model.onnx selection.json -o artifacts",
    "train": "train artifacts data.npz --epochs 1",
    "export": "export artifacts -o adapted.onnx",
}
CALL = [sys.executable, "-c", "from adabet_onnx.cli import main; main()"]


def seconds(arguments: list[str], folder: Path) -> float:
    """Processor time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*CALL, *arguments, "--quiet"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(layers: int) -> dict[str, float]:
    """Every command on one network."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(residual((layers - 2) // 4), folder / "model.onnx")
        x, y = rng.standard_normal((64, 3, 16, 16)).astype(np.float32), rng.integers(0, 10, 64)
        np.savez(folder / "data.npz", x=x, y=y)
        return {what: seconds(command.split(), folder) for what, command in COMMANDS.items()}


def minilm() -> float:
    """``select --strategy auto`` on MiniLM."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = str(build_minilm())
        seconds(["score", model, str(BANKING), "-o", "scores.json", "--samples", "64"], folder)
        return seconds(["select", "scores.json", "-o", "auto.json", "--strategy", "auto"], folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, nargs="+", default=[102, 302, 1002])
    counts = sorted(parser.parse_args().layers)
    found = {}
    for count in counts:
        found[count] = measure(count)
        print(
            f"{count} layers: " + ", ".join(f"{what} {time:.1f} s" for what, time in found[count].items()), flush=True
        )
    first, last = counts[0], counts[-1]
    print(f"from {first} to {last} layers, {last / first:.1f} times as many, takes so many times the time:")
    for what in COMMANDS:
        print(f"  {what:12} {found[last][what] / found[first][what]:.1f}")
    try:
        print(f"select auto on MiniLM: {minilm():.1f} s")
    except UnavailableError as error:
        print(f"select auto on MiniLM: left out, {error}")


if __name__ == "__main__":
    main()
