"""Running converters as a user does: scripts in an environment of their own, and the commands of their README."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT, missing

CONVERTERS = ROOT / "converters"
KERAS_PYTHON = ROOT / ".venv-keras" / ("Scripts" if os.name == "nt" else "bin") / "python"
JAX_PYTHON = ROOT / ".venv-jax" / ("Scripts" if os.name == "nt" else "bin") / "python"
TIMEOUT = 500
MANY = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
main = importlib.import_module(sys.argv[2]).main
for arguments in json.loads(sys.argv[3]):
    main(arguments)
"""


def need(*packages: str) -> Path:
    """This Python, if it has the packages."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            missing(f"{package} is not installed")
    return Path(sys.executable)


def need_keras() -> Path:
    """The Python that has TensorFlow."""
    if not KERAS_PYTHON.exists() or not list(KERAS_PYTHON.parent.parent.rglob("site-packages/tf2onnx")):
        missing("no environment with TensorFlow and tf2onnx (make test makes one)")
    return KERAS_PYTHON


def need_jax() -> Path:
    """The Python that has JAX."""
    if sys.version_info < (3, 11):
        pytest.skip("jax2onnx exists for Python 3.11 and newer only")
    if not JAX_PYTHON.exists() or not list(JAX_PYTHON.parent.parent.rglob("site-packages/jax2onnx")):
        missing("no environment with JAX and jax2onnx (make test makes one)")
    return JAX_PYTHON


def run(*command: object, cwd: Path, expect: int = 0) -> str:
    """What a command wrote; it must exit with ``expect``, and never with a traceback."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    parts = [str(part) for part in command]
    done = subprocess.run(parts, capture_output=True, text=True, cwd=cwd, timeout=TIMEOUT, check=False, env=environment)
    assert done.returncode == expect, done.stdout + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def convert(python: Path, script: str, *arguments: object, cwd: Path, expect: int = 0) -> str:
    """Run a converter."""
    return run(python, CONVERTERS / f"{script}.py", *arguments, cwd=cwd, expect=expect)


def commands(framework: str) -> list[list[str]]:
    """The chain of commands that the README gives for a framework."""
    text = (CONVERTERS / "README.md").read_text(encoding="utf-8")
    section = "\n" + text.split(f"\n## {framework}\n")[1].split("\n## ")[0]
    block = re.findall(r"\n\n((?:    .+\n)+)", section)[0].replace("\\\n", " ")
    return [line.split() for part in block.splitlines() for line in part.split("&&")]


def run_chain(python: Path, framework: str, cwd: Path, *options: str) -> onnx.ModelProto:
    """Run the README's chain for a framework where a user's files lie, and return the adapted model.

    ``options`` are added to those of adabet-onnx.
    """
    converting, adapting = commands(framework)
    assert converting[:2] == ["uv", "run"]
    assert adapting[:2] == ["adabet-onnx", "run"]
    convert(python, Path(converting[2]).stem, *converting[3:], cwd=cwd)
    quick = ["--epochs", "2", "--no-measure", "--samples", "32", "--subset-size", "16"]
    run(sys.executable, "-m", "adabet_onnx", *adapting[1:], *quick, *options, cwd=cwd)
    adapted = onnx.load(cwd / "adapted" / "adapted.onnx")
    before, after = (values(model) for model in (onnx.load(cwd / "model.onnx"), adapted))
    kept = set(before) & set(after)
    changed = [name for name in kept if not np.array_equal(before[name], after[name])]
    assert 0 < len(changed) < len(kept)
    return adapted


def values(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """A model's initializers."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def operators(path: Path) -> list[str]:
    """Operators of a file's nodes."""
    return [node.op_type for node in onnx.load(path).graph.node]
