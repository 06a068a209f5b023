"""Commands for fleets of devices: fleet simulate, round, app."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..file_names import ADAPTED
from ..showing import counted
from ..sizes import size_text
from . import artifact_options, fleet_options, options, scoring_options
from .common import (
    Bindings,
    bound_model,
    take_choosing,
    take_data,
    take_preprocessing,
    take_runtime,
    take_scoring,
)
from .layout import Command, Declared
from .parameters import ANY, FILE, FOLDER, Numbers, Texts
from .printing import progress_bar, show, show_json

if TYPE_CHECKING:
    from ..fleet.options import Fleet

_GROUP = "Fleet"
_TRAINING = ("batch_size", "learning_rate", "schedule", "validation", "head_init")


@click.command(
    "simulate",
    cls=Command,
    epilog="JSON: output, poll (the clients' votes on the layers; null if none were collected), head (how a new head "
    "was fitted, or null), distribution_bytes (sent once to each client), rounds (the rows of fleet.jsonl).",
)
@click.argument("model", type=FILE)
@click.argument("data", type=ANY)
@options.folder.varied(required=True)
@options.plot
@options.printed
@options.bind
@options.new_head
@options.preprocessing
@options.labels
@options.selection
@scoring_options.scoring
@options.batch_size
@options.rate.varied(help="Learning rate of the clients' steps.", shown="the usual one of the optimizer")
@options.schedule
@options.validation
@options.head_init
@options.objective
@Declared("--clients", type=click.IntRange(1), default=20, metavar="N", group=_GROUP, help="Total number of clients.")
@Declared(
    "--partition",
    default="iid",
    metavar="HOW",
    group=_GROUP,
    help="How to distribute data: iid, dirichlet:A (clients differ more for smaller A), by-class:K (K classes each).",
)
@fleet_options.rounds
@fleet_options.max_norm
@fleet_options.local
@Declared(
    "--client-memory",
    type=Texts(),
    metavar="SIZE,...",
    group=_GROUP,
    help="Memory of clients for a training step, assigned in turn; clients with too little train a part of the layers.",
    show_default="unlimited",
)
@options.budget
@artifact_options.check
@options.resume
@options.seed
@options.compute
def simulate(
    model: Path,
    data: Path,
    bind: Bindings,
    output: Path,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Simulate the training of a fleet of devices in this process.

    The training part of DATA is distributed among clients; each scores and trains on its own share. The output folder
    gets fleet.json, fleet.jsonl (one line per round), artifacts/, delta.safetensors and adapted.onnx.

    \b
    Example:
      adabet-onnx fleet simulate model.onnx new_domain.npz -o fleet/ \\
          --clients 20 --per-round 5 --rounds 20 --partition dirichlet:0.3
    """
    from ..adapting import Adapting
    from ..drawing import check_plot_path
    from ..files import check_output
    from ..fleet.drawing import plot_rounds
    from ..fleet.record import FORMAT, RECORD, VERSION
    from ..fleet.simulation import simulate_fleet
    from ..options import with_given
    from ..records import read_record
    from ..training.settings import Settings

    if plot is not None and check_plot_path(plot).parent.absolute() != output.absolute():
        check_output(plot)
    resume, given, fleet = settings.pop("resume"), take_data(data, settings), _take_fleet(settings)
    adapting = Adapting(
        preprocessing=take_preprocessing(settings),
        scoring=take_scoring(settings),
        choosing=take_choosing(settings),
        threads=take_runtime(settings),
        settings=with_given(Settings(), **{name: settings.pop(name) for name in _TRAINING}),
        **{name: settings.pop(name) for name in ("num_classes", "keep_tail", "append", "check", "seed")},
        choices=_take_objective(settings),
    )
    with progress_bar(quiet, lines=True) as progress:
        arguments: dict[str, Any] = {"fleet": fleet, "adapting": adapting, "resume": resume, "progress": progress}
        rows = simulate_fleet(bound_model(model, bind), given, output, **arguments)
    if plot is not None:
        plot_rounds(rows, plot)
    about = read_record(output / RECORD, FORMAT, VERSION, "fleet simulate")
    if as_json:
        kept = {key: about[key] for key in ("poll", "head", "distribution_bytes")}
        show_json({"output": str(output), **kept, "rounds": rows})
        return
    for line in _summary_lines(about, rows):
        show(line, quiet)
    show(f"adapted model: {output / ADAPTED}", quiet)


def _take_fleet(settings: dict[str, Any]) -> Fleet:
    """Move the fleet options into a `Fleet`."""
    from ..fleet.options import Fleet

    values = {name: settings.pop(name) for name in Fleet.__dataclass_fields__ if name in settings}
    return Fleet(**{name: value for name, value in values.items() if value is not None})


def _take_objective(settings: dict[str, Any]) -> Any:
    from ..trainability.choices import Choices

    return Choices(**{name: settings.pop(name) for name in Choices.__dataclass_fields__ if name in settings})


def _summary_lines(about: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines that summarise a simulation."""
    lines = []
    poll, head = about["poll"], about["head"]
    if poll is not None:
        best = ", ".join(layer["name"] for layer in sorted(poll["layers"], key=lambda layer: layer["rank"])[:3])
        agreement = "" if poll["agreement"] is None else f", agreement (Kendall's W) {poll['agreement']:.2f}"
        abstained = f", {len(poll['abstained'])} abstained" if poll["abstained"] else ""
        lines.append(f"votes: {counted(len(poll['voters']), 'client')}{abstained}{agreement}; first {best}")
    if head is not None and head["note"] is None:
        lines.append(f"head: {head['head']!r} fitted to {counted(head['rows'], 'row')} of all clients")
    elif head is not None:
        lines.append(f"head: {head['head']!r} starts from random values: {head['note']}")
    lines += [_row(row) for row in rows]
    down, up = size_text(about["bytes_down"]), size_text(about["bytes_up"])
    lines.append(
        f"each client downloads {size_text(about['distribution_bytes'])} once, then per round {down}, and uploads at "
        f"most {up}"
    )
    lines += [
        f"dropped in round {row['round']}: client {d['client']}: {d['why']}" for row in rows for d in row["dropped"]
    ]
    return lines


def _row(row: dict[str, Any]) -> str:
    def number(key: str, form: str) -> str:
        return "-" if row[key] is None else format(row[key], form)

    return (
        f"round {row['round']:3d}  {len(row['clients']):3d} clients  loss {number('loss', '.4f')}  eval loss "
        f"{number('eval_loss', '.4f')}  eval accuracy {number('eval_accuracy', '.1%')}  {row['seconds']:.1f} s"
    )


@click.command(
    "round",
    cls=Command,
    epilog="JSON: output, counted (files merged into the new delta), dropped (file, why), model_sha256, entry, sha256.",
)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("deltas", metavar="DELTAS", type=click.Path(path_type=Path), nargs=-1, required=True)
@options.file.varied(required=True)
@options.printed
@Declared(
    "--weights",
    type=Numbers(),
    metavar="N,...",
    group=_GROUP,
    help="Weight of each delta, e.g. the number of samples it was trained on.",
    show_default="equal",
)
@Declared(
    "--base",
    type=FILE,
    metavar="DELTA",
    group=_GROUP,
    help="The delta that devices started from.",
    show_default="the initial values in DIR",
)
@Declared(
    "--entry",
    metavar="NAME",
    group=_GROUP,
    help="The choice of layers of the new delta.",
    show_default="that of most deltas",
)
@fleet_options.max_norm
def round_(folder: Path, deltas: tuple[Path, ...], output: Path, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Merge the deltas that devices have sent into one.

    DIR is the artifacts folder or device package that the deltas belong to. Each tensor is the mean of the deltas that
    have it. A delta that is damaged, of another model, or does not fit is dropped and reported.

    \b
    Example:
      adabet-onnx fleet round device/ deltas/*.safetensors -o merged.safetensors
    """
    from ..fleet.deltas import merge_deltas

    merged = merge_deltas(folder, list(deltas), output, **settings)
    if as_json:
        dropped = [{"file": file, "why": why} for file, why in merged.dropped]
        about = {name: getattr(merged.delta, name) for name in ("model_sha256", "entry", "sha256")}
        show_json({"output": str(output), "counted": list(merged.counted), "dropped": dropped, **about})
        return
    for file, why in merged.dropped:
        show(f"dropped: {file}: {why}", quiet)
    show(f"{output}: from {counted(len(merged.counted), 'delta')}, for the model {merged.delta.model_sha256}", quiet)


@click.command("app", cls=Command, epilog="JSON: output, files.")
@click.argument("source", metavar="MODEL|DIR", type=ANY)
@options.folder.varied(required=True)
@options.printed
@options.batch_size
@options.rate.varied(help="Learning rate of the clients' steps.", shown="the usual one of the optimizer")
@options.schedule
@options.validation
@fleet_options.rounds
@fleet_options.max_norm
@fleet_options.local
@options.seed
def app(source: Path, output: Path, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Write a Flower app that trains a real fleet.

    The app trains the artifacts in DIR, or a model, whose layers the clients vote on first. `flwr run` starts the app
    in a simulation or a deployment; --run-config overrides the settings given here.

    \b
    Example:
      adabet-onnx fleet app artifacts/ -o app/ --rounds 20
    """
    from ..fleet.apps import write_fleet_app
    from ..options import with_given
    from ..training.settings import Settings

    training = {name: settings.pop(name) for name in ("batch_size", "learning_rate", "schedule", "validation", "seed")}
    made = with_given(Settings(), **training)
    fleet = _take_fleet(settings | {"clients": max(settings["per_round"] or 1, settings["minimum"])})
    files = write_fleet_app(source, output, fleet=fleet, settings=made)
    if as_json:
        show_json({"output": str(output), "files": [str(path) for path in files]})
        return
    show(f"{output}: {', '.join(str(path) for path in files)}", quiet)
    show(f"to train: flwr run {output} NAME --stream (NAME: a connection of Flower's config.toml)", quiet)
