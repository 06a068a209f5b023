"""Runs commands that build and test the samples for devices; locates the library that they load."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from conftest import INFERENCE_PYTHON, missing


def runtime_library() -> Path:
    """The library in the wheel of the stock onnxruntime."""
    found = sorted(
        INFERENCE_PYTHON.parent.parent.glob("lib/python*/site-packages/onnxruntime/capi/libonnxruntime.so.1*")
    )
    if not found:
        missing("the stock onnxruntime is not installed in .venv-inference, or its wheel has no libonnxruntime.so")
    return found[-1]


def checked(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command, which must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done
