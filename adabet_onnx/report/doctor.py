"""What is installed, and what that allows."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable

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


def diagnosis() -> tuple[RenderableType, bool]:
    """What to print, and whether anything works."""
    found = runtime.installed()
    table = Table("package", "version")
    for name in _PACKAGES:
        try:
            table.add_row(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            table.add_row(name, "not installed")
    for name, version in {**found.inference, **found.training}.items():
        table.add_row(name, version)
    lines: list[RenderableType] = [Text(f"Python {platform.python_version()} on {platform.platform()}"), table]
    if found.conflict:
        lines.append(Text(f"conflict  {found.conflict}"))
    inference, reason = _tried(runtime.onnxruntime)
    lines.append(Text(f"everything, with the portable backend: {'yes' if inference else f'no: {reason}'}"))
    training, reason = _tried(training_runtime.load) if inference else (False, "see above")
    lines.append(Text(f"the ort backend:                       {'yes' if training else f'no: {reason}'}"))
    return Group(*lines), inference and not found.conflict


def _tried(door: Callable[[], object]) -> tuple[bool, str]:
    try:
        door()
    except RuntimeMissingError as error:
        return False, str(error)
    return True, ""
