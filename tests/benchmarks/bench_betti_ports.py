"""The cost of first Betti numbers in C, TypeScript and Python: 50 layers with 64 subsets of 128 points each.

    python tests/benchmarks/bench_betti_ports.py [--rounds 5]

Subsets have half of the points in the first layer, all in the last. Printed are medians over rounds of the processor
time in milliseconds, for distances of normal points, which all differ; such distances rounded to halves; and points
with whole coordinates. Reading files and starting processes does not count. C needs cc, TypeScript needs node and tsc
(on the PATH, or where make test installs it); missing ones are skipped. All must compute the same numbers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.spatial.distance import pdist, squareform

from adabet_onnx.scoring.betti import Loops

ROOT = Path(__file__).resolve().parents[2]
DEVICE = ROOT / "tests" / "device_sources"
LAYERS, SUBSETS, POINTS = 50, 64, 128
KINDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "all lengths differ": lambda rng: pdist(rng.standard_normal((POINTS, 40))),
    "rounded to halves": lambda rng: np.round(pdist(rng.standard_normal((POINTS, 10))) * 2) / 2,
    "whole coordinates": lambda rng: pdist(rng.integers(0, 12, (POINTS, 2)).astype(float)),
}


def run(*command: object) -> str:
    """What a command prints."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def in_c(folder: Path) -> list[object] | None:
    """The command that runs betti.c."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    sources = [ROOT / "samples/c/betti.c", DEVICE / "run_betti.c"]
    run(compiler, "-std=c99", "-O2", f"-I{ROOT / 'samples/c'}", *sources, "-o", folder / "run_betti", "-lm")
    return [folder / "run_betti"]


def in_typescript(folder: Path) -> list[object] | None:
    """The command that runs betti.ts."""
    places = [str(ROOT / "tests/js/node_modules/.bin"), os.environ.get("PATH", "")]
    node, tsc = shutil.which("node"), shutil.which("tsc", path=os.pathsep.join(places))
    if node is None or tsc is None:
        return None
    options = ["--strict", "--target", "es2020", "--lib", "es2020", "--module", "es2020"]
    run(tsc, *options, "--outDir", folder, ROOT / "samples/web/core/betti.ts")
    (folder / "package.json").write_text('{"type": "module"}')
    return [node, DEVICE / "run_betti.mjs", folder / "betti.js"]


def in_python(layers: list[np.ndarray], chosen: list[np.ndarray]) -> tuple[float, list[list[int]]]:
    """Milliseconds, and the numbers."""
    began = time.process_time()
    found = [Loops(distance).count(subsets) for distance, subsets in zip(layers, chosen, strict=True)]
    return 1000 * (time.process_time() - began), found


def written(folder: Path, layers: list[np.ndarray], chosen: list[np.ndarray]) -> list[Path]:
    """The same as files."""
    upper = np.triu_indices(POINTS, 1)
    matrices = [struct.pack("<HHI", POINTS, 4, 0) + layer[upper].astype("<f4").tobytes() for layer in layers]
    subsets = [struct.pack("<II", *each.shape) + each.astype("<u4").tobytes() for each in chosen]
    (folder / "matrices").write_bytes(b"BET1" + struct.pack("<I", LAYERS) + b"".join(matrices))
    (folder / "subsets").write_bytes(b"".join(subsets))
    return [folder / "matrices", folder / "subsets"]


def main() -> None:
    """Print a row for each kind of points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    sizes = np.linspace(POINTS // 2, POINTS, LAYERS).astype(int)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ports = {"C": in_c(folder), "TypeScript": in_typescript(folder)}
        print(f"{'milliseconds':20}{'Python':>12}" + "".join(f"{port:>12}" for port in ports))
        for kind, make in KINDS.items():
            layers = [squareform(make(rng)) for _ in range(LAYERS)]
            chosen = [np.stack([rng.permutation(POINTS)[:size] for _ in range(SUBSETS)]) for size in sizes]
            files = written(folder, layers, chosen)
            measured = [in_python(layers, chosen) for _ in range(rounds)]
            row = f"{kind:20}{statistics.median(spent for spent, _ in measured):12.0f}"
            for command in ports.values():
                if command is None:
                    row += f"{'-':>12}"
                    continue
                lines = run(*command, "subsets", *files).splitlines()
                assert [[int(number) for number in line.split()] for line in lines] == measured[0][1]
                times = [float(run(*command, "time", *files)) for _ in range(rounds)]
                row += f"{statistics.median(times):12.0f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
