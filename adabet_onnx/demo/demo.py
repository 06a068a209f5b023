"""Adaptation of the embedded model to the embedded data, with a picture of the result."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np

from ..adapting import Adapting
from ..data.preprocess import arithmetic_for
from ..data.source import open_data
from ..drawing import new_figure, save_figure
from ..file_names import ADAPTED
from ..model.open import open_model
from ..outcome import Outcome
from ..pipeline import adapt
from ..selection.options import Choosing
from ..training.logits import compute_logits
from ..training.settings import Settings

_SHOWN = 24  # number of digits in the picture
_ADAPTING = Adapting(choosing=Choosing(rho=0.15), settings=Settings(learning_rate=5e-3))


def run_demo(
    folder: str | os.PathLike[str], *, epochs: int = 15, progress: Callable[[str, int, int], None] | None = None
) -> tuple[Outcome, Path]:
    """Adapt the embedded model to the embedded data.

    Args:
        folder: the output folder; it also gets ``demo.png``, digits with the predictions before and after, and
            ``scores.png``.
        epochs: passes over the training data.
        progress: callback that receives the current activity, the steps done and the total number of steps.

    Returns:
        The outcome and the path of the picture.

    Raises:
        AdabetError: see `adapt`.
    """
    adapting = replace(_ADAPTING, settings=replace(_ADAPTING.settings, epochs=epochs))
    root = resources.files(__package__)
    with resources.as_file(root / "digits.onnx") as model, resources.as_file(root / "digits_shifted.npz") as data:
        outcome = adapt(model, data, folder, adapting=adapting, progress=progress)
        picture = outcome.folder / "demo.png"
        _draw(outcome, data, picture)
    outcome.scores.plot(outcome.folder / "scores.png", chosen=outcome.selection.layers)
    return outcome, picture


def _draw(outcome: Outcome, data: Path, path: Path) -> None:
    """Draw digits of the new domain with predictions before and after, wrong ones in red, above the learning curve."""
    adapted = open_model(outcome.folder / ADAPTED)
    held = open_data(data, outcome.model).for_evaluation.subset(range(_SHOWN))
    preprocessing = arithmetic_for(outcome.model, True, None)
    answers = [compute_logits(model, held, preprocessing).argmax(-1) for model in (outcome.model, adapted)]
    labels = held.need_labels("the picture")
    figure = new_figure(10, 6.2)
    parts = figure.subfigures(2, 1, height_ratios=[2.2, 1], squeeze=False)
    top, bottom = parts[0, 0], parts[1, 0]
    before, after = outcome.before["accuracy"], outcome.after["accuracy"]
    top.suptitle(f"digits of the new domain: prediction before ({before:.0%} correct) → after ({after:.0%} correct)")
    images = held.rows.fetch(np.arange(_SHOWN))[""]
    for axis, image, label, first, second in zip(
        top.subplots(3, _SHOWN // 3).flat, images, labels, *answers, strict=True
    ):
        axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
        axis.axis("off")
        for x, answer in ((0.3, first), (0.7, second)):
            colour = "tab:green" if answer == label else "tab:red"
            axis.text(x, -0.02, str(answer), color=colour, ha="center", va="top", transform=axis.transAxes, fontsize=12)
        axis.text(0.5, -0.02, "→", ha="center", va="top", transform=axis.transAxes, fontsize=12)
    axis = bottom.subplots()
    axis.plot([row["epoch"] for row in outcome.metrics], [row["eval_accuracy"] for row in outcome.metrics], marker="o")
    axis.set(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1))
    axis.set_title(f"{outcome.trainable_share:.0%} of the parameters are trained", loc="left", fontsize="medium")
    axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
