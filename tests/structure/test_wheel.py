"""A wheel built from the project works where it is installed, package data and demo included."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import PROCESSES, ROOT, TRAINING

pytestmark = pytest.mark.slow


def run(*command, cwd: Path) -> str:
    """Standard output of a command that must succeed, and finds no package by the PYTHONPATH of these tests."""
    parts, environment = [str(part) for part in command], os.environ | {"PYTHONPATH": str(PROCESSES)}
    done = subprocess.run(parts, capture_output=True, text=True, cwd=cwd, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, so that nothing is built into the checkout
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv*", "adabet-demo", "tests"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=source)
    return next(folder.glob("*.whl"))


def test_wheel_holds_package_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"adabet_onnx/demo/digits.onnx", "adabet_onnx/demo/digits_shifted.npz", "adabet_onnx/demo/NOTICE"} <= set(
        names
    )
    assert "adabet_onnx/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"adabet_onnx"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_demo_of_the_installed_wheel(wheel, tmp_path):
    if not TRAINING:
        pytest.skip("onnxruntime-training exists for Python 3.10 to 3.12 only")
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=os.name != "nt")
    paths = {"base": str(environment), "platbase": str(environment)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    zipfile.ZipFile(wheel).extractall(packages)  # what installing a pure wheel does
    # Its dependencies are those of this environment; a path in a .pth file brings in no editable install from there.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    python = Path(sysconfig.get_path("scripts", vars=paths)) / "python"
    where = run(python, "-c", "import adabet_onnx; print(adabet_onnx.__file__)", cwd=tmp_path)
    assert where.startswith(str(packages))
    out = run(python, "-m", "adabet_onnx", "demo", "--epochs", "2", cwd=tmp_path)
    assert "accuracy" in out
    made = {path.name for path in (tmp_path / "adabet-demo").iterdir()}
    assert {
        "scores.json",
        "selection.json",
        "artifacts",
        "metrics.jsonl",
        "adapted.onnx",
        "demo.png",
        "scores.png",
    } <= made
