"""How far the frozen part in int8 moves what a model says, against the same in float32."""

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
from ..model.trial import random_feeds
from ..showing import counted
from .evaluation import evaluate, trained_choices
from .export import adapted_proto
from .logits import logits_session
from .manifest import Manifest, load_manifest

_RANDOM = 64  # samples, where none are given


def moved(manifest: Manifest, batches: Iterable[Mapping[str, np.ndarray]] | None) -> dict[str, Any] | None:
    """Compare the model of an artifact folder with the same in float32; None where they are one.

    Args:
        manifest: of the folder.
        batches: of samples, by the names of the model's inputs; None: random numbers in the range of the inputs.

    Returns:
        ``samples``, ``random`` (whether they are), and of their logits ``largest`` and ``mean`` (differences, relative
        to the largest of float32) and ``same_class`` (the share of samples whose largest logit is the same; null where
        there are no classes).
    """
    if manifest.float_file is None:
        return None
    name = manifest.model_logits
    graph = manifest.model()
    given = batches if batches is not None else [random_feeds(graph, input_ranges(graph), _RANDOM) or {}]
    found = differences(graph, manifest.model(full_precision=True), name, given, manifest.class_axis)
    return {**found, "random": batches is None}


def differences(
    quantised: ir.Model, plain: ir.Model, logits: str, batches: Iterable[Mapping[str, np.ndarray]], axis: int | None
) -> dict[str, Any]:
    """The same of two graphs.

    Args:
        quantised: one of them.
        plain: the other.
        logits: their name in both.
        batches: of samples.
        axis: of the classes in the logits; None: there are none.
    """
    sessions = [logits_session(graph, logits, "the model") for graph in (quantised, plain)]
    taken = [{value.name for value in session.get_inputs()} for session in sessions]
    found: list[list[np.ndarray]] = [[], []]
    for batch in batches:
        for session, names, parts in zip(sessions, taken, found, strict=True):
            given = {name: array for name, array in batch.items() if name in names}
            parts.append(np.asarray(runtime.run_session(session, None, given, "the model")[0]))
    first, second = (np.concatenate(parts) for parts in found)
    apart, largest = np.abs(first - second), max(float(np.abs(second).max(initial=0.0)), 1e-12)
    same = None if axis is None else float((first.argmax(axis) == second.argmax(axis)).mean())
    return {
        "samples": len(first),
        "largest": float(apart.max(initial=0.0)) / largest,
        "mean": float(apart.mean()) / largest,
        "same_class": same,
    }


def precision_notes(found: Mapping[str, Any] | None, precision: str) -> list[str]:
    """The same for people.

    Args:
        found: what `moved` gave.
        precision: that was asked for.
    """
    if found is None:
        return ["nothing is frozen, so that nothing is in int8"]
    how = "is in int8" if precision == "int8" else "keeps the file's quantised numbers"
    samples = counted(found["samples"], "sample") + " of random numbers" * found["random"]
    same = "" if found["same_class"] is None else f"; {found['same_class']:.1%} keep their class"
    return [
        f"the frozen part {how}: against float32, the logits of {samples} move by {found['mean']:.1%} of the largest "
        f"on average, {found['largest']:.1%} at most{same}"
    ]


def compare_precisions(folder: str | os.PathLike[str], data: Any) -> dict[str, Any] | None:
    """Logits and accuracy of an artifact folder's trained state, and of the same in float32; None where they are one.

    Args:
        folder: the artifact folder.
        data: labelled data in any form that `Data` describes: its test part, or all where it has none.

    Returns:
        What `moved` gives, and ``loss``, ``accuracy``, ``full_loss`` and ``full_accuracy``.

    Raises:
        DataError: no labels, or data that does not fit.
        RecordError: it is no artifact folder.
    """
    manifest = load_manifest(Path(folder))
    if manifest.float_file is None:
        return None
    protos = adapted_proto(manifest), adapted_proto(manifest, full_precision=True)
    plain = open_model(protos[1])
    held = open_data(data, plain).for_evaluation
    used = arithmetic_for(plain, integer_data(plain, held), None, stored=manifest.preprocessing)
    feeder, rows = Feeder(plain, used), np.arange(len(held))
    batches = (feeder.feeds(held, rows[start : start + _RANDOM]) for start in range(0, len(rows), _RANDOM))
    graphs = [ir.from_proto(proto) for proto in protos]
    found = differences(graphs[0], graphs[1], manifest.model_logits, batches, manifest.class_axis)
    how: dict[str, Any] = {"preprocessing": used, "choices": trained_choices(folder)}
    own, full = evaluate(folder, held, **how), evaluate(plain, held, **how)
    figures = {"loss": own["loss"], "accuracy": own["accuracy"]}
    return {**found, "random": False, **figures, "full_loss": full["loss"], "full_accuracy": full["accuracy"]}


def precision_text(found: Mapping[str, Any]) -> str:
    """What `compare_precisions` found, in a line."""
    said = [f"logits move by {found['mean']:.1%} of the largest on average, {found['largest']:.1%} at most"]
    if found["accuracy"] is not None:
        said.append(f"accuracy {found['accuracy']:.1%}, in float32 {found['full_accuracy']:.1%}")
    said.append(f"loss {found['loss']:.4f}, in float32 {found['full_loss']:.4f}")
    return f"the quantised frozen part, on {counted(found['samples'], 'sample')}: {'; '.join(said)}"
