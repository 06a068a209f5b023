"""Einsum with any number of operands."""

from __future__ import annotations

import string
from dataclasses import dataclass

from ...model.dims import Dim
from .registry import BackwardContext, Gradients, NodeView, rule


class _UnsupportedError(Exception):
    """Why an equation has no gradient here."""


@dataclass(frozen=True)
class _Equation:
    """An equation without ellipses: the indices of the operands and of the output, and their extents."""

    operands: tuple[str, ...]
    output: str
    extents: dict[str, Dim]

    @property
    def unused(self) -> str:
        """A letter that the equation does not use."""
        return next(letter for letter in string.ascii_letters if letter not in self.extents)


def _read(view: NodeView) -> _Equation:
    """The equation of a node.

    Raises:
        _UnsupportedError: the equation has no gradient here.
    """
    text = view.string("equation", "").replace(" ", "")
    left, arrow, output = text.partition("->")
    terms = left.split(",")
    spare = [letter for letter in string.ascii_letters if letter not in text]
    shapes = [view.shape(position) for position in range(len(terms))]
    # The dimensions of an ellipsis are counted from its end, so that shorter ones line up with longer ones.
    lengths = [len(s) - len(t.replace("...", "")) for t, s in zip(terms, shapes, strict=True) if "..." in t]
    longest = max(lengths, default=0)
    if longest > len(spare):
        raise _UnsupportedError(f"has too many dimensions in the equation {text!r}")
    hidden = "".join(spare[:longest])
    for i, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
        length = len(shape) - len(term.replace("...", ""))
        terms[i] = term.replace("...", hidden[longest - length :])
    named = [letter for term in terms for letter in term if letter not in hidden]
    if arrow:
        if hidden and "..." not in output:
            raise _UnsupportedError(f"has an ellipsis in the operands and none in the output of the equation {text!r}")
        output = output.replace("...", hidden)
    else:
        if not (left.islower() or left.isupper()) and any(letter.isalpha() for letter in left):
            raise _UnsupportedError(f"has no output in its equation {text!r} of letters in both cases")
        output = hidden + "".join(sorted(letter for letter in set(named) if named.count(letter) == 1))
    for term in terms:
        if len(set(term)) < len(term):
            raise _UnsupportedError(f"has an index twice in one operand of the equation {text!r}")
    if len(set(output)) < len(output):
        raise _UnsupportedError(f"has an index twice in the output of the equation {text!r}")
    extents: dict[str, Dim] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, extent in zip(term, shape, strict=True):
            if extents.setdefault(letter, extent) != extent:
                raise _UnsupportedError(
                    f"broadcasts an index of the equation {text!r} ({extents[letter]} and {extent})"
                )
    return _Equation(tuple(terms), output, extents)


def _check(view: NodeView) -> str | None:
    try:
        _read(view)
    except _UnsupportedError as unsupported:
        return str(unsupported)
    return None


@rule("Einsum", check=_check)
def einsum(context: BackwardContext) -> Gradients:
    """Another Einsum, of the output's gradient and the other operands."""
    build, equation = context.build, _read(context)
    dy, output = context.dy(), equation.output
    if not output:  # an operand without dimensions is an empty term, which not every runtime reads
        dy, output = build.reshape(dy, (1,)), equation.unused
    gradients = {}
    for position in sorted(context.gradient_inputs):
        others = [other for other in range(len(equation.operands)) if other != position]
        terms = [output, *(equation.operands[other] for other in others)]
        indices = equation.operands[position]
        known = "".join(letter for letter in indices if any(letter in term for term in terms))
        values = [dy, *(context.x(other) for other in others)]
        shape: list[Dim] = [equation.extents[letter] for letter in known]
        gradient = build.op("Einsum", *values, equation=f"{','.join(terms)}->{known}", shape=shape)
        # An index that the forward pass summed in this operand alone has the same gradient everywhere.
        spread = [equation.extents[letter] if letter in known else 1 for letter in indices]
        gradients[position] = build.expand(build.reshape(gradient, spread), context.shape(position))
    return gradients
