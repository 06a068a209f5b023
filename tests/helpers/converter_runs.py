"""Runs converters as a user does: scripts in a separate environment, and the commands of their README."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT, missing

from adabet_onnx.cli.main import main

CONVERTERS = ROOT / "converters"
KERAS_PYTHON = ROOT / ".venv-keras" / ("Scripts" if os.name == "nt" else "bin") / "python"
JAX_PYTHON = ROOT / ".venv-jax" / ("Scripts" if os.name == "nt" else "bin") / "python"
TORCH = ("from_torch", "from_transformers")  # of the other packages, only onnxruntime-training would import it
TIMEOUT = 500
QUICK = ["--epochs", "2", "--no-measure", "--samples", "32", "--subset-size", "16"]
MANY = """
import contextlib, importlib, io, json, sys
sys.path.insert(0, sys.argv[1])
from converting import run
main = importlib.import_module(sys.argv[2]).main
for arguments in json.loads(sys.argv[3]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            run(lambda: main(arguments))
        except SystemExit as left:
            code = left.code
    print(json.dumps([code, said.getvalue()]), flush=True)
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


def run(*command: object, cwd: Path, torch: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command, with or without torch; it must have the expected exit code, and print no traceback."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"PYTHONPATH": str(ROOT)} if torch else {}
    parts = [str(part) for part in command]
    done = subprocess.run(parts, capture_output=True, text=True, cwd=cwd, timeout=TIMEOUT, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done


def convert(python: Path, script: str, *runs: Sequence[object], cwd: Path) -> list[tuple[int, str]]:
    """Exit code and messages of a converter for each of several lists of arguments, in one process.

    Importing its framework takes longer than a conversion.
    """
    given = json.dumps([[str(argument) for argument in arguments] for arguments in runs])
    done = run(python, "-c", MANY, CONVERTERS, script, given, cwd=cwd, torch=script in TORCH)
    found = [(code, said) for code, said in map(json.loads, done.stdout.splitlines())]
    assert len(found) == len(runs), done.stderr[-3000:]
    assert not [said for _, said in found if "Traceback" in said]
    return found


def adabet_onnx(*arguments: str, cwd: Path) -> None:
    """Run our own command line, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["adabet-onnx", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
    assert left.value.code == 0


def commands(framework: str) -> list[list[str]]:
    """The chain of commands that the README gives for a framework."""
    text = (CONVERTERS / "README.md").read_text(encoding="utf-8")
    section = "\n" + text.split(f"\n## {framework}\n")[1].split("\n## ")[0]
    block = re.findall(r"\n\n((?:    .+\n)+)", section)[0].replace("\\\n", " ")
    return [line.split() for part in block.splitlines() for line in part.split("&&")]


def run_chain(python: Path, framework: str, cwd: Path, *options: str) -> onnx.ModelProto:
    """Run the README's chain for a framework in a user's folder, and return the adapted model.

    ``options`` are added to those of adabet-onnx.
    """
    converting, adapting = commands(framework)
    assert converting[:2] == ["uv", "run"]
    assert adapting[:2] == ["adabet-onnx", "run"]
    run(python, ROOT / converting[2], *converting[3:], cwd=cwd, torch=Path(converting[2]).stem in TORCH)
    adabet_onnx(*adapting[1:], *QUICK, *options, cwd=cwd)
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
