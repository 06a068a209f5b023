"""LSTM (see `recurrent`)."""

from __future__ import annotations

import onnx_ir as ir

from ...model.dims import dims
from .functions import one_minus, square
from .recurrent import check_recurrent
from .recurrent_steps import (
    B,
    C,
    Direction,
    DirectionGradients,
    H,
    R,
    W,
    add_all,
    initial_state,
    last_cell,
    recurrent_gradients,
)
from .registry import BackwardContext, Gradients, rule
from .slicing import zeros


@rule("LSTM", inputs={0, W, R, B, H, C}, outputs=None, check=check_recurrent)
def lstm(context: BackwardContext) -> Gradients:
    """Gates i, o, f and c: c = f c' + i tanh(.), h = o tanh(c)."""

    def backward(d: Direction, number: int) -> DirectionGradients:
        b = context.build
        gates = add_all(b, b.add(d.projected(d.x, d.w), d.projected(d.before, d.r)), *d.biases())
        i, o, f, g = d.parts(gates, 4)
        i, o, f, g = b.op("Sigmoid", i), b.op("Sigmoid", o), b.op("Sigmoid", f), b.op("Tanh", g)
        first = initial_state(context, C, number)
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
                dh = add_all(b, *[v for v in (upstream[t], dh) if v is not None])
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

    return recurrent_gradients(context, backward)


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
