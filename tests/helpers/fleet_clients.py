"""Clients of a fleet in this process, with data and artifacts of small models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import tiny

from adabet_onnx import Choices, make_artifacts, open_model, select
from adabet_onnx.data.dataset import ArrayRows, Dataset
from adabet_onnx.fleet.client import Client, ClientSetup
from adabet_onnx.fleet.client_artifacts import ClientArtifacts
from adabet_onnx.fleet.messages import Local, RoundTask


def pictures(samples: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise in which the first channel's brightness determines one of four classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, samples)
    x = rng.standard_normal((samples, 3, 8, 8)).astype(np.float32)
    x[:, 0] += y[:, None, None]
    return x, y


def dataset(samples: int = 40, seed: int = 0) -> Dataset:
    x, y = pictures(samples, seed)
    return Dataset(ArrayRows({"": x}), y.astype(np.int64))


def artifacts(folder: Path, strategy: str = "all", model: Any = None, **choices: Any) -> Path:
    opened = open_model(tiny.conv_net() if model is None else model)
    make_artifacts(opened, select(opened, strategy=strategy), folder, choices=Choices(**choices), backend="portable")
    return folder


@pytest.fixture(scope="module")
def trained_all(tmp_path_factory) -> Path:
    """Artifacts that train all layers by plain gradient descent."""
    folder = tmp_path_factory.mktemp("fleet") / "artifacts"
    opened = open_model(tiny.conv_net())
    made = make_artifacts(opened, select(opened, strategy="all"), folder, choices=Choices(optimizer="sgd"), check=False)
    return made.folder


def client(number: int, bench: ClientArtifacts, data: Dataset, folder: Path, **more: Any) -> Client:
    return Client(ClientSetup(number, data, folder / str(number), {}, **more), bench)


def task(bench: ClientArtifacts, number: int = 1, **local: Any) -> RoundTask:
    return RoundTask(number, bench.model_sha256, bench.initial_values(), Local(**local))
