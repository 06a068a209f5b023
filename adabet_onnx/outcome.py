"""The result of an adaptation: gain and cost, also written to ``run.json``."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cost.measure import Cost
from .cost.overview import Overview
from .cost.words import measured_sentence, stored_sentence
from .drawing import draw_bars, finished, name_layers, new_figure, plain, width_for
from .file_names import RUN
from .frames import frame
from .model.open import Model
from .options import typed
from .records import write_json
from .scoring.drawing import draw_b1_hat, draw_parameters, mark_legend
from .scoring.record import Scores
from .selection.record import Selection
from .showing import clipped, counted, file_name, html_table, named, one_line
from .sizes import size_text
from .training.drawing import draw_accuracy, draw_loss
from .training.head_start import HeadStart
from .training.rate_search import Rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = ("epoch", "train_loss", "eval_loss", "eval_accuracy", "learning_rate", "seconds")  # in metrics.jsonl
NO_TEST_DATA = (
    "metrics on training samples are too optimistic: give test data too (x_test and y_test, or a folder test/)"
)
_STEPS = {"inference": "inference", "selection": "selected layers", "all": "all layers"}


@dataclass(frozen=True)
class Outcome:
    """Results of `adapt`.

    Attributes:
        model: the model that was adapted (with its new head, if it got one).
        scores: scores of all layers.
        selection: the layers that were trained.
        before: loss, accuracy and number of samples of the original model on the test data.
        after: the same for the adapted model.
        full_precision: the same for the adapted model with its frozen part in float32, if that is int8; else None.
        evaluated_on: a description of the data that these metrics were computed on.
        trainable_share: trained parameters over all parameters, including those that belong to no layer.
        costs: measured costs of a training step for the ``selection`` and for ``all`` layers, and of ``inference``.
        not_measured: the reason why a cost was not measured, or None.
        predicted: costs predicted from the graphs that would run, if not all were measured; None if all were, or if
            they cannot be predicted.
        warnings: reasons why the training may have learned nothing, one sentence each; see `training.learning_check`.
        notes: remarks on the graphs that were trained, one sentence each; see `Manifest.notes`.
        advice: advice on the learning rate drawn from the training's losses, or None.
        learning_rate: learning rate of the first step; None if there was no step.
        rates: the search for that rate; None if the rate was given.
        stored_bytes: bytes stored per sample, from which all steps start; 0 if nothing was stored.
        samples: number of training samples.
        views: views of each training sample; an epoch uses one of each.
        kept_views: stored views of all samples, validation samples having one each; 0 if unknown.
        epochs: number of epochs that were trained.
        validation_samples: number of samples that eval_loss and eval_accuracy in ``metrics`` were measured on.
        kept_epoch: number of the epoch whose state was kept; None: the last one.
        metrics: the rows of metrics.jsonl.
        folder: the output folder.
        batch_size: batch size of the training.
        data: one line that describes how the training data was interpreted.
        features: one line on where the output of the frozen part was stored, or why not; None if neither applies.
        head_start: how a new head was fitted before the first epoch, or why not; None if no fit was to be made.

    Example:
        >>> from adabet_onnx import Adapting, Settings, adapt
        >>> adapting = Adapting(settings=Settings(epochs=1), measure=False)
        >>> outcome = adapt("model.onnx", "new_domain.npz", "adapted", adapting=adapting)
        >>> outcome.evaluated_on
        '400 test samples'
    """

    model: Model
    scores: Scores
    selection: Selection
    before: dict[str, Any]
    after: dict[str, Any]
    evaluated_on: str
    trainable_share: float
    costs: dict[str, Cost]
    not_measured: str | None
    metrics: list[dict[str, Any]]
    folder: Path
    batch_size: int = 32
    data: str = ""
    predicted: Overview | None = None
    warnings: tuple[str, ...] = ()
    advice: str | None = None
    learning_rate: float | None = None
    full_precision: dict[str, Any] | None = None
    features: str | None = None
    head_start: HeadStart | None = None
    stored_bytes: int = 0
    samples: int = 0
    views: int = 1
    kept_views: int = 0
    epochs: int = 0
    rates: Rates | None = None
    validation_samples: int = 0
    kept_epoch: int | None = None
    notes: tuple[str, ...] = ()

    def to_dataframe(self, library: str | None = None) -> Any:
        """Return a data frame with a row for each epoch; the columns are those of metrics.jsonl.

        Args:
            library: ``"pandas"`` or ``"polars"``; None: pandas if it is installed, else polars.

        Returns:
            A DataFrame of that library.

        Raises:
            UsageError: the library is neither of the two.
            RuntimeMissingError: the library is not installed, or neither of the two is.
        """
        return frame([{"seconds": None} | row for row in self.metrics], METRICS, library)

    @typed
    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Plot the gain and the cost.

        Shows loss and accuracy by epoch, accuracy (or loss) before and after, the cost of a step compared with one of
        all layers and with inference, and the layers by depth with the selected ones marked.

        Args:
            path: also write the plot to this ``.png``, ``.svg`` or ``.pdf``.

        Returns:
            The figure, which a notebook displays.

        Raises:
            UsageError: the path has another suffix.
            OutputError: the file cannot be written.
        """
        layers, chosen = self.scores.layers, self.selection.layers
        figure = new_figure(max(11.0, width_for(len(layers))), 7.2)
        parts = figure.subfigures(2, 1, height_ratios=(1, 1.3), squeeze=False)
        above, below = parts[0, 0], parts[1, 0]
        key = "loss" if self.before["accuracy"] is None else "accuracy"
        axes = above.subplots(1, 4 if key == "accuracy" else 3)
        draw_loss(axes[0], self.metrics)
        if key == "accuracy":
            draw_accuracy(axes[1], self.metrics)
        self._draw_gain(axes[-2], key)
        self._draw_cost(axes[-1])
        axis = below.subplots()
        (draw_b1_hat if self.scores.samples else draw_parameters)(axis, layers, chosen)
        mark_legend(axis)
        name_layers(axis, [layer.name for layer in layers], chosen)
        return finished(figure, path)

    def _draw_gain(self, axis: Axes, key: str) -> None:
        percent = key == "accuracy"
        sides = {"before": self.before, "after": self.after}
        values = {when: (100 if percent else 1) * side[key] for when, side in sides.items()}
        draw_bars(axis, values, marked="after", form="{:.1f}" if percent else "{:.3g}")
        plain(axis, f"{key} before and after{', %' if percent else ''}")
        axis.set_xlabel(f"on {self.evaluated_on}")

    def _draw_cost(self, axis: Axes) -> None:
        """Draw the memory of a step, or the share of parameters if memory was neither measured nor predicted."""
        sizes, origin = self._memory()
        if sizes:
            names = {kind: name.replace(" ", "\n") for kind, name in _STEPS.items()}
            values = {name: sizes[kind] / 1e6 for kind, name in names.items() if kind in sizes}
            draw_bars(axis, values, marked=names["selection"])
            plain(axis, f"step memory, MB ({origin})")
        else:
            draw_bars(axis, {"trained": 100 * self.trainable_share, "all": 100.0}, marked="trained")
            plain(axis, "parameters, %")

    def _memory(self) -> tuple[dict[str, int], str]:
        """Return the bytes of each kind of step, and whether all of them are measured or predicted."""
        if self.predicted is not None:
            return {kind: row.prediction.memory_bytes for kind, row in self.predicted.rows().items()}, "predicted"
        return {kind: cost.memory_bytes for kind, cost in self.costs.items()}, "measured"

    def _repr_html_(self) -> str:
        rows = [
            (what, form.format(self.before[what]), form.format(self.after[what]))
            for what, form in (("accuracy", "{:.1%}"), ("loss", "{:.4g}"))
            if self.before[what] is not None
        ]
        sizes, origin = self._memory()
        memory = ", ".join(f"{name} {size_text(sizes[what])}" for what, name in _STEPS.items() if what in sizes)
        lines = [
            f"trained: {self._trained()}" + ("" if self.untrained else f": {named(self.selection.layers)}"),
            *([] if self.is_of_test_data else [NO_TEST_DATA]),
            *([f"memory of a step, {origin}: {memory}"] if sizes else []),
            *self.kept(),
        ]
        title = f"{file_name(self.model.name)}, adapted; metrics on {self.evaluated_on}"
        return html_table(title, ("", "before", "after"), rows, lines=[*lines, *self.warnings])

    def __repr__(self) -> str:
        key, form = ("loss", "{:.4g}") if self.before["accuracy"] is None else ("accuracy", "{:.1%}")
        before, after = (form.format(side[key]) for side in (self.before, self.after))
        gain = f"{key} {before} -> {after} on {clipped(self.evaluated_on)}"
        warned = counted(len(self.warnings), "warning") if self.warnings else None
        return one_line(self, gain, f"trained {self._trained()}", f"in {clipped(self.folder, 60)}", warned)

    def kept(self) -> list[str]:
        """Return sentences on what was stored per sample and what that saves in training, predicted or measured."""
        if self.predicted is not None:
            return self.predicted.frozen()[:2] if self.untrained else self.predicted.frozen()
        if not (self.stored_bytes and self.samples and self.epochs):
            return []
        views = self.kept_views or self.samples
        sentences, cost = [stored_sentence(self.stored_bytes, self.samples, views)], self.costs.get("selection")
        if cost is not None and cost.frozen_bytes:
            settings = {"batch_size": self.batch_size, "samples": self.samples, "epochs": self.epochs, "views": views}
            sentences.append(measured_sentence(cost, **settings))
        return sentences

    @property
    def untrained(self) -> bool:
        """Whether no epoch was trained; a new head may have been fitted."""
        return bool(self.metrics) and not self.metrics[-1]["epoch"]

    @property
    def fitted_alone(self) -> str | None:
        """What the fitted head reached on validation data alone, and after training; None without a fitted head."""
        start = self.head_start
        if start is None or start.how is None or not self.metrics:
            return None
        text = f"{start}; nothing else was changed" if self.untrained else str(start)
        figures = self.validation("eval_accuracy", "{:.1%}") or self.validation("eval_loss", "loss {:.3f}")
        if figures is None:
            return text
        judged = f"{counted(self.validation_samples, 'validation sample')}" if self.validation_samples else "validation"
        if self.untrained:
            return f"{text}; {figures[0]} on {judged}"
        return f"{text}; on {judged}: {figures[0]} with the fitted head alone, {figures[1]} after training"

    def validation(self, key: str, form: str = "{:.1%}") -> tuple[str, str] | None:
        """A figure on validation data before training and after it, as text; None if it was not measured.

        Args:
            key: ``eval_accuracy`` or ``eval_loss``.
            form: the format of one.
        """
        rows = self._validated
        if rows is None or rows[0][key] is None or rows[1][key] is None:
            return None
        return form.format(rows[0][key]), form.format(rows[1][key])

    @property
    def lowered_accuracy(self) -> bool:
        """Whether training lowered the accuracy on the validation data."""
        rows = self._validated
        if rows is None or rows[0]["eval_accuracy"] is None or rows[1]["eval_accuracy"] is None:
            return False
        return bool(rows[1]["eval_accuracy"] < rows[0]["eval_accuracy"])

    @property
    def _validated(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The rows of metrics.jsonl before training, and of the state that was kept."""
        if not self.metrics:
            return None
        return self.metrics[0], self.metrics[-1 if self.kept_epoch is None else self.kept_epoch]

    def trained_text(self) -> str:
        """How much was trained."""
        if not self.untrained:
            return f"{self.trainable_share:.1%} of the parameters"
        head = self.model.head
        if self.head_start is None or self.head_start.how is None or head is None:
            return "nothing (0 epochs)"
        share = sum(parameter.size for parameter in head.parameters) / self.model.weight_count
        return f"nothing; the head was fitted, {share:.1%} of the parameters"

    def _trained(self) -> str:
        if self.untrained:
            return self.trained_text()
        return f"{len(self.selection.layers)} of {counted(len(self.scores.layers), 'layer')}, {self.trained_text()}"

    @property
    def is_of_test_data(self) -> bool:
        """Whether the metrics were computed on samples that were not trained on."""
        return self.evaluated_on.endswith(" test samples")

    @property
    def trainable_layers(self) -> int:
        """The number of layers that a backend can train: "all layers" in ``costs``."""
        return sum(layer.untrainable is None for layer in self.scores.layers)


def summary(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as JSON values, which the caller of `adapt` may save."""
    return {
        "data": outcome.data,
        "features": outcome.features,
        "head_start": None if outcome.head_start is None else outcome.head_start.to_json(),
        "layers": list(outcome.selection.layers),
        "strategy": outcome.selection.strategy,
        "model_file": outcome.model.file,
        "before": outcome.before,
        "after": outcome.after,
        "full_precision": outcome.full_precision,
        "evaluated_on": outcome.evaluated_on,
        "trainable_share": outcome.trainable_share,
        "batch_size": outcome.batch_size,
        "size_tau": outcome.selection.size_tau,
        "costs": {kind: dataclasses.asdict(cost) for kind, cost in outcome.costs.items()},
        "not_measured": outcome.not_measured,
        "predicted": None if outcome.predicted is None else outcome.predicted.to_json(),
        "trainable_layers": outcome.trainable_layers,
        "warnings": list(outcome.warnings),
        "notes": list(outcome.notes),
        "advice": outcome.advice,
        "learning_rate": outcome.learning_rate,
        "rates": None if outcome.rates is None else outcome.rates.to_json(),
        "stored_bytes": outcome.stored_bytes,
        "samples": outcome.samples,
        "views": outcome.views,
        "kept_views": outcome.kept_views,
        "epochs": outcome.epochs,
        "validation_samples": outcome.validation_samples,
        "kept_epoch": outcome.kept_epoch,
    }


def save_summary(outcome: Outcome, *, command: str | None = None) -> None:
    """Write ``run.json`` into the outcome's folder, with the command line that produced it, if any."""
    write_json(outcome.folder / RUN, summary(outcome) | {"command": command})
