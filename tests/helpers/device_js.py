"""Helpers for the tests of samples/web/core and samples/node: compiling, jobs, the format's random numbers."""

from __future__ import annotations

import base64
import json
import math
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from conftest import ROOT, missing

JS = ROOT / "tests" / "js"
MODULES = JS / "node_modules"
RUNTIMES = ("onnxruntime-node", "onnxruntime-web")
_WORD = 0xFFFFFFFF


def run(*command: object) -> subprocess.CompletedProcess[str]:
    """Run a command, whatever its exit status."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, check=False)


def node(*packages: str) -> str:
    """The program node, with these packages."""
    found = shutil.which("node")
    for package in packages:
        if found is None or not (MODULES / package).is_dir():
            missing(f"no node with {package} (make test installs the package)")
    return str(found)


def compiled(folder: Path) -> Path:
    """The folder of JavaScript compiled from samples/node and samples/web/core, beside the packages they need."""
    node("typescript", "onnxruntime-node", "onnxruntime-common", "@types/node")
    check_types(folder, [str(ROOT / "samples" / "node" / "*.ts")])
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "node_modules").symlink_to(MODULES, target_is_directory=True)
    return folder


def check_types(folder: Path, include: Sequence[str], **options: object) -> None:
    """Type-check TypeScript with the sample's strict options and the types of the tests' packages."""
    settings = {
        "typeRoots": [str(MODULES / "@types")],
        "paths": {"onnxruntime-*": [str(MODULES / "onnxruntime-*")]},
        "rootDir": str(ROOT / "samples"),
        "outDir": str(folder),
        **options,
    }
    config = folder / "tsconfig.json"
    extends = str(ROOT / "samples" / "node" / "tsconfig.json")
    config.write_text(json.dumps({"extends": extends, "compilerOptions": settings, "include": list(include)}))
    done = run(MODULES / ".bin" / "tsc", "-p", config)
    assert done.returncode == 0, done.stdout + done.stderr


def job(core: Path, what: str, runtime: str = RUNTIMES[0], **settings: object) -> Any:
    """Run a job of tests/js/device.mjs and return its result."""
    program = node(runtime)
    file = core / f"job-{what}-{runtime}.json"
    file.write_text(json.dumps({"what": what, **settings}, default=str))
    done = run(program, JS / "device.mjs", core / "web" / "core", runtime, file)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.strip().split("\n")[-1])


class Random:
    """The generator of docs/device-package.md."""

    def __init__(self, seed: int, stream: int) -> None:
        self._state = (seed + stream * 0x6C078965) & _WORD

    def next(self) -> int:
        self._state = z = (self._state + 0x9E3779B9) & _WORD
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            z = ((z ^ (z >> shift)) * factor) & _WORD
        return z

    def below(self, n: int) -> int:
        return (self.next() * n) >> 32

    def subset(self, n: int, m: int) -> list[int]:
        every = list(range(n))
        for i in range(m):
            j = i + self.below(n - i)
            every[i], every[j] = every[j], every[i]
        return sorted(every[:m])


def shuffle(n: int, seed: int, stream: int) -> list[int]:
    """The order of samples in an epoch."""
    random, every = Random(seed, stream), list(range(n))
    for i in range(n - 1, 0, -1):
        j = random.below(i + 1)
        every[i], every[j] = every[j], every[i]
    return every


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of a file, read according to the format's description."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    body, metadata = data[8 + size :], header.pop("__metadata__")
    tensors, end = {}, 0
    assert (8 + size) % 64 == 0
    for name, entry in header.items():
        begin, after = entry["data_offsets"]
        assert entry["dtype"] == "F32"
        assert begin == end
        end = after
        assert after - begin == 4 * math.prod(entry["shape"])
        tensors[name] = np.frombuffer(body[begin:after], "<f4").reshape(entry["shape"])
    assert end == len(body)
    return metadata, tensors


def encoded(files: dict[str, bytes]) -> dict[str, dict[str, str]]:
    """A case of the job `damaged`."""
    return {"replaced": {name: base64.b64encode(content).decode() for name, content in files.items()}}
