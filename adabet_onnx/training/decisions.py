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

from ..model.logits import ends_in_probabilities
from ..model.open import Model
from ..model.origins import origins
from ..model.passes.unshare import tied_tensors

_MOST_LISTED = 12  # weights or nodes
_MOST_NAMES = 3


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


def _learned(model: Model) -> Iterator[Decision]:
    """Weights that the file computes from constants: which tensors they took the place of."""
    known = origins(model.graph)
    owners = {parameter.name: layer.name for layer in model.layers for parameter in layer.parameters}
    found = [name for name in owners if name in known]
    for name in found[:_MOST_LISTED]:
        because = f"computed from constants, it took the place of {known[name]}; trained as a plain weight"
        yield Decision("learned", f"{name}, of layer {owners[name]}", because)
    rest = found[_MOST_LISTED:]
    if rest:
        layers = len({owners[name] for name in rest})
        yield Decision(
            "learned", f"{len(rest)} more weights of {layers} layers", "computed from constants in the same way"
        )


def _formulas(model: Model) -> Iterator[Decision]:
    """Constants that the file computes and that are no weights."""
    found = [(name, made) for name, made in origins(model.graph).items() if not made.learned]
    for name, made in found[:_MOST_NAMES]:
        yield Decision("constant", name, f"a formula gives it, by {', '.join(made.through[:_MOST_LISTED])}: no weight")
    if len(found) > _MOST_NAMES:
        yield Decision("constant", f"{len(found) - _MOST_NAMES} more values", "formulas give them: no weights")


def _frozen(model: Model) -> Iterator[Decision]:
    """Weights that belong to no layer, so that nothing trains them."""
    found = model.frozen
    for item in found[:_MOST_LISTED]:
        names = ", ".join(item.tensors[:_MOST_NAMES]) + " and others" * (len(item.tensors) > _MOST_NAMES)
        because = f"{names}: weights that belong to no layer; every share of parameters counts them"
        yield Decision("frozen", f"{item.count:,} numbers in node {item.node} ({item.op_type})", because)
    rest = found[_MOST_LISTED:]
    if rest:
        count = sum(item.count for item in rest)
        yield Decision("frozen", f"{count:,} numbers in {len(rest)} more nodes", "they belong to no layer either")


_ASKED = (_logits, _head, _tied, _learned, _formulas, _frozen)
