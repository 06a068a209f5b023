"""The figures of an evaluation as text and as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

_SHARES = {  # the figures that are shown in one line, with their labels
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "F1 (macro)",
    "f1_micro": "F1 (micro)",
    "top5_accuracy": "top-5 accuracy",
    "mean_iou": "mean IoU",
    "exact_match": "all labels right",
}
_NUMBERS = {"r2": "R2", "mae": "MAE", "rmse": "RMSE"}
_HEADINGS = _NUMBERS | {"f1": "F1", "iou": "IoU"}


def figures_text(result: Mapping[str, Any]) -> str:
    """The figures other than loss and accuracy in one line; empty if there are none."""
    return ", ".join(f"{name} {_text(key, result[key])}" for key, name in _available(result))


def changes_text(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The same figures before and after a training, one per line."""
    each = ((name, _text(key, before.get(key)), _text(key, after[key])) for key, name in _available(after))
    return [f"{name} {old} before, {new} after" for name, old, new in each]


def each_table(result: Mapping[str, Any]) -> Table | None:
    """A table of the figures of each class or output; None if there are none."""
    rows = result["per_class"] or result["per_output"]
    if not rows:
        return None
    table = Table()
    keys = [
        key for key in rows[0] if not (key == "recall" and "class" in rows[0])
    ]  # for a class, recall equals accuracy
    for key in keys:
        table.add_column(_HEADINGS.get(key, key), justify=_side(key), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(key, row[key])) for key in keys))
    return table


def _side(key: str) -> Any:
    return "left" if key in ("class", "output") else "right"


def _available(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, name) for key, name in (_SHARES | _NUMBERS).items() if result.get(key) is not None]


def _text(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if key in _SHARES else f"{value:.4g}"


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if key in _NUMBERS else f"{value:.1%}"
    return f"{value:,}" if key in ("labels", "predicted") else str(value)
