"""One model from inspect to export on the command line, with synthetic data; results are checked by onnxruntime.

A command that fails says what to do. The walk follows: it takes the options from the message and fills in what only a
user knows (`packages.Known`).
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import outcome
from .packages import Known

_SAMPLES, _TRAINED, _RATE = 40, 8, 0.01
_TRIES = 8
_OPTION = re.compile(r"--(?:dim|logits|input) \S+")


class RejectedError(Exception):
    """A command failed, and its message offers no remedy."""


@dataclass
class Walk:
    """The outcome for one file.

    Attributes:
        file: the model.
        options: with which it was opened.
        layers, selected: their numbers.
        loss: that the artifacts minimise.
        untrained: largest difference of the untrained export's outputs from the file's, relative to the largest output;
            from the opened file's where the file is quantised.
        rounding: that from a quantised file's.
        slope: difference of the loss's slope from the gradient's, relative to the gradient's length.
        changed: names of tensors that training changed.
        strays: those of them that were not selected.
        rejected: the last message, where it ended so.
    """

    file: Path
    options: list[str] = field(default_factory=list)
    layers: int = 0
    selected: int = 0
    loss: str = "cross-entropy"
    untrained: float = np.nan
    rounding: float = 0.0
    slope: float = np.nan
    changed: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    rejected: str | None = None

    @property
    def right(self) -> bool:
        """Whether it was rejected, or all results are correct."""
        if self.rejected is not None:
            return True
        return (
            self.untrained <= 1e-4
            and self.rounding <= 0.1
            and self.slope <= 0.02
            and bool(self.changed)
            and not self.strays
        )


def walk(file: Path, known: Known, folder: Path) -> Walk:
    """Take a model from inspect to export.

    Args:
        file: the model.
        known: what a user knows about it.
        folder: an empty one for the output.
    """
    done = Walk(file)
    try:
        _walk(done, known, folder)
    except RejectedError as rejected:
        done.rejected = str(rejected)
    return done


def _walk(done: Walk, known: Known, folder: Path) -> None:
    model = _opened(done, known, folder)
    found = json.loads(_run("inspect", model, "--json").stdout)
    done.layers = len(found["layers"])
    done.loss = _loss(model)
    samples = outcome.made(found["inputs"], known, _SAMPLES)
    np.savez(folder / "unlabelled.npz", **_stored(samples))
    _run("score", model, folder / "unlabelled.npz", "-o", folder / "scores.json", "--preset", "none")
    _run("select", folder / "scores.json", "-o", folder / "selection.json", "--rho", "0.1")
    artifacts = folder / "artifacts"
    options = ["--loss", done.loss, "--optimizer", "sgd"]
    _run("artifacts", model, folder / "selection.json", "-o", artifacts, *options)
    manifest = json.loads((artifacts / "manifest.json").read_text())
    selected = set(manifest["selection"]["parameters"])
    done.selected = len(manifest["selection"]["layers"])
    _run("export", artifacts, "-o", folder / "untrained.onnx")
    source = model if known.quantised else done.file
    done.untrained = outcome.apart(source, folder / "untrained.onnx", samples, known)
    if known.quantised:
        done.rounding = outcome.apart(done.file, folder / "untrained.onnx", samples, known)

    batch = {name: array[:_TRAINED] for name, array in samples.items()}
    labels = outcome.labels(manifest, _TRAINED)
    np.savez(folder / "labelled.npz", **_stored(batch), y=labels)
    training = ["--epochs", 1, "--batch-size", _TRAINED, "--lr", _RATE, "--schedule", "constant", "--validation", 0]
    _run("train", artifacts, folder / "labelled.npz", *training)
    _run("export", artifacts, "-o", folder / "adapted.onnx")
    stored = outcome.tensors(done.file)  # tensors shared by several layers are separate when trained
    before, after = outcome.tensors(folder / "untrained.onnx"), outcome.tensors(folder / "adapted.onnx")
    done.changed = [name for name, value in after.items() if not np.array_equal(value, before[name])]
    copies = {name for name in done.changed if name not in stored and any(name.startswith(f"{of}/") for of in selected)}
    done.strays = [name for name in done.changed if name not in selected | copies]
    gradient = {name: (before[name] - after[name]).astype(np.float64) / _RATE for name in done.changed}
    done.slope = outcome.slope_error(artifacts / manifest["files"]["model"], manifest, batch, labels, gradient)


def _opened(done: Walk, known: Known, folder: Path) -> Path:
    """The file, or the result of import with the options that messages request."""
    model, command = done.file, ["inspect", done.file]
    for _ in range(_TRIES):
        result = _process(*command)
        if result.returncode == 0 and command[0] == "inspect":
            return model
        if result.returncode == 0:
            model = folder / "opened.onnx"
            command = ["inspect", model]
            continue
        asked = [_answer(option, known) for option in _OPTION.findall(result.stderr)]
        fresh = [option for option in asked if option is not None and option not in done.options]
        if not fresh:
            raise RejectedError(result.stderr.strip())
        done.options += fresh
        words = [word for option in done.options for word in shlex.split(option)]
        command = ["import", done.file, "-o", folder / "opened.onnx", *words]
    raise RejectedError(f"{_TRIES} remedies followed, and still: {result.stderr.strip()}")


def _answer(option: str, known: Known) -> str | None:
    """An option from a message, with the user's values for SIZE, NAME and VALUE."""
    flag, value = option.rstrip(",.;:)").split(" ", 1)
    name, _, given = value.strip("'").partition("=")
    if flag == "--logits":
        return f"{flag} {shlex.quote(known.logits or name)}" if known.logits or name != "NAME" else None
    if flag == "--dim":
        size = known.dims.get(name, known.dims.get("*"))
        return None if size is None else f"{flag} {shlex.quote(f'{name}={size}')}"
    given = known.inputs.get(name, given)
    return None if given in ("", "VALUE") else f"{flag} {shlex.quote(f'{name}={given}')}"


def _loss(model: Path) -> str:
    """Cross-entropy, unless check says that another loss fits."""
    result = _process("check", model)  # also fails if only some layers cannot be trained
    lines = [line for line in (result.stdout + result.stderr).splitlines() if not line.startswith("ort:")]
    other = re.search(r"--loss (bce-with-logits|mse|l1)", "\n".join(lines)) if result.returncode else None
    return "cross-entropy" if other is None else other[1]


def _stored(samples: dict[str, np.ndarray]) -> dict[str, Any]:
    return {"x": next(iter(samples.values()))} if len(samples) == 1 else samples


def _process(*command: Any) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run([sys.executable, "-m", "adabet_onnx", *words], capture_output=True, text=True, check=False)


def _run(*command: Any) -> subprocess.CompletedProcess[str]:
    result = _process(*command)
    if "Traceback" in result.stderr:
        raise AssertionError(f"{command}: {result.stderr}")
    if result.returncode:
        raise RejectedError(f"{command[0]}: {result.stderr.strip()}")
    return result
