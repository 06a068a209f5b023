"""How the commands grow with the number of layers: residual networks of 102 and 502 layers.

    python tests/benchmarks/bench_growth.py [--layers 102 302 502] [--large]

Each command runs once in a separate process; prints processor seconds, including those of its children, and then a
table with time(n2) / time(n1) beside n2 / n1. --large adds 1,002 layers.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
    "run": "run model.onnx data.npz -o adapted --epochs 1 --preset none --samples 32 --subsets 8",
    "report": "report adapted -o report.html",
}
CALL = [sys.executable, "-c", "from adabet_onnx.cli import main; main()"]
GROWS, NOISE = 1.3, 1.0  # by which a ratio may exceed that of the layers; seconds too few for a ratio


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
        found = {}
        for what, command in COMMANDS.items():
            found[what] = seconds(command.split(), folder)
            print(f"{layers:5} layers {what:12} {found[what]:7.1f} s", flush=True)
        return found


def table(found: dict[int, dict[str, float]]) -> str:
    """Seconds by command and number of layers, and ratios beside those of the layers.

    The last ratio is of the increase over the smallest network, so that start-up does not hide growth; it needs at
    least three sizes.
    """
    counts = list(found)
    steps = list(itertools.pairwise(counts))
    head = [f"{'layers':12}", *(f"{count:>8}" for count in counts), *(f"{f'{b}/{a}':>10}" for a, b in steps)]
    lines = ["".join(head), " " * (12 + 8 * len(counts)) + "".join(f"{b / a:10.2f}" for a, b in steps)]
    for what in COMMANDS:
        times = {count: found[count][what] for count in counts}
        row = [f"{what:12}", *(f"{times[count]:8.1f}" for count in counts)]
        row += [f"{times[b] / times[a]:10.2f}" + ("*" if times[b] / times[a] > GROWS * b / a else "") for a, b in steps]
        lines.append("".join(row))
    if len(counts) > 2:
        a, b, c = counts[0], counts[-2], counts[-1]
        lines.append(f"from {a} to {c} over from {a} to {b}, start-up left out: layers {(c - a) / (b - a):.2f}")
        for what in COMMANDS:
            first, before, last = (found[count][what] for count in (a, b, c))
            if before - first > NOISE:
                lines.append(f"{what:12}{(last - first) / (before - first):8.2f}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, nargs="+", default=[102, 502])
    parser.add_argument("--large", action="store_true", help="also 1,002 layers")
    options = parser.parse_args()
    found: dict[int, dict[str, float]] = {}
    for count in sorted({*options.layers, *([1002] if options.large else [])}):
        found[count] = measure(count)
    print(f"\nprocessor seconds (* grows by more than {GROWS} times the layers)\n{table(found)}")


if __name__ == "__main__":
    main()
