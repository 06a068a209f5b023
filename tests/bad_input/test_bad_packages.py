"""Packages that are missing or conflict (see bad_inputs.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_inputs import FAILURE, check, listing, needs_training, process

from adabet_onnx import runtime, training_runtime
from adabet_onnx.errors import RuntimeMissingError

pytestmark = pytest.mark.slow

ABSENT = "raise ModuleNotFoundError(\"No module named 'onnxruntime'\", name='onnxruntime')\n"


def stub(folder: Path, name: str, content: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return str(folder)


def test_no_onnxruntime(work, tmp_path):
    python = stub(tmp_path / "stub", "onnxruntime/__init__.py", ABSENT)
    before = listing(work)
    result = process(work, "score", "model.onnx", "data.npz", "-o", "out.json", PYTHONPATH=python)
    check(result, FAILURE, "ONNX Runtime cannot be imported", "pip install 'adabet-onnx[inference]'", "[training]")
    assert listing(work) == before
    assert process(work, "inspect", "model.onnx", PYTHONPATH=python).code == 0, "what needs no runtime works"
    doctor = process(work, "doctor", PYTHONPATH=python)
    assert (doctor.code, doctor.err) == (1, "")
    assert "pip install 'adabet-onnx[inference]'" in " ".join(doctor.out.split())


def test_a_damaged_onnxruntime_folder(work, tmp_path):
    python = stub(tmp_path / "stub", "onnxruntime/__init__.py", "")
    result = process(work, "score", "model.onnx", "data.npz", "-o", "out.json", PYTHONPATH=python)
    check(result, FAILURE, "damaged", "Uninstall")


def test_both_packages_at_once(work, tmp_path):
    for name in ("onnxruntime", "onnxruntime_training_cpu"):
        metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.19.2\n"
        python = stub(tmp_path / "stub", f"{name}-1.19.2.dist-info/METADATA", metadata)
    before = listing(work)
    result = process(work, "score", "model.onnx", "data.npz", "-o", "out.json", PYTHONPATH=python)
    check(result, FAILURE, "onnxruntime 1.19.2", "onnxruntime-training-cpu 1.19.2", "pip uninstall -y")
    assert listing(work) == before
    doctor = process(work, "doctor", PYTHONPATH=python)
    assert doctor.code == 1
    assert "conflict" in doctor.out


@pytest.mark.parametrize(
    "command",
    [
        "artifacts model.onnx selection.json -o out --backend ort",
        pytest.param("train ort data.npz", marks=needs_training),
        pytest.param("export ort -o out.onnx", marks=needs_training),
        "run model.onnx data.npz -o out --backend ort",
    ],
)
def test_no_training_package(command, refused, monkeypatch):
    monkeypatch.setattr(training_runtime, "_api", None)
    monkeypatch.setattr(training_runtime, "_has_training", lambda module: False)
    monkeypatch.setattr(runtime, "installed", lambda: runtime.Installed({"onnxruntime": "1.22.0"}, {}))
    words = (
        "onnxruntime-training-cpu 1.19.2",
        "portable backend",
        "pip uninstall -y onnxruntime,",
        "pip install 'adabet-onnx[training]'",
    )
    refused(command, FAILURE, *words)


def test_training_that_cannot_be_imported_says_why(monkeypatch):
    monkeypatch.setattr(training_runtime, "_api", None)
    monkeypatch.setattr(training_runtime, "_has_training", lambda module: True)

    def broken() -> None:
        raise training_runtime._missing("it cannot be imported: libfoo.so is missing")

    monkeypatch.setattr(training_runtime, "Api", broken)
    with pytest.raises(RuntimeMissingError, match=r"libfoo\.so"):
        training_runtime.load()
