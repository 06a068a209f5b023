"""Compiles and runs samples/csharp with mono."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from conftest import ROOT, missing
from device_commands import checked, runtime_library
from device_rules import description

import adabet_onnx
from adabet_onnx import Choices, make_artifacts, make_device, open_model, select

DEMO, KEPT = Path(adabet_onnx.__file__).parent / "demo", ("parameter", "statistic")
CSHARP, CASES = ROOT / "samples" / "csharp", ROOT / "tests" / "device_sources" / "csharp"
MANAGED = ROOT / "tests" / "mobile" / "node_modules" / "com.github.asus4.onnxruntime" / "Runtime"

# ONNX Runtime's managed sources are C# 10, which Debian's compiler does not support: the replacements it needs.
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
    """A folder with the libonnxruntime.so of the stock wheel, so that numbers are bit-identical to Python's."""
    (folder / "libonnxruntime.so").symlink_to(runtime_library())
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
        """The lines that the cases print."""
        return checked(*self.command("cases.exe", *words), env=self.environment, input=given).stdout.splitlines()


@functools.cache
def compile_all(base: Path) -> Compiled:
    """Compile, once, the library, the program, and the cases together with the library, whose internals they use.

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
        """The arguments: options are keywords, with _ for -."""
        words: list[object] = [self.package, command]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", value]
        return self.compiled.command("adabet-device.exe", *words)

    def run(self, command: str, **options: object) -> list[str]:
        """The lines it prints; it must succeed."""
        return checked(*self.command(command, **options), env=self.compiled.environment).stdout.splitlines()

    def fails(self, command: str, **options: object) -> str:
        """The error message; it must fail."""
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
    """The program with a package of the demo's model, whose batch statistics are updated, and its data in files."""
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
