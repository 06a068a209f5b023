"""Measures how far a frozen part in int8 shifts a model's logits, compared with float32."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from .. import runtime
from ..data.arithmetic import integer_data
from ..data.feeder import Feeder
from ..data.preprocess import arithmetic_for
from ..data.source import open_data
from ..model.open import open_model
from ..model.passes.dequantise import input_ranges
from ..model.trial_runs import random_feeds
from ..showing import counted
from .evaluation import evaluate, trained_choices
from .export import adapted_proto
from .logits import logits_session
from .manifest import Manifest, load_manifest

_RANDOM = 64  # samples, if none are given


def quantisation_shift(manifest: Manifest, batches: Iterable[Mapping[str, np.ndarray]] | None) -> dict[str, Any] | None:
    """Compare the model of an artifact folder with its float32 version; None if there is no separate one.

    Args:
        manifest: the manifest of the folder.
        batches: batches of samples, by the names of the model's inputs; None: random numbers in the range of the
            inputs.

    Returns:
        ``samples``, ``random`` (whether they are random), ``largest`` and ``mean`` (differences of their logits,
        relative to the largest in float32) and ``same_class`` (the share of samples whose largest logit is the same;
        null without classes).
    """
    if manifest.float_file is None:
        return None
    name = manifest.model_logits
    graph = manifest.model()
    given = batches if batches is not None else [random_feeds(graph, input_ranges(graph), _RANDOM) or {}]
    shift = differences(graph, manifest.model(full_precision=True), name, given, manifest.class_axis)
    return {**shift, "random": batches is None}


def differences(
    quantised: ir.Model, plain: ir.Model, logits: str, batches: Iterable[Mapping[str, np.ndarray]], axis: int | None
) -> dict[str, Any]:
    """Compare the logits of two graphs.

    Args:
        quantised: the quantised graph.
        plain: the same graph in float32.
        logits: name of the logits in both.
        batches: batches of samples.
        axis: class axis of the logits; None without classes.
    """
    sessions = [logits_session(graph, logits, "the model") for graph in (quantised, plain)]
    input_names = [{value.name for value in session.get_inputs()} for session in sessions]
    outputs: list[list[np.ndarray]] = [[], []]
    for batch in batches:
        for session, names, parts in zip(sessions, input_names, outputs, strict=True):
            given = {name: array for name, array in batch.items() if name in names}
            parts.append(np.asarray(runtime.run_session(session, None, given, "the model")[0]))
    first, second = (np.concatenate(parts) for parts in outputs)
    deviations, largest = np.abs(first - second), max(float(np.abs(second).max(initial=0.0)), 1e-12)
    same = None if axis is None else float((first.argmax(axis) == second.argmax(axis)).mean())
    return {
        "samples": len(first),
        "largest": float(deviations.max(initial=0.0)) / largest,
        "mean": float(deviations.mean()) / largest,
        "same_class": same,
    }


def precision_notes(shift: Mapping[str, Any] | None, precision: str) -> list[str]:
    """Describe a shift for users.

    Args:
        shift: the result of `quantisation_shift`.
        precision: the requested precision.
    """
    if shift is None:
        return ["nothing is frozen, so nothing is in int8"]
    state = "is in int8" if precision == "int8" else "keeps the file's quantised numbers"
    samples = counted(shift["samples"], "sample") + " of random numbers" * shift["random"]
    same = "" if shift["same_class"] is None else f"; {shift['same_class']:.1%} keep their class"
    return [
        f"the frozen part {state}: against float32, the logits of {samples} move by {shift['mean']:.1%} of the largest "
        f"on average, {shift['largest']:.1%} at most{same}"
    ]


def compare_precisions(folder: str | os.PathLike[str], data: Any) -> dict[str, Any] | None:
    """Compare an artifact folder's trained state with its float32 version; None if there is no separate one.

    Args:
        folder: the artifact folder.
        data: labelled data in any form that `Data` describes: its test part, or all of it if it has none.

    Returns:
        The result of `quantisation_shift`, and ``loss``, ``accuracy``, ``full_loss`` and ``full_accuracy``.

    Raises:
        DataError: labels are missing, or the data does not fit the model.
        RecordError: the folder is not an artifact folder.
    """
    manifest = load_manifest(Path(folder))
    if manifest.float_file is None:
        return None
    protos = adapted_proto(manifest), adapted_proto(manifest, full_precision=True)
    plain = open_model(protos[1])
    dataset = open_data(data, plain).for_evaluation
    preprocessing = arithmetic_for(plain, integer_data(plain, dataset), None, stored=manifest.preprocessing)
    feeder, rows = Feeder(plain, preprocessing), np.arange(len(dataset))
    batches = (feeder.feeds(dataset, rows[start : start + _RANDOM]) for start in range(0, len(rows), _RANDOM))
    graphs = [ir.from_proto(proto) for proto in protos]
    shift = differences(graphs[0], graphs[1], manifest.model_logits, batches, manifest.class_axis)
    options: dict[str, Any] = {"preprocessing": preprocessing, "choices": trained_choices(folder)}
    result, full_result = evaluate(folder, dataset, **options), evaluate(plain, dataset, **options)
    own_metrics = {"loss": result["loss"], "accuracy": result["accuracy"]}
    return {
        **shift,
        "random": False,
        **own_metrics,
        "full_loss": full_result["loss"],
        "full_accuracy": full_result["accuracy"],
    }


def precision_text(shift: Mapping[str, Any]) -> str:
    """Format the result of `compare_precisions` in a line."""
    parts = [f"logits move by {shift['mean']:.1%} of the largest on average, {shift['largest']:.1%} at most"]
    if shift["accuracy"] is not None:
        parts.append(f"accuracy {shift['accuracy']:.1%}, in float32 {shift['full_accuracy']:.1%}")
    parts.append(f"loss {shift['loss']:.4f}, in float32 {shift['full_loss']:.4f}")
    return f"the quantised frozen part, on {counted(shift['samples'], 'sample')}: {'; '.join(parts)}"
