"""What is installed, and what that allows."""

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
    """What is installed and whether it works, as JSON values.

    Returns:
        python, platform; packages (a version, or null, by name); conflict (null, or what is wrong with the runtimes);
        portable and ort, each with works and reason (null where it works); works: whether anything does.
    """
    found = runtime.installed()
    packages = {name: _version(name) for name in _PACKAGES} | {**found.inference, **found.training}
    inference, why_not = _tried(runtime.onnxruntime)
    training, why_not_ort = _tried(training_runtime.load) if inference else (False, "see above")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "conflict": found.conflict,
        "portable": {"works": inference, "reason": why_not or None},
        "ort": {"works": training, "reason": why_not_ort or None},
        "works": inference and not found.conflict,
    }


def diagnosis(found: Mapping[str, Any]) -> RenderableType:
    """What `findings` found, to print."""
    table = Table("package", "version")
    for name, version in found["packages"].items():
        table.add_row(name, version or "not installed")
    lines: list[RenderableType] = [Text(f"Python {found['python']} on {found['platform']}"), table]
    if found["conflict"]:
        lines.append(Text(f"conflict  {found['conflict']}"))
    for what, backend in (("everything, with the portable backend: ", "portable"), ("the ort backend:", "ort")):
        state = "yes" if found[backend]["works"] else f"no: {found[backend]['reason']}"
        lines.append(Text(f"{what:<39}{state}"))
    return Group(*lines)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tried(door: Callable[[], object]) -> tuple[bool, str]:
    try:
        door()
    except RuntimeMissingError as error:
        return False, str(error)
    return True, ""
