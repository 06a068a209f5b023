"""The public names: what is added or removed here is added to or removed from the promise."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import ROOT

import adabet_onnx
from adabet_onnx import errors

FUNCTIONS = {"open_model", "score", "select", "prepare", "make_artifacts", "Trainer", "export_model"}
FUNCTIONS |= {"check_model", "save_model"}
FUNCTIONS |= {"Budget", "Predictor", "Plan", "compare", "stability", "write_report"}


def test_public_names():
    exceptions = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert set(adabet_onnx.__all__) == FUNCTIONS | exceptions
    assert all(hasattr(adabet_onnx, name) for name in adabet_onnx.__all__)
    assert all(issubclass(getattr(errors, name), errors.AdabetError) for name in exceptions)


def test_importing_loads_no_framework_and_no_runtime():
    code = "import sys, adabet_onnx; print([m for m in ('torch', 'tensorflow', 'onnxruntime') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # where torch can be found
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
