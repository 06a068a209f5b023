"""Fixtures that many tests use, and the rule about skipping.

A test that needs torch, the stock onnxruntime or the shared models skips, with a reason, on a machine without them;
in CI (CI=true) it fails instead.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

pytest_plugins = ["bad_inputs", "data_models", "deltas", "fleet_clients"]  # modules of fixtures
ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
INFERENCE_PYTHON = ROOT / ".venv-inference" / ("Scripts" if os.name == "nt" else "bin") / "python"
SWIFT = os.environ.get("SWIFTC") or shutil.which("swiftc")
FLEET_PYTHON = INFERENCE_PYTHON.parents[2] / ".venv-fleet" / INFERENCE_PYTHON.parent.name / "python"
TRAINING = sys.version_info < (3, 13)
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir()) / "adabet-onnx-hypothesis"))
HELPERS = ROOT / "tests" / "helpers"
PROCESSES = ROOT / "tests" / "processes"  # first on the PYTHONPATH of processes: see the module in it


def pytest_collection_finish():
    """Exempt what was imported and collected from garbage collection: going through it takes most of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _processes_without_torch():
    """Hide torch from the processes that tests start; one that needs it gets another PYTHONPATH."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(PROCESSES), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Make ONNX Runtime use one thread unless a test sets the number.

    Tests may run in parallel, one per core. For such small models a second thread gains nothing, and while it waits for
    work, it occupies another test's core.
    """
    import onnxruntime

    made = onnxruntime.SessionOptions

    def one_thread():
        options = made()
        options.intra_op_num_threads = 1
        return options

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", one_thread)
        yield


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Deselect tests that need Swift if there is no compiler, as on Debian 12, on which CI runs.

    Tests of samples for devices come by language, so that as few workers as possible compile the same.
    """
    needing = [] if SWIFT else [item for item in items if item.get_closest_marker("swift")]
    if needing:
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]
    of_devices = [item for item in items if device_language(item)]
    if of_devices:
        place = items.index(of_devices[0])
        items[:] = [item for item in items if not device_language(item)]
        items[place:place] = sorted(of_devices, key=device_language)


def device_language(item: pytest.Item) -> str:
    """The language of a test of samples in C, C#, Kotlin or Swift, by its parameter or module; or nothing."""
    module = re.match(r"test_device_(c|csharp|jvm|swift|languages)(_|$)", item.path.stem)
    name = module.group(1) if module else ""
    return item.callspec.params["language"] if name == "languages" else name


def missing(reason: str) -> NoReturn:
    """Skip; in CI, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (in CI nothing may skip)")
    pytest.skip(reason)


@pytest.fixture
def torch_oracle():
    """The module tests/helpers/torch_oracle.py."""
    if importlib.util.find_spec("torch") is None:
        missing("torch is not installed")
    import torch_oracle

    return torch_oracle


@pytest.fixture
def training():
    """Skip where onnxruntime-training does not exist for this Python."""
    if not TRAINING:
        pytest.skip("onnxruntime-training exists for Python 3.10 to 3.12 only")


@pytest.fixture
def checked_here(monkeypatch):
    """Run the self-check of artifacts in this process: a new one would have to import everything first."""
    from adabet_onnx.training import artifacts, selfcheck
    from adabet_onnx.training.manifest import load_manifest

    monkeypatch.setattr(artifacts, "check_in_subprocess", lambda folder: selfcheck.check(load_manifest(folder)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data."""
    if not SHARED.is_dir():
        missing(f"{SHARED.name}/ is not beside the project")
    return SHARED


@pytest.fixture(scope="session")
def inference_python() -> Path:
    """A Python with the stock onnxruntime and this package."""
    if not INFERENCE_PYTHON.exists():
        missing("no environment with the stock onnxruntime (make test makes one)")
    return INFERENCE_PYTHON


@pytest.fixture(scope="session")
def fleet_python() -> Path:
    """A Python with Flower, Ray, the stock onnxruntime and this package."""
    if sys.version_info < (3, 11):
        pytest.skip("Flower is for Python 3.11 and newer")
    if not FLEET_PYTHON.with_name("flower-superlink").exists():
        missing("no environment with Flower (make test makes one)")
    return FLEET_PYTHON


@pytest.fixture(scope="session")
def ray_python() -> Path:
    """A Python with Ray, the stock onnxruntime and this package."""
    if not FLEET_PYTHON.with_name("ray").exists():
        missing("no environment with Ray (make test makes one)")
    return FLEET_PYTHON


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded random numbers."""
    return np.random.default_rng(0)
