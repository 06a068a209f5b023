"""Fixtures of the tests of deltas and device packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from deltas import trained
from device_packages import write_package

from adabet_onnx import save_delta


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("delta") / "artifacts")


@pytest.fixture
def delta(artifacts, tmp_path) -> Path:
    path = tmp_path / "personal.safetensors"
    save_delta(artifacts, path)
    return path


@pytest.fixture
def package(tmp_path) -> Path:
    return write_package(tmp_path / "device")
