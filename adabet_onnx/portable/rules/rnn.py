"""RNN (see `recurrent`)."""

from __future__ import annotations

import onnx_ir as ir

from .functions import one_minus, square
from .recurrent import activations_of, check_recurrent
from .recurrent_steps import (
    B,
    Direction,
    DirectionGradients,
    H,
    R,
    W,
    add_all,
    recurrent_gradients,
    states_of,
)
from .registry import BackwardContext, Gradients, rule
from .slicing import zeros


@rule("RNN", inputs={0, W, R, B, H}, outputs=None, check=check_recurrent)
def rnn(context: BackwardContext) -> Gradients:
    """H = tanh(W x + R h' + b), or Relu in place of tanh."""
    activations = activations_of(context)

    def backward(d: Direction, number: int) -> DirectionGradients:
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
            dh = add_all(b, *[v for v in (upstream[t], dh) if v is not None])
            gate_gradients[t] = b.mul(dh, slopes[t])
            if t != d.order[0] or context.needs_gradient(H):
                dh = b.op("MatMul", gate_gradients[t], d.r)
        whole = d.joined([gate_gradients[t] for t in range(len(d.order))])
        return DirectionGradients(whole, whole, [(1, d.before)], dh)

    return recurrent_gradients(context, backward)
