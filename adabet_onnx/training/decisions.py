"""What the code takes the parts of a model for, gathered for `inspect` and `check`.

Each decision is made by one function, where it is needed; here they are asked and put into words.

``--json`` prints a list ``decisions``, each with
    about      what was decided: "logits", "batch axis", "class axis", "head", "tied", ...
    taken_for  the outcome, to be read after it
    because    what it was recognised by
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import ModelError
from ..model.logits import ends_in_probabilities
from ..model.logits_axes import Axes, axes_of, class_axis, written
from ..model.open import Model
from ..model.passes.unshare import tied_tensors


@dataclass(frozen=True)
class Decision:
    """One decision; the attributes are those of the module."""

    about: str
    taken_for: str
    because: str

    def __str__(self) -> str:
        return f"{self.about}: {self.taken_for} ({self.because})"


def decisions(model: Model) -> tuple[Decision, ...]:
    """What a model's parts are taken for, in the order in which a reader would ask."""
    return tuple(decision for ask in _ASKED for decision in ask(model))


def _logits(model: Model) -> Iterator[Decision]:
    output = model.graph.graph.outputs[0].name or ""
    if ends_in_probabilities(model.graph, model.logits):
        yield Decision("logits", model.logits, f"output {output!r} is made from it by a Softmax, Sigmoid or the like")
    else:
        yield Decision("logits", model.logits, "it is the output, and no Softmax or Sigmoid ends in it")


def _head(model: Model) -> Iterator[Decision]:
    head = model.head
    if head is None:
        yield Decision("head", "none", "no Gemm, MatMul or Conv has parameters")
    else:
        new = "marked as new and untrained in the file" if model.new_head else "not marked as new"
        yield Decision("head", head.name, f"the last Gemm, MatMul or Conv with parameters; {new}")


def _tied(model: Model) -> Iterator[Decision]:
    names = dict.fromkeys(parameter.name for layer in model.layers for parameter in layer.parameters)
    for name in tied_tensors(model.graph, names):
        users = [layer.name for layer in model.layers if name in {parameter.name for parameter in layer.parameters}]
        yield Decision("tied", name, f"one tensor of two or more axes, used by {', '.join(users)}: trained together")


def _batch_axis(model: Model) -> Iterator[Decision]:
    axes = _axes(model)
    if axes is None:
        yield Decision("batch axis", "unknown", "neither inference nor a run tells the shape of the logits: no loss")
    elif axes.batch is None:
        yield Decision("batch axis", "none", f"the logits are {written(axes.shape)}, N the batch: no loss, only scores")
    else:
        moved = ", put first before a loss" if axes.batch else ""
        yield Decision("batch axis", str(axes.batch), f"of the logits {written(axes.shape)}: it grows with N{moved}")


def _class_axis(model: Model) -> Iterator[Decision]:
    axes = _axes(model)
    if axes is not None and axes.batch is not None and len(axes.shape) > 2:
        shape = axes.batch_first(model.name)
        which = "the last of three axes" if len(shape) == 3 else "the one after the batch"
        at = class_axis(shape, None, "cross-entropy")
        because = f"of {written(shape)}, for cross-entropy: {which}; --class-axis changes it"
        yield Decision("class axis", str(at), because)


def _axes(model: Model) -> Axes | None:
    try:
        return axes_of(model.graph, model.logits)
    except ModelError:
        return None


_ASKED = (_logits, _batch_axis, _class_axis, _head, _tied)
