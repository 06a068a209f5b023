"""How far the frozen part in int8 moves what a model says, against the same in float32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from .. import runtime
from ..model.passes.dequantise import input_ranges
from ..model.trial import random_feeds
from ..showing import counted
from .logits import logits_session
from .manifest import Manifest

_RANDOM = 64  # samples, where none are given


def moved(manifest: Manifest, batches: Iterable[Mapping[str, np.ndarray]] | None) -> dict[str, Any] | None:
    """Compare the model of an artifact folder with the same in float32; None where they are one.

    Args:
        manifest: of the folder.
        batches: of samples, by the names of the model's inputs; None: random numbers in the range of the inputs.

    Returns:
        ``samples``, ``random`` (whether they are), and of their logits ``largest`` and ``mean`` (differences, relative to the largest of float32) and
        ``same_class`` (the share of samples whose largest logit is the same; null where there are no classes).
    """
    if manifest.float_file is None:
        return None
    name = str(manifest.content["model_logits"])
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
