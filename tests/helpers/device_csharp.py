"""Compiles and runs samples/csharp with mono."""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import device_damages
from conftest import ROOT, missing
from device_commands import checked, runtime_library
from device_programs import DeviceProgram, MenuAnswer, RuleChecks, words_of

from adabet_onnx.device.random import RandomNumbers, shuffle

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
    folder.mkdir(exist_ok=True)
    runtime, sources = managed_library(folder), sorted((CSHARP / "Adabet.Device").glob("*.cs"))
    library = compiled("library", folder / "Adabet.Device.dll", sources, runtime)
    compiled("exe", folder / "adabet-device.exe", list((CSHARP / "Program").glob("*.cs")), library)
    compiled("exe", folder / "cases.exe", [*sources, *CASES.glob("*.cs")], runtime)
    runtime_folder(folder)
    return Compiled(folder)


@dataclass(frozen=True)
class Program(DeviceProgram):
    """The program with one package."""

    compiled: Compiled

    highest_status = 64
    stopped = "Cancelled: "
    newer_runtime = r"Runtime: This is ONNX Runtime 1\.\S+, the package needs 1\.999 or newer\."
    no_space = r"Storage: {path} cannot be written: .*Free some space, or choose another path\."
    with_small_files: ClassVar[Mapping[str, str]] = {"MONO_ENV_OPTIONS": "--gc-params=nursery-size=4m"}
    refusals: ClassVar[Mapping[str, str]] = {
        "a sample cut": 'WrongShape: The input "input" has 307196 bytes, expected whole samples of 1024 bytes',
        "few samples": r"TooFewSamples: There are 7 samples, but scoring needs at least 8\.$",
        "a label": "LabelOutOfRange: Label 7 is 10, expected 0 to 9",
        "labels": "WrongShape: There are 299 labels for 300 samples",
        "no labels": r"usage: --y is missing\.$",
        "no batch": "WrongOption: The batch size is 0, expected 1 to",
        "NaN": "LossNotFinite: The loss of step 1 is NaN: .* Use a learning rate below",
        "NaN scored": 'NotFinite: Sample 0 makes the layer "stem.conv" NaN or infinite',
        "a rate": "LossNotFinite: The loss of step 2 is .* Use a learning rate below",
        "memory": "OutOfMemory: .* trained in 1000 bytes .*: the smallest needs",
        "an entry": r'WrongOption: The package has no entry "no", it has "layers"\.$',
        "another model": 'WrongModel: other has the model_sha256 "0+", expected "5321',
        "another entry": r'WrongModel: unknown is for the entry "none", which the package does not have\.$',
        "no hash": "WrongHash: unsigned has data of the SHA-256",
        "cut short": "WrongFile: cut: it has tensors that end at 41128, expected 41127",
        "cut shorter": "WrongFile: header is not a complete safetensors file: it has 100 bytes",
        "damaged": "WrongHash: damaged has data of the SHA-256",
        "nothing": "WrongFile: none cannot be read: ",
        "a folder": "WrongFile: .* is not a file",
        "nowhere": "Storage: /nowhere/d cannot be written: ",
        "an option": r"usage: --form is not an option\.$",
    }

    def command(self, command: str, **options: object) -> list[str]:
        """The command that runs it."""
        return self.compiled.command("adabet-device.exe", *words_of(self.package, command, options))

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which it finds ONNX Runtime."""
        return self.compiled.environment


@dataclass(frozen=True)
class Checks(RuleChecks):
    """tests/device_sources/csharp/Cases.cs."""

    compiled: Compiled

    damages = device_damages.ALL
    no_error = "none"
    ending = "."
    written = ("delta", "model", "progress")
    failing_predictions = range(1, 6)
    nothing_fits = r"OutOfMemory: .* at a batch size of {batch}: the smallest needs {smallest}\..*"

    def tried(self, x: Path, y: Path, out: Path, folders: Mapping[str, Path]) -> list[tuple[str, str, str]]:
        """The last stage, the error's name, and the message for each package."""
        given = "".join(f"{folder}\n" for folder in folders.values())
        lines = [line.split("\t") for line in self.compiled.cases("try", x, y, out, given=given)]
        return [(stage, error, message) for stage, error, message in lines]

    def menu(self, file: Path) -> list[MenuAnswer]:
        """The answer for each case."""
        answers = []
        for line in self.compiled.cases("menu", file):
            smallest, said = line.split(" ", 1)
            refused = said.startswith("OutOfMemory: ")
            answers.append(MenuAnswer(None if refused else said, said, int(smallest)))
        return answers

    def random_numbers(self) -> list[list[int]]:
        """The first numbers, two orders, three subsets."""
        return [[int(number) for number in line.split(" ")] for line in self.compiled.cases("random")]

    def further_random_numbers(self) -> list[list[int]]:
        """The orders and subsets by Python."""
        random = RandomNumbers(12345, 0)
        return [shuffle(1000, 2**32 - 7, 3), shuffle(7, 5, 1), *(random.subset(100, 30) for _ in range(3))]

    def betti_numbers(self, file: Path, subsets: Path) -> tuple[list[int], list[list[int]]]:
        """The number of each matrix, and those of its subsets."""
        printed = self.compiled.cases("betti", file, subsets)
        blank = printed.index("")
        counts = [[int(number) for number in line.split(" ")] for line in printed[blank + 1 :]]
        return [int(number) for number in printed[:blank]], counts
