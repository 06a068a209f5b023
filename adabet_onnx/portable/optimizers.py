"""Optimizer updates as nodes.

With w a parameter, g its gradient, lr the learning rate, d the weight decay and t the step (1 for the first):

sgd          g' = g + d w;  with momentum u: v = u v + g', w = w - lr v, else w = w - lr g'  (torch.optim.SGD)
adamw        m = 0.9 m + 0.1 g;  v = 0.999 v + 0.001 g^2;  e = 1e-6
             w = w - lr sqrt(1 - 0.999^t) / (1 - 0.9^t) m / (sqrt(v) + e);  then w = w - lr d w
             (onnxruntime-training's AdamW, adam_mode 1)
adamw-torch  m and v the same;  e = 1e-8
             w = (1 - lr d) w - lr / (1 - 0.9^t) m / (sqrt(v / (1 - 0.999^t)) + e)  (torch.optim.AdamW)

Clipping by global norm multiplies all gradients by min(1, c / (|g| + 1e-6)), where |g| is their joint norm
(torch.nn.utils.clip_grad_norm_).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from ..errors import UsageError
from ..model.dims import dims
from ..vocabulary import OPTIMIZERS
from .builder import Builder

_BETA1, _BETA2 = 0.9, 0.999
_EPSILON = {"adamw": 1e-6, "adamw-torch": 1e-8}


@dataclass(frozen=True)
class Optimizer:
    """An optimizer and its constants.

    Attributes:
        name: one of OPTIMIZERS.
        weight_decay: d above.
        momentum: u above, for sgd.
        clip_norm: c above; None for no clipping.
    """

    name: str = "adamw"
    weight_decay: float = 0.0
    momentum: float = 0.0
    clip_norm: float | None = None

    def check(self) -> None:
        """Raise UsageError for an unknown name or a value out of range."""
        if self.name not in OPTIMIZERS:
            raise UsageError(f"unknown optimizer {self.name!r}: choose one of {', '.join(OPTIMIZERS)}.")
        if not 0 <= self.weight_decay < float("inf"):
            raise UsageError(f"the weight decay must be at least 0, not {self.weight_decay}.")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"the momentum must be at least 0 and below 1, not {self.momentum}.")
        if self.momentum and self.name != "sgd":
            raise UsageError(f"{self.name} has no momentum to set; leave it out, or use sgd.")
        if self.clip_norm is not None and not 0 < self.clip_norm < float("inf"):
            raise UsageError(f"the norm to clip at must be above 0, not {self.clip_norm}.")

    @property
    def moments(self) -> tuple[str, ...]:
        """The state tensors of each parameter, which have its shape and start at zero."""
        if self.name == "sgd":
            return ("momentum",) if self.momentum else ()
        return ("m", "v")

    def to_json(self) -> dict[str, Any]:
        """The entry in the manifest."""
        return asdict(self)


class Updates:
    """Writes updates; values that all parameters share are written once.

    Args:
        build: receives the nodes.
        optimizer: determines the update.
        learning_rate: float32 input with one element.
        step: int64 input with one element.
    """

    def __init__(self, build: Builder, optimizer: Optimizer, learning_rate: ir.Value, step: ir.Value) -> None:
        self._build, self._optimizer = build, optimizer
        self._learning_rate, self._step = learning_rate, step
        self._of_rank: dict[tuple[ir.Value, int], ir.Value] = {}
        self._shared_values: dict[str, ir.Value] = {}

    def clipped(self, gradients: Sequence[ir.Value]) -> list[ir.Value]:
        """All gradients, clipped by their global norm if the optimizer has a limit."""
        b, limit = self._build, self._optimizer.clip_norm
        if limit is None:
            return list(gradients)
        sums = [b.reshape(b.total(b.mul(g, g), range(len(dims(g)))), [1]) for g in gradients]
        norm = b.op("Sqrt", b.total(sums[0] if len(sums) == 1 else b.op("Concat", *sums, axis=0), [0]))
        factor = b.div(b.scalar(limit, norm), b.add(norm, b.scalar(1e-6, norm)))
        factor = b.at_most(factor, 1)
        return [b.mul(g, self._at_rank(factor, g)) for g in gradients]

    def update(
        self, parameter: ir.Value, gradient: ir.Value, moments: Sequence[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        """Write one parameter's update, and return the new value and the new moments."""
        if self._optimizer.name == "sgd":
            return self._sgd(parameter, gradient, moments)
        return self._adamw(parameter, gradient, moments)

    def _sgd(self, w: ir.Value, g: ir.Value, moments: Sequence[ir.Value]) -> tuple[ir.Value, list[ir.Value]]:
        b, optimizer = self._build, self._optimizer
        if optimizer.weight_decay:
            g = b.add(g, b.scale(w, optimizer.weight_decay))
        new = []
        if optimizer.momentum:
            g = b.add(b.scale(moments[0], optimizer.momentum), g)
            new = [g]
        return b.sub(w, b.mul(g, self._at_rank(self._shared("lr"), w))), new

    def _adamw(self, w: ir.Value, g: ir.Value, moments: Sequence[ir.Value]) -> tuple[ir.Value, list[ir.Value]]:
        b, optimizer = self._build, self._optimizer
        m = b.add(b.scale(moments[0], _BETA1), b.scale(g, 1 - _BETA1))
        v = b.add(b.scale(moments[1], _BETA2), b.scale(b.mul(g, g), 1 - _BETA2))
        epsilon = b.scalar(_EPSILON[optimizer.name], w)
        root = b.op("Sqrt", v)
        if optimizer.name == "adamw":
            change = b.mul(b.div(m, b.add(root, epsilon)), self._at_rank(self._shared("corrected"), w))
            w = b.sub(w, change)
            return (b.mul(w, self._at_rank(self._shared("kept"), w)) if optimizer.weight_decay else w), [m, v]
        root = b.div(root, self._at_rank(self._shared("root"), w))
        change = b.mul(b.div(m, b.add(root, epsilon)), self._at_rank(self._shared("first"), w))
        if optimizer.weight_decay:
            w = b.mul(w, self._at_rank(self._shared("kept"), w))
        return b.sub(w, change), [m, v]

    def _shared(self, name: str) -> ir.Value:
        """A number that all parameters share, of shape (1,)."""
        b = self._build
        if name not in self._shared_values:
            b.begin("optimizer")
            if name == "lr":
                made = b.reshape(self._learning_rate, [1])
            elif name == "t":
                made = b.reshape(b.op("Cast", self._step, to=int(ir.DataType.FLOAT)), [1])
            elif name == "root":  # sqrt(1 - beta2^t)
                made = b.op("Sqrt", self._remaining(_BETA2))
            elif name == "first":  # lr / (1 - beta1^t)
                made = b.div(self._shared("lr"), self._remaining(_BETA1))
            elif name == "corrected":
                made = b.mul(self._shared("first"), self._shared("root"))
            else:  # "kept": 1 - lr d
                rate = self._shared("lr")
                made = b.sub(b.scalar(1, rate), b.scale(rate, self._optimizer.weight_decay))
            self._shared_values[name] = made
        return self._shared_values[name]

    def _remaining(self, beta: float) -> ir.Value:
        b, t = self._build, self._shared("t")
        return b.sub(b.scalar(1, t), b.op("Pow", b.scalar(beta, t), t))

    def _at_rank(self, number: ir.Value, like: ir.Value) -> ir.Value:
        """A number of shape (1,) with the rank of another value (see `Builder.scalar`)."""
        rank = len(dims(like))
        key = (number, rank)
        if key not in self._of_rank:
            self._of_rank[key] = self._build.reshape(number, [1] * rank)
        return self._of_rank[key]
