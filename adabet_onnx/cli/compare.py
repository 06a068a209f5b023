"""The command that compares strategies."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import click

from ..report.comparison import comparison_table, write_markdown
from ..selection.options import HEADS
from ..study.compare import compare as compare_strategies
from ..study.plan import DEFAULT_STRATEGIES, STRATEGIES, Plan
from .common import (
    Bindings,
    artifact_options,
    bound_model,
    budget_options,
    input_option,
    preprocessing_options,
    quiet_option,
    scoring_options,
    take_budget,
    take_choices,
    take_data,
    take_preprocessing,
    take_scoring,
    this_command,
    threads_option,
)
from .parameters import ANY, FILE, OUTPUT, Numbers, Words
from .printing import progress_bar, show


@click.command()
@click.argument("model", type=FILE)
@click.argument("data", type=ANY)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The folder to write; one that was begun goes on.")
@click.option(
    "--strategies",
    type=Words(STRATEGIES),
    default=",".join(DEFAULT_STRATEGIES),
    show_default=True,
    help="What to compare; fisher needs labels and gradients.",
)
@click.option("--rho", type=Numbers(), default="0.1", show_default=True, help="Fractions of layers, e.g. 0.1,0.2.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Trainings of each.")
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True, help="The same for all.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Samples per step.")
@click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Steps per update.")
@click.option(
    "--lr", "rates", type=Numbers(), help="Learning rates each strategy chooses from.  [default: by optimizer]"
)
@click.option("--num-classes", type=int, help="First give the model a new head of so many outputs.")
@click.option("--keep-tail", is_flag=True, help="Keep what follows the old head, as in new-head.")
@click.option("--append", is_flag=True, help="Put the new head on the outputs, as in new-head.")
@click.option("--head", type=click.Choice(HEADS), default="auto", show_default=True, help="As in select.")
@click.option("--train-samples", type=click.IntRange(1), help="Use only the first so many training samples.")
@click.option("--source", "old_domain", type=ANY, help="Data of the old domain: how much of it is forgotten.")
@budget_options
@scoring_options
@preprocessing_options
@artifact_options
@input_option
@click.option(
    "--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="cores", help="Trainings at once."
)
@threads_option
@quiet_option
def compare(
    model: Path,
    data: Path,
    output: Path,
    strategies: tuple[str, ...],
    rho: tuple[float, ...],
    rates: tuple[float, ...] | None,
    num_classes: int | None,
    keep_tail: bool,
    append: bool,
    bind: Bindings,
    old_domain: Path | None,
    jobs: int,
    threads: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Train with several strategies and seeds, and say which differences are more than chance.

    Each strategy chooses its own learning rate on a split of the training data; accuracy is of the test data. A
    run that was stopped continues when it is called again. The folder gets results.json, results.csv, results.md and
    results.svg.

    \b
    Example:
      adabet-onnx compare model.onnx new_domain.npz -o compared/ --num-classes 5
      adabet-onnx compare model.onnx new_domain.npz -o compared/ --strategies adabet,last,all --max-memory 64MB
    """
    given = take_data(data, options)
    old = None if old_domain is None else dataclasses.replace(given, source=old_domain)
    backend, _ = options.pop("backend"), options.pop("check")
    plan = Plan(
        strategies=strategies,
        rhos=rho,
        rates=rates or (),
        budget=take_budget(options),
        backend=backend,
        choices=take_choices(options),
        scoring=take_scoring(options, 32),
        preprocessing=take_preprocessing(options),
        keep_tail=keep_tail,
        append=append,
        processes=jobs,
        threads=threads,
        command=this_command(),
        **options,
    )
    with progress_bar(quiet, lines=True) as progress:
        found = compare_strategies(
            bound_model(model, bind),
            given,
            output,
            plan,
            num_classes=num_classes,
            old_domain=old,
            progress=progress,
        )
    write_markdown(found, output / "results.md")
    found.plot(output / "results.svg")
    show(f"data: {found.data}", quiet)
    show(comparison_table(found), quiet)
