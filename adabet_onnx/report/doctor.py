"""Check the installed packages and what works with them."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .. import runtime, training_runtime
from ..errors import RuntimeMissingError

_PACKAGES = (
    "adabet-onnx",
    "onnx",
    "onnx-ir",
    "numpy",
    "ripser",
    "scipy",
    "click",
    "rich",
    "pillow",
    "matplotlib",
    "safetensors",
)


def findings() -> dict[str, Any]:
    """The installed packages and whether they work, as JSON values.

    Returns:
        python, platform; packages (a version, or null, by name); conflict (null, or a description of the conflict
        between runtimes); portable and ort, each with works and reason (null if it works); works: whether any backend
        works.
    """
    runtimes = runtime.installed()
    packages = {name: _version(name) for name in _PACKAGES} | {**runtimes.inference, **runtimes.training}
    inference, error = _tried(runtime.onnxruntime)
    training, ort_error = _tried(training_runtime.load) if inference else (False, "see above")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "conflict": runtimes.conflict,
        "portable": {"works": inference, "reason": error or None},
        "ort": {"works": training, "reason": ort_error or None},
        "works": inference and not runtimes.conflict,
    }


def diagnosis(report: Mapping[str, Any]) -> RenderableType:
    """The result of `findings` for the terminal."""
    table = Table("package", "version")
    for name, version in report["packages"].items():
        table.add_row(name, version or "not installed")
    lines: list[RenderableType] = [Text(f"Python {report['python']} on {report['platform']}"), table]
    if report["conflict"]:
        lines.append(Text(f"conflict  {report['conflict']}"))
    for label, backend in (("everything, with the portable backend: ", "portable"), ("the ort backend:", "ort")):
        state = "yes" if report[backend]["works"] else f"no: {report[backend]['reason']}"
        lines.append(Text(f"{label:<39}{state}"))
    return Group(*lines)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tried(load: Callable[[], object]) -> tuple[bool, str]:
    try:
        load()
    except RuntimeMissingError as error:
        return False, str(error)
    return True, ""
