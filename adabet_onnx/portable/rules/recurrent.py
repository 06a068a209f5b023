"""LSTM, GRU and RNN over a known number of steps.

The forward node stays as it is. Its states of all steps are its output Y, so gates are computed again for all steps at
once, and only what goes from step to step in the backward pass is written out for each of them: a product with R and a
few products by element. Weights' gradients are one product over all steps again.

With T steps, B samples, I inputs and H units, per direction: X (T, B, I), states (T, B, H), gates (T, B, G H).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ...model.dims import Dim, dims, times
from ..builder import Builder
from .functions import one_minus, square
from .registry import Gradients, Look, Step, rule
from .slicing import zeros

_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_W, _R, _B, _LENGTHS, _H, _C, _P = 1, 2, 3, 4, 5, 6, 7  # positions of inputs
_SPLIT_BY_INPUT = 13  # the opset that gave Split its sizes as an input
_MOST_STEPS = 1000


def _check(look: Look) -> str | None:
    op_type, steps = look.node.op_type, look.shape()[0]
    if not isinstance(steps, int):
        return "runs over a number of steps that is not fixed, or over the batch"
    if steps > _MOST_STEPS:
        return f"runs over {steps} steps; up to {_MOST_STEPS} have a gradient here"
    if look.opset < _SPLIT_BY_INPUT:
        return f"has a gradient here from opset {_SPLIT_BY_INPUT} on, and the graph has opset {look.opset}"
    if look.has(_LENGTHS):
        return "has sequences of differing lengths (sequence_lens)"
    if look.has(_P):
        return "has peepholes"
    if look.int("layout", 0):
        return "has the batch first (layout 1)"
    if "clip" in look.node.attributes:
        return "clips its cells"
    if look.int("input_forget", 0):
        return "couples its input and forget gates (input_forget)"
    found = _activations(look)
    known = [_DEFAULTS[op_type], ["Relu"]] if op_type == "RNN" else [_DEFAULTS[op_type]]
    if any(each not in known for each in found):
        return f"has the activations {', '.join(name for each in found for name in each)}"
    if "activation_alpha" in look.node.attributes or "activation_beta" in look.node.attributes:
        return "has activations with parameters of their own"
    return None


def _activations(look: Look) -> list[list[str]]:
    """Names of the activations, per direction."""
    default, directions = _DEFAULTS[look.node.op_type], _directions(look)
    given = look.node.attributes.get("activations")
    names = default * directions if given is None else [name.capitalize() for name in given.as_strings()]
    count = len(default)
    return [names[d * count : (d + 1) * count] for d in range(directions)]


def _directions(look: Look) -> int:
    return 2 if look.string("direction", "forward") == "bidirectional" else 1


@dataclass(frozen=True)
class _Direction:
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
        return _split(self.build, value, len(dims(value)) - 1, count)

    def steps(self, value: ir.Value) -> list[ir.Value]:
        """Each step of (T, B, K) as (1, B, K)."""
        return _split(self.build, value, 0, len(self.order))

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
        of_input, of_state = _split(self.build, self.bias, 0, 2)
        return of_input, of_state

    def upstream(self) -> list[ir.Value | None]:
        """Gradients of the state of each step from outside, (1, B, H); that of the last state at its step."""
        found: list[ir.Value | None] = [None] * len(self.order) if self.dy is None else [*self.steps(self.dy)]
        if self.dh is not None:
            last, whole = self.order[-1], self.build.reshape(self.dh, (1, *self.state))
            at = found[last]
            found[last] = whole if at is None else self.build.add(at, whole)
        return found


@dataclass(frozen=True)
class _Found:
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


_Back = Callable[[_Direction, int], _Found]


def _split(build: Builder, value: ir.Value, axis: int, count: int) -> list[ir.Value]:
    if count == 1:
        return [value]
    shape = dims(value)
    whole = shape[axis]
    assert isinstance(whole, int)
    part = (*shape[:axis], whole // count, *shape[axis + 1 :])
    sizes = build.ints(*[whole // count] * count)
    return list(build.ops("Split", value, sizes, outputs=count, shapes=[part] * count, axis=axis))


def _plus(build: Builder, a: ir.Value, *others: ir.Value | None) -> ir.Value:
    for other in others:
        a = a if other is None else build.add(a, other)
    return a


@rule("LSTM", inputs={0, _W, _R, _B, _H, _C}, outputs=None, check=_check)
def lstm(step: Step) -> Gradients:
    """Gates i, o, f and c: c = f c' + i tanh(.), h = o tanh(c)."""

    def back(d: _Direction, number: int) -> _Found:
        b = step.build
        gates = _plus(b, b.add(d.projected(d.x, d.w), d.projected(d.before, d.r)), *d.biases())
        i, o, f, g = d.parts(gates, 4)
        i, o, f, g = b.op("Sigmoid", i), b.op("Sigmoid", o), b.op("Sigmoid", f), b.op("Tanh", g)
        first = _initial(step, _C, number)
        c, before = _cells(d, f, b.mul(i, g), first)
        tanh = b.op("Tanh", c)
        into_cell = d.steps(b.mul(o, one_minus(b, square(b, tanh))))
        slopes = [
            b.mul(b.mul(g, i), one_minus(b, i)),
            b.mul(b.mul(tanh, o), one_minus(b, o)),
            b.mul(b.mul(before, f), one_minus(b, f)),
            b.mul(i, one_minus(b, square(b, g))),
        ]
        shape = dims(gates)
        slope = d.steps(b.op("Concat", *slopes, axis=2, shape=shape))
        forget, upstream = d.steps(f), d.upstream()
        dh: ir.Value | None = None
        dc = _last(step, 2, number, d)
        found: dict[int, ir.Value] = {}
        wide = (1, *shape[1:])
        for t in reversed(d.order):
            if upstream[t] is not None or dh is not None:
                dh = _plus(b, *[v for v in (upstream[t], dh) if v is not None])
                through = b.mul(dh, into_cell[t])
                dc = through if dc is None else b.add(dc, through)
            elif dc is None:
                found[t] = zeros(b, wide, d.x)
                continue
            dh = zeros(b, (1, *d.state), d.x) if dh is None else dh
            assert dc is not None
            found[t] = b.mul(b.op("Concat", dc, dh, dc, dc, axis=2, shape=wide), slope[t])
            if t != d.order[0] or step.wants(_H):
                dh = b.op("MatMul", found[t], d.r)
            if t != d.order[0] or step.wants(_C):
                dc = b.mul(dc, forget[t])
        whole = d.joined([found[t] for t in range(len(d.order))])
        return _Found(whole, whole, [(4, d.before)], dh, dc)

    return _differentiate(step, back)


def _cells(d: _Direction, forget: ir.Value, new: ir.Value, first: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The cell after and before each step."""
    b = d.build
    f, n = d.steps(forget), d.steps(new)
    before: dict[int, ir.Value] = {}
    after: dict[int, ir.Value] = {}
    cell = first
    for t in d.order:
        before[t] = cell
        cell = after[t] = b.add(b.mul(f[t], cell), n[t])
    order = range(len(d.order))
    return d.joined([after[t] for t in order]), d.joined([before[t] for t in order])


@rule("GRU", inputs={0, _W, _R, _B, _H}, outputs=None, check=_check)
def gru(step: Step) -> Gradients:
    """Gates z, r and h: n = tanh(x + R (r h')) or tanh(x + r (R h' + b)), h = (1 - z) n + z h'."""
    linear = bool(step.int("linear_before_reset", 0))

    def back(d: _Direction, number: int) -> _Found:
        b = step.build
        of_input, of_state = d.biases()
        xz, xr, xn = d.parts(_plus(b, d.projected(d.x, d.w), of_input), 3)
        (rz, rr, rn), h = _split(b, d.r, 0, 3), d.before
        bz, br, bn = (None, None, None) if of_state is None else _split(b, of_state, 0, 3)
        z = b.op("Sigmoid", _plus(b, xz, d.projected(h, rz), bz))
        r = b.op("Sigmoid", _plus(b, xr, d.projected(h, rr), br))
        inner = _plus(b, d.projected(h, rn), bn) if linear else b.mul(r, h)
        n = b.op("Tanh", b.add(xn, b.mul(r, inner)) if linear else _plus(b, xn, d.projected(inner, rn), bn))
        to_n = d.steps(b.mul(one_minus(b, z), one_minus(b, square(b, n))))
        to_z = d.steps(b.mul(b.mul(b.sub(h, n), z), one_minus(b, z)))
        slope_r = b.mul(r, one_minus(b, r))
        to_r = d.steps(b.mul(inner if linear else h, slope_r))
        reset, keep, upstream = d.steps(r), d.steps(z), d.upstream()
        rzr = b.op("Concat", rz, rr, axis=0)
        dh: ir.Value | None = None
        through_w: dict[int, ir.Value] = {}
        through_r: dict[int, ir.Value] = {}
        _, batch, width = dims(xz)
        wide = (1, batch, times(width, 3))
        for t in reversed(d.order):
            if upstream[t] is None and dh is None:
                through_w[t] = through_r[t] = zeros(b, wide, d.x)
                continue
            dh = _plus(b, *[v for v in (upstream[t], dh) if v is not None])
            dn, dz = b.mul(dh, to_n[t]), b.mul(dh, to_z[t])
            last = t == d.order[0] and not step.wants(_H)
            if linear:
                dq, dr = b.mul(dn, reset[t]), b.mul(dn, to_r[t])
                through_w[t] = b.op("Concat", dz, dr, dn, axis=2, shape=wide)
                through_r[t] = b.op("Concat", dz, dr, dq, axis=2, shape=wide)
                if not last:
                    dh = b.add(b.mul(dh, keep[t]), b.op("MatMul", through_r[t], d.r))
                continue
            dq = b.op("MatMul", dn, rn)
            dr = b.mul(dq, to_r[t])
            through_w[t] = through_r[t] = b.op("Concat", dz, dr, dn, axis=2, shape=wide)
            if not last:
                gates = b.op("MatMul", b.op("Concat", dz, dr, axis=2, shape=(1, batch, times(width, 2))), rzr)
                dh = b.add(b.add(b.mul(dh, keep[t]), b.mul(dq, reset[t])), gates)
        order = range(len(d.order))
        whole = d.joined([through_w[t] for t in order])
        other = d.joined([through_r[t] for t in order]) if linear else whole
        return _Found(whole, other, [(3, h)] if linear else [(2, h), (1, inner)], dh)

    return _differentiate(step, back)


@rule("RNN", inputs={0, _W, _R, _B, _H}, outputs=None, check=_check)
def rnn(step: Step) -> Gradients:
    """H = tanh(W x + R h' + b), or Relu of it."""
    activations = _activations(step)

    def back(d: _Direction, number: int) -> _Found:
        b = step.build
        h = _states(step, number)
        if activations[number] == ["Relu"]:
            slope = b.cast_like(b.op("Greater", h, b.scalar(0, h)), h)
        else:
            slope = one_minus(b, square(b, h))
        slopes, upstream = d.steps(slope), d.upstream()
        dh: ir.Value | None = None
        found: dict[int, ir.Value] = {}
        for t in reversed(d.order):
            if upstream[t] is None and dh is None:
                found[t] = zeros(b, (1, *d.state), d.x)
                continue
            dh = _plus(b, *[v for v in (upstream[t], dh) if v is not None])
            found[t] = b.mul(dh, slopes[t])
            if t != d.order[0] or step.wants(_H):
                dh = b.op("MatMul", found[t], d.r)
        whole = d.joined([found[t] for t in range(len(d.order))])
        return _Found(whole, whole, [(1, d.before)], dh)

    return _differentiate(step, back)


def _differentiate(step: Step, back: _Back) -> Gradients:
    """What all three have in common: directions apart, weights' gradients, and together again."""
    b, count = step.build, _directions(step)
    reverse = step.string("direction", "forward") == "reverse"
    _states_named(step)
    results: list[dict[int, ir.Value]] = []
    for number in range(count):
        d = _direction(step, number, reverse or number == 1)
        results.append(_of_direction(step, d, back(d, number)))
    gradients: Gradients = {}
    for position in sorted(step.wanted):
        parts = [result[position] for result in results]
        if position == 0:
            gradients[0] = _plus(b, *parts)
        else:
            shape = step.shape(position)
            gradients[position] = (
                b.reshape(parts[0], shape) if count == 1 else b.op("Concat", *parts, axis=0, shape=shape)
            )
    return gradients


def _of_direction(step: Step, d: _Direction, found: _Found) -> dict[int, ir.Value]:
    """Gradients by position; those of weights with a first axis of one direction."""
    b, result = step.build, {}
    if step.wants(0):
        result[0] = b.op("MatMul", found.of_input, d.w)
    if step.wants(_W):
        result[_W] = _outer(b, found.of_input, d.x)
    if step.wants(_R):
        result[_R] = _r_gradient(b, found, step.shape(_R))
    if step.wants(_B):
        sums = [b.total(value, [0, 1]) for value in (found.of_input, found.of_state)]
        flat = [b.reshape(value, [1, dims(value)[-1]]) for value in sums]
        result[_B] = b.op("Concat", *flat, axis=1)
    for position, value in ((_H, found.h), (_C, found.c)):
        if step.wants(position):
            result[position] = zeros(b, (1, *d.state), d.x) if value is None else value
    return result


def _r_gradient(b: Builder, found: _Found, shape: Sequence[Dim]) -> ir.Value:
    """Of each part of R with what it was multiplied with."""
    if len(found.states) == 1:
        return _outer(b, found.of_state, found.states[0][1])
    count = sum(gates for gates, _ in found.states)
    parts = _split(b, found.of_state, 2, count)
    rows = []
    for gates, operand in found.states:
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


def _direction(step: Step, number: int, backward: bool) -> _Direction:
    b, steps = step.build, step.shape()[0]
    assert isinstance(steps, int)
    order = list(range(steps))[:: -1 if backward else 1]
    states, first = _states(step, number), _initial(step, _H, number)
    _, batch, units = dims(states)
    before = first
    if steps > 1:
        cut = b.ints(1 if backward else 0), b.ints(steps if backward else steps - 1), b.ints(0)
        rest = b.op("Slice", states, *cut, shape=(steps - 1, batch, units))
        pair = (rest, first) if backward else (first, rest)
        before = b.op("Concat", *pair, axis=0, shape=(steps, batch, units))
    return _Direction(
        build=b,
        order=order,
        x=step.x(),
        before=before,
        w=_of(step, step.x(_W), 0, number),
        r=_of(step, step.x(_R), 0, number),
        bias=_of(step, step.x(_B), 0, number) if step.has(_B) else None,
        dy=_of(step, step.dy(0), 1, number) if step.has_dy(0) else None,
        dh=_of(step, step.dy(1), 0, number) if step.has_dy(1) else None,
    )


def _of(step: Step, value: ir.Value, axis: int, number: int) -> ir.Value:
    """One direction of a value, without the axis of directions."""
    b, shape = step.build, dims(value)
    rest = (*shape[:axis], *shape[axis + 1 :])
    if shape[axis] != 1:
        one = (*shape[:axis], 1, *shape[axis + 1 :])
        value = b.op("Slice", value, b.ints(number), b.ints(number + 1), b.ints(axis), shape=one)
    return b.reshape(value, rest)


def _states(step: Step, number: int) -> ir.Value:
    """The states of all steps, (T, B, H)."""
    return _of(step, step.y(0), 1, number)


def _initial(step: Step, position: int, number: int) -> ir.Value:
    """The initial state or cell, (1, B, H)."""
    _, _, batch, units = step.out_shape()
    if not step.has(position):
        return zeros(step.build, (1, batch, units), step.x())
    return step.build.reshape(_of(step, step.x(position), 0, number), (1, batch, units))


def _last(step: Step, position: int, number: int, d: _Direction) -> ir.Value | None:
    """Gradient of the last cell, (1, B, H), or None."""
    if not step.has_dy(position):
        return None
    return step.build.reshape(_of(step, step.dy(position), 0, number), (1, *d.state))


def _states_named(step: Step) -> None:
    """See that the forward node gives the states of all steps, which a graph may leave out."""
    y, x = step.y(0), step.x()
    steps, batch, _ = dims(x)
    units = dims(step.x(_R))[-1]
    if not y.name:
        y.name = step.build.unique(f"{step.node.name}/states")
    assert x.dtype is not None
    y.dtype = x.dtype
    y.shape = ir.Shape([steps, _directions(step), batch, units])
