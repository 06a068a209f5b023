"""A hundred ways to damage a device package, for readers in any language, and what the error message must contain.

Each damage changes a copy of a valid package whose first entry has parameters, statistics and the optimizer's tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from models import tiny

from adabet_onnx import Choices, DeviceScoring, Packing, make_artifacts, make_device, open_model, select

Damage = Callable[[Path], object]
ENTRY = ("entries", 0)
HUGE = 1 << 40
GRAPHS = ("frozen.onnx", "step.onnx", "eval.onnx", "predict.onnx", "probes.onnx")
PLAIN = (*GRAPHS, "state.bin", "selected.bin")


def small_package(folder: Path) -> Path:
    """A package with a file of each kind; beside it, samples x and labels y."""
    model = open_model(tiny.conv_net())
    selection = select(model, layers=["conv2", "bn2", "fc"])
    choices = Choices(optimizer="adamw", batch_norm="batch")
    make_artifacts(model, selection, folder / "artifacts", backend="portable", choices=choices, check=False)
    packing = Packing(scoring=DeviceScoring(samples=10, subset_size=6, subsets=3, sketch=16))
    make_device(folder / "artifacts", folder / "device", packing=packing)
    rng = np.random.default_rng(0)
    rng.standard_normal((12, 3, 8, 8)).astype("<f4").tofile(folder / "x")
    rng.integers(0, 3, 12).astype("<i8").tofile(folder / "y")
    return folder / "device"


def damaged_copies(package: Path, damages: Iterable[Damage], folder: Path) -> list[Path]:
    """Copies of a package in a folder, each with one damage."""
    copies = []
    for i, damage in enumerate(damages):
        copies.append(folder / f"p{i}")
        shutil.copytree(package, copies[-1])
        damage(copies[-1])
    return copies


def bits_of_graphs() -> dict[str, Damage]:
    """One flipped bit in each graph, six times; some of these packages still work."""
    rng = np.random.default_rng(0)
    return {f"{n} {where}": flipped(n, where, behind=True) for n in GRAPHS for where in rng.random(6).tolist()}


def described(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "device.json").read_text())
    return found


def hashed(folder: Path) -> None:
    """Write the sizes and hashes that the files now have."""
    content = described(folder)
    for file in content["files"]:
        data = (folder / file["name"]).read_bytes()
        file |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "device.json").write_text(json.dumps(content))


def changed(path: str, value: Any) -> Damage:
    """device.json with another value at ``a.0.b``, where ``e`` is the first entry; ``...`` removes the value."""
    keys: list[Any] = [int(key) if key.lstrip("-").isdigit() else key for key in path.split(".")]
    keys = [*ENTRY, *keys[1:]] if keys[0] == "e" else keys

    def damage(folder: Path) -> None:
        content = described(folder)
        inside: Any = content
        for key in keys[:-1]:
            inside = inside[key]
        if value is ...:
            del inside[keys[-1]]
        else:
            inside[keys[-1]] = value(inside[keys[-1]]) if callable(value) else value
        (folder / "device.json").write_text(json.dumps(content))

    return damage


def text(replace: Callable[[bytes], bytes]) -> Damage:
    """device.json with other bytes."""
    return lambda folder: (folder / "device.json").write_bytes(replace((folder / "device.json").read_bytes()))


def word(other: bytes) -> Damage:
    """device.json whose first ``adabet`` is something else."""
    return text(lambda data: data.replace(b"adabet", other, 1))


def flipped(name: str, where: float, *, behind: bool = False) -> Damage:
    """Flip a bit of a file; behind: also update its hash."""

    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[int(where * (len(data) - 1))] ^= 4
        (folder / name).write_bytes(data)
        if behind:
            hashed(folder)

    return damage


def cut(name: str, part: float, *, behind: bool = False) -> Damage:
    """Truncate a file."""

    def damage(folder: Path) -> None:
        os.truncate(folder / name, int(part * (folder / name).stat().st_size))
        if behind:
            hashed(folder)

    return damage


def swapped(one: str, other: str, *, behind: bool = True) -> Damage:
    """Swap two files; behind: also update their hashes."""

    def damage(folder: Path) -> None:
        first, second = (folder / one).read_bytes(), (folder / other).read_bytes()
        (folder / one).write_bytes(second)
        (folder / other).write_bytes(first)
        if behind:
            hashed(folder)

    return damage


def gone(name: str, *, folder_instead: bool = False) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        if folder_instead:
            (folder / name).mkdir()

    return damage


def not_finite(folder: Path) -> None:
    np.full((folder / "state.bin").stat().st_size // 4, np.nan, "<f4").tofile(folder / "state.bin")
    hashed(folder)


def of_numbers(count: int, *before: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Another shape, with the matching number of bytes."""
    return lambda item: {**item, "shape": [*before, count], "bytes": 4 * count}


TEXTS: Mapping[str, tuple[Damage, str]] = {
    "empty": (text(lambda _: b""), "JSON"),
    "half": (text(lambda data: data[: len(data) // 2]), "JSON"),
    "two values": (text(lambda data: data + b"{}"), "after the value"),
    "deep": (text(lambda _: b"[" * 100_000), "32 deep"),
    "deep objects": (text(lambda _: b'{"a":' * 100_000), "32 deep"),
    "no object": (text(lambda _: b"[]"), "object"),
    "a key twice": (text(lambda data: b'{"format":1,' + data[1:]), "format. twice"),
    "no UTF-8": (word(b"\xff"), "JSON"),
    "overlong UTF-8": (word(b"\xc0\xaf"), "JSON"),
    "half a surrogate": (word(b"\\ud800"), "string"),
    "half a surrogate, and more": (word(b"\\ud800\\u0041"), "string"),
    "NUL in a string": (word(b"\\u0000"), "string"),
    "a wrong escape": (word(b"\\x41"), "string"),
    "a new line in a string": (word(b"\n"), "string"),
    "a string without end": (text(lambda _: b'{"format": "\\'), "JSON"),
    "a comma at the end": (text(lambda data: data.rstrip()[:-1] + b",}"), "JSON"),
    "NaN": (changed("training.learning_rate", float("nan")), "JSON"),
    "digits": (text(lambda _: b"1" * 100_000), "digits"),
    "minus alone": (text(lambda _: b"[-]"), "JSON"),
    "too large a number": (text(lambda _: b"[1e999]"), "JSON"),
    "too long": (text(lambda data: data + b" " * (1 << 24)), "at most"),
}
VALUES: Mapping[str, tuple[Damage, str]] = {
    "format": (changed("format", "onnx"), "format"),
    "version": (changed("version", 2), "version"),
    "a version with a point": (changed("version", 1.5), "version"),
    "an oldest runtime that is none": (changed("oldest_onnxruntime", "new"), "oldest_onnxruntime"),
    "a newer runtime": (changed("oldest_onnxruntime", "1.999"), "needs 1.999"),
    "files no list": (changed("files", {}), "files"),
    "a file above": (changed("files.0.name", "../x"), "files"),
    "a file elsewhere": (changed("files.0.name", "/etc/passwd"), "files"),
    "a file of another drive": (changed("files.0.name", "c:x"), "files"),
    "a file twice": (changed("files.1.name", "device.onnx"), "twice"),
    "a file left out": (changed("files.0", ...), "files"),
    "a negative size": (changed("files.0.bytes", -1), "bytes"),
    "a huge size": (changed("files.0.bytes", HUGE), str(HUGE)),
    "a short hash": (changed("files.0.sha256", "ab"), "sha256|SHA-256"),
    "another hash": (changed("files.0.sha256", "0" * 64), "0000"),
    "the model's hash": (changed("model_sha256", "xyz"), "model_sha256"),
    "no model": (changed("model", ...), "model"),
    "no inputs": (changed("inputs", []), "inputs"),
    "an input twice": (changed("inputs", lambda inputs: inputs * 2), "twice"),
    "an unknown dtype": (changed("inputs.0.dtype", "complex64"), "complex64"),
    "another dtype": (changed("inputs.0.dtype", "int32"), "input|samples"),
    "a huge input": (changed("inputs.0.shape", ["N", HUGE, HUGE, HUGE]), "inputs"),
    "an input without N": (changed("inputs.0.shape", [3, 8, 8]), "N"),
    "N twice": (changed("inputs.0.shape.1", "N"), "N"),
    "a negative dimension": (changed("inputs.0.shape.1", -3), "shape"),
    "a dimension of 0": (changed("inputs.0.shape.1", 0), "shape"),
    "half a dimension": (changed("inputs.0.shape.1", 1.5), "shape"),
    "many dimensions": (changed("inputs.0.shape", ["N"] + [1] * 100), "dimensions"),
    "another input shape": (changed("inputs.0.shape", ["N", 3, 4, 8]), "4"),
    "an unknown input": (changed("inputs.0.name", "image"), "input"),
    "an unknown output": (changed("outputs.0.name", "image"), "image"),
    "labels of reals": (changed("labels.dtype", "float32"), "abels"),
    "labels of words": (changed("labels.dtype", "string"), "labels"),
    "few classes": (changed("labels.classes", 1), "expected 0 to 0"),
    "many classes": (changed("labels.classes", 99), "99"),
    "a std of 0": (changed("preprocessing", {"scale": 1, "mean": [0], "std": [0]}), "std"),
    "a mean of words": (changed("preprocessing", {"scale": 1, "mean": ["a"], "std": [1]}), "mean"),
    "no batch": (changed("training.batch_size", 0), "batch_size"),
    "a large seed": (changed("training.seed", 1 << 32), "seed"),
    "a rate of 0": (changed("training.learning_rate", 0), "learning_rate"),
    "no training": (changed("training", None), "training"),
    "two samples at once": (changed("forward_batch", 2), "forward_batch"),
    "weights that are not there": (changed("weights", "w.bin"), "weights"),
    "few samples to score": (changed("scoring.samples", 3), "samples"),
    "many samples to score": (changed("scoring.samples", HUGE), "samples"),
    "many subsets": (changed("scoring.subsets", HUGE), "subsets"),
    "other numbers": (changed("scoring.layers.0.numbers", 7), "expected 7"),
    "an unknown sketch": (changed("scoring.layers.0.output", "x"), "x"),
    "huge sketches": (changed("scoring.layers.0.numbers", 500_000_000), "500000000"),
    "no size": (changed("scoring.layers.0.size", 0), "size"),
    "a layer twice": (changed("scoring.layers", lambda layers: layers * 2), "twice"),
    "no entries": (changed("entries", []), "entries"),
    "an entry twice": (changed("entries", lambda entries: entries * 2), "twice"),
    "a step of nothing": (changed("e.step", None), "step"),
    "nothing frozen": (changed("e.frozen", None), "frozen"),
    "no boundary": (changed("e.boundary", []), "boundary"),
    "bytes of a boundary": (changed("e.boundary.0.bytes", 4), "bytes"),
    "a huge boundary": (changed("e.boundary.0", of_numbers(HUGE, "N")), "boundary"),
    "a boundary without room": (changed("e.boundary.0", of_numbers(500_000_000, "N")), "500000000|frozen.onnx"),
    "a wide boundary": (changed("e.boundary.0", of_numbers(7, "N")), "frozen.onnx"),
    "an unknown boundary": (changed("e.boundary.0.name", "x"), "x"),
    "an input that it is not": (changed("e.boundary.0.input", "input"), "input"),
    "an input that is not there": (changed("e.boundary.0.input", "no"), "input"),
    "a class axis": (changed("e.class_axis", 9), "class_axis"),
    "logits": (changed("e.logits_shape", ["N", 5]), "step.onnx|eval.onnx"),
    "an unknown loss": (changed("e.names.loss", "x"), "x"),
    "loss and logits": (changed("e.names.loss", "logits"), "step.onnx|eval.onnx"),
    "no tensors": (changed("e.tensors", []), "tensors"),
    "an odd offset": (changed("e.tensors.1.offset", 65), "64"),
    "an offset far away": (changed("e.tensors.1.offset", HUGE), "offset|64"),
    "one over the other": (changed("e.tensors.1.offset", 0), "64"),
    "bytes of a tensor": (changed("e.tensors.0.bytes", 4), "bytes"),
    "a huge tensor": (changed("e.tensors.0", of_numbers(HUGE)), "tensors"),
    "a huge optimizer": (changed("e.tensors.-1", of_numbers(400_000_000)), "1600000000"),
    "tensors of doubles": (changed("e.tensors.0.dtype", "float64"), "float32"),
    "an unknown kind": (changed("e.tensors.0.kind", "x"), "optimizer"),
    "another order": (changed("e.tensors.0.kind", "statistic"), "parameters first"),
    "a name twice": (changed("e.tensors.1", lambda t: {**t, "name": "conv2.weight"}), "twice"),
    "an unknown tensor": (changed("e.tensors.0.output", "x"), "x"),
    "selected bytes": (changed("e.selected_bytes", lambda n: n + 64), "selected_bytes"),
    "selected as the state": (changed("e.state", "selected.bin"), "selected.bin"),
    "selected as a graph": (changed("scoring.file", "selected.bin"), "selected.bin"),
    "memory of nothing": (changed("e.memory", []), "memory"),
    "memory unordered": (changed("e.memory", [[8, 1], [8, 2]]), "ascending"),
}
FILES: Mapping[str, tuple[Damage, str]] = {
    **{f"{n} gone": (gone(n), n) for n in (*GRAPHS, "device.json")},
    **{f"{n} a folder": (gone(n, folder_instead=True), n) for n in ("state.bin", "device.json")},
    **{f"a bit of {n}": (flipped(n, 0.5), n) for n in (*GRAPHS, "state.bin")},
    **{f"{n} cut": (cut(n, 0.6), n) for n in PLAIN},
    **{f"{n} cut, hashed": (cut(n, 0.6, behind=True), n) for n in PLAIN},
    **{f"{n} empty, hashed": (cut(n, 0, behind=True), n) for n in ("step.onnx", "predict.onnx")},
    "step and eval, hashed": (swapped("step.onnx", "eval.onnx"), "eval.onnx|step.onnx"),
    "frozen and probes, hashed": (swapped("frozen.onnx", "probes.onnx"), "probes.onnx"),
    "predict and step, hashed": (swapped("predict.onnx", "step.onnx"), "step.onnx"),
    "values that are NaN, hashed": (not_finite, "weight"),
}
ALL = {**TEXTS, **VALUES, **FILES}
