"""The public names: what is added or removed here is added to or removed from the promise."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

import adabet_onnx
from adabet_onnx import errors

FUNCTIONS = {"open_model", "new_head", "save_model", "check_model", "score", "select", "prepare", "make_artifacts"}
FUNCTIONS |= {"export_model", "evaluate", "predict", "adapt", "compare", "stability", "write_report"}
FUNCTIONS |= {"load_scores", "load_selection"}
OPTIONS = {
    "Adapting",
    "Budget",
    "Choices",
    "Choosing",
    "Data",
    "Plan",
    "Preprocessing",
    "Repeats",
    "Scoring",
    "Settings",
}
RESULTS = {"Model", "Scores", "Selection", "Outcome", "Predictor", "Trainer"}
PACKAGE = Path(adabet_onnx.__file__).parent
# Who may import whom: a package may import those before it in this list (and itself), and what is below them all.
ORDER = [
    "model",
    "data",
    "scoring",
    "selection",
    "portable",
    "training",
    "cost",
    "outcome",
    "adapting",
    "pipeline",
    "study",
    "report",
    "demo",
    "cli",
]
BELOW = {"errors", "files", "isolation", "options", "pieces", "progress", "records", "runtime", "sizes"}


def test_public_names():
    exceptions = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert set(adabet_onnx.__all__) == FUNCTIONS | OPTIONS | RESULTS | exceptions
    assert all(hasattr(adabet_onnx, name) for name in adabet_onnx.__all__)
    assert all(issubclass(getattr(errors, name), errors.AdabetError) for name in exceptions)


def test_importing_loads_no_framework_and_no_runtime():
    code = "import sys, adabet_onnx; print([m for m in ('torch', 'tensorflow', 'onnxruntime') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # where torch can be found
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_nothing_imports_upward():
    """At module level; a function may reach for what only it needs."""
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in ORDER:
            continue
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ImportFrom) or node.level == 0:
                continue
            parts = path.relative_to(PACKAGE).with_suffix("").parts[: -node.level]
            target = [*parts, *(node.module or "").split(".")]
            names = [target[0]] if target[0] else [alias.name for alias in node.names]
            for name in names:
                assert name in BELOW or name.startswith("__") or ORDER.index(name) <= ORDER.index(room), (
                    f"{path.relative_to(PACKAGE)} imports {name}"
                )


def test_only_the_doors_touch_their_libraries():
    doors = {"ripser": {"scoring/betti.py"}, "onnxruntime.training": {"training/ort.py"}}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        name = path.relative_to(PACKAGE).as_posix()
        assert "from ripser" not in text or name in doors["ripser"]
        assert 'import_module(f"onnxruntime.training' not in text or name in doors["onnxruntime.training"]
