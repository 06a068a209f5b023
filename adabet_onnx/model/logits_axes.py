"""What the axes of the logits are: which one is the batch, and which one holds the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..errors import ModelError, RuntimeMissingError, UsageError
from .alternative_logits import AlternativeLogits, find_alternative
from .dims import Dim, Dims, batch_axis, times
from .head_axis import head_axis
from .open import Model
from .probabilities import tail_of
from .shapes import BATCH, infer_shapes, measured_shapes
from .upsampling import head_and_upsampling

_INFERRED = (7919, 7907)  # batch sizes at which shapes are compared: large primes, so that a multiple of one shows
_MEASURED = (2, 3)
_UNKNOWN = "?"
_HAS = "has an axis for the batch alone"


def class_axis(shape: Dims, given: int | None, loss: str) -> int | None:
    """Which axis of the logits holds the classes.

    Accepts, for cross-entropy, two axes or more: the classes are axis 1 of (N, C) and of (N, C, H, W), the last one of
    (N, steps, C), and whatever was ``given``. No other loss has classes: None.

    Rejects one output per sample, (N,), an axis that is not there, and the batch's.

    Args:
        shape: of the logits, the batch first.
        given: the axis, counted from the end where it is negative; None: as above.
        loss: to be computed.

    Raises:
        UsageError: what is rejected, or an axis is given for a loss without classes.
    """
    if loss != "cross-entropy":
        if given is not None:
            raise UsageError(f"a class axis is for cross-entropy only; {loss} has no classes.")
        return None
    if len(shape) < 2:
        raise UsageError(
            f"cross-entropy needs a logit per class, but the logits have shape {written(shape)}. Use "
            "`loss='bce-with-logits'` for one output that tells two classes apart, or mse or l1 for a number."
        )
    if given is None:
        return 2 if len(shape) == 3 else 1
    axis = given % len(shape) if -len(shape) <= given < len(shape) else 0
    if axis == 0:
        raise UsageError(
            f"the class axis must be from 1 to {len(shape) - 1} for logits of shape {written(shape)}, not {given}."
        )
    return axis


def softmax_axis(model: Model) -> int | None:
    """The axis of the classes in the logits, the batch first, as the model's own Softmax over them tells.

    Accepts a Softmax or LogSoftmax of the logits, in whatever form (`tail_of`), over one axis that is longer than 1,
    not the batch's; and what a file says whose Softmax gave way to a new head. None where neither tells.
    """
    stored = model.metadata("class_axis")
    if isinstance(stored, dict) and stored.get("logits") == model.logits and type(stored.get("axis")) is int:
        return int(stored["axis"])
    tails = [tail_of(value) for value in model.graph.graph.outputs]
    over = next((t.axes for t in tails if t is not None and t.axes and t.logits.name == model.logits), ())
    if not over:
        return None
    try:
        axes = axes_of(model.graph, model.logits)
    except ModelError:
        return None
    rank = len(axes.shape)
    found = {axis % rank for axis in over if -rank <= axis < rank}
    long = {axis for axis in found if axes.shape[axis] != 1} or found
    if axes.batch is None or len(long) != 1 or axes.batch in long:
        return None
    return axes.order.index(long.pop())


def detected_class_axis(model: Model) -> int | None:
    """The axis of the classes in the logits, the batch first, where the model tells that it is not the usual one.

    The model's own Softmax tells (`softmax_axis`), or else the head does, whose outputs lie along another axis than
    `class_axis` takes: axis 1 of (N, C, steps), the last one of (N, H, W, C).
    """
    told = softmax_axis(model)
    if told is not None:
        return told
    head, upsampling = head_and_upsampling(model.layers, model.graph.graph)
    if head is None:
        return None
    try:
        axes = axes_of(model.graph, model.logits)
    except ModelError:
        return None
    if axes.batch is None or len(axes.shape) < 3:
        return None
    found = head_axis(model.graph.graph, (head, *upsampling), model.logits, infer_shapes(model.graph, _INFERRED[0]))
    if found is None or found == axes.batch:
        return None
    at = axes.order.index(found)
    return None if at == class_axis(axes.batch_first(model.name), None, "cross-entropy") else at


def label_shape(shape: Dims, axis: int | None) -> Dims:
    """Shape of the labels for logits of this shape: without the classes' axis, or the same where there are none."""
    return tuple(extent for i, extent in enumerate(shape) if i != axis)


@dataclass(frozen=True)
class LogitsAxes:
    """The axes of a model's logits.

    Attributes:
        logits: their name.
        shape: as the model gives them: ``N`` is the batch, ``26*N`` a multiple of it, ``?`` something else that grows.
        batch: the batch's axis; None where it has none of its own.
        earlier: then, a value that would do for the logits; None if there is none.
    """

    logits: str
    shape: tuple[Dim, ...]
    batch: int | None
    earlier: AlternativeLogits | None = None

    def batch_first(self, name: str) -> Dims:
        """The shape with the batch first, as a loss takes it.

        Raises:
            ModelError: the batch has no axis of its own. ``name`` is the model's.
        """
        if self.batch is None:
            none = "No value before them that a layer makes has an axis for the batch alone: e"
            instead = none if self.earlier is None else f"{self.earlier.remedy(name, _HAS)} Or e"
            raise ModelError(
                f"{name}: the logits {self.logits!r} have shape {written(self.shape)} for a batch of N: {self._why()}, "
                f"so which of them belong to which sample cannot be told. {instead}xport the model so that its output "
                "has one."
            )
        return (BATCH, *(extent for axis, extent in enumerate(self.shape) if axis != self.batch))

    @property
    def order(self) -> list[int]:
        """The permutation that puts the batch first."""
        assert self.batch is not None
        return [self.batch, *(axis for axis in range(len(self.shape)) if axis != self.batch)]

    def _why(self) -> str:
        growing = sum(isinstance(extent, str) for extent in self.shape)
        if growing == 0:
            return "they are the same number for every batch size"
        return "several axes grow with the batch" if growing > 1 else "the batch is merged with another axis"


def axes_of(model: ir.Model, logits: str) -> LogitsAxes:
    """Find the axes of the logits, from their shape at two batch sizes: inferred, or else measured in runs on zeros.

    Args:
        model: a graph whose inputs are fixed but for the batch, ``N``.
        logits: name of a value of it.

    Raises:
        ModelError: neither inference nor a run tells the shape.
    """
    sizes = _INFERRED
    first, second = (infer_shapes(model, size).get(logits) for size in sizes)
    if first is None or second is None:
        sizes = _MEASURED
        try:
            first, second = (measured_shapes(model, [logits], size)[logits] for size in sizes)
        except (ModelError, RuntimeMissingError) as error:
            raise ModelError(
                f"the shape of the logits {logits!r} is unknown: {error} Export the model with shape inference."
            ) from error
    axis = batch_axis(first, second, sizes)
    same = len(first) == len(second)
    shape = tuple(_extent(a, b, sizes) for a, b in zip(first, second, strict=True)) if same else (_UNKNOWN,)
    return LogitsAxes(logits, shape, axis, None if axis is not None else find_alternative(model, logits))


def written(shape: Sequence[Dim]) -> str:
    """A shape as it is written in messages: ``(N, 26, 37)``."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _extent(a: int, b: int, sizes: tuple[int, int]) -> Dim:
    if a == b:
        return a
    whole = a % sizes[0] == 0 and a // sizes[0] * sizes[1] == b
    return times(BATCH, a // sizes[0]) if whole else _UNKNOWN
