"""How far the frozen part in int8 moves what a model says, against the same in float32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from .. import runtime
from ..showing import counted
from .logits import logits_session
from .manifest import Manifest


def moved(manifest: Manifest, batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Any] | None:
    """Compare the model of an artifact folder with the same in float32; None where they are one.

    Args:
        manifest: of the folder.
        batches: of samples, by the names of the model's inputs.

    Returns:
        ``samples``, and of their logits ``largest`` and ``mean`` (differences, relative to the largest of float32) and
        ``same_class`` (the share of samples whose largest logit is the same; null where there are no classes).
    """
    if manifest.float_file is None:
        return None
    name = str(manifest.content["model_logits"])
    return differences(manifest.model(), manifest.model(full_precision=True), name, batches, manifest.class_axis)


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


def precision_notes(found: Mapping[str, Any] | None) -> list[str]:
    """The same for people."""
    if found is None:
        return ["nothing is frozen, so that nothing is in int8"]
    same = "" if found["same_class"] is None else f"; {found['same_class']:.1%} keep their class"
    return [
        f"the frozen part is in int8, measured on {counted(found['samples'], 'sample')}: their logits move by "
        f"{found['mean']:.1%} of the largest, {found['largest']:.1%} at most{same}"
    ]
