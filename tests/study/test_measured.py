"""The cost of a step of a comparison's training is measured once."""

from __future__ import annotations

import json
from types import SimpleNamespace

from adabet_onnx.study import measured, runner
from adabet_onnx.study.plan import Plan, Setting


def test_a_step_that_an_earlier_release_measured_with_its_frozen_part_is_measured_again(tmp_path, monkeypatch):
    made = measured.Cost(memory_bytes=5, seconds=0.25, frozen_seconds=0.5)
    calls = []
    monkeypatch.setattr(runner, "measure_training", lambda *_, **__: calls.append(1) or made)
    study = SimpleNamespace(
        folder=tmp_path,
        label=lambda _: "head",
        plan=Plan(),
        parts=lambda _: 1,
        make_artifacts=lambda _: tmp_path,
        say=lambda *_: None,
    )
    selections = {(Setting("head", None), seed): None for seed in (0, 1)}
    earlier = {"format": "adabet-onnx/measured-cost", "version": 1, "memory_bytes": 9, "seconds": 2.0}
    (tmp_path / "costs").mkdir()
    (tmp_path / "costs" / "head.json").write_text(json.dumps(earlier))
    local = runner.LocalRunner(None, 1)
    assert measured._costs(study, selections, local) == {"head": made}
    assert measured._costs(study, selections, local) == {"head": made}
    assert len(calls) == 1
