"""What test_ray.py runs in a process with Ray: a comparison on two workers, one of which is killed, and stability.

Prints a JSON object. Ray is started once for both; a serial comparison goes before it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import ray

import adabet_onnx
from adabet_onnx import AdabetError, DataError, Plan, Repeats, Scoring, compare, stability
from adabet_onnx.study.ray_cluster import Cluster, connect

DEMO = Path(adabet_onnx.__file__).parent / "demo"
MODEL, DATA = DEMO / "digits.onnx", DEMO / "digits_shifted.npz"
SCORING = Scoring(samples=32, subset_size=16, subsets=4)


def plan(**how) -> Plan:
    common = {"seeds": 2, "epochs": 2, "rates": (0.001, 0.01), "train_samples": 200, "threads": 1}
    return Plan(strategies=("adabet", "head"), rhos=(0.2,), scoring=SCORING, **common, **how)


def kill_one_training(killed: list[int], ended: threading.Event) -> None:
    """Kill the first worker process that is seen training."""
    while not ended.is_set() and not killed:
        for process in psutil.process_iter(["pid", "cmdline"]):
            if (process.info["cmdline"] or [""])[0].startswith("ray::_train"):
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)
                return
        time.sleep(0.01)


def fail() -> None:
    raise DataError("expected 3, found 4")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def failures(cluster: Cluster) -> dict[str, list[str]]:
    """The exceptions for a task that raises an error, and for one whose process always dies."""
    raised = {}
    for function in (fail, die):
        try:
            cluster.result(cluster.submit(function), "a training (head, seed 0)")
        except AdabetError as error:
            raised[function.__name__] = [type(error).__name__, str(error)]
    return raised


def main(folder: Path) -> None:
    serial = compare(MODEL, DATA, folder / "serial", plan())
    firm = stability(MODEL, DATA, repeats=Repeats(groups=2, max_samples=32), threads=1)
    killed: list[int] = []
    ended = threading.Event()
    with connect("local", 2) as cluster:
        watcher = threading.Thread(target=kill_one_training, args=(killed, ended))
        watcher.start()
        spread = compare(MODEL, DATA, folder / "ray", plan(ray="local"))
        ended.set()
        watcher.join()
        firm_too = stability(MODEL, DATA, repeats=Repeats(groups=2, max_samples=32, ray="local"), threads=1)
        still_there = ray.is_initialized()
        costs = [path.name for path in (folder / "ray" / "costs").iterdir()]
        errors = failures(cluster)
    print(
        json.dumps(
            {
                "killed": len(killed),
                "serial": [row.to_json() for row in serial.results],
                "ray": [row.to_json() for row in spread.results],
                "runs_equal": {
                    path.name: path.read_bytes() == (folder / "ray" / "runs" / path.name).read_bytes()
                    for path in (folder / "serial" / "runs").iterdir()
                },
                "stability_equal": firm.to_json() == firm_too.to_json(),
                "still_there": still_there,
                "stopped": not ray.is_initialized(),
                "costs": len(costs),
                "errors": errors,
                "left": [path.name for path in Path(tempfile.gettempdir()).glob("adabet-onnx-*")],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
