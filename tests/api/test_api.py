"""The public names: adding or removing one here changes the public API."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import ROOT

import adabet_onnx
from adabet_onnx import errors

FUNCTIONS = {"open_model", "new_head", "save_model", "check_model", "score", "select", "prepare", "make_artifacts"}
FUNCTIONS |= {
    "export_model",
    "evaluate",
    "predict",
    "adapt",
    "compare",
    "stability",
    "write_predictions",
    "write_report",
}
FUNCTIONS |= {"merge_deltas", "simulate_fleet", "write_fleet_app"}
FUNCTIONS |= {"load_scores", "load_selection", "make_device", "make_menu", "save_delta", "load_delta", "apply_delta"}
OPTIONS = {
    "Adapting",
    "Budget",
    "Choices",
    "Choosing",
    "Data",
    "DeviceScoring",
    "Fleet",
    "Packing",
    "Plan",
    "Preprocessing",
    "Repeats",
    "Runtime",
    "Scoring",
    "Settings",
}
RESULTS = {"Model", "Scores", "Selection", "Outcome", "Predictor", "Trainer"}


def test_public_names():
    exceptions = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert set(adabet_onnx.__all__) == FUNCTIONS | OPTIONS | RESULTS | exceptions
    assert all(hasattr(adabet_onnx, name) for name in adabet_onnx.__all__)
    assert all(issubclass(getattr(errors, name), errors.AdabetError | Warning) for name in exceptions)


def test_importing_loads_no_framework_and_no_runtime():
    code = "import sys, adabet_onnx; print([m for m in ('torch', 'tensorflow', 'onnxruntime') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # where torch can be found
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
