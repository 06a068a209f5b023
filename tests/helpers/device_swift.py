"""Builds samples/ios with swiftc, if there is one."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import c_damages
import device_c
from conftest import ROOT, SWIFT
from device_c import DEVICE, environment, header_folder
from device_commands import checked, runtime_library
from device_damages import Damage
from device_mistakes import COMMON
from device_programs import MenuAnswer, RuleChecks

IOS = ROOT / "samples" / "ios"
SOURCES = IOS / "Sources"
OPTIONS = ("-swift-version", "6", "-O", "-warnings-as-errors")


def compiler() -> str:
    """swiftc, or what $SWIFTC names; without one, tests that need it are not collected (see conftest.py)."""
    assert SWIFT is not None
    return SWIFT


def includes(folder: Path) -> list[object]:
    """Include options for the modules of ONNX Runtime's header and of the library in this folder."""
    return ["-I", folder, "-I", SOURCES / "COnnxRuntime" / "include", "-Xcc", f"-I{header_folder()}"]


@functools.cache
def library(base: Path) -> Path:
    """A folder with the library AdabetOnnx, compiled once, without a warning: an object file, and beside it its module.

    Args:
        base: pytest's folder of temporary files.
    """
    folder = base / "swift"
    folder.mkdir(exist_ok=True)
    made = folder / "AdabetOnnx.o"
    words = ["-parse-as-library", "-wmo", "-enable-testing", "-module-name", "AdabetOnnx", "-emit-object"]
    words += ["-emit-module", "-emit-module-path", folder / "AdabetOnnx.swiftmodule"]
    sources = sorted((SOURCES / "AdabetOnnx").glob("*.swift"))
    checked(compiler(), *OPTIONS, *words, *includes(folder), *sources, "-o", made)
    return folder


def linked(folder: Path, name: str, source: Path) -> Path:
    """A program of one source with the library in this folder and the stock onnxruntime."""
    runtime = folder / "libonnxruntime.so.1"
    if not runtime.exists():
        runtime.symlink_to(runtime_library())
    words = ["-enable-testing", "-Xlinker", runtime, "-Xlinker", f"-rpath={folder}"]
    checked(compiler(), *OPTIONS, *includes(folder), source, folder / "AdabetOnnx.o", *words, "-o", folder / name)
    return folder / name


@functools.cache
def compiled_program(base: Path) -> Path:
    """adabet-device, compiled once."""
    return linked(library(base), "adabet-device", SOURCES / "adabet-device" / "main.swift")


@functools.cache
def compiled_checks(base: Path) -> Path:
    """tests/device_sources/checks.swift, compiled once."""
    return linked(library(base), "checks", DEVICE / "checks.swift")


@dataclass(frozen=True)
class Program(device_c.Program):
    """The program adabet-device with one package."""

    refusals: ClassVar[Mapping[str, str]] = COMMON | {
        "a sample cut": "wrong shape: data: 'input' .* expected a multiple of that",
        "few samples": "too few: there are 7 samples; scoring needs at least 8",
    }


# Messages that differ from those of samples/c.
SAID = {
    "no object": "device.json is an array; expected an object",
    "no inputs": "'inputs' of device.json is empty",
    "no entries": "'entries' of device.json is empty",
}


@dataclass(frozen=True)
class Checks(RuleChecks):
    """tests/device_sources/checks.swift."""

    path: Path

    damages: ClassVar[Mapping[str, tuple[Damage, str]]] = {
        name: (damage, SAID.get(name, message)) for name, (damage, message) in c_damages.ALL.items()
    }
    failing_predictions = range(len(c_damages.ALL))

    def printed(self, *words: object, given: str = "") -> list[str]:
        """The lines it prints."""
        return checked(self.path, *words, input=given, env=environment()).stdout.splitlines()

    def tried(self, x: Path, y: Path, out: Path, folders: Mapping[str, Path]) -> list[tuple[str, str, str]]:
        """The last stage, the error's code, and the message for each package."""
        given = "".join(f"{folder}\n" for folder in folders.values())
        lines = [line.split("\t") for line in self.printed("packages", x, y, out, given=given)]
        return [(stage, code, message) for _, stage, code, message in lines]

    def menu(self, file: Path) -> list[MenuAnswer]:
        """The answer for each case."""
        lines = self.printed("menu", file)
        return [MenuAnswer(None, line) if line.startswith("no memory: ") else MenuAnswer(line) for line in lines]

    def random_numbers(self) -> list[list[int]]:
        """The first numbers."""
        return [[int(number) for number in line.split()] for line in self.printed("random", 0, 1)]

    def betti_numbers(self, file: Path, subsets: Path) -> tuple[list[int], list[list[int]]]:
        """The number of each matrix, and those of its subsets."""
        counts = [[int(number) for number in line.split()] for line in self.printed("subsets", file, subsets)]
        return [int(number) for number in self.printed("numbers", file)], counts
