"""The rate that `learning_rate='auto'` finds against five manual rates: test accuracy of a new, random head.

    python tests/benchmarks/bench_rates.py [resnet20] [mobilenetv1] [--strategies last,adabet] [--seeds 3] [--epochs 5]

ResNet-20 is adapted to 20 classes of CIFAR-100, MobileNetV1 to flowers, with the last tenth of the layers and with
AdaBet's; AdamW, batches of 32. Models and data are looked for in ../shared. Prints mean accuracies on the test data
with the manual rates and with auto, and for each seed the rate, how it was found, and the time. A seed is that of the
head, the choice, the order of samples and the search. The exit code is 1 if auto is more than a point below the best
manual rate. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from adabet_onnx import (
    Choosing,
    Settings,
    Trainer,
    evaluate,
    export_model,
    make_artifacts,
    new_head,
    save_model,
    score,
    select,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"
PAIRS = {
    "resnet20": ("resnet20_cifar10_bn.onnx", "cifar100_20c.npz", 20),
    "mobilenetv1": ("mobilenetv1_025_vww96_bn.onnx", "flowers5_96.npz", 5),
}
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
BAR = 0.01  # below the best manual rate


def accuracies(pair: str, strategy: str, seed: int, epochs: int) -> dict[float | str, float]:
    """Test accuracy by rate; prints the rate that auto finds."""
    file, data_file, classes = PAIRS[pair]
    data = SHARED / "data" / data_file
    found: dict[float | str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        model, folder = Path(place) / "model.onnx", Path(place) / "artifacts"
        save_model(new_head(SHARED / "models" / file, classes, seed=seed), model)
        selection = select(score(model, data, seed=seed), choosing=Choosing(strategy=strategy, rho=0.1), seed=seed)
        make_artifacts(model, selection, folder, check=False)
        for rate in (*RATES, "auto"):
            trainer, began = Trainer(folder), time.perf_counter()
            trainer.fit(data, settings=Settings(epochs=epochs, learning_rate=rate, seed=seed))
            seconds = time.perf_counter() - began
            export_model(folder, Path(place) / "adapted.onnx", check=False)
            found[rate] = evaluate(Path(place) / "adapted.onnx", data)["accuracy"]
        rates = trainer.rates
        assert rates is not None
        updates = sum(trial.updates for trial in rates.trials)
        print(f"  seed {seed}: {rates.said}; {updates} updates, of {seconds:.1f} s in all", flush=True)
    return found


def main() -> None:
    """Print a row for each pair and strategy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="PAIR", help=", ".join(PAIRS))
    parser.add_argument("--strategies", default="last,adabet")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    missed = False
    for pair in options.pairs or PAIRS:
        for strategy in options.strategies.split(","):
            print(f"{pair}, {strategy}, {options.epochs} epochs", flush=True)
            rows = [accuracies(pair, strategy, seed, options.epochs) for seed in range(options.seeds)]
            means = {rate: sum(row[rate] for row in rows) / len(rows) for rate in rows[0]}
            best = max(means[rate] for rate in RATES)
            by_hand = ", ".join(f"{rate:g} {means[rate]:.1%}" for rate in RATES)
            print(f"  {by_hand}; auto {means['auto']:.1%}, {100 * (means['auto'] - best):+.1f} from the best by hand")
            missed |= means["auto"] < best - BAR
    sys.exit(missed)


if __name__ == "__main__":
    main()
