"""The sdist and the wheel that is built from it: what they contain, how large they are, and that the demo runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import PROCESSES, ROOT

import adabet_onnx

pytestmark = pytest.mark.slow

LARGEST = 1_500_000  # bytes of either file; the demo's model and data are 240 kB of them
DEMO = {f"adabet_onnx/demo/{name}" for name in ("NOTICE", "digits.onnx", "digits_shifted.npz")}
DOCUMENTS = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}
SOURCES = {".css", ".j2", ".js", ".py", ".typed"}


def run(*command, cwd: Path) -> str:
    """Run a command that must succeed, without the PYTHONPATH of these tests, and return its standard output."""
    parts, environment = [str(part) for part in command], os.environ | {"PYTHONPATH": str(PROCESSES)}
    done = subprocess.run(parts, capture_output=True, text=True, cwd=cwd, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with an sdist and the wheel that is built from it. They are built from a copy of the project."""
    folder = tmp_path_factory.mktemp("built")
    ignored = shutil.ignore_patterns(".git", ".venv*", "adabet-demo", "build", "dist", "node_modules", ".*_cache")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=folder / "source")
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    [path] = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(built) -> Path:
    [path] = built.glob("*.tar.gz")
    return path


def beyond_the_demo(names: set[str]) -> set[str]:
    """Files of the package that are neither source nor the demo's."""
    return {name for name in names - DEMO if Path(name).suffix not in SOURCES}


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in names if name.startswith("adabet_onnx/")}
    assert package >= DEMO | {"adabet_onnx/py.typed", "adabet_onnx/version.py"}
    assert beyond_the_demo(package) == set()
    [folder] = {name.split("/")[0] for name in names - package}
    assert folder == f"adabet_onnx-{adabet_onnx.__version__}.dist-info"
    assert f"{folder}/licenses/LICENSE" in names
    assert wheel.stat().st_size < LARGEST


def test_the_sdist_holds_the_package_and_its_documents(sdist):
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    package = {name for name in files if name.startswith("adabet_onnx/")}
    assert package >= DEMO
    assert beyond_the_demo(package) == set()
    assert files - package <= DOCUMENTS
    assert DOCUMENTS - files <= {".gitignore"}
    assert sdist.stat().st_size < LARGEST


def test_everything_names_one_version(wheel, sdist):
    version = adabet_onnx.__version__
    assert wheel.name.startswith(f"adabet_onnx-{version}-")
    assert sdist.name == f"adabet_onnx-{version}.tar.gz"
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert released[0] == version


def test_demo_of_the_installed_wheel(wheel, tmp_path):
    """In an environment with only this wheel, which uses the dependencies of the test environment."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=os.name != "nt")
    paths = {"base": str(environment), "platbase": str(environment)}
    packages, scripts = (Path(sysconfig.get_path(name, vars=paths)) for name in ("purelib", "scripts"))
    assert list(packages.iterdir()) == []
    install = ["--python", scripts / "python", "install", "--quiet", "--no-deps", "--no-index", wheel]
    run(sys.executable, "-m", "pip", *install, cwd=tmp_path)
    # A path in a .pth file does not activate editable installs from there.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    where = run(scripts / "python", "-c", "import adabet_onnx; print(adabet_onnx.__file__)", cwd=tmp_path)
    assert where.startswith(str(packages))
    assert "accuracy" in run(scripts / "adabet-onnx", "demo", "--epochs", "2", cwd=tmp_path)
    made = {path.name for path in (tmp_path / "adabet-demo").iterdir()}
    assert made >= {
        "scores.json",
        "selection.json",
        "artifacts",
        "metrics.jsonl",
        "adapted.onnx",
        "demo.png",
        "scores.png",
    }
