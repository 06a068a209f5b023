"""Read what `adapt` wrote to a folder: selection, figures, learning curve and manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..file_names import ARTIFACTS, RUN, SELECTION
from ..records import Entries, finite
from ..selection.record import load_selection
from ..training.history import METRICS
from ..training.manifest import FILE as MANIFEST
from ..training.manifest import load_manifest
from .classes import read_evaluation
from .inputs import AdaptedRun, Curve, RunFigures

MOST_SAMPLES = 10**6  # maximum plausible number of samples


def read_adapted(place: Path) -> AdaptedRun:
    """Read the results of `adapt` from a folder.

    Raises:
        RecordError: a file is damaged.
    """
    figures = None
    if (place / RUN).is_file():
        try:
            content = json.loads((place / RUN).read_text(encoding="utf-8"), parse_constant=finite, parse_float=finite)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{place / RUN} is not valid JSON ({error}). Run again.") from error
        figures = _figures(Entries(content, str(place / RUN), "`adapt`"))
    manifest = None
    if (place / ARTIFACTS / MANIFEST).is_file():
        manifest = load_manifest(place / ARTIFACTS, verify=False)
    return AdaptedRun(load_selection(place / SELECTION), figures, _metrics(place / METRICS), manifest)


def _measured_frozen(cost: Entries) -> dict[str, tuple[int, float]]:
    """The measured frozen pass and step after it; empty if nothing was frozen."""
    before, after = (cost.get_optional(key, 0, int) for key in ("frozen_bytes", "tail_bytes"))
    seconds = float(cost.get_optional("frozen_seconds", 0.0, float))
    if before == after == seconds == 0:
        return {}
    if min(before, after, seconds) <= 0:
        raise cost.damaged("'frozen_bytes', 'frozen_seconds' and 'tail_bytes' must all be above 0, or all 0")
    return {"frozen": (before, seconds), "selection": (after, float(cost.take("seconds", float)))}


def _figures(record: Entries) -> RunFigures:
    measured = {}
    for name in record.take("costs", dict):
        cost = record.inside("costs").inside(name)
        measured[str(name)] = int(cost.take("memory_bytes", int)), float(cost.take("seconds", float))
        if min(measured[str(name)]) <= 0:
            raise record.damaged(f"the costs of {name!r} must be above 0")
        if name == "selection":
            measured |= _measured_frozen(cost)
    nothing = type(None)
    batch_size = record.get_optional("batch_size", 32, int)
    if not 1 <= batch_size <= MOST_SAMPLES:
        raise record.damaged(f"'batch_size' must be 1 to {MOST_SAMPLES}, found {batch_size}")
    return RunFigures(
        before=record.inside("before").take("accuracy", float, nothing),
        after=record.inside("after").take("accuracy", float, nothing),
        evaluated_on=str(record.take("evaluated_on", str)),
        trainable_share=float(record.take("trainable_share", float)),
        measured=measured,
        command=record.get_optional("command", None, str, nothing),
        batch_size=batch_size,
        model_file=record.get_optional("model_file", None, str, nothing),
        samples=_count(record, "samples"),
        epochs=_count(record, "epochs"),
        kept_views=_count(record, "kept_views"),
        evaluation=read_evaluation(record),
    )


def _count(record: Entries, name: str) -> int:
    count = record.get_optional(name, 0, int)
    if not 0 <= count <= MOST_SAMPLES:
        raise record.damaged(f"{name!r} must be 0 to {MOST_SAMPLES}, found {count}")
    return int(count)


def _metrics(path: Path) -> Curve | None:
    if not path.is_file():
        return None
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = [json.loads(line, parse_constant=finite, parse_float=finite) for line in lines]
        return curve_of("the selection", rows)
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise RecordError(f"{path} is damaged ({error}). Train again.") from error


def curve_of(name: str, rows: list[dict[str, Any]], evaluated: list[dict[str, Any]] | None = None) -> Curve:
    """Make a learning curve from the rows of a training, with evaluations from another training if given."""

    def column(of_rows: list[dict[str, Any]], key: str) -> tuple[float | None, ...]:
        return tuple(None if row.get(key) is None else float(row[key]) for row in of_rows)

    other = rows if evaluated is None else evaluated
    return Curve(name, column(rows, "train_loss"), column(other, "eval_loss"), column(other, "eval_accuracy"))
