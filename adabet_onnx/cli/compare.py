"""The command that compares strategies."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import click

from ..vocabulary import COMPARED, COMPARED_UNASKED
from . import artifact_options, cluster_options, config, options, scoring_options
from .common import (
    Bindings,
    bound_model,
    take_budget,
    take_choices,
    take_data,
    take_preprocessing,
    take_runtime,
    take_scoring,
    this_command,
)
from .layout import Command, Declared
from .parameters import ANY, FILE, Numbers, Words
from .printing import progress_bar, show, show_json


@click.command(
    cls=Command,
    epilog="JSON: data, test_samples, before and source_before (accuracies), warnings, results (what results.json "
    "holds), summaries (strategy, rho, accuracies, failed, mean, deviation, loss, trainable_share, step_seconds, "
    "step_memory_bytes, update_bytes, source_accuracy, best, ties).",
)
@click.argument("model", type=FILE)
@click.argument("data", type=ANY)
@options.folder.varied(required=True)
@options.printed
@options.new_head
@options.bind
@options.preprocessing
@options.labels
@Declared(
    "--train-samples",
    type=click.IntRange(1),
    metavar="N",
    group="Data",
    help="Use only the first so many training samples.",
).varied(shown="all")
@Declared(
    "--old-domain", type=ANY, metavar="DATA", group="Data", help="Data of the old domain: how much of it is forgotten."
).varied(aliases=("--source",))
@Declared(
    "--strategies",
    type=Words(COMPARED),
    metavar="NAME,...",
    group="Choosing",
    help=f"What to compare, of {', '.join(COMPARED)}; fisher needs labels and gradients, fit-head a new head.",
    default=",".join(COMPARED_UNASKED),
).varied(shown=", ".join(COMPARED_UNASKED))
@Declared(
    "--rhos",
    "rho",
    type=Numbers(),
    metavar="SHARE,...",
    group="Choosing",
    default="0.1",
    help="Shares of the layers to select, e.g. 0.1,0.2.",
).varied(aliases=("--rho",))
@options.head
@scoring_options.scoring
@Declared(
    "--seeds", type=click.IntRange(1), default=3, metavar="N", group="Training", help="Trainings of each strategy."
)
@options.epochs.varied(default=10)
@options.batch_size.varied(default=32)
@Declared(
    "--rates",
    type=Numbers(),
    metavar="X,...",
    group="Training",
    help="Learning rates that each strategy chooses from.",
).varied(aliases=("--lr",), shown="four, by optimizer")
@options.accumulate.varied(default=1)
@options.objective
@options.budget
@artifact_options.form
@Declared(
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    group="Runtime",
    help="Trainings at once.",
).varied(shown="the number of cores")
@cluster_options.ray
@options.head_init.varied(default="auto")
@options.features
@options.compute
@config.files
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
    jobs: int | None,
    ray: str | None,
    save_config: Path | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train with several strategies; say what is more than chance.

    Each strategy chooses its own learning rate on a split of the training data; accuracy is of the test data. A
    run that was stopped continues when it is called again. The folder gets results.json, results.csv, results.md and
    results.svg.

    \b
    Example:
      adabet-onnx compare model.onnx new_domain.npz -o compared/ --num-classes 5
      adabet-onnx compare model.onnx new_domain.npz -o compared/ \\
          --strategies adabet,last,all --max-memory 64MB
      adabet-onnx compare model.onnx new_domain.npz -o compared/ --ray auto
    """
    from ..files import check_output
    from ..options import with_given
    from ..report.comparison import comparison_table, write_markdown
    from ..study.compare import compare as compare_strategies
    from ..study.plan import Plan

    if save_config is not None and save_config.parent.absolute() != output.absolute():
        check_output(save_config)
    given = take_data(data, settings)
    kept = {name: settings.pop(name) for name in ("features", "features_memory", "keep_features")}
    old = None if old_domain is None else dataclasses.replace(given, source=old_domain)
    plan = with_given(
        Plan(
            strategies=strategies,
            rhos=rho,
            rates=rates or (),
            budget=take_budget(settings),
            choices=take_choices(settings),
            scoring=take_scoring(settings),
            preprocessing=take_preprocessing(settings),
            keep_tail=keep_tail,
            append=append,
            processes=jobs or (os.cpu_count() if ray is None else None),
            ray=ray,
            threads=take_runtime(settings),
            command=this_command(),
            **settings,
        ),
        **kept,
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
    if save_config is not None:
        config.write_config(save_config, click.get_current_context())
    write_markdown(found, output / "results.md")
    found.plot(output / "results.svg")
    if as_json:
        show_json(found.to_json())
        return
    show(f"data: {found.data}", quiet)
    show(comparison_table(found), quiet)
