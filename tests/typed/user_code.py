"""User code for a type checker; it is not run. Lines marked as wrong must give errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from typing_extensions import assert_type

import adabet_onnx
from adabet_onnx import (
    AdabetError,
    Adapting,
    Budget,
    Choices,
    Choosing,
    Data,
    Model,
    Outcome,
    Plan,
    Predictor,
    Preprocessing,
    Repeats,
    Scores,
    Scoring,
    Selection,
    Settings,
    Trainer,
    adapt,
    apply_delta,
    check_model,
    compare,
    evaluate,
    export_model,
    load_delta,
    load_scores,
    load_selection,
    make_artifacts,
    new_head,
    open_model,
    predict,
    prepare,
    save_delta,
    save_model,
    score,
    select,
    stability,
    write_report,
)


def progress(what: str, done: int, total: int) -> None:
    """Print it."""
    print(f"{what}: {done} of {total}")


def step_by_step(path: Path, proto: onnx.ModelProto, graph: ir.Model, data: np.ndarray) -> None:
    """Every form of a model, scores and selections."""
    model = open_model(path, dims={"sequence": 64}, bind={"sr": 16000})
    assert_type(model, Model)
    for source in (path, "model.onnx", b"...", proto, graph, model):
        assert_type(score(source, data, preset="unit", progress=progress), Scores)
    scores = score(model, Data("x.npz", layout="NTC"), scoring=Scoring(samples=64, max_memory="1GB"), seed=1)
    scores.save("scores.json")
    assert_type(load_scores("scores.json"), Scores)
    selection = select("scores.json", layers="layer4.*")
    assert_type(selection, Selection)
    budget = Choosing(rho=0.2, budget=Budget(max_memory="64MB", max_step_time=0.5))
    selection = select(scores, choosing=budget, costs=Predictor(model, batch_size=8))
    assert_type(load_selection("selection.json"), Selection)
    assert_type(prepare(path, "selection.json").proto(), onnx.ModelProto)
    make_artifacts(path, selection, "artifacts", loss="mse", choices=Choices(clip_norm=1.0))
    trainer = Trainer("artifacts", threads=2)
    rows = trainer.fit((data, data), epochs=3, settings=Settings(patience=2), resume=True)
    assert_type(rows, list[dict[str, Any]])
    assert_type(export_model("artifacts", "adapted.onnx"), onnx.ModelProto)
    assert_type(save_delta("artifacts", "personal.safetensors").entry, str)
    assert_type(load_delta(path).tensors, Mapping[str, np.ndarray])
    assert_type(apply_delta("artifacts", load_delta(path), "adapted.onnx"), str)
    assert_type(evaluate("artifacts", {"x": data, "y": data}), dict[str, Any])
    assert_type(predict(b"...", [data]), list[dict[str, Any]])
    save_model(new_head(graph, 5), "model5.onnx")
    assert_type(check_model(model).untrainable, dict[str, str])


def whole_jobs(model: bytes) -> None:
    """The main job, comparisons and reports."""
    outcome = adapt(model, "data.npz", "out", num_classes=5, adapting=Adapting(settings=Settings(epochs=3)))
    assert_type(outcome, Outcome)
    assert_type(outcome.before, dict[str, Any])
    compare(model, "data.npz", "compared", Plan(strategies=("adabet", "all")), old_domain="old.npz")
    stability(model, "data.npz", preprocessing=Preprocessing(scale=1 / 255), repeats=Repeats(groups=4))
    try:
        write_report("compared", "report.html")
    except AdabetError as error:
        assert_type(error.exit_code, int)


def wrong() -> None:
    """Calls that a checker must reject."""
    score(5, "data.npz")  # type: ignore[arg-type]
    select("scores.json", rho="a tenth")  # type: ignore[arg-type]
    select("scores.json", head="never")  # type: ignore[call-arg]
    Settings(epoch=3)  # type: ignore[call-arg]
    Trainer("artifacts").fit("data.npz", epochs="3")  # type: ignore[arg-type]
    adabet_onnx.nothing  # type: ignore[attr-defined]  # noqa: B018
