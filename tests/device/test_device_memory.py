"""The memory in device.json: what a step or the frozen pass takes, in the batches in which the package runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

from adabet_onnx import Packing, UsageError, make_artifacts, make_device, select
from adabet_onnx.device.choosing import choose
from adabet_onnx.device.description import load_device
from adabet_onnx.training.manifest import Manifest

MODEL = ROOT / "adabet_onnx" / "demo" / "digits.onnx"
pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Manifest:
    """Artifacts for the head: a small step after a large frozen part."""
    folder = tmp_path_factory.mktemp("memory") / "artifacts"
    return make_artifacts(MODEL, select(MODEL, strategy="head"), folder, check=False)


def memory_of(manifest: Manifest, folder: Path, profile: str | None) -> list[list[int]]:
    return make_device(manifest.folder, folder, packing=Packing(scoring=None, profile=profile))["entries"][0]["memory"]


def test_the_frozen_pass_counts_in_the_batches_that_it_takes(tmp_path, head):
    """One sample at a time for phones; elsewhere as many as a step."""
    found = {profile: memory_of(head, tmp_path / str(profile), profile) for profile in (None, "mobile")}
    tensors = load_device(tmp_path / "mobile").entries[0].tensors
    state = 2 * tensors[-1].end
    for profile, memory in found.items():
        for batch, size in memory:
            step = head.predicted_bytes("predicted_step_bytes", batch)
            frozen = head.predicted_bytes("predicted_frozen_bytes", 1 if profile == "mobile" else batch)
            assert state + max(step, frozen) <= size < state + max(step, frozen) + 128  # aligned to 64 bytes
    assert found["mobile"][0] == found[None][0]
    assert found["mobile"][-1][1] < found[None][-1][1] / 10


def test_a_choice_that_a_phone_can_train_is_not_refused(tmp_path, head):
    for profile in (None, "mobile"):
        memory_of(head, tmp_path / str(profile), profile)
    plain, mobile = (load_device(tmp_path / str(profile)).entries for profile in (None, "mobile"))
    assert choose(mobile, {}, batch_size=32, max_memory=200_000).layers == ("head",)
    with pytest.raises(UsageError, match="no entry fits into 200 KB at batch size 32"):
        choose(plain, {}, batch_size=32, max_memory=200_000)
