"""A hundred damaged packages under AddressSanitizer: an error each, with a message, no crash, nothing half written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_c import DEVICE, SANITIZED, WARNINGS, C, build, checked, environment
from models import tiny

from adabet_onnx import Choices, DeviceScoring, Packing, make_artifacts, make_device, open_model, select

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """tests/device_sources/try_packages.c with the library, both with sanitizers."""
    folder = tmp_path_factory.mktemp("sanitized")
    flags = f"-DCMAKE_C_FLAGS={SANITIZED} {WARNINGS} -include {DEVICE / 'failing.h'}"
    build(C, folder, flags, "-DBUILD_SHARED_LIBS=OFF", "-DADABET_PROGRAM=OFF")
    made = folder / "try_packages"  # ONNX Runtime throws exceptions, which AddressSanitizer must know of: libstdc++
    words = [*SANITIZED.split(), "-std=c99", f"-I{C}", DEVICE / "try_packages.c", folder / "libadabet.a"]
    checked("gcc", *words, "-o", made, "-lm", "-ldl", "-Wl,--no-as-needed", "-lstdc++")
    return made


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A small one, in which there is a file of each kind."""
    folder = tmp_path_factory.mktemp("package")
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


def changed(path: tuple[str | int, ...], value: Any) -> Damage:
    """device.json with another value there; without one where it is ``...``."""

    def damage(folder: Path) -> None:
        content = described(folder)
        inside: Any = content
        for key in path[:-1]:
            inside = inside[key]
        if value is ...:
            del inside[path[-1]]
        else:
            inside[path[-1]] = value(inside[path[-1]]) if callable(value) else value
        (folder / "device.json").write_text(json.dumps(content))

    return damage


def text(replace: Callable[[bytes], bytes]) -> Damage:
    return lambda folder: (folder / "device.json").write_bytes(replace((folder / "device.json").read_bytes()))


def flipped(name: str, where: float, *, behind: bool = False) -> Damage:
    """A bit of a file; behind: with the hash that it then has."""

    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[int(where * (len(data) - 1))] ^= 4
        (folder / name).write_bytes(data)
        if behind:
            hashed(folder)

    return damage


def cut(name: str, part: float, *, behind: bool = False) -> Damage:
    def damage(folder: Path) -> None:
        os.truncate(folder / name, int(part * (folder / name).stat().st_size))
        if behind:
            hashed(folder)

    return damage


def swapped(one: str, other: str, *, behind: bool = False) -> Damage:
    def damage(folder: Path) -> None:
        first, second = (folder / one).read_bytes(), (folder / other).read_bytes()
        (folder / one).write_bytes(second)
        (folder / other).write_bytes(first)
        if behind:
            hashed(folder)

    return damage


def not_finite(folder: Path) -> None:
    np.full((folder / "state.bin").stat().st_size // 4, np.nan, "<f4").tofile(folder / "state.bin")
    hashed(folder)


def of_numbers(count: int, *before: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Something of another shape, with the number of bytes that it then has."""
    return lambda item: {**item, "shape": [*before, count], "bytes": 4 * count}


def gone(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def as_folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


ENTRY: tuple[str | int, ...] = ("entries", 0)
HUGE = 1 << 40
TEXTS: dict[str, tuple[Damage, str]] = {
    "empty": (text(lambda _: b""), "no valid JSON"),
    "half": (text(lambda data: data[: len(data) // 2]), "no valid JSON"),
    "two values": (text(lambda data: data + b"{}"), "something after the value"),
    "deep": (text(lambda _: b"[" * 100_000), "32 deep"),
    "deep objects": (text(lambda _: b'{"a":' * 100_000), "32 deep"),
    "no object": (text(lambda _: b"[]"), "no object"),
    "a key twice": (text(lambda data: b'{"format":1,' + data[1:]), "the key 'format' twice"),
    "no UTF-8": (text(lambda data: data.replace(b"adabet", b"\xff", 1)), "a string cannot have"),
    "overlong UTF-8": (text(lambda data: data.replace(b"adabet", b"\xc0\xaf", 1)), "a string cannot have"),
    "half a surrogate": (text(lambda data: data.replace(b"adabet", b"\\ud800", 1)), "a string cannot have"),
    "NUL in a string": (text(lambda data: data.replace(b"adabet", b"\\u0000", 1)), "a string cannot have"),
    "a wrong escape": (text(lambda data: data.replace(b"adabet", b"\\x41", 1)), "a string cannot have"),
    "a string without end": (text(lambda _: b'{"format": "\\'), "does not end"),
    "NaN": (changed(("training", "learning_rate"), float("nan")), "unknown value"),
    "digits": (text(lambda _: b"1" * 100_000), "too many digits"),
    "minus alone": (text(lambda _: b"[-]"), "unknown value"),
    "too long": (text(lambda data: data + b" " * (1 << 24)), "expected at most"),
}
VALUES: dict[str, tuple[Damage, str]] = {
    "format": (changed(("format",), "onnx"), "'format' is 'onnx'"),
    "version": (changed(("version",), 2), "take a newer program"),
    "a version with a point": (changed(("version",), 1.5), "take a newer program"),
    "files no list": (changed(("files",), {}), "'files' of device.json is an object"),
    "a file above": (changed(("files", 0, "name"), "../x"), "no plain file name"),
    "a file elsewhere": (changed(("files", 0, "name"), "/etc/passwd"), "no plain file name"),
    "a file twice": (changed(("files", 1, "name"), "device.onnx"), "twice among 'files'"),
    "a file left out": (changed(("files", 0), ...), "not among 'files'"),
    "a negative size": (changed(("files", 0, "bytes"), -1), "whole number from 0"),
    "a huge size": (changed(("files", 0, "bytes"), HUGE), f"expected {HUGE}"),
    "a short hash": (changed(("files", 0, "sha256"), "ab"), "no SHA-256"),
    "another hash": (changed(("files", 0, "sha256"), "0" * 64), "expected 0000"),
    "the model's hash": (changed(("model_sha256",), "xyz"), "no SHA-256"),
    "no inputs": (changed(("inputs",), []), "'inputs' is empty"),
    "an unknown dtype": (changed(("inputs", 0, "dtype"), "complex64"), "'complex64', which is not known"),
    "another dtype": (changed(("inputs", 0, "dtype"), "float64"), "samples"),
    "a huge input": (changed(("inputs", 0, "shape"), ["N", HUGE, HUGE, HUGE]), "larger than any memory"),
    "an input without N": (changed(("inputs", 0, "shape"), [3, 8, 8]), 'does not begin with "N"'),
    "a negative dimension": (changed(("inputs", 0, "shape", 1), -3), "no positive whole number"),
    "a dimension of 0": (changed(("inputs", 0, "shape", 1), 0), "no positive whole number"),
    "half a dimension": (changed(("inputs", 0, "shape", 1), 1.5), "no positive whole number"),
    "many dimensions": (changed(("inputs", 0, "shape"), ["N"] + [1] * 100), "101 dimensions"),
    "another input shape": (changed(("inputs", 0, "shape"), ["N", 3, 4, 8]), "Got: 4 Expected: 8"),
    "an unknown input": (changed(("inputs", 0, "name"), "image"), "of which device.json says nothing"),
    "labels of reals": (changed(("labels", "dtype"), "float32"), "labels of"),
    "few classes": (changed(("labels", "classes"), 1), "expected 0 to 0"),
    "many classes": (changed(("labels", "classes"), 99), "classes; expected 99"),
    "a std of 0": (changed(("preprocessing",), {"scale": 1, "mean": [0], "std": [0]}), "'std' of .* has a 0"),
    "a mean of words": (changed(("preprocessing",), {"scale": 1, "mean": ["a"], "std": [1]}), "list of finite numbers"),
    "no batch": (changed(("training", "batch_size"), 0), "whole number from 1"),
    "a large seed": (changed(("training", "seed"), 1 << 32), "whole number from 0"),
    "a rate of 0": (changed(("training", "learning_rate"), 0), "a number above 0"),
    "few samples to score": (changed(("scoring", "samples"), 3), "whole number from 8"),
    "many subsets": (changed(("scoring", "subsets"), HUGE), "whole number from 1"),
    "other numbers": (changed(("scoring", "layers", 0, "numbers"), 7), "expected 7 of float32"),
    "an unknown sketch": (changed(("scoring", "layers", 0, "output"), "x"), "no output 'x'"),
    "huge sketches": (changed(("scoring", "layers", 0, "numbers"), (1 << 31) - 1), "expected 2147483647|memory"),
    "no size": (changed(("scoring", "layers", 0, "size"), 0), "whole number from 1"),
    "no entries": (changed(("entries",), []), "'entries' is empty"),
    "an entry twice": (changed(("entries",), lambda entries: entries * 2), "two entries have the name"),
    "a step of nothing": (changed((*ENTRY, "step"), None), "'step' of"),
    "nothing frozen": (changed((*ENTRY, "frozen"), None), "no frozen graph"),
    "no boundary": (changed((*ENTRY, "boundary"), []), "'boundary' of"),
    "bytes of a boundary": (changed((*ENTRY, "boundary", 0, "bytes"), 4), "'bytes' of"),
    "a huge boundary": (changed((*ENTRY, "boundary", 0), of_numbers(HUGE, "N")), "memory"),
    "a wide boundary": (changed((*ENTRY, "boundary", 0), of_numbers(7, "N")), "frozen.onnx"),
    "an unknown boundary": (changed((*ENTRY, "boundary", 0, "name"), "x"), "no output 'x'"),
    "an input that it is not": (changed((*ENTRY, "boundary", 0, "input"), "input"), "is not the model's input"),
    "a class axis": (changed((*ENTRY, "class_axis"), 9), "whole number from 1"),
    "logits": (changed((*ENTRY, "logits_shape"), ["N", 5]), "step.onnx|eval.onnx"),
    "an unknown loss": (changed((*ENTRY, "names", "loss"), "x"), "no output 'x'"),
    "loss and logits": (changed((*ENTRY, "names", "loss"), "logits"), "step.onnx|eval.onnx|no output"),
    "no tensors": (changed((*ENTRY, "tensors"), []), "no parameters"),
    "an odd offset": (changed((*ENTRY, "tensors", 1, "offset"), 65), "expected the next multiple of 64"),
    "an offset far away": (changed((*ENTRY, "tensors", 1, "offset"), HUGE), "expected the next multiple of 64"),
    "one over the other": (changed((*ENTRY, "tensors", 1, "offset"), 0), "expected the next multiple of 64"),
    "bytes of a tensor": (changed((*ENTRY, "tensors", 0, "bytes"), 4), "'bytes' of"),
    "a huge tensor": (changed((*ENTRY, "tensors", 0), of_numbers(HUGE)), "next multiple"),
    "a huge optimizer": (changed((*ENTRY, "tensors", -1), of_numbers(HUGE)), "larger than all"),
    "tensors of doubles": (changed((*ENTRY, "tensors", 0, "dtype"), "float64"), "'bytes' of|expected float32"),
    "an unknown kind": (changed((*ENTRY, "tensors", 0, "kind"), "x"), "expected parameter, statistic or optimizer"),
    "another order": (changed((*ENTRY, "tensors", 0, "kind"), "statistic"), "parameters first"),
    "a name twice": (changed((*ENTRY, "tensors", 1), lambda t: {**t, "name": "conv2.weight"}), "'conv2.weight' twice"),
    "an unknown tensor": (changed((*ENTRY, "tensors", 0, "output"), "x"), "no output 'x'"),
    "selected bytes": (changed((*ENTRY, "selected_bytes"), lambda n: n + 64), "'selected_bytes' of"),
    "memory of nothing": (changed((*ENTRY, "memory"), []), "'memory' of .* is empty"),
    "memory unordered": (changed((*ENTRY, "memory"), [[8, 1], [8, 2]]), "ascending"),
}  # fmt: skip
GRAPHS = ("frozen.onnx", "step.onnx", "eval.onnx", "predict.onnx", "probes.onnx")
FILES: dict[str, tuple[Damage, str]] = {
    **{f"{n} gone": (gone(n), f"{n} cannot be read") for n in (*GRAPHS, "device.json")},
    **{f"{n} a folder": (as_folder(n), "is not a file") for n in ("state.bin", "device.json")},
    **{f"a bit of {n}": (flipped(n, 0.5), f"{n} has the SHA-256") for n in (*GRAPHS, "state.bin")},
    **{f"{n} cut": (cut(n, 0.6), f"{n} has .* bytes; expected") for n in (*GRAPHS, "state.bin", "selected.bin")},
    **{f"{n} cut, hashed": (cut(n, 0.6, behind=True), n) for n in (*GRAPHS, "state.bin", "selected.bin")},
    **{f"{n} empty, hashed": (cut(n, 0, behind=True), n) for n in ("step.onnx", "predict.onnx")},
    "step and eval": (swapped("step.onnx", "eval.onnx"), "bytes; expected"),
    "step and eval, hashed": (swapped("step.onnx", "eval.onnx", behind=True), "eval.onnx|step.onnx"),
    "frozen and probes, hashed": (swapped("frozen.onnx", "probes.onnx", behind=True), "no output"),
    "predict and step, hashed": (swapped("predict.onnx", "step.onnx", behind=True), "step.onnx"),
    "values that are NaN, hashed": (not_finite, "the loss is -?nan in step 1"),
}  # fmt: skip
ALL = {**TEXTS, **VALUES, **FILES}


def tried(
    runner: Path, package: Path, damages: dict[str, Damage], out: Path, *more: str
) -> Iterator[tuple[str, str, str, str]]:
    """For each damage: its name, what was done last, the error's name, and the message."""
    folders = []
    for i, damage in enumerate(damages.values()):
        folders.append(out.parent / f"p{i}")
        shutil.copytree(package, folders[-1])
        damage(folders[-1])
    out.mkdir()
    command = [str(runner), str(package.parent / "x"), str(package.parent / "y"), str(out), *more]
    given = "".join(f"{folder}\n" for folder in folders)
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, env=environment(), check=False, timeout=300
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert done.returncode == 0, (list(damages)[len(lines) :][:1], done.stderr[:4000])
    for name, (_, stage, code, message) in zip(damages, lines, strict=True):
        yield name, stage, code, message


def test_each_of_a_hundred_damages_is_an_error_and_nothing_is_half_written(runner, package, tmp_path):

    assert len(ALL) >= 100
    wrong, whole_epochs = [], []  # where only predictions fail, what was trained is on the disk before
    found = tried(runner, package, {n: d for n, (d, _) in ALL.items()}, tmp_path / "out")
    for i, (name, stage, code, message) in enumerate(found):
        if stage == "predict":
            whole_epochs.append(i)
        if code == "ok" or not re.search(ALL[name][1], message):
            wrong.append((name, stage, code, message))
    assert not wrong, "\n".join(map(str, wrong))
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted(f"p{i}.progress" for i in whole_epochs)
    assert 1 <= len(whole_epochs) < 5


def test_bits_of_graphs_and_values_do_not_crash_it(runner, package, tmp_path):
    """Some of these packages are as good as the whole one: only a crash is wrong."""
    rng = np.random.default_rng(0)
    damages = {f"{n} {where}": flipped(n, where, behind=True) for n in GRAPHS for where in rng.random(6).tolist()}
    found = list(tried(runner, package, damages, tmp_path / "out"))
    assert any(code != "ok" for _, _, code, _ in found)
    assert all(message for _, _, code, message in found if code != "ok")


def test_the_whole_package_works(runner, package, tmp_path):
    damages = {"nothing": lambda _: None, "another personal model": flipped("selected.bin", 0.5)}
    assert list(tried(runner, package, damages, tmp_path / "out")) == [(name, "save", "ok", "") for name in damages]
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [f"p{i}.{what}" for i in (0, 1) for what in ("delta", "progress", "selected")]


def test_no_lack_of_memory_crashes_it(runner, package, tmp_path):
    """Allocations fail, one in each try: an error each time, no leak, and in the end everything succeeds."""
    whole = {"nothing": lambda _: None}
    [(_, stage, code, message)] = tried(runner, package, whole, tmp_path / "out", "11")
    assert (stage, code) == ("save", "ok")
    tries, allocations = (int(word) for word in re.findall(r"\d+", message))
    assert 0 < 1 + 11 * (tries - 1) - allocations <= 11
    assert allocations > 500
