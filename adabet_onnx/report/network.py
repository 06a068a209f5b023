"""The section of a report that shows the network layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..scoring.record import Scores
from ..selection.auto import SHIFTED
from ..sizes import size_text
from .inputs import ReportInputs

_BAR = 4.5  # width of the widest bar, in em


def network_section(inputs: ReportInputs) -> dict[str, Any]:
    """The template variables for the section."""
    scores = inputs.scores
    if scores is None:
        shown = ("has_scores", "has_shift", "has_rank", "has_reach")
        return {"layers": [], "network_text": "", **dict.fromkeys(shown, False)}
    chosen, chosen_by = _chosen(inputs)
    return {
        "layers": _rows(inputs, scores, chosen),
        "has_scores": any(scores.samples) or bool(inputs.votes),
        "has_shift": _has_shift(scores),
        "has_rank": _has_rank(scores),
        "has_reach": bool(inputs.reach),
        "network_text": _text(inputs, scores, chosen_by if chosen else ""),
    }


def _has_shift(scores: Scores) -> bool:
    return any(layer.shift is not None for layer in scores.layers)


def _has_rank(scores: Scores) -> bool:
    return any(layer.effective_rank is not None for layer in scores.layers)


def _rows(inputs: ReportInputs, scores: Scores, chosen: frozenset[str]) -> list[dict[str, Any]]:
    """A row for each layer."""
    b1 = _log_bar([layer.b1_hat for layer in scores.layers])
    size = _log_bar([float(layer.activation_size) for layer in scores.layers])
    shift = linear_bar([layer.shift for layer in scores.layers])
    reach = linear_bar(inputs.reach.values())
    return [
        {
            "name": layer.name,
            "op_type": layer.op_type,
            "chosen": layer.name in chosen,
            "b1": f"{layer.b1_hat:.1e}",
            "b1_bar": b1(layer.b1_hat),
            "size": f"{layer.activation_size:,}",
            "size_bar": size(layer.activation_size),
            "shift": "" if layer.shift is None else f"{layer.shift:.2g}",
            "shift_bar": shift(layer.shift),
            "shifted": layer.shift is not None and layer.shift > SHIFTED,
            "dead": "" if layer.dead is None else f"{layer.dead:.0%}",
            "rank": "" if layer.effective_rank is None else f"{layer.effective_rank:.1f}",
            "reach": size_text(inputs.reach[layer.name]) if layer.name in inputs.reach else "",
            "reach_bar": reach(inputs.reach.get(layer.name)),
            "parameters": f"{layer.parameter_count:,}",
        }
        for layer in scores.layers
    ]


def _text(inputs: ReportInputs, scores: Scores, chosen_by: str) -> str:
    """An explanation of the columns."""
    samples = sum(map(len, scores.samples))
    text = "From the input down to the output. "
    if samples:
        text += f"b1_hat and D have logarithmic bars; {samples} samples, estimator {scores.estimator}."
    elif inputs.votes:
        text += "b1_hat and D have logarithmic bars. b1_hat and shift are means over the clients that voted."
    else:
        text += "D has logarithmic bars. Layers were not scored."
    if _has_shift(scores):
        text += (
            " Shift is the divergence of a batch's statistics from those stored in the layer (Kullback-Leibler "
            f"divergence, median over channels; red above {SHIFTED}); dead is the share of channels that are constant "
            "on this data."
        )
    if _has_rank(scores):
        text += " Directions is the number of directions in which the samples differ."
    if chosen_by:
        text += f" Marked: selected by {chosen_by}."
    if inputs.reach:
        text += f" Memory is that of a step at batch {inputs.batch_size} that trains only this layer and the head."
        if inputs.model is not None and len(inputs.reach) < len(inputs.model.layers):
            text += f" It was predicted for {len(inputs.reach)} of {len(inputs.model.layers)} layers."
    return text


def _chosen(inputs: ReportInputs) -> tuple[frozenset[str], str]:
    """The layers to mark and the strategy: the trained ones, else those of the best strategy's first run."""
    if inputs.run is not None:
        return frozenset(inputs.run.selection.layers), inputs.run.selection.strategy
    best = next((row.setting for row in inputs.summaries if row.best), None)
    if inputs.compared is None or best is None:
        return frozenset(), ""
    first = next(row for row in inputs.compared.results if row.setting == best)
    return frozenset(first.layers), str(best)


def _log_bar(values: Sequence[float]) -> Callable[[float], str]:
    """A function for bar widths in em, logarithmic from the lowest positive value to the highest."""
    positive = [math.log(value) for value in values if value > 0]
    low, span = (min(positive), (max(positive) - min(positive)) or 1.0) if positive else (0.0, 1.0)
    return lambda value: f"{_BAR * (0.06 + 0.94 * (math.log(value) - low) / span):.2f}" if value > 0 else "0"


def linear_bar(values: Iterable[float | None]) -> Callable[[float | None], str]:
    """A function for bar widths in em, linear from zero to the highest value."""
    highest = max((value for value in values if value is not None), default=0.0) or 1.0
    return lambda value: "0" if value is None else f"{_BAR * max(0.0, value) / highest:.2f}"
