"""A fleet of 20 against training in one place: accuracy, and bytes compared with averaging the whole model.

    python tests/benchmarks/bench_fleet.py [--clients 20] [--rounds 20] [--partition dirichlet:0.3] [--per-round N]
        [--local-epochs 1] [--batch-size 16] [--lr 0.01] [--aggregation fedavg] [--seeds 1,2,3]

ResNet-20 of CIFAR-10 gets a new head for 20 classes of CIFAR-100 (models and data are looked for in ../shared). Clients
vote on the layers, within a fifth of the bytes of the whole model, fit the head from sums and train. Beside it the same
layers, trained on all data in one place by `Trainer`: as many passes over the data, the head fitted, the rate searched.
(That of the fleet is given: a search would need the data of all clients. The defaults were chosen on seed 0, which is
therefore not among the default seeds.)
The exit code is 1 if the fleet, on average over the seeds, is more than 3 points below, or sends more than a fifth.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from adabet_onnx import (
    Adapting,
    Budget,
    Choosing,
    Fleet,
    Settings,
    Trainer,
    evaluate,
    load_selection,
    make_artifacts,
    new_head,
    simulate_fleet,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"
MODEL, DATA, CLASSES = SHARED / "models" / "resnet20_cifar10_bn.onnx", SHARED / "data" / "cifar100_20c.npz", 20
SHARE, POINTS = 0.2, 0.03


def measure(given: argparse.Namespace, seed: int, folder: Path) -> tuple[float, float, float]:
    """Accuracy of the fleet and in one place, and the share of bytes."""
    model = new_head(MODEL, CLASSES, seed=seed)
    whole = 4 * sum(layer.parameter_count for layer in model.layers)
    fleet = Fleet(
        clients=given.clients,
        per_round=given.per_round,
        rounds=given.rounds,
        partition=given.partition,
        aggregation=given.aggregation,
        local_epochs=given.local_epochs,
    )
    settings = Settings(batch_size=given.batch_size, learning_rate=given.lr, validation=0.0, seed=seed)
    choosing = Choosing(rho=0.1, budget=Budget(max_update=int(SHARE * whole)))
    began = time.perf_counter()
    rows = simulate_fleet(
        model,
        DATA,
        folder / "fleet",
        fleet=fleet,
        adapting=Adapting(choosing=choosing, settings=settings, check=False),
        progress=lambda what, done, of: print(f"  {what}", file=sys.stderr) if done else None,
    )
    seconds = time.perf_counter() - began
    about = json.loads((folder / "fleet" / "fleet.json").read_text())
    selection = load_selection(folder / "fleet" / "selection.json")
    make_artifacts(model, selection, folder / "central", check=False)
    began = time.perf_counter()
    epochs = max(1, given.rounds * given.local_epochs * fleet.asked // given.clients)
    Trainer(folder / "central").fit(DATA, settings=Settings(epochs=epochs, batch_size=given.batch_size, seed=seed))
    central, took = evaluate(folder / "central", DATA)["accuracy"], time.perf_counter() - began
    print(f"layers: {', '.join(selection.layers)}; agreement of the clients (W) {about['poll']['agreement']:.2f}")
    print(f"samples of clients: {min(about['samples'])} to {max(about['samples'])}")
    print("accuracy by round: " + " ".join(f"{100 * row['eval_accuracy']:.1f}" for row in rows))
    share = about["bytes_up"] / whole
    print(f"fleet {rows[-1]['eval_accuracy']:.1%} ({seconds:.0f} s), in one place {central:.1%} ({took:.0f} s)")
    print(
        f"a client in a round: {about['bytes_down']:,} bytes down, {about['bytes_up']:,} up, {share:.1%} of the whole "
        f"model's {whole:,}; once {about['distribution_bytes']:,}, and {about['head']['bytes_up']:,} up for the head",
        flush=True,
    )
    return rows[-1]["eval_accuracy"], central, share


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--per-round", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--partition", default="dirichlet:0.3")
    parser.add_argument("--aggregation", default="fedavg")
    parser.add_argument("--local-epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seeds", default="1,2,3")
    given = parser.parse_args()
    measured = []
    for seed in map(int, given.seeds.split(",")):
        print(f"seed {seed}")
        with tempfile.TemporaryDirectory() as folder:
            measured.append(measure(given, seed, Path(folder)))
    fleet, central, share = np.mean(measured, axis=0)
    apart = [100 * (row[0] - row[1]) for row in measured]
    print(f"mean of {len(measured)} seeds: fleet {fleet:.1%}, in one place {central:.1%}, {share:.1%} of the bytes")
    print("points from training in one place, by seed: " + ", ".join(f"{points:+.1f}" for points in apart))
    return 0 if fleet >= central - POINTS and share <= SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
