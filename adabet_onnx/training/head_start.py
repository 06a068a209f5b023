"""The start of a new head: it is fitted to its inputs before the first epoch.

A head marked as new in the model's metadata holds random numbers. If every operation between it and the logits is
linear, the best head for the current features can be found without backpropagation through the network (see `fitting`):
the frozen part and the layers after it run once over the training samples, excluding the validation samples.

**Confidence.** Penalty strength and scale are chosen on rows left out of the fit, so the head is as good as it can be
without training. But if it is right and certain on nearly all rows it was fitted to, the gradient of the loss vanishes
and the layers before it learn nothing. Left-out rows do not always reveal that: a photograph from a series has
near-duplicates among the rows that remain. The loss of the fitted rows does reveal it. So if training follows, the
scale is capped such that their mean cross-entropy is at least `LEFT` times that of uniform guessing, the logarithm of
the number of classes. The cap does not change the order of the classes, nor the accuracy. It has no effect if the
features carry too little information, as those of ResNet-20 for 20 classes (0.36).

**Size of the weights.** If features hardly separate the classes, as in a network whose late channels are dead, the best
weights are a hundred times larger than those of a freshly initialised head. If layers far before it are trained too, it
amplifies their changes by the same factor, and the training makes little progress. So if layers of the first half are
trained, weights and bias are scaled down, if necessary, to `LARGE` times the usual size. MobileNetV1 on flowers,
strategy auto (all normalisations), rate 0.01: 37.8 % as fitted, 44.9 % with 0.3 of that size, 48.1 % with 0.06 (ten
times the usual size), 46.4 % from random numbers. If only late layers are trained, the fitted weights are kept: with
the last tenth 32.4 % at best, with 0.06 of their size 25.3 %.

Measured (5 epochs of AdamW, one seed, test accuracy in %), by `LEFT`:

    pair, layers, rate                            random  no cap    0.2   0.35    0.5    0.8
    EfficientNet-Lite0, groceries, last, 0.001      83.2    82.2   82.6   84.2   83.0
    EfficientNet-Lite0, groceries, adabet, 0.001    86.5                  85.9
    MobileNetV2, flowers, adabet, 0.001             78.6    81.4   81.3          82.2
    MobileNetV2, flowers, adabet, 0.003             80.8    80.4   81.2          82.8
    MiniLM, banking, last, 0.001 (kept out)         83.5                  84.9
    ResNet-20, 20 of CIFAR-100, adabet, 0.001       46.3    56.4                 56.2   52.6
    ResNet-20, 20 of CIFAR-100, adabet, 0.003       51.1    57.6                 56.9   53.8
    ResNet-20, 20 of CIFAR-100, adabet, 0.01        54.6    57.2                 55.8   56.7
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..data.labels import counted as counted_labels
from ..errors import AdabetError, ModelError, UsageError
from ..fitting.duplicates import near_duplicates
from ..fitting.fit import Fitted, fit_classes, fit_outputs
from ..model.layers import Layer
from ..model.open import Model
from ..portable.linear_head import NotLinearError
from ..progress import Progress, silent
from ..runtime import Threads
from ..showing import clipped
from .features import FeatureSource
from .head_rows import FitRows, HeadRows, HeadTensors, head_tensors
from .manifest import Manifest, TrainingSession
from .settings import Settings
from .training_data import TrainingData

KEY = "head_start"  # the key in the state stored with a checkpoint
LEFT = 0.35  # of the loss of uniform guessing
LARGE = 10.0  # weights, in multiples of a fresh head's: uniform in +-1/sqrt(features)
_SAME = 1e-3  # largest difference between the session's logits and those of the fit, relative to the largest
_CHECKED = 4  # samples whose logits are compared


@dataclass(frozen=True)
class HeadStart:
    """How a head was fitted, or why it was not.

    Attributes:
        head: name of the head.
        how: ``logistic``, ``ridge``, ``descent`` or ``constant`` (see `fitting`); None if it is random.
        note: why it is random, or how it was fitted, if that is remarkable; None without one.
        rows: number of rows it was fitted to.
        features: number of features per row.
        strength: strength of the penalty.
        scale: factor that the fitted head was multiplied by.
        asked: the scale before capping.
        accuracy: the share of rows predicted correctly by a fit without their sample; None without classes.
    """

    head: str
    how: str | None
    note: str | None = None
    rows: int = 0
    features: int = 0
    strength: float = 0.0
    scale: float = 1.0
    asked: float = 1.0
    accuracy: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        name = clipped(self.head, 40)
        if self.how is None:
            return f"{name!r} starts from random numbers: {self.note}"
        text = f"{name!r} was fitted before training"
        return text if self.note is None else f"{text} ({self.note})"


def start_head(
    session: TrainingSession,
    manifest: Manifest,
    model: Model,
    data: TrainingData,
    source: FeatureSource,
    settings: Settings,
    *,
    threads: Threads = None,
    progress: Progress | None = None,
) -> tuple[HeadStart | None, HeadFit | None]:
    """Fit a new head, set its values in the session and record it with the training.

    Args:
        session: the session of a new training.
        manifest: the manifest of its artifacts.
        model: the model the artifacts were made from.
        data: the training data.
        source: provides the features that steps start from.
        settings: the training settings; ``head_init`` selects the start.
        threads: for ONNX Runtime.
        progress: receives the progress over the samples.

    Returns:
        How the head was fitted; None if it is not new, not trained, or meant to be random. And the object that fitted
        it, for repeating the fit with other samples; None if nothing was fitted.

    Raises:
        UsageError: the head must be fitted according to the settings, but cannot be.
    """
    if settings.head_init == "random":
        return None, None
    head = model.head
    obstacle = None
    if head is None or not model.new_head:
        obstacle = "the head is not marked as new (`num_classes` makes a new one)"
    elif head.name not in manifest.selection.layers:
        obstacle = f"the selection does not train the head {head.name!r}"
    if obstacle is not None:
        _check_not_required(settings, obstacle)
        return None, None
    assert head is not None
    fit = None
    try:
        tensors = settable_tensors(manifest, head)
        rows = HeadRows(manifest, session, data, source, tensors, threads)
        head_fit = HeadFit(model, session, manifest, data, rows, settings, progress or silent)
        start, fit = head_fit.fit(data.training), head_fit
    except (NotLinearError, ModelError, np.linalg.LinAlgError) as error:
        _check_not_required(settings, f"the head {head.name!r} cannot be fitted: {error}")
        start = HeadStart(head.name, None, clipped(str(error), 200))
    data.about[KEY] = start.to_json()
    return start, fit


def stored_start(state: dict[str, Any] | None) -> HeadStart | None:
    """Return the head start stored with the training to be resumed."""
    start_state = (state or {}).get(KEY)
    return HeadStart(**start_state) if isinstance(start_state, dict) else None


def _check_not_required(settings: Settings, reason: str) -> None:
    if settings.head_init == "fitted":
        raise UsageError(f"`head_init='fitted'` is not possible: {reason}. Leave it out.")


def settable_tensors(manifest: Manifest, head: Layer) -> HeadTensors:
    """Return the names of the head's parameters, checking that all of them can be set.

    Args:
        manifest: the manifest of the artifacts that train it.
        head: the head of the model.

    Raises:
        NotLinearError: not all of them can be set.
    """
    parts = {str(entry["name"]) for entry in manifest.parameter_entries if entry.get("channels")}
    names = {parameter.name for parameter in head.parameters}
    if not names <= set(manifest.parameters) or names & parts:
        raise NotLinearError("only a part of its parameters is trained")
    if head.earlier:
        raise NotLinearError("it is applied several times")
    return head_tensors(head.parameters)


class HeadFit:
    """Fits a new head to samples of a training.

    Args:
        model: the model with the head.
        session: holds the values of all parameters.
        manifest: the manifest of the artifacts.
        used: the data.
        rows: computes the head's inputs.
        settings: the training settings.
        progress: receives the progress over the samples.

    Raises:
        NotLinearError: its inputs are not finite.
        ModelError: a graph fails to run.

    Attributes:
        groups: a number for each sample of the data, the same for near-duplicates; None if samples have several labels,
            or numeric targets.
        values: the head's parameter values from the last fit.
    """

    def __init__(
        self,
        model: Model,
        session: TrainingSession,
        manifest: Manifest,
        data: TrainingData,
        rows: HeadRows,
        settings: Settings,
        progress: Progress,
    ) -> None:
        assert model.head is not None
        self._name, self._session, self._manifest, self._data = model.head.name, session, manifest, data
        self._rows, self._settings = rows, settings
        self._layers = [layer.name for layer in model.layers]
        self._all = rows.all(settings.seed, progress)
        if not np.isfinite(self._all.features).all():
            raise NotLinearError("its inputs are not finite")
        self.groups = self._groups()
        self.values: dict[str, np.ndarray] = {}

    def _groups(self) -> np.ndarray | None:
        if self._rows.per_sample != 1 or self._manifest.class_axis is None:
            return None
        groups, each = np.arange(len(self._data.data)), self._all.where(self._all.views == 0)
        numbers = near_duplicates(each.features, each.targets)
        _, first = np.unique(numbers, return_index=True)
        groups[each.samples] = each.samples[first][numbers]
        return groups

    def fit(self, samples: np.ndarray) -> HeadStart:
        """Fit the head to samples and all their views, set its values in the session and check the logits.

        Args:
            samples: indices of the samples in the data.

        Raises:
            NotLinearError: no label counts, or the logits differ from those of the fit; the head is then unchanged.
        """
        rows = self._all.where(np.isin(self._all.samples, samples))
        weights = self._manifest.class_weights
        if not len(rows.features) or (weights is not None and not counted_labels(rows.targets, weights)):
            raise NotLinearError("no label counts")
        fitted = self._fitted(rows)
        self._set_values(fitted)
        note = None
        if rows.drawn:
            note = "to a random part of the pixels or tokens"
        elif self._manifest.loss_function == "l1":
            note = "by least squares, although l1 would need medians"
        return HeadStart(
            self._name,
            fitted.how,
            note,
            len(rows.features),
            rows.features.shape[1],
            fitted.strength,
            fitted.scale,
            fitted.asked,
            fitted.accuracy,
        )

    def _fitted(self, rows: FitRows) -> Fitted:
        biased, loss, seed = self._rows.head.biased, self._manifest.loss_function, self._settings.seed
        if self._manifest.class_axis is None:
            return fit_outputs(rows.features, rows.targets, rows.samples, loss, intercept=biased, seed=seed)
        given = self._manifest.class_weights
        weights = None if given is None else np.asarray(given, np.float64)[rows.targets]
        classes = self._rows.outputs
        fitted = fit_classes(
            rows.features,
            rows.targets,
            rows.samples if self.groups is None else self.groups[rows.samples],
            classes,
            weights=weights,
            intercept=biased,
            least=LEFT * math.log(max(classes, 2)) if self._settings.epochs else None,
            seed=seed,
        )
        return _limited(fitted) if self._settings.epochs and self._early else fitted

    @property
    def _early(self) -> bool:
        """Whether layers of the first half are trained."""
        layers = self._layers
        return bool(set(layers[: len(layers) // 2]) & set(self._manifest.selection.layers))

    def _set_values(self, fitted: Fitted) -> None:
        tensors, head = self._rows.tensors, self._rows.head
        weight, bias = head.parameters(fitted.weight, fitted.bias, self._rows.kernel)
        new = {tensors.weight: weight} | ({} if tensors.bias is None else {tensors.bias: bias})
        old = {name: self._session.parameter(name) for name in new}
        self.values = {name: np.asarray(value, np.float32).reshape(old[name].shape) for name, value in new.items()}
        for name, value in self.values.items():
            self._session.set_parameter(name, value)
        obstacle = self._mismatch(fitted)
        if obstacle is not None:
            for name, value in old.items():
                self._session.set_parameter(name, value)
            raise NotLinearError(obstacle)

    def _mismatch(self, fitted: Fitted) -> str | None:
        """Return why the session's logits do not match the fit; None if they do."""
        samples = self._data.training[:_CHECKED]
        expected = self._rows.logits(samples, fitted.weight, fitted.bias)
        try:
            _, logits = self._session.evaluate(self._rows.source_of(samples), self._data.labels(samples))
        except AdabetError as error:
            return str(error)
        size = max(1.0, float(np.abs(expected).max(initial=0.0)))
        difference = float(np.abs(logits.reshape(len(samples), -1) - expected).max(initial=0.0)) / size
        if difference <= _SAME:
            return None
        return f"with the fitted values its logits differ by {difference:.1e} from the expected ones"


def _limited(fitted: Fitted) -> Fitted:
    """Scale weights and bias down if the weights are too large."""
    features = fitted.weight.shape[0]
    size = math.sqrt(float((fitted.weight**2).mean()))
    most = LARGE / math.sqrt(3 * features)
    if size <= most:
        return fitted
    factor = most / size
    return replace(fitted, weight=factor * fitted.weight, bias=factor * fitted.bias, scale=factor * fitted.scale)
