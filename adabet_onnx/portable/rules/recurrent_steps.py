"""What the gradients of LSTM, GRU and RNN have in common: directions, steps, and the weights' gradients.

With T steps, B samples, I inputs, H units and G gates, per direction: X (T, B, I), states (T, B, H), gates (T, B, G H).
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
    """One direction of a node, with the values of all its steps.

    Attributes:
        build: makes the nodes.
        order: the steps in the order in which the forward node processes them.
        x: the input, (T, B, I).
        before: the state before each step, (T, B, H), in the order of the input.
        w: the weight of the input, (G H, I).
        r: the weight of the state, (G H, H).
        bias: the biases of input and state, (2 G H), or None.
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
        """All steps multiplied by the transpose of a weight."""
        return self.build.op("MatMul", value, self.build.transpose(weight, [1, 0]))

    def parts(self, value: ir.Value, count: int) -> list[ir.Value]:
        """Equal parts along the last axis, one for each gate."""
        return split(self.build, value, len(dims(value)) - 1, count)

    def steps(self, value: ir.Value) -> list[ir.Value]:
        """Each step of (T, B, K) as (1, B, K)."""
        return split(self.build, value, 0, len(self.order))

    def joined(self, steps: Sequence[ir.Value]) -> ir.Value:
        """The steps, given in the order of the input, as one value again."""
        _, batch, width = dims(steps[0])
        if len(steps) == 1:
            return steps[0]
        return self.build.op("Concat", *steps, axis=0, shape=(len(steps), batch, width))

    def biases(self) -> tuple[ir.Value | None, ir.Value | None]:
        """The biases of the input and of the state, each (G H)."""
        if self.bias is None:
            return None, None
        of_input, of_state = split(self.build, self.bias, 0, 2)
        return of_input, of_state

    def upstream(self) -> list[ir.Value | None]:
        """Gradients of the state of each step from outside, (1, B, H); the one of the last state is included."""
        gradients: list[ir.Value | None] = [None] * len(self.order) if self.dy is None else [*self.steps(self.dy)]
        if self.dh is not None:
            last, whole = self.order[-1], self.build.reshape(self.dh, (1, *self.state))
            at = gradients[last]
            gradients[last] = whole if at is None else self.build.add(at, whole)
        return gradients


@dataclass(frozen=True)
class DirectionGradients:
    """Gradients of one direction: of the gates before their activation, and of the initial states.

    Attributes:
        of_input: gradient of what W contributes to the gates, (T, B, G H).
        of_state: gradient of what R contributes; the same as ``of_input`` if R multiplies nothing but the state before,
            with no factor in between.
        states: what each part of R is multiplied by: (number of gates, operand), in the order of the gates.
        h: gradient of the initial state, (1, B, H), or None.
        c: gradient of the initial cell, or None.
    """

    of_input: ir.Value
    of_state: ir.Value
    states: list[tuple[int, ir.Value]]
    h: ir.Value | None
    c: ir.Value | None = None


_Backward = Callable[[Direction, int], DirectionGradients]


def directions_of(view: NodeView) -> int:
    """The number of directions of a node."""
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


def add_all(build: Builder, a: ir.Value, *others: ir.Value | None) -> ir.Value:
    """The sum of a value and the other values that are not None."""
    for other in others:
        a = a if other is None else build.add(a, other)
    return a


def recurrent_gradients(context: BackwardContext, backward: _Backward) -> Gradients:
    """The common part: split the directions, compute the weights' gradients, and join the directions again."""
    b, count = context.build, directions_of(context)
    reverse = context.string("direction", "forward") == "reverse"
    _name_states(context)
    results: list[dict[int, ir.Value]] = []
    for number in range(count):
        d = _direction(context, number, reverse or number == 1)
        results.append(_by_position(context, d, backward(d, number)))
    gradients: Gradients = {}
    for position in sorted(context.gradient_inputs):
        parts = [result[position] for result in results]
        if position == 0:
            gradients[0] = add_all(b, *parts)
        else:
            shape = context.shape(position)
            gradients[position] = (
                b.reshape(parts[0], shape) if count == 1 else b.op("Concat", *parts, axis=0, shape=shape)
            )
    return gradients


def _by_position(context: BackwardContext, d: Direction, gradients: DirectionGradients) -> dict[int, ir.Value]:
    """Gradients by input position; those of weights have a first axis for the direction."""
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
    """The gradient of R: for each part, the product of its gradient and its operand."""
    if len(gradients.states) == 1:
        return _outer(b, gradients.of_state, gradients.states[0][1])
    count = sum(gates for gates, _ in gradients.states)
    parts = split(b, gradients.of_state, 2, count)
    rows = []
    for gates, operand in gradients.states:
        own, parts = parts[:gates], parts[gates:]
        steps, batch, width = dims(own[0])
        joined = own[0]
        if gates > 1:
            joined = b.op("Concat", *own, axis=2, shape=(steps, batch, times(width, gates)))
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
    states, first = states_of(context, number), initial_state(context, H, number)
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
        w=_one_direction(context, context.x(W), 0, number),
        r=_one_direction(context, context.x(R), 0, number),
        bias=_one_direction(context, context.x(B), 0, number) if context.has(B) else None,
        dy=_one_direction(context, context.dy(0), 1, number) if context.has_dy(0) else None,
        dh=_one_direction(context, context.dy(1), 0, number) if context.has_dy(1) else None,
    )


def _one_direction(context: BackwardContext, value: ir.Value, axis: int, number: int) -> ir.Value:
    """One direction of a value, without the axis of directions."""
    b, shape = context.build, dims(value)
    rest = (*shape[:axis], *shape[axis + 1 :])
    if shape[axis] != 1:
        one = (*shape[:axis], 1, *shape[axis + 1 :])
        value = b.op("Slice", value, b.ints(number), b.ints(number + 1), b.ints(axis), shape=one)
    return b.reshape(value, rest)


def states_of(context: BackwardContext, number: int) -> ir.Value:
    """The states of all steps, (T, B, H)."""
    return _one_direction(context, context.y(0), 1, number)


def initial_state(context: BackwardContext, position: int, number: int) -> ir.Value:
    """The initial state or cell, (1, B, H)."""
    _, _, batch, units = context.out_shape()
    if not context.has(position):
        return zeros(context.build, (1, batch, units), context.x())
    return context.build.reshape(_one_direction(context, context.x(position), 0, number), (1, batch, units))


def last_cell(context: BackwardContext, position: int, number: int, d: Direction) -> ir.Value | None:
    """Gradient of the last cell, (1, B, H), or None."""
    if not context.has_dy(position):
        return None
    return context.build.reshape(_one_direction(context, context.dy(position), 0, number), (1, *d.state))


def _name_states(context: BackwardContext) -> None:
    """Give the forward node its output with the states of all steps, which a graph may omit."""
    y, x = context.y(0), context.x()
    steps, batch, _ = dims(x)
    units = dims(context.x(R))[-1]
    if not y.name:
        y.name = context.build.unique(f"{context.node.name}/states")
    assert x.dtype is not None
    y.dtype = x.dtype
    y.shape = ir.Shape([steps, directions_of(context), batch, units])
