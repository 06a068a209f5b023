"""The report: a self-contained HTML page for any browser, without other files or requests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..cost.overview import EPOCHS, SAMPLES
from ..cost.predict import Prediction
from ..cost.words import frozen_sentences
from ..files import write_bytes
from ..options import typed
from ..progress import Progress
from ..scoring.record import Scores
from ..selection.explanation import size_agreement
from ..showing import counted
from ..sizes import size_text
from ..study.drawing import clusters_sentence
from ..study.results import ranked, ties_sentence
from ..version import __version__
from . import inline
from .classes import IN_FIGURE, classes_section
from .comparison import HEADINGS, cells
from .gather import gather
from .inputs import ReportInputs
from .network import linear_bar, network_section
from .predicted import find_model, predict_costs
from .provenance import records

_MANY = 40  # the confusion matrix of more classes takes the page's whole width


@typed
def write_report(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    costs: bool = True,
    progress: Progress | None = None,
) -> list[str]:
    """Write a page about the results in a folder.

    Args:
        folder: a folder written by `run`, `compare` or both, optionally with a stability.json.
        output: the HTML file.
        model: the model that was scored, if it is no longer at its stored path.
        costs: predict the cost of training each layer.
        progress: called with the current activity, the steps done and the total number of steps.

    Returns:
        What is missing on the page, and how to get it.

    Raises:
        UsageError: there is nothing to show, or ``model`` is another model.
        RecordError: a file is damaged.
        OutputError: the page cannot be written.

    Example:
        >>> from adabet_onnx import Plan, compare, write_report
        >>> plan = Plan(strategies=("head", "last"), seeds=1, epochs=1, rates=(0.01,))
        >>> comparison = compare("model.onnx", "new_domain.npz", "compared", plan)
        >>> notes = write_report("compared", "report.html", costs=False)
    """
    inputs = gather(Path(folder))
    if costs or inputs.scores is None:
        find_model(inputs, None if model is None else Path(model))
    if costs:
        predict_costs(inputs, progress)
    write_bytes(output, page(inputs).encode())
    return inputs.notes


def page(inputs: ReportInputs) -> str:
    """The page's HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("adabet_onnx.report"),
        autoescape=True,  # names of layers and files are untrusted
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    context: dict[str, Any] = {"version": __version__, "commands": inputs.commands, "notes": inputs.notes}
    context |= {"title": _title(inputs), "lead": _lead(inputs), "facts": _facts(inputs)}
    context |= network_section(inputs) | _firmness(inputs) | _costs(inputs) | _compared(inputs) | _curves(inputs)
    context |= _classes(inputs) | _fleet(inputs)
    context["records"] = records(inputs)
    for name in ("confusion_figure", "stability_figure", "memory_figure", "curves_figure", "fleet_figure"):
        context[name] = Markup(context[name])  # our own SVG, in which matplotlib has escaped every text
    return environment.get_template("page.html.j2").render(context)


def _title(inputs: ReportInputs) -> str:
    name = inputs.model_file
    return f"Which layers of {Path(name).name if name else 'the model'} to retrain"


def _lead(inputs: ReportInputs) -> list[str]:
    lines = []
    if inputs.run is not None:
        selection = inputs.run.selection
        lines.append(f"Selected by {selection.strategy}: {selection.why}.")
        if selection.budget is not None:
            whose = "The budget" if selection.budget.auto_limit is None else "The strategy's own budget"
            lines.append(f"{whose}, {selection.budget.sentence()}.")
    if inputs.compared is not None:
        lines.append(_sentence(ties_sentence(inputs.summaries)))
    return lines


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _trainable_text(scores: Scores) -> str:
    """What "all layers" means if some cannot be trained."""
    count = sum(layer.untrainable is None for layer in scores.layers)
    return "" if count == len(scores.layers) else f" that can be trained ({count} of {len(scores.layers)})"


def _facts(inputs: ReportInputs) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if inputs.run is not None:
        selection = inputs.run.selection
        total = "" if inputs.scores is None else f" of {len(inputs.scores.layers)}"
        facts.append((f"{len(selection.layers)}{total}", "layers are trained"))
        figures = inputs.run.figures
        if figures is not None:
            if figures.after is not None:
                before = "" if figures.before is None else f"{figures.before:.1%} → "
                facts.append((f"{before}{figures.after:.1%}", f"accuracy on {figures.evaluated_on}"))
            facts.append((f"{figures.trainable_share:.1%}", "of the parameters"))
            if {"selection", "all"} <= figures.measured.keys():
                one, everything = figures.measured["selection"], figures.measured["all"]
                which = "" if inputs.scores is None else _trainable_text(inputs.scores)
                facts.append((f"{one[0] / everything[0]:.2f}x", f"step memory of training all layers{which}, measured"))
                facts.append((f"{one[1] / everything[1]:.2f}x", "step time, likewise"))
    elif inputs.compared is not None:
        best = next((row for row in inputs.summaries if row.best), None)
        if best is not None:
            facts.append((str(best.setting), "has the highest mean"))
            facts.append((f"{best.mean:.1%} ± {100 * best.deviation:.1f}", "its test accuracy, deviation over seeds"))
            facts.append((size_text(best.step_memory_bytes), "its step memory"))
            facts.append((size_text(best.update_bytes), "its update"))
    return facts


def _firmness(inputs: ReportInputs) -> dict[str, Any]:
    lines = []
    if inputs.run is not None and inputs.run.selection.firmness is not None:
        lines.append(f"The cut-off: {inputs.run.selection.firmness.sentence()}.")
    tau = None if inputs.scores is None else size_agreement(inputs.scores.layers)
    if tau is not None:
        lines.append(
            f"The Kendall tau between the ranking by b1_hat and that by activation size alone is {tau:.2f} (1: both "
            "are the same)."
        )
    figure, caption = "", ""
    if inputs.stability is not None:
        lines += [_sentence(inputs.stability.sentence()), *inputs.stability.notes]
        if inputs.stability.clusters is not None:
            lines.append(_sentence(clusters_sentence(inputs.stability.clusters)))
        figure = inline.agreement(inputs.stability)
        caption = (
            "Agreement of rankings by disjoint groups of samples: Kendall's tau with its standard deviation and, "
            f"dashed, the share of the top {inputs.stability.top} layers in common."
        )
    return {"firmness": lines, "stability_figure": figure, "stability_caption": caption}


def _fleet(inputs: ReportInputs) -> dict[str, Any]:
    """The rounds of a fleet: votes, transferred bytes, and learning curves."""
    if inputs.fleet is None:
        return {"fleet": [], "fleet_figure": "", "fleet_caption": ""}
    about, rows = inputs.fleet
    lines, poll = [], about["poll"]
    if poll is not None:
        agreement = poll["agreement"]
        concord = "" if agreement is None else f"; Kendall's W of their rankings is {agreement:.2f} (1: the same order)"
        abstained = f", {len(poll['abstained'])} abstained" if poll["abstained"] else ""
        lines.append(f"{counted(len(poll['voters']), 'client')} voted on the layers{abstained}{concord}.")
    down, up, once = (size_text(about[name]) for name in ("bytes_down", "bytes_up", "distribution_bytes"))
    lines.append(f"Each client received {once} once and {down} in each round, and sent at most {up}.")
    dropped = sum(len(row["dropped"]) for row in rows)
    if dropped:
        lines.append(f"Replies that did not count: {dropped}; the reasons are in fleet.jsonl.")
    caption = f"Loss and accuracy over {len(rows) - 1} rounds; round 0 is before training."
    return {"fleet": lines, "fleet_figure": inline.rounds(rows), "fleet_caption": caption}


def _classes(inputs: ReportInputs) -> dict[str, Any]:
    """Figures of classes or outputs before and after the training."""
    figures = None if inputs.run is None else inputs.run.figures
    evaluation = None if figures is None else figures.evaluation
    drawn, caption = "", ""
    full = evaluation is not None and len(evaluation.each) > _MANY
    if evaluation is not None and evaluation.confusion is not None and len(evaluation.each) <= IN_FIGURE:
        drawn = inline.confusion([row.name for row in evaluation.each], evaluation.confusion)
        caption = "Confusion matrix after the training: each row shows how the labels of a class were predicted."
    on = "" if figures is None else f"On {figures.evaluated_on}."
    figure = {"confusion_figure": drawn, "confusion_caption": caption, "confusion_full": full}
    return classes_section(evaluation) | {"classes_on": on} | figure


_COST_NAMES = {
    "inference": "inference",
    "frozen": "the frozen pass, once",
    "selection": "training the selection",
    "all": "training all layers",
}


def _costs(inputs: ReportInputs) -> dict[str, Any]:
    figures = inputs.run.figures if inputs.run is not None else None
    measured = {} if figures is None else figures.measured
    costs: dict[str, Prediction] = {}
    for name, cost in inputs.costs.items():
        if name == "selection" and cost.stored_bytes:
            costs["frozen"], costs[name] = cost.before(), cost.after()
        else:
            costs[name] = cost
    bar = linear_bar([cost.memory_bytes for cost in costs.values()])
    rows = []
    for name, label in _COST_NAMES.items():
        if name not in costs:
            continue
        cost, measurement = costs[name], measured.get(name)
        rows.append(
            {
                "name": f"{label}: a step after it" if name == "selection" and "frozen" in costs else label,
                "on": name in ("frozen", "selection"),
                "memory": size_text(cost.memory_bytes),
                "bar": bar(cost.memory_bytes),
                "measured": "" if measurement is None else size_text(measurement[0]),
                "seconds": "" if measurement is None else f"{1000 * measurement[1]:.3g} ms",
                "saved": size_text(cost.saved_bytes) if cost.saved_bytes else "",
                "trained": size_text(cost.update_bytes) if cost.update_bytes else "",
                "work": f"{cost.step_multiply_adds / 1e6:,.0f} M",
            }
        )
    text = (
        f"A batch of {inputs.batch_size}: peak memory of a process without its imports, predicted from the graphs that "
        "run."
    )
    parts = 1 if inputs.run is None else inputs.run.selection.parts_of(inputs.batch_size)
    if parts > 1:
        text += f" The selection's batch is forwarded {inputs.batch_size // parts} samples at a time."
    selection = inputs.costs.get("selection")
    if selection is not None:
        samples, epochs = (SAMPLES, EPOCHS) if figures is None else (figures.samples, figures.epochs)
        views = None if figures is None else figures.kept_views or None
        whole = selection.of_training(samples or SAMPLES, epochs or EPOCHS, views)
        text += "".join(f" {_sentence(line)}" for line in frozen_sentences(selection, whole))
    return {"costs": rows, "has_measured": bool(measured), "cost_text": text}


def _compared(inputs: ReportInputs) -> dict[str, Any]:
    empty = {"strategies": [], "ties": "", "memory_figure": "", "memory_caption": "", "choices": []}
    if inputs.compared is None:
        return {**empty, "strategy_headings": [], "choice_names": []}
    summaries = ranked(inputs.summaries)
    old = any(row.source_accuracy is not None for row in summaries)
    everything = next((row for row in summaries if row.setting.strategy == "all"), None)
    headings = [*HEADINGS, *(["old domain"] if old else []), "against the best"]
    rows = [{"best": row.best, "cells": [*cells(row, everything, old), row.verdict()]} for row in summaries]
    names = [str(row.setting) for row in summaries]
    chosen: dict[str, list[frozenset[str]]] = {}
    for result in inputs.compared.results:
        chosen.setdefault(str(result.setting), []).append(frozenset(result.layers))
    layers = [] if inputs.scores is None else [layer.name for layer in inputs.scores.layers]
    matrix = [
        (layer, [sum(layer in layers for layers in chosen[name]) / len(chosen[name]) for name in names])
        for layer in layers
    ]
    seeds = len({result.seed for result in inputs.compared.results})
    return {
        "strategies": rows,
        "strategy_headings": headings,
        "ties": _sentence(ties_sentence(summaries)),
        "memory_figure": inline.accuracy_against_memory(summaries),
        "memory_caption": f"Test accuracy against step memory; {seeds} seeds, bars are standard deviations. Orange: "
        "the highest mean; blue: ties with it; grey: below.",
        "choices": matrix,
        "choice_names": names,
    }


def _curves(inputs: ReportInputs) -> dict[str, Any]:
    curves = []
    caption = "Loss by epoch."
    if inputs.compared is not None:
        curves = inputs.compared.curves
        caption = (
            "Training loss for the first seed; validation accuracy is that of the training by which the learning rate "
            "was chosen, on a split of the training data."
        )
    elif inputs.run is not None and inputs.run.curve is not None:
        curves = [inputs.run.curve]
        caption = "Loss on training data and on validation data; epoch 0 is before training."
    return {"curves_figure": inline.learning_curves(curves) if curves else "", "curves_caption": caption}
