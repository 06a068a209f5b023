"""What scoring costs over plain inference: ResNet-50 at 224 px in groups of 32.

    python tests/benchmarks/bench_scoring.py

The architecture is that of the onnx package's light models, with random weights. Plain inference and the probed graph
run in fresh processes, alternating, with the same number of threads; printed are the medians over rounds of the
ratios of time per forward pass and of peak memory (the whole process's peak resident memory), and what the Betti number
of a group costs on one core. Then what Betti numbers of subsets cost, of 128 normal points, and what ripser takes for
the same. About four minutes on two cores.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.light import light_model

from adabet_onnx import open_model
from adabet_onnx.cost.process import peak_memory
from adabet_onnx.scoring.betti import Loops, distances, first_betti_number
from adabet_onnx.scoring.probes import add_probes

GROUP, ROUNDS, PASSES = 32, 5, 3
POINTS, SUBSETS = 128, 1024
THREADS = (1, 2)


def child(model: str, probed: bool, threads: int) -> None:
    """One process: forward passes of a file, figures as JSON."""
    from adabet_onnx import runtime
    from adabet_onnx.scoring.forward import probing_options

    options = probing_options(threads) if probed else runtime.session_options(threads)
    session = runtime.inference_session(Path(model), model, options)
    x = np.random.default_rng(0).standard_normal((GROUP, 3, 224, 224)).astype(np.float32)
    name, times = session.get_inputs()[0].name, []
    for _ in range(PASSES + 1):
        began = time.perf_counter()
        outputs = session.run(None, {name: x})
        times.append(time.perf_counter() - began)
    figures = {"seconds": statistics.median(times[1:]), "bytes": peak_memory()}
    if probed:
        matrices = [distances(gram) for gram in outputs]
        began = time.process_time()
        for matrix in matrices:
            first_betti_number(matrix)
        figures["betti"] = (time.process_time() - began) / len(matrices)
    print(json.dumps(figures))


def seconds(action: Callable[[], object]) -> float:
    """The shortest time of some, on one core."""
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        action()
        times.append(time.process_time() - began)
    return min(times)


def subsets() -> None:
    """What Betti numbers of subsets of a layer cost."""
    from ripser import ripser

    rng = np.random.default_rng(0)
    points = rng.standard_normal((POINTS, 300))
    distance = distances(points @ points.T)
    chosen = [rng.choice(POINTS, GROUP, replace=False) for _ in range(SUBSETS)]
    parts = [distance[np.ix_(subset, subset)] for subset in chosen[:64]]
    loops = Loops(distance)
    first = 1e3 * seconds(lambda: Loops(distance))
    each = 1e6 * seconds(lambda: loops.count(chosen)) / SUBSETS
    other = 1e6 * seconds(lambda: [ripser(part, maxdim=1, distance_matrix=True) for part in parts]) / len(parts)
    print(f"{POINTS} points: {first:.1f} ms, then {each:.0f} us a subset of {GROUP}; ripser {other:.0f} us", flush=True)


def main() -> None:
    """Measure and print."""
    subsets()
    with tempfile.TemporaryDirectory() as folder:
        model = open_model(light_model("resnet50"))
        files = {False: Path(folder) / "plain.onnx", True: Path(folder) / "probed.onnx"}
        files[False].write_bytes(model.proto().SerializeToString())
        files[True].write_bytes(ir.to_proto(add_probes(model, "gram", group=GROUP)[0]).SerializeToString())
        print(f"ResNet-50, {len(model.layers)} layers, groups of {GROUP}, {ROUNDS} rounds")
        for threads in THREADS:
            times, memory, betti = [], [], []
            for _ in range(ROUNDS):
                runs = {}
                for probed, file in files.items():
                    command = [sys.executable, __file__, str(file), str(int(probed)), str(threads)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    runs[probed] = json.loads(done.stdout)
                times.append(runs[True]["seconds"] / runs[False]["seconds"])
                memory.append(runs[True]["bytes"] / runs[False]["bytes"])
                betti.append(runs[True]["betti"] * 1000)
            print(
                f"{threads} thread(s): time {statistics.median(times):.2f}x ({min(times):.2f}-{max(times):.2f}), peak "
                f"memory "
                f"{statistics.median(memory):.2f}x ({min(memory):.2f}-{max(memory):.2f}), a Betti number of {GROUP} "
                f"{statistics.median(betti):.2f} ms",
                flush=True,
            )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[1], sys.argv[2] == "1", int(sys.argv[3]))
    else:
        main()
