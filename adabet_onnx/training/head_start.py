"""Where a new head starts: fitted to what it is given, before the first epoch.

A head that is marked as new in the model's metadata holds random numbers. Where everything from it to the logits is
linear, the best head for the features as they are is found without a gradient through the network (`fitting`): the
frozen part and what follows it are run once over the training samples, those held out for validation left aside.

**How confident it starts.** Strength and scale are chosen for rows that are left out, so that as it is the head is as
good as it can be without training. But where it is right on nearly all it was fitted to and sure of it, the loss has no
slope left, and the layers before it learn nothing. Rows left out do not always show that: of serial photographs each
has others like it that stay. What shows it is the loss of the rows it was fitted to. So where training follows, the
scale is capped: their mean cross-entropy is at least `LEFT` of that of guessing, the logarithm of the number of
classes. The order of the classes, and so the accuracy, is that without a cap; where features tell less than that, as
those of ResNet-20 of 20 classes (0.36), there is none.

**How large its weights are.** Where features hardly tell classes apart, as those of a network whose late channels are
dead, the best weights for them are a hundred times those a head is made with. If layers far before it are trained too,
it enlarges what they change as often, and the training does not get far. So where layers of the first half are
trained, weights and bias are scaled down, if need be, to `LARGE` times the usual size. MobileNetV1 on flowers, strategy
auto (all normalisations), 0.01: 37.8 % as fitted, 44.9 % with 0.3 of that, 48.1 % with 0.06 (ten times the usual size),
46.4 % from random numbers. Where only late layers are trained, the fitted weights are left as they are: with the last
tenth 32.4 % at best, with 0.06 of that 25.3 %.

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
from ..showing import clipped, counted
from .features import Source
from .fed import Fed
from .head_rows import HeadRows, HeadTensors, Rows, head_tensors
from .manifest import Manifest, TrainingSession
from .settings import Settings

KEY = "head_start"  # in what is stored with a checkpoint
LEFT = 0.35  # of the loss of guessing
LARGE = 10.0  # weights, in multiples of those a head is made with: uniform in +-1/sqrt(features)
_SAME = 1e-3  # between logits of the session and what the fit says they are, of the largest
_CHECKED = 4  # samples whose logits are compared


@dataclass(frozen=True)
class HeadStart:
    """How a head was fitted, or why not.

    Attributes:
        head: its name.
        how: ``logistic``, ``ridge``, ``descent`` or ``constant`` (see `fitting`); None where it is random.
        note: why it is random, or what else is to be said; None where nothing is.
        rows: that it was fitted to.
        features: of a row.
        strength: of the penalty.
        scale: that it is multiplied by.
        asked: the scale before it was capped.
        accuracy: the share of rows that a fit without their sample gets right; None where there are no classes.
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
        """As JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        name = clipped(self.head, 40)
        if self.how is None:
            return f"{name!r} starts from random numbers: {self.note}"
        what = f"{name!r} fitted to {counted(self.rows, 'row')} of {counted(self.features, 'feature')}"
        details = [_HOW[self.how]]
        if self.how != "constant":
            details.append(f"strength {self.strength:.1g}")
        if self.asked != 1.0 or self.scale != 1.0:
            capped = f", capped from {self.asked:.2g}" if self.scale < self.asked else ""
            details.append(f"logits scaled by {self.scale:.2g}{capped}")
        said = f"{what} ({', '.join(details)})"
        if self.accuracy is not None and self.how != "constant":
            said += f": right on {self.accuracy:.1%} of rows left out"
        return said if self.note is None else f"{said}; {self.note}"


_HOW = {
    "logistic": "ridge and logistic regression",
    "ridge": "ridge regression",
    "descent": "ridge regression by conjugate gradients",
    "constant": "a bias alone",
}


def start_head(
    session: TrainingSession,
    manifest: Manifest,
    model: Model,
    used: Fed,
    source: Source,
    settings: Settings,
    *,
    threads: Threads = None,
    progress: Progress | None = None,
) -> tuple[HeadStart | None, HeadFit | None]:
    """Fit a new head and put it into the session; note it with the training.

    Args:
        session: of a new training.
        manifest: of its artifacts.
        model: that they were made from.
        used: the data.
        source: what steps begin with.
        settings: of the training; ``head_init`` says what is wanted.
        threads: for ONNX Runtime.
        progress: told of the samples.

    Returns:
        What was done; None where the head is not new, not trained, or was to be random. And what did it, to do it
        again with other samples; None where nothing was fitted.

    Raises:
        UsageError: the head is to be fitted and cannot be.
    """
    if settings.head_init == "random":
        return None, None
    head = model.head
    wrong = None
    if head is None or not model.new_head:
        wrong = "the head is not marked as new (`num_classes` makes a new one)"
    elif head.name not in manifest.selection.layers:
        wrong = f"the selection does not train the head {head.name!r}"
    if wrong is not None:
        _refused(settings, wrong)
        return None, None
    assert head is not None
    fit = None
    try:
        tensors = settable_tensors(manifest, head)
        rows = HeadRows(manifest, session, used, source, tensors, threads)
        made = HeadFit(model, session, manifest, used, rows, settings, progress or silent)
        start, fit = made.to(used.training), made
    except (NotLinearError, ModelError, np.linalg.LinAlgError) as error:
        _refused(settings, f"the head {head.name!r} is none that can be fitted: {error}")
        start = HeadStart(head.name, None, clipped(str(error), 200))
    used.about[KEY] = start.to_json()
    return start, fit


def stored_start(state: dict[str, Any] | None) -> HeadStart | None:
    """What is stored with a training that goes on."""
    found = (state or {}).get(KEY)
    return HeadStart(**found) if isinstance(found, dict) else None


def _refused(settings: Settings, why: str) -> None:
    if settings.head_init == "fitted":
        raise UsageError(f"`head_init='fitted'` cannot be had: {why}. Leave it out.")


def settable_tensors(manifest: Manifest, head: Layer) -> HeadTensors:
    """The head's parameters.

    Args:
        manifest: of the artifacts that train it.
        head: of the model.

    Raises:
        NotLinearError: they cannot all be set.
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
        model: with the head.
        session: with the values of all parameters.
        manifest: of the artifacts.
        used: the data.
        rows: computes what the head is given.
        settings: of the training.
        progress: told of the samples.

    Raises:
        NotLinearError: what it is given are not finite numbers.
        ModelError: a graph cannot be run.

    Attributes:
        groups: a number for each sample of the data, the same for near-duplicates; None where a sample has several
            labels, or numbers.
        values: of the head's parameters, as the last fit has them.
    """

    def __init__(
        self,
        model: Model,
        session: TrainingSession,
        manifest: Manifest,
        used: Fed,
        rows: HeadRows,
        settings: Settings,
        progress: Progress,
    ) -> None:
        assert model.head is not None
        self._name, self._session, self._manifest, self._used = model.head.name, session, manifest, used
        self._rows, self._settings = rows, settings
        self._layers = [layer.name for layer in model.layers]
        self._all = rows.all(settings.seed, progress)
        if not np.isfinite(self._all.features).all():
            raise NotLinearError("it is given numbers that are not finite")
        self.groups = self._groups()
        self.values: dict[str, np.ndarray] = {}

    def _groups(self) -> np.ndarray | None:
        if self._rows.per_sample != 1 or self._manifest.class_axis is None:
            return None
        found, each = np.arange(len(self._used.data)), self._all.where(self._all.views == 0)
        numbers = near_duplicates(each.features, each.targets)
        _, first = np.unique(numbers, return_index=True)
        found[each.samples] = each.samples[first][numbers]
        return found

    def to(self, samples: np.ndarray) -> HeadStart:
        """Fit it to samples and all views of them, put it into the session, and see that the logits are as expected.

        Args:
            samples: by their numbers in the data.

        Raises:
            NotLinearError: no label counts, or the logits are not what the fit says; the head is then as it was.
        """
        rows = self._all.where(np.isin(self._all.samples, samples))
        weights = self._manifest.class_weights
        if not len(rows.features) or (weights is not None and not counted_labels(rows.targets, weights)):
            raise NotLinearError("no label counts")
        fitted = self._fitted(rows)
        self._put(fitted)
        note = None
        if rows.drawn:
            note = "these were drawn from more rows"
        elif self._manifest.loss_function == "l1":
            note = "by least squares, where l1 asks for medians"
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

    def _fitted(self, rows: Rows) -> Fitted:
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
        return _tamed(fitted) if self._settings.epochs and self._early else fitted

    @property
    def _early(self) -> bool:
        """Whether layers of the first half are trained."""
        layers = self._layers
        return bool(set(layers[: len(layers) // 2]) & set(self._manifest.selection.layers))

    def _put(self, fitted: Fitted) -> None:
        tensors, head = self._rows.tensors, self._rows.head
        weight, bias = head.parameters(fitted.weight, fitted.bias, self._rows.kernel)
        new = {tensors.weight: weight} | ({} if tensors.bias is None else {tensors.bias: bias})
        old = {name: self._session.parameter(name) for name in new}
        self.values = {name: np.asarray(value, np.float32).reshape(old[name].shape) for name, value in new.items()}
        for name, value in self.values.items():
            self._session.set_parameter(name, value)
        wrong = self._wrong(fitted)
        if wrong is not None:
            for name, value in old.items():
                self._session.set_parameter(name, value)
            raise NotLinearError(wrong)

    def _wrong(self, fitted: Fitted) -> str | None:
        """What is wrong with the logits of the session, if anything is."""
        samples = self._used.training[:_CHECKED]
        expected = self._rows.logits(samples, fitted.weight, fitted.bias)
        try:
            _, found = self._session.evaluate(self._rows.source_of(samples), self._used.labels(samples))
        except AdabetError as error:
            return str(error)
        size = max(1.0, float(np.abs(expected).max(initial=0.0)))
        difference = float(np.abs(found.reshape(len(samples), -1) - expected).max(initial=0.0)) / size
        if difference <= _SAME:
            return None
        return f"with the fitted values its logits differ by {difference:.1e} from what they should be"


def _tamed(fitted: Fitted) -> Fitted:
    """With weights that are not large, and a bias to go with them."""
    features = fitted.weight.shape[0]
    size = math.sqrt(float((fitted.weight**2).mean()))
    most = LARGE / math.sqrt(3 * features)
    if size <= most:
        return fitted
    factor = most / size
    return replace(fitted, weight=factor * fitted.weight, bias=factor * fitted.bias, scale=factor * fitted.scale)
