"""What the code takes the parts of a model for, gathered for `inspect` and `check`.

Each decision is made by one function, where it is needed; here they are asked and put into words.

``--json`` prints a list ``decisions``, each with
    about      what was decided: "logits", "head", "tied", ...
    taken_for  the outcome, to be read after it
    because    what it was recognised by
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..data.pictures import picture_input
from ..model.input_axes import channel_axis
from ..model.logits import ends_in_probabilities
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


def _inputs(model: Model) -> Iterator[Decision]:
    for spec in model.inputs:
        picture, axis = picture_input(model, spec), channel_axis(model.graph, spec.name)
        told = f"axis {axis} is read as channels by what follows" if axis is not None else "nothing that follows tells"
        if picture is not None:
            order = f"N{picture.letters}, {picture.channels} channels of {picture.size[0]} x {picture.size[1]}"
            yield Decision(f"input {spec.name}", f"images, {order}", f"its shape is an image's; {told}")
        elif len(spec.shape) > 2:
            taken = "channels unknown" if axis is None else f"channels on axis {axis}"
            yield Decision(f"input {spec.name}", taken, told)


_ASKED = (_logits, _head, _tied, _inputs)
