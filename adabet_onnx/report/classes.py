"""Read figures of each class or output before and after a training from run.json, and prepare them for a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..records import Entries
from ..showing import clipped
from ..training.metrics import FIGURES, MOST_IN_MATRIX, MOST_LISTED
from .figures import changes_text

IN_FIGURE = 100  # maximum number of classes for which the confusion matrix is drawn
COUNTED = 30  # maximum number of classes for which its cells have counts
_ROWS = 40  # maximum number of rows of a table; beyond that only the lowest are shown
_LOWEST = 20
_NAME = 48
_FIGURES = FIGURES[:9]  # figures of all classes or outputs together
# For each kind of row: figures shown before and after, figures shown only after, and the figure that ranks rows.
_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "class": (("accuracy",), ("precision", "f1"), "accuracy"),
    "label": (("f1",), ("precision", "recall"), "f1"),
    "number": (("r2", "mae"), ("rmse",), "r2"),
}
_SHOWN = {"f1": "F1", "r2": "R2", "mae": "MAE", "rmse": "RMSE"}
_NOTHING = type(None)


@dataclass(frozen=True)
class Each:
    """A class or output.

    Attributes:
        name: its name, or its index.
        labels: number of its labels; None for numeric outputs.
        before, after: its figures.
    """

    name: str
    labels: int | None
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]


@dataclass(frozen=True)
class Evaluation:
    """Figures beyond loss and accuracy.

    Attributes:
        lines: figures of all together, before and after.
        kind: class, label (if a sample may have several) or number.
        each: figures of every class or output.
        confusion: counts after the training, rows are labels; None if there is none.
        confused: label, predicted and count after the training, the most frequent first.
    """

    lines: list[str]
    kind: str = "class"
    each: list[Each] = field(default_factory=list)
    confusion: list[list[int]] | None = None
    confused: list[tuple[str, str, int]] = field(default_factory=list)


def read_evaluation(record: Entries) -> Evaluation | None:
    """Read an evaluation from run.json; None if it has none, as in earlier releases.

    Raises:
        RecordError: an entry is damaged.
    """
    before, after = record.inside("before"), record.inside("after")
    sides = [{key: side.get_optional(key, None, float, _NOTHING) for key in _FIGURES} for side in (before, after)]
    classes = _rows(after, "per_class")
    rows, old = (
        (classes, _rows(before, "per_class")) if classes else (_rows(after, "per_output"), _rows(before, "per_output"))
    )
    lines = changes_text(*sides)
    if not rows:
        return Evaluation(lines) if lines else None
    if len(old) != len(rows):
        raise record.damaged(f"there are figures of {len(old)} classes or outputs before and of {len(rows)} after")
    kind = "class" if classes else "label" if sides[1]["r2"] is None and sides[1]["mae"] is None else "number"
    both, once, _ = _KINDS[kind]
    each = [
        Each(
            _name(row, "class" if classes else "output"),
            None if kind == "number" else row.take("labels", int),
            {key: first.take(key, float, _NOTHING) for key in both},
            {key: row.take(key, float, _NOTHING) for key in (*both, *once)},
        )
        for first, row in zip(old, rows, strict=True)
    ]
    pairs = [
        (_name(row, "label"), _name(row, "predicted"), row.take("count", int)) for row in _rows(after, "most_confused")
    ]
    return Evaluation(lines, kind, each, _matrix(after, len(each)), pairs)


def _rows(entries: Entries, key: str) -> list[Entries]:
    rows = entries.get_optional(key, None, list, _NOTHING) or []
    if len(rows) > MOST_LISTED:
        raise entries.damaged(f"{key!r} has {len(rows)} rows")
    return [Entries(row, f"run.json, {key!r},", "`adapt`") for row in rows]


def _name(row: Entries, key: str) -> str:
    return str(row.take(key, str, int))


def _matrix(entries: Entries, classes: int) -> list[list[int]] | None:
    matrix = entries.get_optional("confusion_matrix", None, list, _NOTHING)
    if matrix is None:
        return None
    whole = len(matrix) == classes <= MOST_IN_MATRIX and all(
        isinstance(row, list)
        and len(row) == classes
        and all(type(count) is int and 0 <= count < 2**63 for count in row)
        for row in matrix
    )
    if not whole:
        raise entries.damaged("'confusion_matrix' must have a row of counts for each class")
    return list(matrix)


def classes_section(evaluation: Evaluation | None) -> dict[str, Any]:
    """The template variables for the section, except the figure."""
    if evaluation is None:
        return {"figure_lines": [], "each_rows": [], "each_headings": [], "each_text": "", "confused": []}
    both, once, by = _KINDS[evaluation.kind]
    headings = [evaluation.kind if evaluation.kind == "class" else "output"]
    headings += [] if evaluation.kind == "number" else ["labels"]
    headings += [f"{_SHOWN.get(key, key)} {when}" for key in both for when in ("before", "after")]
    headings += [_SHOWN.get(key, key) for key in once]
    shown, text = evaluation.each, ""
    if len(shown) > _ROWS:
        known = [row for row in shown if row.after[by] is not None]
        shown = sorted(known, key=lambda row: row.after[by] or 0.0)[:_LOWEST]
        kinds = "classes" if evaluation.kind == "class" else "outputs"
        text = (
            f"The {len(shown)} of {len(evaluation.each)} {kinds} with the lowest {_SHOWN.get(by, by)} after training."
        )
    counted = evaluation.confusion is not None and len(evaluation.each) <= COUNTED
    return {
        "figure_lines": evaluation.lines,
        "each_headings": headings,
        "each_rows": [_cells(evaluation.kind, row) for row in shown],
        "each_text": text,
        "confused": []
        if counted
        else [
            (clipped(label, _NAME), clipped(guess, _NAME), f"{count:,}") for label, guess, count in evaluation.confused
        ],
    }


def _cells(kind: str, row: Each) -> list[str]:
    both, once, _ = _KINDS[kind]
    cells = [clipped(row.name, _NAME)]
    cells += [] if row.labels is None else [f"{row.labels:,}"]
    cells += [_text(kind, side[key]) for key in both for side in (row.before, row.after)]
    return [*cells, *(_text(kind, row.after[key]) for key in once)]


def _text(kind: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if kind == "number" else f"{value:.1%}"
