"""Commands for fleets of devices: fleet simulate, round, app."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..file_names import ADAPTED
from ..showing import counted
from ..sizes import size_text
from . import fleet_options, options
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
    epilog="JSON: output, poll (what clients said of the layers; null where nobody was asked), head (how a new one was "
    "fitted, or null), distribution_bytes (that a client gets once), rounds (the rows of fleet.jsonl).",
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
@options.scoring
@options.batch_size
@options.rate.varied(shown="the optimizer's usual one")
@options.schedule
@options.validation
@options.head_init
@options.objective
@Declared("--clients", type=click.IntRange(1), default=20, metavar="N", group=_GROUP, help="Clients that there are.")
@Declared(
    "--partition",
    default="iid",
    metavar="HOW",
    group=_GROUP,
    help="How data is shared out: iid, dirichlet:A (the smaller A, the more clients differ), by-class:K (K each).",
)
@fleet_options.rounds
@fleet_options.max_norm
@fleet_options.local
@Declared(
    "--client-memory",
    type=Texts(),
    metavar="SIZE,...",
    group=_GROUP,
    help="What clients have for a training step, one after another and again: who has too little trains a part.",
    show_default="enough",
)
@options.budget
@options.check
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
    """Train as a fleet of devices would, in this process.

    The training part of DATA is shared out among clients; each scores and trains on its own. The folder gets
    fleet.json, fleet.jsonl (a line for each round), artifacts/, delta.safetensors and adapted.onnx.

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
        how: dict[str, Any] = {"fleet": fleet, "adapting": adapting, "resume": resume, "progress": progress}
        rows = simulate_fleet(bound_model(model, bind), given, output, **how)
    if plot is not None:
        plot_rounds(rows, plot)
    about = read_record(output / RECORD, FORMAT, VERSION, "fleet simulate")
    if as_json:
        kept = {key: about[key] for key in ("poll", "head", "distribution_bytes")}
        show_json({"output": str(output), **kept, "rounds": rows})
        return
    for line in _said(about, rows):
        show(line, quiet)
    show(f"adapted model: {output / ADAPTED}", quiet)


def _take_fleet(settings: dict[str, Any]) -> Fleet:
    """Take what Fleet holds out of the options."""
    from ..fleet.options import Fleet

    taken = {name: settings.pop(name) for name in Fleet.__dataclass_fields__ if name in settings}
    return Fleet(**{name: value for name, value in taken.items() if value is not None})


def _take_objective(settings: dict[str, Any]) -> Any:
    from ..trainability.choices import Choices

    return Choices(**{name: settings.pop(name) for name in Choices.__dataclass_fields__ if name in settings})


def _said(about: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """The lines for people."""
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
        lines.append(f"head: {head['head']!r} starts from random numbers: {head['note']}")
    lines += [_row(row) for row in rows]
    down, up = size_text(about["bytes_down"]), size_text(about["bytes_up"])
    lines.append(
        f"a client gets {size_text(about['distribution_bytes'])} once, then {down} down and at most {up} up in a round"
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
    epilog="JSON: output, counted (files that are in the new delta), dropped (file, why), model_sha256, entry, sha256.",
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
    help="How much each delta counts, such as the samples it was trained on.",
    show_default="all alike",
)
@Declared(
    "--base",
    type=FILE,
    metavar="DELTA",
    group=_GROUP,
    help="The delta that devices began with.",
    show_default="the values that training in DIR begins with",
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
    """Make one delta of those that devices have sent.

    DIR is what the deltas are of: a folder of artifacts, or a device package. Each tensor is the mean of the deltas
    that have it. A delta that is damaged, of another model, or does not fit is dropped and said to be.

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
    show(f"{output}: of {counted(len(merged.counted), 'delta')}, for the model {merged.delta.model_sha256}", quiet)


@click.command("app", cls=Command, epilog="JSON: output, files.")
@click.argument("source", metavar="MODEL|DIR", type=ANY)
@options.folder.varied(required=True)
@options.printed
@options.batch_size
@options.rate.varied(shown="the optimizer's usual one")
@options.schedule
@options.validation
@fleet_options.rounds
@fleet_options.max_norm
@fleet_options.local
@options.seed
def app(source: Path, output: Path, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Write an app with which Flower trains a real fleet.

    Of the artifacts in DIR; or of a model, whose layers clients then vote on first. `flwr run` takes the app to a
    simulation or a deployment. What is given here can be changed there with --run-config.

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
