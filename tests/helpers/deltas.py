"""Deltas of a small model that was trained, and deltas written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_packages import MODEL, write_package
from models import tiny

from adabet_onnx import Settings, Trainer, make_artifacts, open_model, save_delta, select
from adabet_onnx.device.delta import write_delta
from adabet_onnx.selection.options import Choosing

SHAPES = {"fc.weight": (2, 4), "fc.bias": (5,), "bn.mean": (3,)}


def data(count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = open_model(tiny.conv_net()).inputs[0].shape[1:]
    return rng.standard_normal((count, *shape)).astype(np.float32), rng.integers(0, 3, count)


def trained(folder: Path, *, seed: int = 0, channels: bool = False, **options: Any) -> Path:
    model = open_model(tiny.conv_net())
    selection = select(model, strategy="all")
    if channels:
        from adabet_onnx import Scoring, score

        scores = score(model, data()[0], scoring=Scoring(samples=32, subset_size=16, subsets=2, channels=True))
        selection = select(scores, strategy="adabet", rho=1.0, choosing=Choosing(channel_rho=0.5))
    make_artifacts(model, selection, folder, check=False, **options)
    Trainer(folder).fit(data(), settings=Settings(epochs=2, learning_rate=1e-2, seed=seed))
    return folder


def personal(path: Path, shapes: dict[str, tuple[int, ...]] = SHAPES, *, model: str = MODEL, entry: str = "last"):
    rng = np.random.default_rng(5)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return write_delta(path, tensors, model_sha256=model, entry=entry)


@pytest.fixture(scope="module")
def trained_artifacts(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("delta") / "artifacts")


@pytest.fixture
def delta_file(trained_artifacts, tmp_path) -> Path:
    path = tmp_path / "personal.safetensors"
    save_delta(trained_artifacts, path)
    return path


@pytest.fixture
def written_package(tmp_path) -> Path:
    return write_package(tmp_path / "device")
