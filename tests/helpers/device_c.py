"""Building and running samples/c."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import c_damages
from conftest import ROOT, missing
from device_commands import checked, runtime_library
from device_mistakes import COMMON
from device_programs import DeviceChecks, DeviceProgram, words_of

C, CPP, DEVICE = ROOT / "samples" / "c", ROOT / "samples" / "cpp", ROOT / "tests" / "device_sources"
HEADER = "onnxruntime_c_api.h"
WARNINGS = "-Wall -Wextra -Wpedantic -Wconversion -Werror"
SANITIZED = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "allocator_may_return_null=1:detect_leaks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def header_folder() -> Path:
    """The folder of ONNX Runtime's header, which is not part of this repository."""
    folders = [Path("/usr/include/onnxruntime"), ROOT / "build" / "onnxruntime"]
    if "ONNXRUNTIME_INCLUDE" in os.environ:
        folders.insert(0, Path(os.environ["ONNXRUNTIME_INCLUDE"]))
    for folder in folders:
        if (folder / HEADER).is_file():
            return folder
    missing(
        f"there is no {HEADER} (make test puts it into build/onnxruntime; $ONNXRUNTIME_INCLUDE names another folder)"
    )


def build(source: Path, folder: Path, *options: str) -> Path:
    """Configure and build a CMake project; returns the build folder."""
    for tool in ("cmake", "gcc", "g++"):
        if shutil.which(tool) is None:
            missing(f"there is no {tool}")
    compilers = ["-DCMAKE_C_COMPILER=gcc", *(["-DCMAKE_CXX_COMPILER=g++"] if source == CPP else [])]
    checked("cmake", "-S", source, "-B", folder, *compilers, f"-DONNXRUNTIME_INCLUDE={header_folder()}", *options)
    checked("cmake", "--build", folder, "--parallel", "2")
    return folder


@functools.cache
def compiled_program(base: Path) -> Path:
    """The program, built without a warning, once.

    Args:
        base: pytest's folder of temporary files.
    """
    folder = build(C, base / "c", f"-DCMAKE_C_FLAGS=-O2 {WARNINGS}", "-DBUILD_SHARED_LIBS=ON")
    return folder / "adabet-device"


@functools.cache
def compiled_checks(base: Path) -> Path:
    """tests/device_sources/try_packages.c with the library, both with sanitizers, built once."""
    folder = base / "c-sanitized"
    flags = f"-DCMAKE_C_FLAGS={SANITIZED} {WARNINGS} -include {DEVICE / 'failing.h'}"
    build(C, folder, flags, "-DBUILD_SHARED_LIBS=OFF", "-DADABET_PROGRAM=OFF")
    made = folder / "try_packages"  # ONNX Runtime throws exceptions, which AddressSanitizer must know of: libstdc++
    words = [*SANITIZED.split(), "-std=c99", f"-I{C}", DEVICE / "try_packages.c", folder / "libadabet.a"]
    checked("gcc", *words, "-o", made, "-lm", "-ldl", "-Wl,--no-as-needed", "-lstdc++")
    return made


@dataclass(frozen=True)
class Program(DeviceProgram):
    """The program adabet-device with one package."""

    path: Path

    refusals: ClassVar[Mapping[str, str]] = COMMON | {
        "an entry": "usage: no is not an entry$",
        "no runtime": "runtime: ONNX Runtime cannot be loaded: /nowhere.so",
    }
    written_accuracy = ".17g"

    def command(self, command: str, **options: object) -> list[str]:
        """The command that runs it."""
        return [str(self.path), *words_of(self.package, command, options)]

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which it finds ONNX Runtime."""
        return environment()


@dataclass(frozen=True)
class Checks(DeviceChecks):
    """tests/device_sources/try_packages.c."""

    path: Path

    damages = c_damages.ALL

    def tried(self, x: Path, y: Path, out: Path, folders: Mapping[str, Path], *more: str) -> list[tuple[str, str, str]]:
        """The last stage, the error's name, and the message for each package."""
        command = [str(word) for word in (self.path, x, y, out, *more)]
        given = "".join(f"{folder}\n" for folder in folders.values())
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, env=environment(), check=False, timeout=300
        )
        lines = [line.split("\t") for line in done.stdout.splitlines()]
        assert done.returncode == 0, (list(folders)[len(lines) :][:1], done.stderr[:4000])
        return [(stage, code, message) for _, stage, code, message in lines]


def environment() -> dict[str, str]:
    """The environment in which the library finds ONNX Runtime."""
    return {**os.environ, **SANITIZER_OPTIONS, "ADABET_ONNXRUNTIME": str(runtime_library())}
