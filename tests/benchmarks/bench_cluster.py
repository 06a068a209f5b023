"""A comparison on two Ray nodes, one of which is lost meanwhile; its results against those of a serial run.

    .venv-fleet/bin/python tests/benchmarks/bench_cluster.py [--model M --data D --num-classes N]

Both nodes are on this machine, with one CPU and an object store each. Prints how many of the run files are the same
byte by byte, and the time of both comparisons. Needs the extra `cluster`.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

from ray.cluster_utils import Cluster as RayCluster

import adabet_onnx
from adabet_onnx import Plan, Scoring, compare

DEMO = Path(adabet_onnx.__file__).parent / "demo"


def main() -> None:
    """Compare twice, and compare the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=DEMO / "digits.onnx")
    parser.add_argument("--data", type=Path, default=DEMO / "digits_shifted.npz")
    parser.add_argument("--num-classes", type=int)
    options = parser.parse_args()
    given = {"num_classes": options.num_classes}
    plan = {"strategies": ("adabet", "last", "head"), "rhos": (0.2,), "seeds": 3, "epochs": 3, "rates": (0.001, 0.01)}
    plan |= {"threads": 1, "scoring": Scoring(samples=64, subset_size=16, subsets=16)}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        started = time.monotonic()
        compare(options.model, options.data, folder / "serial", Plan(**plan), **given)
        serial = time.monotonic() - started
        cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1})
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()

        lost: list[int] = []

        def lose() -> None:
            runs = folder / "ray" / "runs"
            while not (runs.is_dir() and len(list(runs.glob("*.json"))) >= 3):
                time.sleep(0.05)
            cluster.remove_node(second, allow_graceful=False)
            lost.append(len(list(runs.glob("*.json"))))

        watcher = threading.Thread(target=lose)
        watcher.start()
        started = time.monotonic()
        try:
            compare(options.model, options.data, folder / "ray", Plan(**plan, ray=cluster.address), **given)
        finally:
            spread = time.monotonic() - started
            cluster.shutdown()
        watcher.join()
        files = sorted(path.name for path in (folder / "serial" / "runs").iterdir())
        equal = [name for name in files if _same(folder, name)]
        print(f"one of two nodes was lost after {lost[0]} of {len(files)} runs")
        print(f"{len(equal)} of {len(files)} runs' files are the same byte by byte")
        print(f"seconds: serial {serial:.0f}, on the cluster {spread:.0f}")


def _same(folder: Path, name: str) -> bool:
    return (folder / "serial" / "runs" / name).read_bytes() == (folder / "ray" / "runs" / name).read_bytes()


if __name__ == "__main__":
    main()
