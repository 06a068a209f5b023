"""Building and running samples/c."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT, missing
from device_commands import checked, runtime_library

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


@dataclass(frozen=True)
class Program:
    """The program adabet-device with one package."""

    path: Path
    package: Path

    def command(self, command: str, **options: object) -> list[str]:
        """The arguments: options are keywords, with _ for -."""
        words = [str(self.path), str(self.package), command]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        return words

    def run(self, command: str, **options: object) -> list[str]:
        """The lines it prints; it must succeed."""
        return checked(*self.command(command, **options), env=environment()).stdout.splitlines()

    def fails(self, command: str, **options: object) -> str:
        """The error message; it must fail."""
        done = subprocess.run(
            self.command(command, **options),
            capture_output=True,
            text=True,
            timeout=300,
            env=environment(),
            check=False,
        )
        assert 0 < done.returncode < 64, done.stderr
        assert done.stderr.count("\n") == 1
        return done.stderr.strip()


def environment() -> dict[str, str]:
    """The environment in which the library finds ONNX Runtime."""
    return {**os.environ, **SANITIZER_OPTIONS, "ADABET_ONNXRUNTIME": str(runtime_library())}
