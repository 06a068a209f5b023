"""Terminal tables: layers, scores, selections, outcomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..cost.measure import Cost
from ..model.logits import ends_in_probabilities
from ..model.open import Model
from ..pipeline import Outcome
from ..scoring.record import Scores
from ..selection.record import Selection
from ..training.decisions import Decision, decisions
from ..training.verdicts import Check, CheckedLayer, Verdict

_BAR = 16  # characters


def layers_table(model: Model) -> RenderableType:
    """Inputs, logits and layers of a model."""
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
    return Group(*lines, table, *_decided(decisions(model)))


def check_table(check: Check) -> RenderableType:
    """Which layers can be trained, by which backend, after which repairs; and the nodes that stand in the way."""
    able = sum(layer.trainable for layer in check.layers)
    summary = Text(f"{check.model}: {able} of {len(check.layers)} layers can be trained (loss {check.loss})")
    table = Table()
    headings: dict[str, Literal["left", "right"]] = {"layer": "left", "operator": "left", "backend": "left"}
    _columns(table, headings | {"portable": "left", "ort": "left", "repairs": "left"})
    for layer in check.layers:
        table.add_row(
            Text(layer.name),
            layer.op_type,
            layer.backend or "none",
            _yes(layer.portable),
            _yes(layer.ort),
            Text("\n".join(_repairs(layer))),
            style=None if layer.trainable else "bold",
        )
    lines = [
        Text(f"{backend}: no layer can be trained, since {reason}")
        for backend, reason in check.refused.items()
        if reason is not None
    ]
    lines += [
        Text(f"{backend}: what it trains with is not installed")
        for backend, installed in check.installed.items()
        if not installed
    ]
    lines += [Text(f"{obstacle.backend}: {obstacle}") for obstacle in check.obstacles]
    return Group(summary, table, *lines, *_decided(check.decisions))


def _decided(found: Sequence[Decision]) -> list[Text]:
    """What parts of the model were taken for, a line each."""
    return [Text("taken for"), *(Text(f"  {decision}") for decision in found)] if found else []


def _yes(verdict: Verdict) -> str:
    return "yes" if verdict.trainable else "no"


def _repairs(layer: CheckedLayer) -> list[str]:
    """Repairs of both backends, each once, with the backend where it is for one alone."""
    found: dict[str, list[str]] = {}
    for backend, verdict in (("portable", layer.portable), ("ort", layer.ort)):
        for what in verdict.repairs if verdict.trainable else ():
            found.setdefault(what, []).append(backend)
    return [what if len(backends) > 1 else f"{backends[0]}: {what}" for what, backends in found.items()]


def scores_table(scores: Scores, chosen: Sequence[str] = ()) -> RenderableType:
    """Scores of all layers in model order, with bars of b1_hat on a logarithmic scale."""
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
    return Group(table, *(Text(f"note: {note}") for note in scores.notes))


def _log_bars(values: list[float]) -> Callable[[float], str]:
    """A bar from one sign for the lowest positive value to the full width for the highest; none for zero."""
    positive = [value for value in values if value > 0]
    low, high = (math.log(min(positive)), math.log(max(positive))) if positive else (0.0, 1.0)

    def bar(value: float) -> str:
        share = (math.log(value) - low) / ((high - low) or 1) if value > 0 else 0
        return "█" * (1 + round((_BAR - 1) * share)) if value > 0 else ""

    return bar


def selection_text(selection: Selection) -> Text:
    """What was selected, why, and how firm that is."""
    text = Text(f"selected ({selection.why}):\n")
    for name in selection.layers:
        score = (selection.scored or {}).get(name)
        text.append(f"  {name}" + (f"  {score:.2e}" if score is not None else "") + _channels(selection, name) + "\n")
    for name, reason in selection.left_out.items():
        text.append(f"left out, since it cannot be trained: {name} ({reason})\n")
    if selection.firmness is not None:
        text.append(f"the cut: {selection.firmness.sentence()}\n")
    if selection.budget is not None:
        text.append(f"the budget: {selection.budget.sentence()}\n")
    if selection.size_tau is not None and selection.strategy == "adabet":
        text.append(
            f"agreement of this ranking with activation size alone: Kendall tau {selection.size_tau:.2f} "
            "(at 1 the ranking is just activation size)\n"
        )
    text.rstrip()
    return text


def _channels(selection: Selection, name: str) -> str:
    """How much of a selected layer is trained, where that was asked for."""
    if selection.channel_rho is None:
        return ""
    chosen = (selection.channels or {}).get(name)
    return "  whole" if chosen is None else f"  {len(chosen)} channels"


def outcome_text(outcome: Outcome) -> RenderableType:
    """Accuracy before and after, trainable share, and cost."""
    before, after = outcome.before, outcome.after
    lines = [selection_text(outcome.selection), Text("")]
    if before["accuracy"] is not None:
        lines.append(
            Text(f"accuracy  {before['accuracy']:.1%} before, {after['accuracy']:.1%} after ({outcome.evaluated_on})")
        )
    lines.append(Text(f"loss      {before['loss']:.3f} before, {after['loss']:.3f} after"))
    if after["loss"] > before["loss"]:
        lines.append(Text("          the loss rose: try a lower learning rate (--lr)"))
    lines.append(Text(f"trained   {outcome.trainable_share:.1%} of the parameters"))
    if outcome.selection.strategy == "adabet":
        advice = "if the input itself has shifted (noise, light, another sensor), compare --strategy norm-bias and all"
        lines.append(Text(f"hint      {advice}"))
    if outcome.not_measured is not None:
        lines.append(Text(f"not everything was measured: {outcome.not_measured}"))
    if not outcome.costs:
        return Group(*lines)
    return Group(*lines, *_costs(outcome.costs))


def _costs(costs: dict[str, Cost]) -> list[RenderableType]:
    """The costs in a table, under their ratios in a sentence."""
    table = Table()
    for heading in ("one step", "time", "memory"):
        table.add_column(heading, justify="left" if heading == "one step" else "right")
    labels = {"inference": "inference", "selection": "training, selected layers", "all": "training, all layers"}
    for what, label in labels.items():
        if what in costs:
            cost = costs[what]
            table.add_row(label, f"{cost.seconds * 1000:.3g} ms", f"{cost.memory_bytes / 1e6:.3g} MB")
    if set(costs) != set(labels):
        return [table]
    chosen, everything, forward = (costs[what] for what in ("selection", "all", "inference"))
    sentence = (
        f"a step takes {chosen.seconds / everything.seconds:.2f} of the time and "
        f"{chosen.memory_bytes / everything.memory_bytes:.2f} of the memory of training all layers "
        f"({chosen.seconds / forward.seconds:.1f} and {chosen.memory_bytes / forward.memory_bytes:.1f} times inference)"
    )
    return [Text(sentence), table]


def _columns(table: Table, headings: dict[str, Literal["left", "right"]]) -> None:
    for heading, justify in headings.items():
        table.add_column(heading, justify=justify, overflow="fold")


def _short(parameter: str, layer: str) -> str:
    return parameter[len(layer) + 1 :] if parameter.startswith((f"{layer}.", f"{layer}/")) else parameter
