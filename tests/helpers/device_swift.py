"""Builds samples/ios with swiftc, if there is one."""

from __future__ import annotations

from pathlib import Path

from conftest import ROOT, SWIFT
from device_c import DEVICE, header_folder
from device_commands import checked, runtime_library

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


def library(folder: Path) -> Path:
    """The library AdabetOnnx, compiled without a warning: an object file, and beside it its module."""
    made = folder / "AdabetOnnx.o"
    words = ["-parse-as-library", "-wmo", "-enable-testing", "-module-name", "AdabetOnnx", "-emit-object"]
    words += ["-emit-module", "-emit-module-path", folder / "AdabetOnnx.swiftmodule"]
    sources = sorted((SOURCES / "AdabetOnnx").glob("*.swift"))
    checked(compiler(), *OPTIONS, *words, *includes(folder), *sources, "-o", made)
    return made


def linked(folder: Path, name: str, source: Path) -> Path:
    """A program of one source with the library in this folder and the stock onnxruntime."""
    runtime = folder / "libonnxruntime.so.1"
    if not runtime.exists():
        runtime.symlink_to(runtime_library())
    words = ["-enable-testing", "-Xlinker", runtime, "-Xlinker", f"-rpath={folder}"]
    checked(compiler(), *OPTIONS, *includes(folder), source, folder / "AdabetOnnx.o", *words, "-o", folder / name)
    return folder / name


def device_program(folder: Path) -> Path:
    """adabet-device."""
    return linked(folder, "adabet-device", SOURCES / "adabet-device" / "main.swift")


def checks_program(folder: Path) -> Path:
    """tests/device_sources/checks.swift."""
    return linked(folder, "checks", DEVICE / "checks.swift")
