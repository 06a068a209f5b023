"""Damaged and hostile packages: samples/web/core always fails with one of its own errors."""

from __future__ import annotations

import copy
import hashlib
import json
import struct

import numpy as np
import pytest
from device_js import RUNTIMES, compiled, encoded, job, run
from models import tiny

from adabet_onnx import DeviceScoring, Packing, make_artifacts, make_device, open_model, select

pytestmark = pytest.mark.slow

BATCH = 8
SAMPLES = 8
CODES = {"wrong-file", "wrong-hash", "wrong-shape", "not-finite", "loss-not-finite"}
FIRST = ["entries", 0]
TENSOR = [*FIRST, "tensors", 0]
HOSTILE = [
    (["format"], "adabet-onnx/artifacts"),
    (["version"], 2),
    (["version"], "1"),
    (["model_sha256"], "../../etc/passwd"),
    (["opset"], -1),
    (["files"], []),
    (["files"], {"0": "device.onnx"}),
    (["files", 0, "name"], "../device.onnx"),
    (["files", 0, "name"], "a\\b"),
    (["files", 0, "bytes"], -5),
    (["files", 0, "bytes"], 1e300),
    (["files", 0, "sha256"], "0" * 63),
    (["files", 1, "name"], "device.onnx"),
    (["weights"], "elsewhere.bin"),
    (["inputs"], []),
    (["inputs", 0, "dtype"], "__proto__"),
    (["inputs", 0, "dtype"], "constructor"),
    (["inputs", 0, "shape"], ["N", 2**31, 2**31]),
    (["inputs", 0, "shape"], [4, "N"]),
    (["inputs", 0, "shape"], ["N", 0]),
    (["inputs", 0, "shape"], ["N", 1.5]),
    (["outputs", 0, "role"], "admin"),
    (["labels", "classes"], 0),
    (["labels", "dtype"], "string"),
    (["training", "batch_size"], 0),
    (["training", "learning_rate"], "fast"),
    (["preprocessing"], {"scale": 0, "mean": [0], "std": [1], "channel_axis": 1, "data": "integer", "bgr": False}),
    (["scoring", "layers"], []),
    (["scoring", "layers", 0, "numbers"], -1),
    (["scoring", "file"], "nothing.onnx"),
    (["entries"], []),
    ([*FIRST, "step"], None),
    ([*FIRST, "step"], "/etc/passwd"),
    ([*FIRST, "selected_bytes"], 2**52),
    ([*FIRST, "boundary"], []),
    ([*FIRST, "boundary", 0, "bytes"], 2**40),
    ([*FIRST, "boundary", 0, "input"], "nowhere"),
    ([*FIRST, "names", "loss"], 7),
    ([*FIRST, "memory"], []),
    ([*FIRST, "memory"], [[8, 100], [1, 50]]),
    ([*FIRST, "tensors"], []),
    ([*TENSOR, "shape"], [2**26, 2**26]),
    ([*TENSOR, "shape"], [1e9, 1e9]),
    ([*TENSOR, "bytes"], 2**31),
    ([*TENSOR, "offset"], 2**40),
    ([*TENSOR, "offset"], 4),
    ([*TENSOR, "dtype"], "float64"),
    ([*TENSOR, "kind"], "optimizer"),
    ([*FIRST, "tensors", 1, "name"], None),
    ([*FIRST, "tensors", 1, "offset"], 0),
    ([*FIRST, "names", "loss"], "no such output"),
    ([*TENSOR, "output"], "no such output"),
    ([*TENSOR, "input"], "no such input"),
    (["scoring", "layers", 0, "output"], "no such output"),
    (["scoring", "layers", 0, "numbers"], 1),
    ([*FIRST, "class_axis"], 0),
]
TEXTS = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"device"',
    b"\xff\xfe{}",
    b"[" * 100_000,
    b'{"format":"adabet-onnx/device"}',
    b"\0" * 64,
]


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The files of a package by name, its folder, and data."""
    folder = tmp_path_factory.mktemp("package")
    model = open_model(tiny.mlp())
    selection = select(model, layers=[model.layers[-1].name])
    make_artifacts(model, selection, folder / "artifacts", backend="portable", check=False)
    scoring = DeviceScoring(samples=8, subset_size=8, subsets=1)
    make_device(folder / "artifacts", folder / "device", packing=Packing(scoring=scoring))
    rng = np.random.default_rng(0)
    rng.standard_normal((SAMPLES, *model.inputs[0].shape[1:])).astype(np.float32).tofile(folder / "x.bin")
    rng.integers(0, 3, SAMPLES).tofile(folder / "y.bin")
    return folder


def with_hashes(content: dict, files: dict[str, bytes]) -> dict[str, bytes]:
    """Files in place of the package's, and a device.json with their sizes and hashes."""
    described = copy.deepcopy(content)
    for record in described["files"]:
        if record["name"] in files:
            data = files[record["name"]]
            record.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return {**files, "device.json": json.dumps(described).encode()}


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    at, bit = int(rng.integers(len(data))), 1 << int(rng.integers(8))
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def behind_the_hash(content: dict, files: dict[str, bytes]) -> list[tuple[str, dict[str, bytes]]]:
    """Damage that no hash reveals."""
    entry, found = content["entries"][0], []
    graphs = [entry[what] for what in ("step", "evaluation", "prediction")] + [content["scoring"]["file"]]
    for name in graphs:
        found.append((f"half of {name}", {name: files[name][: len(files[name]) // 2]}))
        found.append((f"noise for {name}", {name: np.random.default_rng(1).bytes(500)}))
        found.append((f"nothing for {name}", {name: b""}))
    for one, other in (("step", "evaluation"), ("evaluation", "prediction"), ("prediction", "step")):
        found.append((f"{other} for {one}", {entry[one]: files[entry[other]]}))
    state = files[entry["state"]]
    for number in (float("nan"), float("inf"), -float("inf")):
        found.append((f"{number} in the state", {entry["state"]: struct.pack("<f", number) + state[4:]}))
    found.append(("huge numbers in the state", {entry["state"]: struct.pack("<f", 3e38) * (len(state) // 4)}))
    found.append(("half of the state", {entry["state"]: state[: len(state) // 2]}))
    found.append(("a longer state", {entry["state"]: state + bytes(64)}))
    return found


def cases_of(folder):
    """Name and files of each case, and whether it must be refused."""
    device = folder / "device"
    files = {path.name: path.read_bytes() for path in device.iterdir()}
    content = json.loads(files["device.json"])
    entry, rng = content["entries"][0], np.random.default_rng(0)
    read = [entry[what] for what in ("step", "evaluation", "prediction", "state")] + [content["scoring"]["file"]]
    for name in read:
        yield f"{name} truncated", {name: files[name][:-1]}, True
        yield f"{name} empty", {name: b""}, True
        yield f"{name} longer", {name: files[name] + b"\0"}, True
        yield f"{name} with a bit flipped", {name: flipped(files[name], rng)}, True
    yield "swapped files", {entry["step"]: files[entry["evaluation"]], entry["evaluation"]: files[entry["step"]]}, True
    for text in TEXTS:
        yield f"device.json is {text[:20]!r}", {"device.json": text}, True
    for path, value in HOSTILE:
        changed = copy.deepcopy(content)
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        yield f"{path} is {value!r}", {"device.json": json.dumps(changed).encode()}, True
    for name, damage in behind_the_hash(content, files):
        yield name, with_hashes(content, damage), True
    for name in (entry["step"], entry["evaluation"], entry["state"]):
        for _ in range(5):
            yield (
                f"{name} with a bit flipped behind the hash",
                with_hashes(content, {name: flipped(files[name], rng)}),
                False,
            )


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_damage_ends_with_an_error_of_ours(core, package, runtime):
    cases = list(cases_of(package))
    assert len(cases) > 100
    said = job(
        core,
        "damaged",
        runtime,
        package=package / "device",
        x=package / "x.bin",
        y=package / "y.bin",
        batch=BATCH,
        cases=[encoded(files) for _, files, _ in cases],
    )
    for (name, _, must), error in zip(cases, said, strict=True):
        if error is None:
            assert not must, f"{name}: nothing was found wrong"
            continue
        assert error["code"] in CODES, (name, error)  # not "runtime": the error must name the cause
        assert len(error["message"]) > 20, (name, error)


def test_nothing_is_written(core, package, tmp_path):
    broken = tmp_path / "device"
    broken.mkdir()
    for path in (package / "device").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    step = broken / json.loads((broken / "device.json").read_text())["entries"][0]["step"]
    step.write_bytes(step.read_bytes()[:-1])
    before = sorted(tmp_path.rglob("*"))
    data = ["--x", package / "x.bin", "--y", package / "y.bin"]
    results = ["--delta", tmp_path / "delta.safetensors", "--progress", tmp_path / "progress.safetensors"]
    done = run("node", core / "node" / "main.js", "fit", broken, *data, *results)
    assert done.returncode == 1
    assert done.stderr.startswith("wrong-file: step.onnx has ")
    assert sorted(tmp_path.rglob("*")) == before
