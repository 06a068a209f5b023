"""Terminal tables of layers, checks, scores and selections."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..model.logits import ends_in_probabilities
from ..model.open import Model
from ..scoring.record import Scores
from ..selection.record import Selection
from ..showing import counted, listed
from ..trainability.decisions import Decision, decisions
from ..trainability.verdicts import Check, CheckedLayer, Obstacle, Verdict
from .grouping import by_reason, in_common, without_numbers

_RUNTIMES = {"portable": "onnxruntime", "ort": "onnxruntime-training"}
_BAR = 16  # characters
_MOST_BEST = 5
_COUNT = re.compile(r" \((\d+) nodes\)$")  # the number of nodes in a repair, which differs between layers


def layers_table(model: Model) -> RenderableType:
    """A table of a model's layers, with its inputs and logits."""
    others = model.weight_count - model.parameter_count
    more = f", {others:,} more in no layer" if others else ""
    table = Table(title=f"{model.name}: {len(model.layers)} layers, {model.parameter_count:,} parameters{more}")
    _columns(
        table,
        {
            "": "right",
            "layer": "left",
            "operator": "left",
            "parameters": "left",
            "count": "right",
            "activation": "right",
        },
    )
    head = model.head
    for index, layer in enumerate(model.layers):
        mark = " (head)" if head is not None and layer.name == head.name else ""
        mark += f" (applied {layer.applied} times)" * (layer.applied > 1)
        table.add_row(
            str(index),
            Text(layer.name + mark),
            layer.op_type,
            Text(", ".join(_short(parameter.name, layer.name) for parameter in layer.parameters)),
            f"{layer.parameter_count:,}",
            "x".join(map(str, layer.activation_shape or ())),
        )
    lines = [Text(f"input   {spec.name}  {spec.dtype}  ({', '.join(map(str, spec.shape))})") for spec in model.inputs]
    lines.append(Text(f"logits  {model.logits}" + ("  (new, untrained head)" if model.new_head else "")))
    if ends_in_probabilities(model.graph, model.logits):
        lines.append(
            Text(f"output  {', '.join(value.name or '' for value in model.graph.graph.outputs)}, made from the logits")
        )
    lines += [Text(f"note    {note}") for note in model.notes]
    return Group(table, *lines, *_decided(decisions(model)))


def check_table(check: Check) -> RenderableType:
    """A table of which layers each backend can train, with repairs, obstacles and a summary."""
    trainable = sum(layer.trainable for layer in check.layers)
    table = Table()
    headings: dict[str, Literal["left", "right"]] = {"layer": "left", "operator": "left", "backend": "left"}
    _columns(table, headings | {"portable": "left", "ort": "left"})
    for layer in check.layers:
        table.add_row(
            Text(layer.name),
            layer.op_type,
            layer.backend or "none",
            _yes(layer.portable),
            _yes(layer.ort),
            style=None if layer.trainable else "bold",
        )
    lines = [
        Text(f"{backend}: no layer can be trained, since {reason}")
        for backend, reason in check.refused.items()
        if reason is not None
    ]
    lines += [
        Text(f"{backend}: {_RUNTIMES[backend]} is not installed here; the column says what it could train")
        for backend, installed in check.installed.items()
        if not installed
    ]
    lines += [Text(line) for line in _obstacles(check.obstacles)]
    summary = Text(f"{check.model}: {trainable} of {len(check.layers)} layers can be trained (loss {check.loss})")
    return Group(table, *_repairs(check.layers), *_decided(check.decisions), *lines, summary)


def _obstacles(obstacles: Sequence[Obstacle]) -> list[str]:
    """A line for each obstacle, or for all nodes with the same reason."""
    groups: dict[tuple[str, str, str], list[Obstacle]] = {}
    for obstacle in obstacles:
        groups.setdefault((obstacle.backend, obstacle.op_type, obstacle.reason), []).append(obstacle)
    lines = []
    for same in groups.values():
        first = same[0]
        nodes = listed([repr(obstacle.node) for obstacle in same])
        many = f"nodes {nodes} ({first.op_type}): each {first.reason}. {first.remedy}"
        lines.append(f"{first.backend}: {first if len(same) == 1 else many}")
    return lines


def _decided(made: Sequence[Decision]) -> list[Text]:
    """How parts of the model are interpreted: a line each, or one for all of a kind with the same reason."""
    groups: dict[tuple[str, str], list[Decision]] = {}
    for decision in made:
        groups.setdefault((decision.about, without_numbers(decision.because)), []).append(decision)
    lines = [str(same[0]) if len(same) == 1 else _alike(same) for same in groups.values()]
    return [Text("interpreted as"), *(Text(f"  {line}") for line in lines)] if lines else []


def _alike(same: Sequence[Decision]) -> str:
    names = listed([decision.taken_for for decision in same])
    return f"{same[0].about}: {names} (each: {in_common([decision.because for decision in same])})"


def _yes(verdict: Verdict) -> str:
    return "yes" if verdict.trainable else "no"


def _repairs(layers: Sequence[CheckedLayer]) -> list[Text]:
    """Rewrites of nodes between layers and the loss: a line each, with these layers and, if only one, the backend."""
    nodes_by_repair: dict[str, dict[str, dict[str, int]]] = {}
    for layer in layers:
        for backend, verdict in (("portable", layer.portable), ("ort", layer.ort)):
            for repair in verdict.repairs if verdict.trainable else ():
                nodes = nodes_by_repair.setdefault(_COUNT.sub("", repair), {}).setdefault(backend, {})
                nodes[layer.name] = int(count[1]) if (count := _COUNT.search(repair)) else 1
    lines = []
    for repair, backends in nodes_by_repair.items():
        prefix = "" if len(backends) > 1 else f"{next(iter(backends))}: "
        counts = [count for own in backends.values() for count in own.values()]
        number = ("" if min(counts) == max(counts) else "up to ") + counted(max(counts), "node")
        names = list(dict.fromkeys(name for own in backends.values() for name in own))
        behind = f"between the loss and {counted(len(names), 'layer')} ({listed(names)})"
        lines.append(Text(f"  {prefix}{repair}: {number} {behind}"))
    return [Text("repairs"), *lines] if lines else []


def scores_table(scores: Scores, chosen: Sequence[str] = ()) -> RenderableType:
    """A table of the scores of all layers in model order, with bars of b1_hat on a logarithmic scale."""
    count = sum(map(len, scores.samples))
    table = Table(title=f"b1_hat of {len(scores.layers)} layers ({scores.estimator}, {count} samples)")
    _columns(
        table,
        {
            "rank": "right",
            "layer": "left",
            "operator": "left",
            "D": "right",
            "b1": "right",
            "b1_hat": "right",
            "": "left",
        },
    )
    bar = _log_bars([layer.b1_hat for layer in scores.layers])
    for layer in scores.layers:
        table.add_row(
            str(layer.rank),
            Text(layer.name),
            layer.op_type,
            f"{layer.activation_size:,}",
            f"{layer.b1_mean:.2f}",
            f"{layer.b1_hat:.2e} ± {layer.stderr:.0e}",
            Text(bar(layer.b1_hat)),
            style="bold" if layer.name in chosen else None,
        )
    best = sorted(scores.layers, key=lambda layer: layer.rank)[:_MOST_BEST]
    highest = Text(f"the highest b1_hat: {', '.join(f'{layer.name} {layer.b1_hat:.2e}' for layer in best)}")
    return Group(table, *(Text(f"note: {note}") for note in scores.notes), highest)


def _log_bars(values: list[float]) -> Callable[[float], str]:
    """Make bars from one character for the lowest positive value to the full width for the highest; none for zero."""
    positive = [value for value in values if value > 0]
    low, high = (math.log(min(positive)), math.log(max(positive))) if positive else (0.0, 1.0)

    def bar(value: float) -> str:
        share = (math.log(value) - low) / ((high - low) or 1) if value > 0 else 0
        return "█" * (1 + round((_BAR - 1) * share)) if value > 0 else ""

    return bar


def selection_text(selection: Selection) -> Text:
    """The selected layers, the reason, and how reliable the choice is."""
    text = Text(f"selected ({selection.why}):\n")
    for name in selection.layers:
        score = (selection.scored or {}).get(name)
        text.append(f"  {name}" + (f"  {score:.2e}" if score is not None else "") + _channels(selection, name) + "\n")
    for reason, names in by_reason(selection.left_out).items():
        layers = counted(len(names), "layer")
        text.append(f"left out, since no backend can train {'it' if len(names) == 1 else 'them'}: {layers} ")
        text.append(f"({listed(names)}): {reason}\n")
    if selection.firmness is not None:
        text.append(f"cut-off: {selection.firmness.sentence()}\n")
    if selection.budget is not None:
        whose = "budget" if selection.budget.auto_limit is None else "auto's own budget"
        text.append(f"{whose}: {selection.budget.sentence()}\n")
    if selection.size_tau is not None and selection.strategy == "adabet":
        text.append(
            f"agreement of this ranking with activation size alone: Kendall tau {selection.size_tau:.2f} "
            "(at 1 the ranking is just activation size)\n"
        )
    text.rstrip()
    return text


def _channels(selection: Selection, name: str) -> str:
    """How much of a selected layer is trained, if channels were selected."""
    if selection.channel_rho is None:
        return ""
    chosen = (selection.channels or {}).get(name)
    return "  whole" if chosen is None else f"  {len(chosen)} channels"


def _columns(table: Table, headings: dict[str, Literal["left", "right"]]) -> None:
    for heading, justify in headings.items():
        table.add_column(heading, justify=justify, overflow="fold")


def _short(parameter: str, layer: str) -> str:
    return parameter[len(layer) + 1 :] if parameter.startswith((f"{layer}.", f"{layer}/")) else parameter
