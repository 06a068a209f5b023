"""A deployment in which a node and then the superlink are killed: what Flower survives, and what our checkpoints add.

    python tests/benchmarks/bench_fleet_faults.py

A superlink and three supernodes on this machine train a small network for five rounds. A node is killed in round 2 and
started again in round 4. After round 4 the superlink is killed too; superlink and nodes are started again, and the app
once more, which goes on from its checkpoint. The exit code is 1 if a round is missing, or if the final model is not the
one in `fleet.jsonl`. It needs the environment with Flower that `make test` sets up.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "helpers")]

from conftest import FLEET_PYTHON  # noqa: E402
from flower_processes import Processes, ended  # noqa: E402
from models import tiny  # noqa: E402

from adabet_onnx import Fleet, Settings, evaluate, make_artifacts, open_model, select, write_fleet_app  # noqa: E402

NODES, ROUNDS, TIMEOUT = 3, 5, 45


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """The rounds so far."""
    path = folder / "app-results" / "fleet.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def wait_for(folder: Path, number: int, seconds: float) -> None:
    """Until so many rounds are done."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if len(rows_in(folder)) > number:
            return
        time.sleep(0.2)
    raise SystemExit(f"round {number} did not end within {seconds:g} seconds: {rows_in(folder)}")


def prepared(folder: Path) -> None:
    """Data of the nodes and of the server, artifacts, and the app."""
    for name in ("0", "1", "2", "held"):
        rng = np.random.default_rng(len(name) + int(name) if name.isdecimal() else 9)
        y = rng.integers(0, 4, 80)
        x = rng.standard_normal((80, 3, 8, 8)).astype(np.float32)
        x[:, 0] += y[:, None, None]
        np.savez(folder / f"{name}.npz", x=x, y=y)
    model = open_model(tiny.conv_net())
    make_artifacts(model, select(model, strategy="last", rho=0.4), folder / "artifacts", check=False)
    fleet, settings = Fleet(rounds=ROUNDS, clients=NODES, minimum=2), Settings(batch_size=16, learning_rate=0.01)
    write_fleet_app(folder / "artifacts", folder / "app", fleet=fleet, settings=settings)


def main() -> int:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared(folder)
        config = ["--run-config", f'nodes={NODES} timeout={TIMEOUT} evaluate="{folder / "held.npz"}"']
        with Processes(FLEET_PYTHON, folder) as processes:
            superlink = processes.superlink("--database", str(folder / "state.db"))
            nodes = [processes.insecure_node(at, folder / f"{at}.npz", folder / f"kept{at}") for at in range(NODES)]
            processes.submit(folder / "app", *config)
            wait_for(folder, 1, 240)
            ended(nodes[2], killed=True)
            print(f"{time.perf_counter() - began:4.0f} s: a node is killed in round 2", flush=True)
            wait_for(folder, 3, 400)
            nodes[2] = processes.insecure_node(2, folder / "2.npz", folder / "kept2")
            print(f"{time.perf_counter() - began:4.0f} s: it is started again in round 4", flush=True)
            wait_for(folder, 4, 300)
            ended(superlink, killed=True)
            for node in nodes:
                ended(node, killed=True)
            print(
                f"{time.perf_counter() - began:4.0f} s: the superlink is killed after {len(rows_in(folder)) - 1}",
                flush=True,
            )
        before = rows_in(folder)
        with Processes(FLEET_PYTHON, folder) as processes:
            processes.superlink()
            for at in range(NODES):
                processes.insecure_node(at, folder / f"{at}.npz", folder / f"kept{at}")
            processes.run(folder / "app", "here", *config)
        rows = rows_in(folder)
        for row in rows:
            dropped = "; ".join(each["why"] for each in row["dropped"])
            print(
                f"round {row['round']}: {len(row['clients'])} clients, {row['attempts']} attempts, {row['seconds']} s, "
                f"accuracy {row['eval_accuracy']:.3f} {dropped}"
            )
        found = evaluate(folder / "artifacts", folder / "held.npz")["accuracy"]
        print(f"{time.perf_counter() - began:4.0f} s: evaluate says {found:.3f}")
        good = [row["round"] for row in rows] == list(range(ROUNDS + 1)) and rows[: len(before)] == before
        return 0 if good and abs(found - rows[-1]["eval_accuracy"]) < 1e-9 else 1


if __name__ == "__main__":
    sys.exit(main())
