"""Simulate runs of a graph in ONNX Runtime: which memory is allocated and freed, node by node.

Constants are in the arena from loading on; outputs are allocated when their node runs and freed after the last node
that reads them. A view shares its input's memory; if ONNX Runtime may reuse memory, so does an elementwise result, if
nothing else reads that input. Scratch memory of an operator is allocated and freed around its run.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection, Sequence

import onnx_ir as ir

from ..model.liveness import VIEWS
from ..model.uses import reads
from .arena import Arena, Piece
from .multiply_adds import Shapes

Size = Callable[[ir.Value], int]
# Elementwise operators that may overwrite an input.
_IN_PLACE = frozenset(
    {"Abs", "Add", "And", "Ceil", "Clip", "Div", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "LeakyRelu", "Log", "Mul"}
    | {"Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Sum", "Tanh"}
)
# Convolutions add their result to a fourth input, if they have one, in place.
_CONVOLUTIONS, _SUM = frozenset({"Conv", "FusedConv"}), 3
# Matrix products, which pack a constant second factor into a copy outside the arena.
_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Gemm", "FusedGemm"})
_GELUS = frozenset({"BiasGelu", "FastGelu", "QuickGelu"})
_BUFFER = "_grad.accumulation.buffer"


class SimulatedRun:
    """Consecutive runs of one graph in one arena.

    Args:
        graph: the graph that runs.
        order: its nodes in execution order.
        size: returns the size of a value in bytes.
        shape: returns the shape of a value.
        frugal: without memory reuse and memory pattern, as `runtime.training_options` sets it, and with outputs that
            stay in the arena until those of the next run exist.
        ahead: whether the memory pattern is planned before the first run, as builds of ONNX Runtime with training do.
        unresolved: values whose shape ONNX Runtime does not know before they are computed.
        packing: names of the weights in a separate file; None: the graph's file contains its weights. A weight that
            only matrix products read, in packed form, is never in the arena if it is one of these; otherwise, if it
            was computed from others, its memory is freed once the model is loaded.
        copied: whether the outputs of a run are copied and freed before the next run.

    Attributes:
        arena: the simulated arena.
        packed: constants that matrix products pack, once for each product.
    """

    def __init__(
        self,
        graph: ir.Graph,
        order: Sequence[ir.Node],
        size: Size,
        shape: Shapes,
        *,
        frugal: bool = True,
        ahead: bool = True,
        unresolved: Collection[ir.Value] = (),
        packing: Collection[str | None] | None = None,
        copied: bool = False,
    ) -> None:
        self._copied = copied or not frugal
        self._unresolved = frozenset(unresolved)
        self._size, self._shape, self._frugal = size, shape, frugal
        self.arena = Arena()
        self._order, constant = without_folded(order)
        self._shown = set(graph.outputs)
        read = dict.fromkeys(value for node in self._order for value in reads(node) if value is not None)
        self.constants = [value for value in read if value in constant or value.is_initializer()]
        self._buffer = self._buffers({*self.constants, *graph.inputs})
        self._last: dict[ir.Value, int] = {}
        for index, node in enumerate(self._order):
            for value in (*reads(node), *node.outputs):
                if value is not None:
                    self._last[self._buffer.get(value, value)] = index
        for value in self._shown:
            self._last[self._buffer.get(value, value)] = len(self._order)
        self._ending: dict[int, list[ir.Value]] = {}
        for value, index in self._last.items():
            self._ending.setdefault(index, []).append(value)
        self._kept: list[Piece] = []
        self._pattern: int | None = None
        # onnxruntime-training allocates the buffers that accumulate gradients in the arena of the session.
        self.buffers = [value for value in graph.inputs if (value.name or "").endswith(_BUFFER)]
        self.packed = self._packed({*self.constants})
        packed = set(self._packed_alone()) if packing is not None else set()
        outside = {value for value in packed if value.name in (packing or ())}
        pieces = {
            value: self.arena.allocate(size(value))
            for value in (*self.constants, *self.buffers)
            if value not in outside
        }
        for value in self.constants:
            if value in packed - outside:
                self.arena.free(pieces[value])
        if ahead and not frugal:
            self._pattern = self._planned()

    @property
    def nodes(self) -> int:
        """The number of nodes that run."""
        return len(self._order)

    @property
    def constant_bytes(self) -> int:
        """Bytes of the constants that nodes read."""
        return sum(self._size(value) for value in self.constants)

    def _packed(self, constants: set[ir.Value]) -> list[ir.Value]:
        """Constants that matrix products pack, once for each product."""
        factors = (node.inputs[1] for node in self._order if node.op_type in _PRODUCTS)
        return [value for value in factors if value is not None and value in constants]

    def _packed_alone(self) -> list[ir.Value]:
        """Packed constants that nothing reads in their original form."""
        read = {
            value
            for node in self._order
            for place, value in enumerate(reads(node))
            if not (place == 1 and node.op_type in _PRODUCTS)
        }
        return [value for value in dict.fromkeys(self.packed) if value not in read]

    def _buffers(self, outside: set[ir.Value]) -> dict[ir.Value, ir.Value]:
        """The owner of the memory of each value that does not get its own."""
        uses: dict[ir.Value, int] = dict.fromkeys(self._shown, 1)
        for node in self._order:
            for value in dict.fromkeys(v for v in reads(node) if v is not None):
                uses[value] = uses.get(value, 0) + 1
        left = dict(uses)  # remaining reads of each buffer
        owner: dict[ir.Value, ir.Value] = {}
        idle: list[ir.Value] = []  # buffers without remaining reads, the latest first
        shown = {*self._shown}

        def share(value: ir.Value, buffer: ir.Value) -> None:
            owner[value] = buffer
            left[buffer] = left.get(buffer, 0) + uses.get(value, 0)
            if value in shown:
                shown.add(buffer)

        for node in self._order:
            first = node.inputs[0] if node.inputs else None
            if node.op_type in VIEWS and first is not None:
                share(node.outputs[0], owner.get(first, first))
            elif len(node.inputs) > _SUM and node.op_type in _CONVOLUTIONS:
                buffer = self._over_an_input(node, node.outputs[0], owner, left, outside)
                if buffer is not None:
                    share(node.outputs[0], buffer)
            elif not self._frugal:
                for made in node.outputs:
                    buffer = self._over_an_input(node, made, owner, left, outside) if made is node.outputs[0] else None
                    if buffer is None and made not in shown:
                        buffer = next((value for value in idle if self._alike(value, made)), None)
                        if buffer is not None:
                            idle.remove(buffer)
                    if buffer is not None:
                        share(made, buffer)
            for value in dict.fromkeys(v for v in (*reads(node), *node.outputs) if v is not None):
                buffer = owner.get(value, value)
                if value in reads(node):
                    left[buffer] = left.get(buffer, 0) - 1
                if self._frugal:  # no memory is reused
                    continue
                if left.get(buffer, 0) <= 0 and buffer not in outside and buffer not in shown and buffer not in idle:
                    idle.insert(0, buffer)
        return owner

    def _over_an_input(
        self,
        node: ir.Node,
        made: ir.Value,
        owner: dict[ir.Value, ir.Value],
        left: dict[ir.Value, int],
        outside: set[ir.Value],
    ) -> ir.Value | None:
        """The buffer of an input that an elementwise result, or a convolution's sum, may overwrite."""
        if node.op_type not in _IN_PLACE and node.op_type not in _CONVOLUTIONS:
            return None
        for value in node.inputs[:2] if node.op_type in _IN_PLACE else node.inputs[_SUM:]:
            if value is None:
                continue
            buffer = owner.get(value, value)
            if buffer in outside or buffer in self._shown:
                continue
            if left.get(buffer) == 1 and self._alike(value, made):
                return buffer
        return None

    def _alike(self, value: ir.Value, other: ir.Value) -> bool:
        """Whether ONNX Runtime knows before a run that one value fits exactly into the other's memory."""
        if value in self._unresolved or other in self._unresolved:
            return False
        return self._shape(value) == self._shape(other) and self._size(value) == self._size(other)

    def _in_pattern(self, value: ir.Value) -> bool:
        kept = self._last.get(value, 0) == len(self._order)
        return bool(value.name) and not kept and value not in self._buffer and value not in self._unresolved

    def _planned(self) -> int | None:
        """Size in bytes of the block for the memory pattern."""
        offsets = _Offsets()
        for index, node in enumerate(self._order):
            for value in node.outputs:
                if self._in_pattern(value):
                    offsets.take(value, self._size(value))
            for value in self._ending.get(index, ()):
                offsets.give_back(value)
        return offsets.size or None

    def step(self) -> None:
        """Simulate a run. A training caller keeps the outputs until the next run is over, unless it copies them."""
        arena, size = self.arena, self._size
        block = arena.allocate(self._pattern) if self._pattern is not None else None
        live: dict[ir.Value, Piece] = {}
        for index, node in enumerate(self._order):
            for value in node.outputs:
                if not value.name or value in self._buffer:
                    continue
                if block is not None and self._in_pattern(value):
                    continue
                live[value] = arena.allocate(size(value))
            scratch = _scratch(node, self._shape)
            if scratch:
                arena.free(arena.allocate(scratch))
            for value in self._ending.get(index, ()):
                if value in live:
                    arena.free(live.pop(value))
        if block is not None:
            arena.free(block)
        if not self._frugal:
            self._pattern = self._planned()
        for piece in self._kept:
            arena.free(piece)
        self._kept = list(live.values())
        if self._copied:
            while self._kept:
                arena.free(self._kept.pop())


class _Offsets:
    """ONNX Runtime's memory pattern: offsets in one block for the values of a run, each in the tightest gap."""

    def __init__(self) -> None:
        self.size = 0
        self._taken: list[tuple[int, int, ir.Value]] = []  # offset, end, value; by offset

    def take(self, value: ir.Value, size: int) -> None:
        """Assign an offset to a value."""
        size = max(256, math.ceil(size / 256) * 256)
        best, waste, end = None, None, 0
        for start, stop in (*((start, stop) for start, stop, _ in self._taken), (self.size, self.size)):
            gap = start - end
            if gap >= size and (waste is None or gap - size < waste):
                best, waste = end, gap - size
            end = max(end, stop) if start < self.size or stop > end else end
        if best is None:
            best = max((stop for _, stop, _ in self._taken), default=0)
        bisect.insort(self._taken, (best, best + size, value), key=lambda entry: entry[0])
        self.size = max(self.size, best + size)

    def give_back(self, value: ir.Value) -> None:
        """Free the place of a value."""
        self._taken = [entry for entry in self._taken if entry[2] is not value]


def without_folded(order: Sequence[ir.Node]) -> tuple[list[ir.Node], set[ir.Value]]:
    """The nodes that remain after constant folding at loading, and the values that were folded."""
    constant: set[ir.Value] = set()
    left = []
    for node in order:
        inputs = [value for value in reads(node) if value is not None]
        if inputs and all(value in constant or value.is_initializer() for value in inputs):
            constant.update(node.outputs)
        else:
            left.append(node)
    return left, constant


def _scratch(node: ir.Node, shape: Shapes) -> int:
    """Scratch bytes of an operator: the im2col columns of one image and one group, or a copy of a Gelu's input."""
    if node.op_type in _GELUS:
        given = shape(node.inputs[0])
        return 0 if given is None else 4 * math.prod(given)
    if node.op_type == "ConvTranspose":
        image, weight = shape(node.inputs[0]), shape(node.inputs[1])
    elif node.op_type == "ConvGrad":
        image, weight = shape(node.inputs[0]), shape(node.inputs[2])
    else:
        return 0
    return 0 if image is None or weight is None else 4 * math.prod(weight[1:]) * math.prod(image[2:])
