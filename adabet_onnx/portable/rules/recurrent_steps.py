"""What the gradients of LSTM, GRU and RNN have in common: their directions, their steps, and the weights' gradients.

With T steps, B samples, I inputs and H units, per direction: X (T, B, I), states (T, B, H), gates (T, B, G H).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ...model.dims import Dim, dims, times
from ..builder import Builder
from .registry import BackwardContext, Gradients, NodeView
from .slicing import zeros

W, R, B, H, C = 1, 2, 3, 5, 6  # positions of inputs


@dataclass(frozen=True)
class Direction:
    """One direction of a node, with what is known of all its steps.

    Attributes:
        build: makes the nodes.
        order: of the steps, as the forward part takes them.
        x: (T, B, I).
        before: the state before each step, (T, B, H), in the order of the input.
        w: (G H, I).
        r: (G H, H).
        bias: of both, (2 G H), or None.
        dy: gradient of the states of all steps, (T, B, H), or None.
        dh: gradient of the last state, (B, H), or None.
    """

    build: Builder
    order: list[int]
    x: ir.Value
    before: ir.Value
    w: ir.Value
    r: ir.Value
    bias: ir.Value | None
    dy: ir.Value | None
    dh: ir.Value | None

    @property
    def state(self) -> tuple[Dim, Dim]:
        """Shape of one state, (B, H)."""
        _, batch, units = dims(self.before)
        return batch, units

    def projected(self, value: ir.Value, weight: ir.Value) -> ir.Value:
        """All steps times the transpose of a weight."""
        return self.build.op("MatMul", value, self.build.transpose(weight, [1, 0]))

    def parts(self, value: ir.Value, count: int) -> list[ir.Value]:
        """Equal parts along the last axis: one for each gate."""
        return split(self.build, value, len(dims(value)) - 1, count)

    def steps(self, value: ir.Value) -> list[ir.Value]:
        """Each step of (T, B, K) as (1, B, K)."""
        return split(self.build, value, 0, len(self.order))

    def joined(self, steps: Sequence[ir.Value]) -> ir.Value:
        """The steps, in the order of the input, together again."""
        _, batch, width = dims(steps[0])
        if len(steps) == 1:
            return steps[0]
        return self.build.op("Concat", *steps, axis=0, shape=(len(steps), batch, width))

    def biases(self) -> tuple[ir.Value | None, ir.Value | None]:
        """Of the input and of the state, each (G H)."""
        if self.bias is None:
            return None, None
        of_input, of_state = split(self.build, self.bias, 0, 2)
        return of_input, of_state

    def upstream(self) -> list[ir.Value | None]:
        """Gradients of the state of each step from outside, (1, B, H); that of the last state at its step."""
        gradients: list[ir.Value | None] = [None] * len(self.order) if self.dy is None else [*self.steps(self.dy)]
        if self.dh is not None:
            last, whole = self.order[-1], self.build.reshape(self.dh, (1, *self.state))
            at = gradients[last]
            gradients[last] = whole if at is None else self.build.add(at, whole)
        return gradients


@dataclass(frozen=True)
class DirectionGradients:
    """Gradients of one direction: of the gates before their activation, as W and as R see them, and of the states.

    Attributes:
        of_input: (T, B, G H).
        of_state: the same where R has no other operand than the state before and nothing is multiplied in between.
        states: what each part of R was multiplied with: (gates, operand), along the gates.
        h: of the initial state, (1, B, H), or None.
        c: of the initial cell, or None.
    """

    of_input: ir.Value
    of_state: ir.Value
    states: list[tuple[int, ir.Value]]
    h: ir.Value | None
    c: ir.Value | None = None


_Back = Callable[[Direction, int], DirectionGradients]


def directions_of(view: NodeView) -> int:
    """How many a node has."""
    return 2 if view.string("direction", "forward") == "bidirectional" else 1


def split(build: Builder, value: ir.Value, axis: int, count: int) -> list[ir.Value]:
    """Equal parts along an axis."""
    if count == 1:
        return [value]
    shape = dims(value)
    whole = shape[axis]
    assert isinstance(whole, int)
    part = (*shape[:axis], whole // count, *shape[axis + 1 :])
    sizes = build.ints(*[whole // count] * count)
    return list(build.ops("Split", value, sizes, outputs=count, shapes=[part] * count, axis=axis))


def plus(build: Builder, a: ir.Value, *others: ir.Value | None) -> ir.Value:
    """The sum of those that are there."""
    for other in others:
        a = a if other is None else build.add(a, other)
    return a


def differentiate(context: BackwardContext, back: _Back) -> Gradients:
    """What all three have in common: directions apart, weights' gradients, and together again."""
    b, count = context.build, directions_of(context)
    reverse = context.string("direction", "forward") == "reverse"
    _states_named(context)
    results: list[dict[int, ir.Value]] = []
    for number in range(count):
        d = _direction(context, number, reverse or number == 1)
        results.append(_of_direction(context, d, back(d, number)))
    gradients: Gradients = {}
    for position in sorted(context.gradient_inputs):
        parts = [result[position] for result in results]
        if position == 0:
            gradients[0] = plus(b, *parts)
        else:
            shape = context.shape(position)
            gradients[position] = (
                b.reshape(parts[0], shape) if count == 1 else b.op("Concat", *parts, axis=0, shape=shape)
            )
    return gradients


def _of_direction(context: BackwardContext, d: Direction, gradients: DirectionGradients) -> dict[int, ir.Value]:
    """Gradients by position; those of weights with a first axis of one direction."""
    b, result = context.build, {}
    if context.needs_gradient(0):
        result[0] = b.op("MatMul", gradients.of_input, d.w)
    if context.needs_gradient(W):
        result[W] = _outer(b, gradients.of_input, d.x)
    if context.needs_gradient(R):
        result[R] = _r_gradient(b, gradients, context.shape(R))
    if context.needs_gradient(B):
        sums = [b.total(value, [0, 1]) for value in (gradients.of_input, gradients.of_state)]
        flat = [b.reshape(value, [1, dims(value)[-1]]) for value in sums]
        result[B] = b.op("Concat", *flat, axis=1)
    for position, value in ((H, gradients.h), (C, gradients.c)):
        if context.needs_gradient(position):
            result[position] = zeros(b, (1, *d.state), d.x) if value is None else value
    return result


def _r_gradient(b: Builder, gradients: DirectionGradients, shape: Sequence[Dim]) -> ir.Value:
    """Of each part of R with what it was multiplied with."""
    if len(gradients.states) == 1:
        return _outer(b, gradients.of_state, gradients.states[0][1])
    count = sum(gates for gates, _ in gradients.states)
    parts = split(b, gradients.of_state, 2, count)
    rows = []
    for gates, operand in gradients.states:
        mine, parts = parts[:gates], parts[gates:]
        steps, batch, width = dims(mine[0])
        joined = mine[0]
        if gates > 1:
            joined = b.op("Concat", *mine, axis=2, shape=(steps, batch, times(width, gates)))
        rows.append(_outer(b, joined, operand))
    return b.op("Concat", *rows, axis=1, shape=(1, *shape[1:]))


def _outer(b: Builder, gradient: ir.Value, operand: ir.Value) -> ir.Value:
    """The sum over steps and samples of gradient times operand, (1, G H, K)."""
    flat = []
    for value in (gradient, operand):
        steps, batch, width = dims(value)
        assert isinstance(steps, int)
        flat.append(b.reshape(value, [times(batch, steps), width]))
    product = b.op("MatMul", b.transpose(flat[0], [1, 0]), flat[1])
    return b.reshape(product, [1, *dims(product)])


def _direction(context: BackwardContext, number: int, backward: bool) -> Direction:
    b, steps = context.build, context.shape()[0]
    assert isinstance(steps, int)
    order = list(range(steps))[:: -1 if backward else 1]
    states, first = states_of(context, number), initial(context, H, number)
    _, batch, units = dims(states)
    before = first
    if steps > 1:
        cut = b.ints(1 if backward else 0), b.ints(steps if backward else steps - 1), b.ints(0)
        rest = b.op("Slice", states, *cut, shape=(steps - 1, batch, units))
        pair = (rest, first) if backward else (first, rest)
        before = b.op("Concat", *pair, axis=0, shape=(steps, batch, units))
    return Direction(
        build=b,
        order=order,
        x=context.x(),
        before=before,
        w=_of(context, context.x(W), 0, number),
        r=_of(context, context.x(R), 0, number),
        bias=_of(context, context.x(B), 0, number) if context.has(B) else None,
        dy=_of(context, context.dy(0), 1, number) if context.has_dy(0) else None,
        dh=_of(context, context.dy(1), 0, number) if context.has_dy(1) else None,
    )


def _of(context: BackwardContext, value: ir.Value, axis: int, number: int) -> ir.Value:
    """One direction of a value, without the axis of directions."""
    b, shape = context.build, dims(value)
    rest = (*shape[:axis], *shape[axis + 1 :])
    if shape[axis] != 1:
        one = (*shape[:axis], 1, *shape[axis + 1 :])
        value = b.op("Slice", value, b.ints(number), b.ints(number + 1), b.ints(axis), shape=one)
    return b.reshape(value, rest)


def states_of(context: BackwardContext, number: int) -> ir.Value:
    """The states of all steps, (T, B, H)."""
    return _of(context, context.y(0), 1, number)


def initial(context: BackwardContext, position: int, number: int) -> ir.Value:
    """The initial state or cell, (1, B, H)."""
    _, _, batch, units = context.out_shape()
    if not context.has(position):
        return zeros(context.build, (1, batch, units), context.x())
    return context.build.reshape(_of(context, context.x(position), 0, number), (1, batch, units))


def last_cell(context: BackwardContext, position: int, number: int, d: Direction) -> ir.Value | None:
    """Gradient of the last cell, (1, B, H), or None."""
    if not context.has_dy(position):
        return None
    return context.build.reshape(_of(context, context.dy(position), 0, number), (1, *d.state))


def _states_named(context: BackwardContext) -> None:
    """See that the forward node gives the states of all steps, which a graph may leave out."""
    y, x = context.y(0), context.x()
    steps, batch, _ = dims(x)
    units = dims(context.x(R))[-1]
    if not y.name:
        y.name = context.build.unique(f"{context.node.name}/states")
    assert x.dtype is not None
    y.dtype = x.dtype
    y.shape = ir.Shape([steps, directions_of(context), batch, units])
