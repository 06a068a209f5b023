"""The command that compares strategies."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from ..study.plan import Plan


@click.command(
    cls=Command,
    epilog="JSON: data, test_samples, before and source_before (accuracies), warnings, results (what results.json "
    "holds), summaries (strategy, rho, accuracies, failed, mean, deviation, loss, trainable_share, step_seconds, "
    "step_memory_bytes, update_bytes, source_accuracy, best, ties, test_samples, training_chance, data_chance).",
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
    help="Use only the first N training samples.",
).varied(shown="all")
@Declared(
    "--old-domain", type=ANY, metavar="DATA", group="Data", help="Data of the old domain, to measure forgetting."
).varied(aliases=("--source",))
@Declared(
    "--strategies",
    type=Words(COMPARED),
    metavar="NAME,...",
    group="Choosing",
    help=f"Strategies to compare: {', '.join(COMPARED)}; fisher needs labels and gradients, fit-head a new head.",
    default=",".join(COMPARED_UNASKED),
).varied(shown=", ".join(COMPARED_UNASKED))
@Declared(
    "--rhos",
    "rho",
    type=Numbers(),
    metavar="SHARE,...",
    group="Choosing",
    default="0.1",
    help="Fractions of the layers to select, e.g. 0.1,0.2.",
).varied(aliases=("--rho",))
@options.head
@scoring_options.scoring
@Declared(
    "--seeds",
    type=click.IntRange(1),
    default=3,
    metavar="N",
    group="Training",
    help="Random seeds per strategy.",
)
@options.epochs.varied(default=10)
@options.batch_size.varied(default=32)
@Declared(
    "--rates",
    type=Numbers(),
    metavar="X,...",
    group="Training",
    help="Learning rates for each strategy to choose from.",
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
    help="Number of trainings to run in parallel.",
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
    num_classes: int | None,
    bind: Bindings,
    old_domain: Path | None,
    jobs: int | None,
    save_config: Path | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train with several strategies, and compare them.

    The result says which differences are larger than chance. Each strategy chooses its own learning rate on a split of
    the training data; accuracy is measured on the test data. To continue after an interruption, run the same command
    again. Writes results.json, results.csv, results.md and results.svg to the folder.

    \b
    Example:
      adabet-onnx compare model.onnx new_domain.npz -o compared/ --num-classes 5
      adabet-onnx compare model.onnx new_domain.npz -o compared/ \\
          --strategies adabet,last,all --max-memory 64MB
      adabet-onnx compare model.onnx new_domain.npz -o compared/ --ray auto
    """
    from ..files import check_output
    from ..report.comparison import comparison_table, write_markdown
    from ..study.compare import compare as compare_strategies

    if save_config is not None and save_config.parent.absolute() != output.absolute():
        check_output(save_config)
    given = take_data(data, settings)
    old = None if old_domain is None else dataclasses.replace(given, source=old_domain)
    plan = _plan(settings, processes=jobs or (os.cpu_count() if settings["ray"] is None else None))
    with progress_bar(quiet, lines=True) as progress:
        comparison = compare_strategies(
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
    write_markdown(comparison, output / "results.md")
    comparison.plot(output / "results.svg")
    if as_json:
        show_json(comparison.to_json())
        return
    show(f"data: {comparison.data}", quiet)
    show(comparison_table(comparison), quiet)


def _plan(settings: dict[str, Any], *, processes: int | None) -> Plan:
    """The plan that the options describe; all options are taken out of the settings."""
    from ..options import with_given
    from ..study.plan import Plan

    kept = {name: settings.pop(name) for name in ("features", "features_memory", "keep_features")}
    plan = Plan(
        rhos=settings.pop("rho"),
        rates=settings.pop("rates") or (),
        budget=take_budget(settings),
        choices=take_choices(settings),
        scoring=take_scoring(settings),
        preprocessing=take_preprocessing(settings),
        processes=processes,
        threads=take_runtime(settings),
        command=this_command(),
        **settings,
    )
    return with_given(plan, **kept)
