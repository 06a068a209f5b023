"""GRU (see `recurrent`)."""

from __future__ import annotations

import onnx_ir as ir

from ...model.dims import dims, times
from .functions import one_minus, square
from .recurrent import check_recurrent
from .recurrent_steps import (
    B,
    Direction,
    DirectionGradients,
    H,
    R,
    W,
    add_all,
    recurrent_gradients,
    split,
)
from .registry import BackwardContext, Gradients, rule
from .slicing import zeros


@rule("GRU", inputs={0, W, R, B, H}, outputs=None, check=check_recurrent)
def gru(context: BackwardContext) -> Gradients:
    """Gates z, r and h: n = tanh(x + R (r h')) or tanh(x + r (R h' + b)), h = (1 - z) n + z h'."""
    linear = bool(context.int("linear_before_reset", 0))

    def backward(d: Direction, number: int) -> DirectionGradients:
        b = context.build
        of_input, of_state = d.biases()
        xz, xr, xn = d.parts(add_all(b, d.projected(d.x, d.w), of_input), 3)
        (rz, rr, rn), h = split(b, d.r, 0, 3), d.before
        bz, br, bn = (None, None, None) if of_state is None else split(b, of_state, 0, 3)
        z = b.op("Sigmoid", add_all(b, xz, d.projected(h, rz), bz))
        r = b.op("Sigmoid", add_all(b, xr, d.projected(h, rr), br))
        inner = add_all(b, d.projected(h, rn), bn) if linear else b.mul(r, h)
        n = b.op("Tanh", b.add(xn, b.mul(r, inner)) if linear else add_all(b, xn, d.projected(inner, rn), bn))
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
            dh = add_all(b, *[v for v in (upstream[t], dh) if v is not None])
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

    return recurrent_gradients(context, backward)
