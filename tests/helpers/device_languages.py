"""The languages of the samples for devices that are tested alike, by tests/device/test_device_languages*.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import device_c
import device_csharp
import device_jvm
import device_swift
from device_programs import DeviceChecks, DeviceProgram, demo_package


@contextmanager
def _jvm_program(_: Path, package: Path) -> Iterator[DeviceProgram]:
    jvm = device_jvm.compiled()
    with device_jvm.running(jvm) as runner:
        yield device_jvm.Program(package, jvm, runner)


@contextmanager
def _jvm_checks(_: Path) -> Iterator[DeviceChecks]:
    with device_jvm.running(device_jvm.compiled()) as runner:
        yield device_jvm.Checks(runner)


_PROGRAMS: dict[str, Callable[[Path, Path], AbstractContextManager[DeviceProgram]]] = {
    "c": lambda base, package: nullcontext(device_c.Program(package, device_c.compiled_program(base))),
    "csharp": lambda base, package: nullcontext(device_csharp.Program(package, device_csharp.compile_all(base))),
    "jvm": _jvm_program,
    "swift": lambda base, package: nullcontext(device_swift.Program(package, device_swift.compiled_program(base))),
}
_CHECKS: dict[str, Callable[[Path], AbstractContextManager[DeviceChecks]]] = {
    "c": lambda base: nullcontext(device_c.Checks(device_c.compiled_checks(base))),
    "csharp": lambda base: nullcontext(device_csharp.Checks(device_csharp.compile_all(base))),
    "jvm": _jvm_checks,
    "swift": lambda base: nullcontext(device_swift.Checks(device_swift.compiled_checks(base))),
}


def demo_program(language: str, base: Path) -> AbstractContextManager[DeviceProgram]:
    """The program of a language, compiled once, with a package of the demo's model.

    Args:
        language: c, csharp, jvm or swift.
        base: pytest's folder of temporary files.
    """
    return _PROGRAMS[language](base, demo_package(base, language))


def checks_program(language: str, base: Path) -> AbstractContextManager[DeviceChecks]:
    """The checks of a language, compiled once."""
    return _CHECKS[language](base)
