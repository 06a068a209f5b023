"""Commands that write packages for devices: device, menu."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..showing import counted
from ..sizes import size_text
from ..vocabulary import AUTO, DEVICE_PROFILES, STARTS
from . import artifact_options, options, scoring_options
from .common import Bindings, bound_model
from .layout import SCORING, Command, Declared, together
from .parameters import FILE, FOLDER
from .printing import progress_bar, show, show_json

if TYPE_CHECKING:
    from ..device.packing import Packing

_SCORING = ("samples", "subset_size", "subsets", "seed")

_packing = together(
    Declared(
        "--scoring/--no-scoring", default=True, group=SCORING, help="Let the device score the layers on its own data."
    ),
    scoring_options.samples.varied(default=128),
    scoring_options.subset_size.varied(default=32),
    scoring_options.subsets.varied(default=64, shown="64"),
    scoring_options.sketch.varied(
        default=1024, shown="1024", metavar="K", help="Size of the sketches that distances are computed from."
    ),
    artifact_options.profile.varied(choices=DEVICE_PROFILES),
    artifact_options.ort_format,
    options.epochs.varied(default=5, help="Passes over the device's data, unless its program chooses another number."),
    options.seed,
)
_RATE = "Learning rate of training on the device, unless its program chooses another."
_EPILOG = "JSON: the content of device.json, output, notes"


@click.command(cls=Command, epilog=f"{_EPILOG}.")
@click.argument("folder", metavar="DIR", type=FOLDER)
@options.folder.varied(required=True)
@options.printed
@Declared(
    "--start",
    type=click.Choice(STARTS),
    default="trained",
    group="Artifacts",
    help="Initial values of training on the device: those of the last training of DIR, if any, or the model's.",
)
@options.rate.varied(shown="that of the last training of DIR, else the optimizer's usual one", help=_RATE)
@options.batch_size.varied(shown="that of the last training of DIR, else 32")
@_packing
def device(folder: Path, output: Path, start: str, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Write a device package from the artifacts in DIR.

    With this package any ONNX Runtime from 1.17 on can score, retrain and personalise the model where the data is.
    samples/ has libraries and programs for browsers, node, phones, C, C++, C#, Java and Python.

    \b
    Example:
      adabet-onnx device artifacts/ -o device/
    """
    from ..device.package import make_device

    _show(make_device(folder, output, start=start, packing=_take_packing(settings)), output, as_json, quiet)


@click.command(cls=Command, epilog=f"{_EPILOG}, left_out (reasons for omitted choices, by name).")
@click.argument("model", type=FILE)
@options.folder.varied(required=True)
@options.printed
@options.bind
@Declared(
    "--scores",
    type=FILE,
    metavar="SCORES.JSON",
    group="Choosing",
    help="Scores of the model, to also offer its best layers.",
    show_default="none",
)
@Declared(
    "--entries",
    type=click.IntRange(1),
    default=8,
    metavar="N",
    group="Choosing",
    help="Maximum number of choices of layers.",
)
@options.objective
@artifact_options.recompute
@options.rate.varied(shown="the optimizer's usual one", help=_RATE)
@options.batch_size
@_packing
@artifact_options.check
def menu(
    model: Path,
    bind: Bindings,
    output: Path,
    scores: Path | None,
    entries: int,
    check: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Write a device package with several choices of layers.

    The choices share the weights. A device scores the layers on its own data and takes the choice with the highest
    scores that fits into its memory.

    \b
    Example:
      adabet-onnx menu model.onnx --scores scores.json -o device/
    """
    from ..device.menu import make_menu
    from ..model.open import open_model
    from ..scoring.record import load_scores
    from ..trainability.choices import Choices

    known = None if scores is None else load_scores(scores)
    opened = open_model(bound_model(model, bind, None if known is None else known.inputs))
    packing = _take_packing(settings)
    choices = Choices(**settings)
    with progress_bar(quiet or as_json) as progress:
        made = make_menu(
            opened,
            output,
            scores=known,
            entries=entries,
            choices=choices,
            packing=packing,
            check=check,
            progress=progress,
        )
    _show(made, output, as_json, quiet)


def _take_packing(settings: dict[str, Any]) -> Packing:
    """Move the options of a package into a `Packing`."""
    from ..device.packing import DeviceScoring, Packing
    from ..errors import UsageError

    sketch, rate = settings.pop("sketch"), settings.pop("learning_rate")
    if isinstance(sketch, str):
        raise UsageError(f"a package needs a fixed sketch size: --sketch 1024, not --sketch {sketch}.")
    if rate == AUTO:
        raise UsageError("devices do not search for a learning rate: give a number, such as --lr 0.03, not --lr auto.")
    scoring = DeviceScoring(sketch=sketch, **{name: settings.pop(name) for name in _SCORING})
    return Packing(
        scoring=scoring if settings.pop("scoring") else None,
        profile=settings.pop("profile"),
        ort_format=settings.pop("ort_format"),
        learning_rate=rate,
        batch_size=settings.pop("batch_size"),
        epochs=settings.pop("epochs"),
    )


def _show(content: dict[str, Any], output: Path, as_json: bool, quiet: bool) -> None:
    from ..device.package import FILE
    from ..report.device import package_table
    from ..report.grouping import by_reason

    if as_json:
        show_json({"output": str(output), **content})
        return
    show(package_table(content), quiet)
    for reason, names in by_reason(content.get("left_out", {})).items():
        show(f"left out: {', '.join(names)}: {reason}", quiet)
    training = content["training"]
    show(
        f"training: learning rate {training['learning_rate']:g}, batch size {training['batch_size']}, "
        f"{counted(training['epochs'], 'epoch')}, unless the device's program chooses others",
        quiet,
    )
    for note in content["notes"]:
        show(f"note: {note}", quiet)
    if content["preprocessing"] is None:
        show("note: no preprocessing is known: the device must supply inputs in the form that the model takes", quiet)
    if content["class_names"] is None and content["labels"]["classes"] is not None:
        show("note: no class names are known: the device's program must supply them", quiet)
    sizes = [(output / FILE).stat().st_size, *(int(file["bytes"]) for file in content["files"])]
    show(
        f"{output}: {len(sizes)} files, {size_text(sum(sizes))}; any onnxruntime from "
        f"{content['oldest_onnxruntime']} on",
        quiet,
    )
