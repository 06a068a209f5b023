"""A deployed model becomes personal by one small file: its results then equal those of the exported model exactly."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import INFERENCE_PYTHON, ROOT, missing

from adabet_onnx import Packing, Trainer, export_model, make_artifacts, make_device, select

pytestmark = pytest.mark.slow

MODEL, DATA = (ROOT / "adabet_onnx" / "demo" / name for name in ("digits.onnx", "digits_shifted.npz"))
JS = ROOT / "tests" / "js"
PYTHON = """
import json, sys
import numpy as np, onnxruntime
for job in json.load(open(sys.argv[1])):
    session = onnxruntime.InferenceSession(job["model"], providers=["CPUExecutionProvider"])
    x = np.fromfile(job["x"], np.float32).reshape(job["shape"])
    session.run(None, {session.get_inputs()[0].name: x})[0].tofile(job["output"])
"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> Path:
    """The exported model; the package's with the trained file; the same with the file it was made with."""
    place = tmp_path_factory.mktemp("personal")
    make_artifacts(MODEL, select(MODEL, strategy="last", rho=0.3), place / "artifacts", backend="portable", check=False)
    plain = Packing(scoring=None)
    entry = make_device(place / "artifacts", place / "before", start="initial", packing=plain)["entries"][0]
    Trainer(place / "artifacts").fit(DATA, epochs=1, learning_rate=0.01)
    export_model(place / "artifacts", place / "exported.onnx")
    make_device(place / "artifacts", place / "trained", packing=plain)
    shutil.copytree(place / "before", place / "after")
    shutil.copy(place / "trained" / entry["selected"], place / "after" / entry["selected"])
    np.random.default_rng(0).standard_normal((16, 1, 16, 16)).astype(np.float32).tofile(place / "x.bin")
    external = ["weights.bin", entry["selected"]]
    models = {"exported": (place / "exported.onnx", [])}
    models |= {name: (place / name / entry["model"], external) for name in ("before", "after")}
    made = [
        {
            "model": str(path),
            "external": files,
            "x": str(place / "x.bin"),
            "shape": [16, 1, 16, 16],
            "output": str(place / f"{name}.bin"),
        }
        for name, (path, files) in models.items()
    ]
    (place / "jobs.json").write_text(json.dumps(made))
    return place / "jobs.json"


@pytest.mark.parametrize("runtime", ["python", "onnxruntime-node", "onnxruntime-web"])
def test_the_personal_model_gives_the_exported_ones_bits(jobs, runtime):
    if runtime == "python":
        if not INFERENCE_PYTHON.exists():
            missing("the stock onnxruntime is not set up")
        command = [INFERENCE_PYTHON, "-c", PYTHON, jobs]
    else:
        if shutil.which("node") is None or not (JS / "node_modules" / runtime).is_dir():
            missing("node or its packages are not set up")
        command = ["node", JS / "outputs.mjs", runtime, jobs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    exported, before, after = ((jobs.parent / f"{name}.bin").read_bytes() for name in ("exported", "before", "after"))
    assert len(after) == 4 * 16 * 10
    assert after == exported
    assert after != before
