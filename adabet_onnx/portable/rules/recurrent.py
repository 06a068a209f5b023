"""LSTM, GRU and RNN over a known number of steps.

The forward node stays as it is. Its states of all steps are its output Y, so gates are computed again for all steps at
once, and only what goes from step to step in the backward pass is written out for each of them: a product with R and a
few products by element. Weights' gradients are one product over all steps again (see `recurrent_steps`).
"""

from __future__ import annotations

import onnx_ir as ir

from ...model.dims import dims, times
from .functions import one_minus, square
from .recurrent_steps import (
    B,
    C,
    Direction,
    DirectionGradients,
    H,
    R,
    W,
    differentiate,
    directions_of,
    initial,
    last_cell,
    plus,
    split,
    states_of,
)
from .registry import BackwardContext, Gradients, NodeView, rule
from .slicing import zeros

_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_LENGTHS, _P = 4, 7  # positions of inputs
_SPLIT_BY_INPUT = 13  # the opset that gave Split its sizes as an input
_MOST_STEPS = 1000


def _check(view: NodeView) -> str | None:
    op_type, steps = view.node.op_type, view.shape()[0]
    if not isinstance(steps, int):
        return "runs over a number of steps that is not fixed, or over the batch"
    if steps > _MOST_STEPS:
        return f"runs over {steps} steps; up to {_MOST_STEPS} have a gradient here"
    if view.opset < _SPLIT_BY_INPUT:
        return f"has a gradient here from opset {_SPLIT_BY_INPUT} on, and the graph has opset {view.opset}"
    if view.has(_LENGTHS):
        return "has sequences of differing lengths (sequence_lens)"
    if view.has(_P):
        return "has peepholes"
    if view.int("layout", 0):
        return "has the batch first (layout 1)"
    if "clip" in view.node.attributes:
        return "clips its cells"
    if view.int("input_forget", 0):
        return "couples its input and forget gates (input_forget)"
    activations = _activations(view)
    known = [_DEFAULTS[op_type], ["Relu"]] if op_type == "RNN" else [_DEFAULTS[op_type]]
    if any(each not in known for each in activations):
        return f"has the activations {', '.join(name for each in activations for name in each)}"
    if "activation_alpha" in view.node.attributes or "activation_beta" in view.node.attributes:
        return "has activations with parameters of their own"
    return None


def _activations(view: NodeView) -> list[list[str]]:
    """Names of the activations, per direction."""
    default, directions = _DEFAULTS[view.node.op_type], directions_of(view)
    given = view.node.attributes.get("activations")
    names = default * directions if given is None else [name.capitalize() for name in given.as_strings()]
    count = len(default)
    return [names[d * count : (d + 1) * count] for d in range(directions)]


@rule("LSTM", inputs={0, W, R, B, H, C}, outputs=None, check=_check)
def lstm(context: BackwardContext) -> Gradients:
    """Gates i, o, f and c: c = f c' + i tanh(.), h = o tanh(c)."""

    def back(d: Direction, number: int) -> DirectionGradients:
        b = context.build
        gates = plus(b, b.add(d.projected(d.x, d.w), d.projected(d.before, d.r)), *d.biases())
        i, o, f, g = d.parts(gates, 4)
        i, o, f, g = b.op("Sigmoid", i), b.op("Sigmoid", o), b.op("Sigmoid", f), b.op("Tanh", g)
        first = initial(context, C, number)
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
        dc = last_cell(context, 2, number, d)
        gate_gradients: dict[int, ir.Value] = {}
        wide = (1, *shape[1:])
        for t in reversed(d.order):
            if upstream[t] is not None or dh is not None:
                dh = plus(b, *[v for v in (upstream[t], dh) if v is not None])
                through = b.mul(dh, into_cell[t])
                dc = through if dc is None else b.add(dc, through)
            elif dc is None:
                gate_gradients[t] = zeros(b, wide, d.x)
                continue
            dh = zeros(b, (1, *d.state), d.x) if dh is None else dh
            assert dc is not None
            gate_gradients[t] = b.mul(b.op("Concat", dc, dh, dc, dc, axis=2, shape=wide), slope[t])
            if t != d.order[0] or context.needs_gradient(H):
                dh = b.op("MatMul", gate_gradients[t], d.r)
            if t != d.order[0] or context.needs_gradient(C):
                dc = b.mul(dc, forget[t])
        whole = d.joined([gate_gradients[t] for t in range(len(d.order))])
        return DirectionGradients(whole, whole, [(4, d.before)], dh, dc)

    return differentiate(context, back)


def _cells(d: Direction, forget: ir.Value, new: ir.Value, first: ir.Value) -> tuple[ir.Value, ir.Value]:
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


@rule("GRU", inputs={0, W, R, B, H}, outputs=None, check=_check)
def gru(context: BackwardContext) -> Gradients:
    """Gates z, r and h: n = tanh(x + R (r h')) or tanh(x + r (R h' + b)), h = (1 - z) n + z h'."""
    linear = bool(context.int("linear_before_reset", 0))

    def back(d: Direction, number: int) -> DirectionGradients:
        b = context.build
        of_input, of_state = d.biases()
        xz, xr, xn = d.parts(plus(b, d.projected(d.x, d.w), of_input), 3)
        (rz, rr, rn), h = split(b, d.r, 0, 3), d.before
        bz, br, bn = (None, None, None) if of_state is None else split(b, of_state, 0, 3)
        z = b.op("Sigmoid", plus(b, xz, d.projected(h, rz), bz))
        r = b.op("Sigmoid", plus(b, xr, d.projected(h, rr), br))
        inner = plus(b, d.projected(h, rn), bn) if linear else b.mul(r, h)
        n = b.op("Tanh", b.add(xn, b.mul(r, inner)) if linear else plus(b, xn, d.projected(inner, rn), bn))
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
            dh = plus(b, *[v for v in (upstream[t], dh) if v is not None])
            dn, dz = b.mul(dh, to_n[t]), b.mul(dh, to_z[t])
            last = t == d.order[0] and not context.needs_gradient(H)
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
        return DirectionGradients(whole, other, [(3, h)] if linear else [(2, h), (1, inner)], dh)

    return differentiate(context, back)


@rule("RNN", inputs={0, W, R, B, H}, outputs=None, check=_check)
def rnn(context: BackwardContext) -> Gradients:
    """H = tanh(W x + R h' + b), or Relu of it."""
    activations = _activations(context)

    def back(d: Direction, number: int) -> DirectionGradients:
        b = context.build
        h = states_of(context, number)
        if activations[number] == ["Relu"]:
            slope = b.cast_like(b.op("Greater", h, b.scalar(0, h)), h)
        else:
            slope = one_minus(b, square(b, h))
        slopes, upstream = d.steps(slope), d.upstream()
        dh: ir.Value | None = None
        gate_gradients: dict[int, ir.Value] = {}
        for t in reversed(d.order):
            if upstream[t] is None and dh is None:
                gate_gradients[t] = zeros(b, (1, *d.state), d.x)
                continue
            dh = plus(b, *[v for v in (upstream[t], dh) if v is not None])
            gate_gradients[t] = b.mul(dh, slopes[t])
            if t != d.order[0] or context.needs_gradient(H):
                dh = b.op("MatMul", gate_gradients[t], d.r)
        whole = d.joined([gate_gradients[t] for t in range(len(d.order))])
        return DirectionGradients(whole, whole, [(1, d.before)], dh)

    return differentiate(context, back)
