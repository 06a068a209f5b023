"""A menu: several choices of layers in one package, from which a device chooses according to its data and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..data.preprocess import stored_in
from ..errors import AdabetError, ModelError, RecordError, UsageError
from ..files import replacing_folder, temporary_folder
from ..model.bindings import binding_mismatch
from ..model.error_context import guarded
from ..model.open import Model, ModelSource, open_model
from ..options import typed
from ..progress import Progress
from ..scoring.record import Scores, load_scores
from ..selection.record import Selection
from ..selection.strategies import select
from ..trainability.choices import Choices
from ..training.artifacts import make_artifacts
from .package import FILE, PackageWriter, check_backend, check_replaceable
from .packing import Packing

ENTRIES = 8
# The offered choices, the most useful first: name, strategy, share of the layers, and whether scores are needed.
_OFFERS = (
    ("head", "head", None, False),
    ("adabet-10", "adabet", 0.1, True),
    ("last-10", "last", 0.1, False),
    ("norm-bias", "norm-bias", None, False),
    ("last-25", "last", 0.25, False),
    ("adabet-25", "adabet", 0.25, True),
    ("last-50", "last", 0.5, False),
    ("last-5", "last", 0.05, False),
    ("last-75", "last", 0.75, False),
    ("adabet-50", "adabet", 0.5, True),
)


@typed
@guarded("making a menu of")
def make_menu(
    model: ModelSource,
    device: str | os.PathLike[str],
    *,
    scores: Scores | str | os.PathLike[str] | None = None,
    entries: int = ENTRIES,
    choices: Choices | None = None,
    packing: Packing | None = None,
    check: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a package with several choices of layers, which share the weights that none of them trains.

    The choices are the head alone, different numbers of last layers, and normalisations and biases; with scores also
    the layers with the highest scores. The device scores the layers on its own data and selects the choice with the
    highest scores that fits into its memory (see docs/device-package.md).

    Args:
        model: an opened model, or what `open_model` takes.
        device: the folder to write; an existing package there is replaced.
        scores: scores of this model, or the path of a scores.json; preprocessing and class names are taken from them.
        entries: maximum number of choices; choices with the same selection count once.
        choices: loss, optimizer and form of the training.
        packing: form of the package; None: the defaults of `Packing`.
        check: verify each choice's training graphs.
        progress: called with the current activity, the steps done and the total number of steps.

    Returns:
        The content of device.json, and additionally ``left_out``, the reasons why choices are missing, by name, and
        ``notes``, what a user should know, a sentence each.

    Raises:
        CheckError: a graph does not compute what it should.
        ModelError: none of the choices can be trained.
        OutputError: the folder cannot be written, or contains files that do not belong to the package.
        RecordError: the scores are for another model, or damaged.
        UsageError: a choice is unknown, or there are no entries.

    Example:
        >>> from adabet_onnx import make_menu
        >>> menu = make_menu("model.onnx", "device", entries=2)
        >>> [entry["name"] for entry in menu["entries"]]
        ['head', 'norm-bias']
    """
    if entries < 1:
        raise UsageError(f"a menu needs at least 1 of `entries`, not {entries}.")
    if scores is not None and not isinstance(scores, Scores | str | os.PathLike):
        raise UsageError(
            f"the scores of a menu must be Scores or the path of a scores.json, not {type(scores).__name__}."
        )
    known = load_scores(scores) if isinstance(scores, str | os.PathLike) else scores
    opened = open_model(model, bind=None if known is None or isinstance(model, Model) else known.inputs)
    if known is not None:
        _check_scores(known, opened)
    packing = packing or Packing()
    check_replaceable(device)
    left_out: dict[str, str] = {}
    offers = list(_offers(opened, known, entries, left_out))
    with replacing_folder(device, FILE) as part, temporary_folder() as folder:
        writer = None
        for number, (name, selection) in enumerate(offers):
            if progress is not None:
                progress("making the menu", number, len(offers))
            try:
                manifest = make_artifacts(
                    opened,
                    selection,
                    folder / name,
                    choices=_in_profile(choices, packing.profile),
                    backend="portable",
                    check=check,
                )
            except (ModelError, UsageError) as error:
                left_out[name] = str(error)
                continue
            check_backend(manifest)
            writer = writer or PackageWriter(part, manifest, packing)
            writer.add(manifest, name, prefix=f"{name}.")
        if writer is None:
            tried = (left_out[name] for name, _ in offers)
            reason = next(tried, next(iter(left_out.values()), "no layer can be selected"))
            named = reason.removeprefix(f"{opened.name}: ")
            raise ModelError(f"{opened.name}: no choice of layers can be trained: {named}")
        content = writer.finish()
    return {**content, "left_out": left_out}


def _check_scores(scores: Scores, model: Model) -> None:
    """Check that scores are those of a model.

    Raises:
        RecordError: they are of another model.
    """
    if scores.model_sha256 != model.sha256:
        recorded = "" if scores.model_file is None else f", recorded as {scores.model_file}"
        raise RecordError(
            binding_mismatch(scores.inputs, model.bound)
            or f"the scores are of another model (SHA-256 {scores.model_sha256[:12]}...{recorded}; {model.name} has "
            f"{model.sha256[:12]}...). Give that model, or score this one: `score(model, data)`."
        )


def _offers(
    model: Model, scores: Scores | None, most: int, left_out: dict[str, str]
) -> Iterator[tuple[str, Selection]]:
    """Different selections, with names; the reasons why others are missing are put into `left_out`."""
    seen: dict[tuple[str, ...], str] = {}
    for name, strategy, rho, scored in _OFFERS:
        if len(seen) == most:
            return
        if scored and scores is None:
            left_out[name] = "scores are needed (`scores`)"
            continue
        try:
            selection = select(model if scores is None else scores, strategy=strategy, rho=rho)
        except AdabetError as error:
            left_out[name] = str(error)
            continue
        if selection.parameters in seen:
            left_out[name] = f"the same layers as {seen[selection.parameters]}"
            continue
        seen[selection.parameters] = name
        if scores is None:
            stored = stored_in(model.graph)
            classes = model.metadata("classes")
            selection = replace(selection, preprocessing=None if stored is None else stored.to_json(), classes=classes)
        yield name, selection


def _in_profile(choices: Choices | None, profile: str | None) -> Choices:
    choices = choices or Choices()
    return choices if profile != "webgpu" else replace(choices, profile=profile)
