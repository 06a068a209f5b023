"""The axes of the logits: which one is the batch, and which one holds the classes."""

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

_INFERRED = (7919, 7907)  # batch sizes at which shapes are compared: large primes, so that multiples are recognised
_MEASURED = (2, 3)
_UNKNOWN = "?"
_HAS = "has an axis for the batch alone"


def class_axis(shape: Dims, given: int | None, loss: str) -> int | None:
    """Determine the axis of the logits that holds the classes.

    For cross-entropy, it is the given axis, or else axis 1 of (N, C) and of (N, C, H, W) and the last one of
    (N, steps, C). Other losses have no classes: None.

    Args:
        shape: shape of the logits, the batch first.
        given: the axis, counted from the end if negative; None: as above.
        loss: name of the loss.

    Raises:
        UsageError: there is one output per sample, (N,), the axis does not exist or is the batch's, or an axis is given
            for a loss without classes.
    """
    if loss != "cross-entropy":
        if given is not None:
            raise UsageError(f"a class axis is for cross-entropy only; {loss} has no classes.")
        return None
    if len(shape) < 2:
        raise UsageError(
            f"cross-entropy needs a logit per class, but the logits have shape {shape_text(shape)}. Use "
            "`loss='bce-with-logits'` for one output that separates two classes, or mse or l1 for a number."
        )
    if given is None:
        return 2 if len(shape) == 3 else 1
    axis = given % len(shape) if -len(shape) <= given < len(shape) else 0
    if axis == 0:
        raise UsageError(
            f"the class axis must be from 1 to {len(shape) - 1} for logits of shape {shape_text(shape)}, not {given}."
        )
    return axis


def softmax_axis(model: Model) -> int | None:
    """The class axis of the logits, the batch first, according to the model's own Softmax.

    It is the axis of a Softmax or LogSoftmax of the logits, in any form (`tail_of`), if it is longer than 1 and not the
    batch's; or the axis recorded in a file whose Softmax was removed for a new head. None without either.
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
    positive = {axis % rank for axis in over if -rank <= axis < rank}
    long = {axis for axis in positive if axes.shape[axis] != 1} or positive
    if axes.batch is None or len(long) != 1 or axes.batch in long:
        return None
    return axes.order.index(long.pop())


def detected_class_axis(model: Model) -> int | None:
    """The class axis of the logits, the batch first, if the model shows that it is not the default.

    It is the axis of the model's own Softmax (`softmax_axis`), or else the axis of the head's outputs if that differs
    from the default of `class_axis`: axis 1 of (N, C, steps), the last one of (N, H, W, C).
    """
    axis_of_softmax = softmax_axis(model)
    if axis_of_softmax is not None:
        return axis_of_softmax
    head, upsampling = head_and_upsampling(model.layers, model.graph.graph)
    if head is None:
        return None
    try:
        axes = axes_of(model.graph, model.logits)
    except ModelError:
        return None
    if axes.batch is None or len(axes.shape) < 3:
        return None
    axis_of_head = head_axis(
        model.graph.graph, (head, *upsampling), model.logits, infer_shapes(model.graph, _INFERRED[0])
    )
    if axis_of_head is None or axis_of_head == axes.batch:
        return None
    axis = axes.order.index(axis_of_head)
    return None if axis == class_axis(axes.batch_first(model.name), None, "cross-entropy") else axis


def label_shape(shape: Dims, axis: int | None) -> Dims:
    """Shape of the labels for logits of this shape: without the class axis, or the same shape if there is none."""
    return tuple(extent for i, extent in enumerate(shape) if i != axis)


@dataclass(frozen=True)
class LogitsAxes:
    """The axes of a model's logits.

    Attributes:
        logits: their name.
        shape: their shape: ``N`` is the batch, ``26*N`` a multiple of it, ``?`` another extent that grows with it.
        batch: the axis of the batch; None if no axis is the batch alone.
        alternative: in that case, another value that could serve as the logits; None if there is none.
    """

    logits: str
    shape: tuple[Dim, ...]
    batch: int | None
    alternative: AlternativeLogits | None = None

    def batch_first(self, name: str) -> Dims:
        """The shape with the batch first, as a loss needs it.

        Args:
            name: name of the model, for messages.

        Raises:
            ModelError: no axis is the batch alone.
        """
        if self.batch is None:
            none = "No layer output before them has an axis for the batch alone: e"
            instead = none if self.alternative is None else f"{self.alternative.remedy(name, _HAS)} Or e"
            raise ModelError(
                f"{name}: the logits {self.logits!r} have shape {shape_text(self.shape)} for a batch of N: "
                f"{self._why()}, so it is unclear which of them belong to which sample. {instead}xport the model so "
                "that its output has such an axis."
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
    """Find the axes of the logits from their shape at two batch sizes, inferred or else measured in runs on zeros.

    Args:
        model: a graph whose inputs are fixed but for the batch, ``N``.
        logits: name of a value of it.

    Raises:
        ModelError: neither inference nor a run yields the shape.
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


def shape_text(shape: Sequence[Dim]) -> str:
    """A shape as text for messages: ``(N, 26, 37)``."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _extent(a: int, b: int, sizes: tuple[int, int]) -> Dim:
    if a == b:
        return a
    whole = a % sizes[0] == 0 and a // sizes[0] * sizes[1] == b
    return times(BATCH, a // sizes[0]) if whole else _UNKNOWN
