"""Compiling and running samples/csharp with mono, and the rules of the format, in Python, that it is compared with."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from conftest import INFERENCE_PYTHON, ROOT, missing

import adabet_onnx
from adabet_onnx import Choices, make_artifacts, make_device, open_model, select
from adabet_onnx.device.random import shuffle

DEMO, KEPT = Path(adabet_onnx.__file__).parent / "demo", ("parameter", "statistic")
CSHARP, CASES = ROOT / "samples" / "csharp", ROOT / "tests" / "device_sources" / "csharp"
MANAGED = ROOT / "tests" / "mobile" / "node_modules" / "com.github.asus4.onnxruntime" / "Runtime"

# ONNX Runtime's managed sources are C# 10, which Debian's compiler is not: what has to be said in other words.
EDITS = {
    "*": [
        (r"\busing var\b", "var"),
        (r"\bstatic (ptr =>)", r"\1"),
        (r"(\w+<[^=;\n]*>) (\w+) = new\(", r"\1 \2 = new \1("),
        (r"is not TensorBase\)", "is TensorBase == false)"),
    ],
    "FixedBufferOnnxValue.shared.cs": [(r"\bunmanaged\b", "struct")],
    "OrtValue.shared.cs": [(r"\bunmanaged\b", "struct")],
    "Tensor.shared.cs": [(r"^(\s*)(dimensions\[0\]) = (dimensions\[1\]) = (.*);", r"\1\3 = \4; \2 = \3;")],
    "DenseTensor.shared.cs": [
        (r"            Buffer.Span\[index\] = value;", "            var span = Buffer.Span; span[index] = value;")
    ],
    "InferenceSession.shared.cs": [
        (
            r"disposableHandles.Span\[i\] = IntPtr.Zero;",
            "var handles = disposableHandles.Span; handles[i] = IntPtr.Zero;",
        )
    ],
}


def tool(name: str) -> str:
    """The path of one of mono's programs."""
    found = shutil.which(name)
    if found is None:
        missing(f"there is no {name} (make test installs mono-mcs and mono-runtime)")
    return found


def checked(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command that succeeds."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done


def compiled(kind: str, made: Path, sources: list[Path], *references: Path, more: tuple[str, ...] = ()) -> Path:
    """Compile without a warning."""
    words = ["-langversion:7", "-warn:4", "-warnaserror", *more, f"-target:{kind}", f"-out:{made}"]
    checked(tool("mcs"), *words, *(f"-r:{path}" for path in references), *sorted(sources))
    return made


def managed_library(folder: Path) -> Path:
    """Microsoft.ML.OnnxRuntime.dll, from the sources in an npm package."""
    if not MANAGED.is_dir():
        missing("tests/mobile/node_modules has no com.github.asus4.onnxruntime (make test installs it)")
    copies = []
    for source in sorted(MANAGED.rglob("*.cs")):
        content = source.read_text(encoding="utf-8-sig")
        for pattern, word in EDITS["*"] + EDITS.get(source.name, []):
            content = re.sub(pattern, word, content, flags=re.MULTILINE)
        copies.append(folder / f"{len(copies)}-{source.name}")
        copies[-1].write_text(content)
    words = ["-langversion:experimental", "-unsafe", "-d:NETSTANDARD2_0", "-target:library", "-nowarn:219"]
    made = folder / "Microsoft.ML.OnnxRuntime.dll"
    checked(tool("mcs"), *words, f"-out:{made}", *copies)
    return made


def runtime_folder(folder: Path) -> Path:
    """A folder with libonnxruntime.so, which is that of the stock wheel: then numbers equal Python's to the bit."""
    found = sorted(
        INFERENCE_PYTHON.parent.parent.glob("lib/python*/site-packages/onnxruntime/capi/libonnxruntime.so.1*")
    )
    if not found:
        missing("the stock onnxruntime is not installed in .venv-inference, or its wheel has no libonnxruntime.so")
    (folder / "libonnxruntime.so").symlink_to(found[-1])
    return folder


@dataclass(frozen=True)
class Compiled:
    """The library, the program and the cases, compiled into one folder."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LD_LIBRARY_PATH": str(self.folder), "LC_ALL": "C.UTF-8"}

    def command(self, program: str, *words: object) -> list[str]:
        return [tool("mono"), str(self.folder / program), *(str(word) for word in words)]

    def cases(self, *words: object, given: str = "") -> list[str]:
        """Lines that the cases print."""
        return checked(*self.command("cases.exe", *words), env=self.environment, input=given).stdout.splitlines()


@functools.cache
def compile_all(base: Path) -> Compiled:
    """Compile the library, the program, and the cases with the library inside, whose internals they use: once.

    Args:
        base: pytest's folder of temporary files.
    """
    folder = base / "csharp"
    folder.mkdir()
    runtime, sources = managed_library(folder), sorted((CSHARP / "Adabet.Device").glob("*.cs"))
    library = compiled("library", folder / "Adabet.Device.dll", sources, runtime)
    compiled("exe", folder / "adabet-device.exe", list((CSHARP / "Program").glob("*.cs")), library)
    compiled("exe", folder / "cases.exe", [*sources, *CASES.glob("*.cs")], runtime)
    runtime_folder(folder)
    return Compiled(folder)


@dataclass(frozen=True)
class Program:
    """The program with one package."""

    compiled: Compiled
    package: Path

    def command(self, command: str, **options: object) -> list[str]:
        """Its words: an option is given by its name, _ for -."""
        words: list[object] = [self.package, command]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", value]
        return self.compiled.command("adabet-device.exe", *words)

    def run(self, command: str, **options: object) -> list[str]:
        """What it prints, where it succeeds."""
        return checked(*self.command(command, **options), env=self.compiled.environment).stdout.splitlines()

    def fails(self, command: str, **options: object) -> str:
        """The message with which it ends."""
        done = subprocess.run(
            self.command(command, **options),
            capture_output=True,
            text=True,
            timeout=300,
            env=self.compiled.environment,
            check=False,
        )
        assert 0 < done.returncode <= 64, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.strip()


def demo_program(csharp: Compiled, folder: Path) -> Program:
    """With a package of the demo's model, with batch statistics that move, and its data in files."""
    model = open_model(DEMO / "digits.onnx")
    selection = select(model, layers=["block3.conv2", "block3.bn2", "block4.conv1", "head"])
    choices = Choices(optimizer="adamw", batch_norm="batch")
    make_artifacts(model, selection, folder / "artifacts", backend="portable", choices=choices, check=False)
    make_device(folder / "artifacts", folder / "device")
    with np.load(DEMO / "digits_shifted.npz") as arrays:
        for name, images, labels in (("", "x_train", "y_train"), ("held_", "x_test", "y_test")):
            (arrays[images].transpose(0, 3, 1, 2)[:300] / 255).astype("<f4").tofile(folder / f"{name}x")
            arrays[labels][:300].astype("<i8").tofile(folder / f"{name}y")
    return Program(csharp, folder / "device")


def place(program: Program, name: str) -> Path:
    return program.package.parent / name


def data(program: Program, part: str = "") -> tuple[np.ndarray, np.ndarray]:
    shape = description(program.package)["inputs"][0]["shape"][1:]
    x = np.fromfile(place(program, f"{part}x"), "<f4").reshape(-1, *shape)
    return x, np.fromfile(place(program, f"{part}y"), "<i8")


# The rules of docs/device-package.md, with onnxruntime.


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_graph(path: Path | onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs, from those of the feeds that the graph has."""
    graph = session(path) if isinstance(path, Path) else path
    given = {value.name: feeds[value.name] for value in graph.get_inputs()}
    names = [value.name for value in graph.get_outputs()]
    return dict(zip(names, graph.run(names, given), strict=True))


def description(package: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((package / "device.json").read_text())
    return found


def features(package: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """What training steps start from: one sample at a time."""
    content = description(package)
    entry, name = content["entries"][0], content["inputs"][0]["name"]
    found = {kept["name"]: x for kept in entry["boundary"] if kept["input"] is not None}
    if entry["frozen"] is not None:
        graph = session(package / entry["frozen"])
        rows = [run_graph(graph, {name: x[i : i + 1]}) for i in range(len(x))]
        found |= {output: np.concatenate([row[output] for row in rows]) for output in rows[0]}
    return found


def stored(entry: Mapping[str, Any], data: bytes, kinds: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Tensors by name, from the bytes of a file laid out as the state; zeros for the optimizer."""
    found = {}
    for tensor in entry["tensors"]:
        if tensor["kind"] in kinds:
            array = np.zeros(tensor["shape"], np.float32)
            if tensor["kind"] != "optimizer":
                array = np.frombuffer(data, "<f4", tensor["bytes"] // 4, tensor["offset"]).reshape(tensor["shape"])
            found[tensor["name"]] = array
    return found


def losses(package: Path, x: np.ndarray, y: np.ndarray, *, batch: int, seed: int, rate: float) -> Iterator[float]:
    """Of training by the format's rules, epoch after epoch."""
    entry = description(package)["entries"][0]
    kept, graph, names = features(package, x), session(package / entry["step"]), entry["names"]
    start = stored(entry, (package / entry["state"]).read_bytes(), ("parameter", "statistic", "optimizer"))
    values = {tensor["input"]: start[tensor["name"]] for tensor in entry["tensors"]}
    step = epoch = 0
    while True:
        epoch += 1
        order = shuffle(len(x), seed, epoch)
        for first in range(0, len(x), batch):
            rows, step = order[first : first + batch], step + 1
            feeds = {**{name: array[rows] for name, array in kept.items()}, names["labels"]: y[rows], **values}
            feeds |= {names["learning_rate"]: np.float32(rate), names["step"]: np.int64(step)}
            made = run_graph(graph, {name: np.asarray(value) for name, value in feeds.items()})
            values = {tensor["input"]: made[tensor["output"]] for tensor in entry["tensors"]}
            yield float(made[names["loss"]])
