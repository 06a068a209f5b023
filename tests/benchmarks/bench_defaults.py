"""Default head starts and rates against the best manual ones, on seven pairs of a pretrained network and a new domain.

    python tests/benchmarks/bench_defaults.py FOLDER [--pairs cifar100,...] [--strategies adabet,last,auto] [--seeds 3]
        [--epochs 5] [--only-default]

Each selection is trained from a random and from a fitted head with each of five rates, and once with the default head
start and rate. AdamW, batches of 32. What counts is the test accuracy at the end; the best manual setting is the best
of all ten by mean over the seeds, chosen on the test data, which the default does not see. On noisy CIFAR-10 and on
CIFAR-10 with less contrast the head is the trained one: there are five manual settings.

The pairs: ResNet-20 on 20 classes of CIFAR-100, on noise and on less contrast; MobileNetV1 and MobileNetV2 on flowers;
EfficientNet-Lite0 on groceries; MiniLM on the intents of a bank's customers. Models and data are looked for in
../shared; see bench_pairs.py for MiniLM. Unavailable pairs are skipped, with the reason.

Each training adds a line to FOLDER/PAIR.jsonl and is not repeated once its line is there: an interrupted benchmark can
be resumed, and several pairs can run at the same time. At the end it prints a Markdown table of all finished trainings.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from choice import shifts
from pairs.sources import SHARED, UnavailableError, build_minilm

from adabet_onnx import Choosing, Scoring, Settings, Trainer, evaluate, make_artifacts, score, select
from adabet_onnx.cost.predict import Predictor
from adabet_onnx.data.dataset import Splits
from adabet_onnx.data.source import open_data
from adabet_onnx.errors import TrainingError
from adabet_onnx.model.head import with_head
from adabet_onnx.model.open import open_model
from adabet_onnx.progress import silent
from adabet_onnx.study.runs import used_data, with_pictures

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
STARTS = ("random", "fitted")
STRATEGIES = ("adabet", "last", "auto")
TRAIN_SAMPLES = 1100  # of the images; the groceries and the intents have fewer
CLASSES = {"cifar100": 20, "flowers-mobilenetv1": 5, "flowers-mobilenetv2": 5, "groceries": 37, "intents": 77}
PAIRS = {
    "cifar100": ("resnet20_cifar10_bn", "cifar100_20c.npz"),
    "noise": ("resnet20_cifar10_bn", "cifar10_noise5.npz"),
    "contrast": ("resnet20_cifar10_bn", None),
    "flowers-mobilenetv1": ("mobilenetv1_025_vww96_bn", "flowers5_96.npz"),
    "flowers-mobilenetv2": ("mobilenetv2_035_imagenet128", "flowers5_96.npz"),
    "groceries": ("efficientnet_lite0_imagenet224", "grocery37_224"),
    "intents": (None, "banking77_64.npz"),
}


@dataclass(frozen=True)
class Way:
    """A head start and a rate; all None is the default."""

    start: str | None = None
    rate: float | None = None

    def settings(self, epochs: int, seed: int, batch: int, parts: int) -> Settings:
        """For a training."""
        given: dict[str, Any] = {"learning_rate": self.rate}
        if self.start is not None:
            given["head_init"] = self.start
        return Settings(
            epochs=epochs, seed=seed, batch_size=batch // parts, accumulate=parts, keep_features=True,
            features="disk", **given,
        )  # fmt: skip


def by_hand(pair: str) -> list[Way]:
    """All starts and rates of a pair."""
    starts = STARTS if pair in CLASSES else (None,)
    return [Way(start, rate) for start in starts for rate in RATES]


class Pair:
    """A model, its data and the file of finished trainings."""

    def __init__(self, name: str, folder: Path, epochs: int) -> None:
        model, data = PAIRS[name]
        path = build_minilm() if model is None else SHARED / "models" / f"{model}.onnx"
        self.data = SHARED / "data" / data if data else shifts.make(folder / "data", name)
        if not path.is_file() or not self.data.exists():
            raise UnavailableError(f"{path} or {self.data} is not there")
        self.name, self.folder, self.epochs, self.plain = name, folder, epochs, open_model(path)
        self.rows = folder / f"{name}.jsonl"

    def done(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        """Lines of the file by training."""
        lines = self.rows.read_text().splitlines() if self.rows.is_file() else []
        rows = [json.loads(line) for line in lines]
        return {(row["strategy"], row["seed"], row["start"], row["rate"], row["epochs"]): row for row in rows}

    def train(self, strategies: list[str], seeds: int, ways: list[Way]) -> None:
        """Run all trainings that are missing."""
        for seed in range(seeds):
            left = [
                (strategy, way)
                for strategy in strategies
                for way in ways
                if (strategy, seed, way.start, way.rate, self.epochs) not in self.done()
            ]
            if left:
                with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                    self._train(seed, left, Path(scratch))

    def _train(self, seed: int, left: list[tuple[str, Way]], scratch: Path) -> None:
        model, _ = with_head(self.plain, CLASSES.get(self.name), kept={}, seed=seed)
        splits = used_data(open_data(self.data, model), TRAIN_SAMPLES)
        splits, _ = with_pictures(splits, None, self.folder / "pictures" / self.name, silent)
        scores = score(model, splits, scoring=Scoring(), seed=seed)
        for strategy in dict.fromkeys(strategy for strategy, _ in left):
            head = "auto" if self.name in CLASSES else "always"
            costs = Predictor(model, batch_size=32) if strategy == "auto" else None
            selection = select(scores, choosing=Choosing(strategy=strategy, head=head), costs=costs, seed=seed)
            made = scratch / strategy
            make_artifacts(model, selection, made, calibrate=splits, check=False)
            for way in (way for named, way in left if named == strategy):
                self._note(seed, strategy, way, self._trained(made, way, seed, splits, selection.parts_of(32)))
            shutil.rmtree(scratch / "features", ignore_errors=True)

    def _trained(self, made: Path, way: Way, seed: int, splits: Splits, parts: int) -> dict[str, Any]:
        folder = made.with_name("training")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)
        trainer, began = Trainer(folder, threads=1, features=made.with_name("features")), time.perf_counter()
        found: dict[str, Any] = {"accuracy": 0.0, "failed": None}
        try:
            rows = trainer.fit(splits, settings=way.settings(self.epochs, seed, 32, parts))
            found |= {"first": rows[0]["eval_accuracy"], "validation": rows[-1]["eval_accuracy"]}
            found |= evaluate(folder, splits)
        except TrainingError as error:
            found["failed"] = str(error)
        said = {name: str(getattr(trainer, name, None)) for name in ("head_start", "learned")}
        said["rates"] = None if trainer.rates is None else trainer.rates.to_json()
        return {**found, "seconds": round(time.perf_counter() - began, 1), "said": said}

    def _note(self, seed: int, strategy: str, way: Way, found: dict[str, Any]) -> None:
        row = {"pair": self.name, "strategy": strategy, "seed": seed, "start": way.start, "rate": way.rate}
        row |= {"epochs": self.epochs, **{key: found.get(key) for key in KEPT}}
        with self.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps({key: row[key] for key in row if key != "said"}), flush=True)


KEPT = ("accuracy", "first", "validation", "seconds", "failed", "said")


def table(folder: Path, strategies: list[str], epochs: int) -> Iterator[str]:
    """Lines in Markdown: the best of each start with its rate, the default, and how far it is from the best."""
    yield "| pair | strategy | seeds | random, best rate | fitted, best rate | default | default - best |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for name in PAIRS:
        path = folder / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        for strategy in strategies:
            mine = [row for row in rows if row["strategy"] == strategy and row["epochs"] == epochs]
            means: dict[tuple[Any, Any], float] = {}
            for way in {(row["start"], row["rate"]) for row in mine}:
                of = [row["accuracy"] for row in mine if (row["start"], row["rate"]) == way]
                means[way] = 100 * statistics.mean(of)
            if not means:
                continue
            best = {start: _best(means, start) for start in (*STARTS, None)}
            default = means.get((None, None))
            top = max((found[0] for found in best.values() if found), default=None)
            behind = "-" if default is None or top is None else f"{default - top:+.1f}"
            seeds = len({row["seed"] for row in mine})
            trained = best["random"] or best[None]
            yield (
                f"| {name} | {strategy} | {seeds} | {_cell(trained)} | {_cell(best['fitted'])} | "
                f"{'-' if default is None else f'{default:.1f}'} | {behind} |"
            )


def _best(means: dict[tuple[Any, Any], float], start: str | None) -> tuple[float, float] | None:
    found = [(mean, rate) for (begun, rate), mean in means.items() if begun == start and rate is not None]
    return max(found) if found else None


def _cell(found: tuple[float, float] | None) -> str:
    return "-" if found is None else f"{found[0]:.1f} ({found[1]:g})"


def main() -> None:
    """Run missing trainings, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", default=",".join(PAIRS))
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--only-default", action="store_true")
    parser.add_argument("--only-table", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    strategies = given.strategies.split(",")
    for name in [] if given.only_table else given.pairs.split(","):
        try:
            pair = Pair(name, given.folder, given.epochs)
        except UnavailableError as error:
            print(f"{name} is left out: {error}", flush=True)
            continue
        pair.train(strategies, given.seeds, [Way(), *([] if given.only_default else by_hand(name))])
    print("\n".join(table(given.folder, strategies, given.epochs)))


if __name__ == "__main__":
    main()
