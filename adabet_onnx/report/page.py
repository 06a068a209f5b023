"""The report: one page that holds everything it shows, to open in any browser, with no other file and no request."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..cost.overview import EPOCHS, SAMPLES
from ..cost.predict import Prediction
from ..cost.words import frozen_sentences
from ..files import write_bytes
from ..options import typed
from ..progress import Progress
from ..scoring.record import Scores
from ..selection.auto import SHIFTED
from ..selection.explanation import size_agreement
from ..showing import counted
from ..sizes import size_text
from ..study.drawing import clusters_sentence
from ..study.results import Summary, ranked, summarise, ties_sentence
from ..version import __version__
from . import inline
from .classes import IN_FIGURE, classes_section
from .comparison import HEADINGS, cells
from .gather import gather
from .material import Material
from .predicted import find_model, predict_costs
from .provenance import records

_MANY = 40  # classes of which the confusion matrix has the page's whole width
_BAR = 4.5  # em, of the widest bar


@typed
def write_report(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    costs: bool = True,
    progress: Progress | None = None,
) -> list[str]:
    """Write a page about what a folder holds.

    Args:
        folder: written by `run`, `compare` or both, with a stability.json where there is one.
        output: the HTML file.
        model: the model that was scored, where it is not found by its path.
        costs: predict what training each layer takes.
        progress: called with what is going on, steps done and steps in all.

    Returns:
        What is missing on the page, and how to get it.

    Raises:
        UsageError: there is nothing to show, or the model is another one.
        RecordError: a file is damaged.
        OutputError: the page cannot be written.

    Example:
        >>> from adabet_onnx import Plan, compare, write_report
        >>> plan = Plan(strategies=("head", "last"), seeds=1, epochs=1, rates=(0.01,))
        >>> found = compare("model.onnx", "new_domain.npz", "compared", plan)
        >>> notes = write_report("compared", "report.html", costs=False)
    """
    found = gather(Path(folder))
    if costs or found.scores is None:
        find_model(found, None if model is None else Path(model))
    if costs:
        predict_costs(found, progress)
    write_bytes(output, page(found).encode())
    return found.notes


def page(found: Material) -> str:
    """The page's HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("adabet_onnx.report"),
        autoescape=True,  # names of layers and files are anybody's
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    context: dict[str, Any] = {"version": __version__, "commands": found.commands, "notes": found.notes}
    context |= {"title": _title(found), "lead": _lead(found), "facts": _facts(found)}
    context |= _network(found) | _firmness(found) | _costs(found) | _compared(found) | _curves(found)
    context |= _classes(found) | _fleet(found)
    context["records"] = records(found)
    for name in ("confusion_figure", "stability_figure", "memory_figure", "curves_figure", "fleet_figure"):
        context[name] = Markup(context[name])  # our own SVG, in which matplotlib has escaped every text
    return environment.get_template("page.html.j2").render(context)


def _title(found: Material) -> str:
    name = found.model_file
    return f"Which layers of {Path(name).name if name else 'the model'} to retrain"


def _lead(found: Material) -> list[str]:
    lines = []
    if found.run is not None:
        selection = found.run.selection
        lines.append(f"Selected by {selection.strategy}: {selection.why}.")
        if selection.budget is not None:
            lines.append(f"The budget, {selection.budget.sentence()}.")
    if found.compared is not None:
        lines.append(_sentence(ties_sentence(_summaries(found))))
    return lines


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _able(scores: Scores) -> str:
    """What "all layers" means where some cannot be trained."""
    count = sum(layer.untrainable is None for layer in scores.layers)
    return "" if count == len(scores.layers) else f" that can be trained ({count} of {len(scores.layers)})"


def _facts(found: Material) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if found.run is not None:
        selection = found.run.selection
        total = "" if found.scores is None else f" of {len(found.scores.layers)}"
        facts.append((f"{len(selection.layers)}{total}", "layers are trained"))
        figures = found.run.figures
        if figures is not None:
            if figures.after is not None:
                before = "" if figures.before is None else f"{figures.before:.1%} → "
                facts.append((f"{before}{figures.after:.1%}", f"accuracy on {figures.evaluated_on}"))
            facts.append((f"{figures.trainable_share:.1%}", "of the parameters"))
            if {"selection", "all"} <= figures.measured.keys():
                one, everything = figures.measured["selection"], figures.measured["all"]
                able = "" if found.scores is None else _able(found.scores)
                facts.append((f"{one[0] / everything[0]:.2f}x", f"step memory of training all layers{able}, measured"))
                facts.append((f"{one[1] / everything[1]:.2f}x", "step time, likewise"))
    elif found.compared is not None:
        best = next((row for row in _summaries(found) if row.best), None)
        if best is not None:
            facts.append((str(best.setting), "has the highest mean"))
            facts.append((f"{best.mean:.1%} ± {100 * best.deviation:.1f}", "its test accuracy, deviation over seeds"))
            facts.append((size_text(best.step_memory_bytes), "its step memory"))
            facts.append((size_text(best.update_bytes), "its update"))
    return facts


def _network(found: Material) -> dict[str, Any]:
    scores = found.scores
    if scores is None:
        shown = ("has_scores", "has_shift", "has_rank", "has_reach")
        return {"layers": [], "network_text": "", **dict.fromkeys(shown, False)}
    chosen, chosen_by = _chosen(found)
    b1, size = (
        _log_bar([value(layer) for layer in scores.layers])
        for value in (lambda layer: layer.b1_hat, lambda layer: float(layer.activation_size))
    )
    shift = _linear_bar([layer.shift for layer in scores.layers])
    reach = _linear_bar(found.reach.values())
    rows = [
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
            "reach": size_text(found.reach[layer.name]) if layer.name in found.reach else "",
            "reach_bar": reach(found.reach.get(layer.name)),
            "parameters": f"{layer.parameter_count:,}",
        }
        for layer in scores.layers
    ]
    has_shift = any(layer.shift is not None for layer in scores.layers)
    samples = sum(map(len, scores.samples))
    text = "From the input down to the output. " + (
        f"b1_hat and D have logarithmic bars; {samples} samples, estimator {scores.estimator}."
        if samples
        else "D has logarithmic bars. Layers were not scored."
    )
    if has_shift:
        text += (
            " Shift is how far a batch's statistics lie from those stored in the layer (Kullback-Leibler divergence, "
            f"median over channels; red above {SHIFTED}); dead is the share of channels that say nothing on this data."
        )
    if any(layer.effective_rank is not None for layer in scores.layers):
        text += " Directions is in how many the samples differ."
    if chosen:
        text += f" Marked: selected by {chosen_by}."
    if found.reach:
        text += f" Memory is that of a step at batch {found.batch_size} when the layer is trained alone, with the head."
        if found.model is not None and len(found.reach) < len(found.model.layers):
            text += f" It was predicted for {len(found.reach)} of {len(found.model.layers)} layers."
    return {
        "layers": rows,
        "has_scores": bool(samples),
        "has_shift": has_shift,
        "has_rank": any(layer.effective_rank is not None for layer in scores.layers),
        "has_reach": bool(found.reach),
        "network_text": text,
    }


def _chosen(found: Material) -> tuple[frozenset[str], str]:
    """Layers to mark, and what they were selected by: what was trained, else what the best strategy trained first."""
    if found.run is not None:
        return frozenset(found.run.selection.layers), found.run.selection.strategy
    best = next((row.setting for row in _summaries(found) if row.best), None)
    if found.compared is None or best is None:
        return frozenset(), ""
    first = next(row for row in found.compared.results if row.setting == best)
    return frozenset(first.layers), str(best)


def _log_bar(values: Sequence[float]) -> Callable[[float], str]:
    """Width in em, from the lowest positive value to the highest."""
    positive = [math.log(value) for value in values if value > 0]
    low, span = (min(positive), (max(positive) - min(positive)) or 1.0) if positive else (0.0, 1.0)
    return lambda value: f"{_BAR * (0.06 + 0.94 * (math.log(value) - low) / span):.2f}" if value > 0 else "0"


def _linear_bar(values: Iterable[float | None]) -> Callable[[float | None], str]:
    highest = max((value for value in values if value is not None), default=0.0) or 1.0
    return lambda value: "0" if value is None else f"{_BAR * max(0.0, value) / highest:.2f}"


def _firmness(found: Material) -> dict[str, Any]:
    lines = []
    if found.run is not None and found.run.selection.firmness is not None:
        lines.append(f"The cut: {found.run.selection.firmness.sentence()}.")
    tau = None if found.scores is None else size_agreement(found.scores.layers)
    if tau is not None:
        lines.append(
            f"The ranking by b1_hat agrees with that by activation size alone to a Kendall tau of {tau:.2f} (at 1 it "
            "is just activation size)."
        )
    figure, caption = "", ""
    if found.stability is not None:
        lines += [_sentence(found.stability.sentence()), *found.stability.notes]
        if found.stability.clusters is not None:
            lines.append(_sentence(clusters_sentence(found.stability.clusters)))
        figure = inline.agreement(found.stability)
        caption = (
            "Agreement of rankings by disjoint groups of samples: Kendall's tau with its deviation, and dashed the "
            f"share of the top {found.stability.top} layers in common."
        )
    return {"firmness": lines, "stability_figure": figure, "stability_caption": caption}


def _fleet(found: Material) -> dict[str, Any]:
    """The rounds of a fleet: what clients said, what travelled, how it went."""
    if found.fleet is None:
        return {"fleet": [], "fleet_figure": "", "fleet_caption": ""}
    about, rows = found.fleet
    lines, poll = [], about["poll"]
    if poll is not None:
        agreement = poll["agreement"]
        how_far = "" if agreement is None else f"; Kendall's W of their rankings is {agreement:.2f} (1: the same order)"
        abstained = f", {len(poll['abstained'])} abstained" if poll["abstained"] else ""
        lines.append(f"{counted(len(poll['voters']), 'client')} voted on the layers{abstained}{how_far}.")
    down, up, once = (size_text(about[name]) for name in ("bytes_down", "bytes_up", "distribution_bytes"))
    lines.append(f"A client got {once} once, then {down} in each round, and sent at most {up}.")
    dropped = sum(len(row["dropped"]) for row in rows)
    if dropped:
        lines.append(f"Replies that did not count: {dropped}; fleet.jsonl says why.")
    caption = f"Loss and accuracy over {len(rows) - 1} rounds; round 0 is before training."
    return {"fleet": lines, "fleet_figure": inline.rounds(rows), "fleet_caption": caption}


def _classes(found: Material) -> dict[str, Any]:
    """Figures of classes or outputs before and after the training."""
    figures = None if found.run is None else found.run.figures
    evaluation = None if figures is None else figures.evaluation
    drawn, caption = "", ""
    full = evaluation is not None and len(evaluation.each) > _MANY
    if evaluation is not None and evaluation.confusion is not None and len(evaluation.each) <= IN_FIGURE:
        drawn = inline.confusion([row.name for row in evaluation.each], evaluation.confusion)
        caption = "Confusion matrix after the training: of the labels of each class (a row), what was predicted."
    on = "" if figures is None else f"On {figures.evaluated_on}."
    figure = {"confusion_figure": drawn, "confusion_caption": caption, "confusion_full": full}
    return classes_section(evaluation) | {"classes_on": on} | figure


_COST_NAMES = {
    "inference": "inference",
    "frozen": "the frozen pass, once",
    "selection": "training the selection",
    "all": "training all layers",
}


def _costs(found: Material) -> dict[str, Any]:
    figures = found.run.figures if found.run is not None else None
    measured = {} if figures is None else figures.measured
    costs: dict[str, Prediction] = {}
    for name, cost in found.costs.items():
        if name == "selection" and cost.stored_bytes:
            costs["frozen"], costs[name] = cost.before(), cost.after()
        else:
            costs[name] = cost
    bar = _linear_bar([cost.memory_bytes for cost in costs.values()])
    rows = []
    for name, label in _COST_NAMES.items():
        if name not in costs:
            continue
        cost, seen = costs[name], measured.get(name)
        rows.append(
            {
                "name": f"{label}: a step after it" if name == "selection" and "frozen" in costs else label,
                "on": name in ("frozen", "selection"),
                "memory": size_text(cost.memory_bytes),
                "bar": bar(cost.memory_bytes),
                "measured": "" if seen is None else size_text(seen[0]),
                "seconds": "" if seen is None else f"{1000 * seen[1]:.3g} ms",
                "saved": size_text(cost.saved_bytes) if cost.saved_bytes else "",
                "trained": size_text(cost.update_bytes) if cost.update_bytes else "",
                "work": f"{cost.step_multiply_adds / 1e6:,.0f} M",
            }
        )
    text = (
        f"A batch of {found.batch_size}: peak memory of a process beside its imports, predicted from the graphs that "
        "run."
    )
    parts = 1 if found.run is None else found.run.selection.parts_of(found.batch_size)
    if parts > 1:
        text += f" The selection's batch is forwarded {found.batch_size // parts} samples at a time."
    selection = found.costs.get("selection")
    if selection is not None:
        samples, epochs = (SAMPLES, EPOCHS) if figures is None else (figures.samples, figures.epochs)
        views = None if figures is None else figures.kept_views or None
        whole = selection.of_training(samples or SAMPLES, epochs or EPOCHS, views)
        text += "".join(f" {_sentence(line)}" for line in frozen_sentences(selection, whole))
    return {"costs": rows, "has_measured": bool(measured), "cost_text": text}


def _summaries(found: Material) -> list[Summary]:
    return [] if found.compared is None else summarise(found.compared.results, found.compared.test_samples)


def _compared(found: Material) -> dict[str, Any]:
    empty = {"strategies": [], "ties": "", "memory_figure": "", "memory_caption": "", "choices": []}
    if found.compared is None:
        return {**empty, "strategy_headings": [], "choice_names": []}
    summaries = ranked(_summaries(found))
    old = any(row.source_accuracy is not None for row in summaries)
    everything = next((row for row in summaries if row.setting.strategy == "all"), None)
    headings = [*HEADINGS, *(["old domain"] if old else []), "against the best"]
    rows = [{"best": row.best, "cells": [*cells(row, everything, old), row.verdict()]} for row in summaries]
    names = [str(row.setting) for row in summaries]
    chosen: dict[str, list[frozenset[str]]] = {}
    for result in found.compared.results:
        chosen.setdefault(str(result.setting), []).append(frozenset(result.layers))
    layers = [] if found.scores is None else [layer.name for layer in found.scores.layers]
    matrix = [
        (layer, [sum(layer in layers for layers in chosen[name]) / len(chosen[name]) for name in names])
        for layer in layers
    ]
    seeds = len({result.seed for result in found.compared.results})
    return {
        "strategies": rows,
        "strategy_headings": headings,
        "ties": _sentence(ties_sentence(summaries)),
        "memory_figure": inline.accuracy_against_memory(summaries),
        "memory_caption": f"Test accuracy against step memory; {seeds} seeds, bars are deviations. Orange: the highest "
        "mean; blue: ties with it; grey: behind.",
        "choices": matrix,
        "choice_names": names,
    }


def _curves(found: Material) -> dict[str, Any]:
    curves = []
    caption = "Loss by epoch."
    if found.compared is not None:
        curves = found.compared.curves
        caption = (
            "Training loss of the first seed; validation accuracy is of the training by which the rate was chosen, on "
            "a split of the training data."
        )
    elif found.run is not None and found.run.curve is not None:
        curves = [found.run.curve]
        caption = "Loss on training data and on data set aside; epoch 0 is before training."
    return {"curves_figure": inline.learning_curves(curves) if curves else "", "curves_caption": caption}
