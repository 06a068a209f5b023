"""The cut between what no training changes and the rest; what is before it is computed once per sample and kept.

A value is frozen if it depends on model inputs and constants alone, and on no other sample (`per_sample`). Light frozen
nodes may be recomputed in every step if that is cheaper than keeping their outputs; heavy ones never are. Among all
closed cuts (no node before the cut reads a value after it) the cheapest is taken; its cost is the bytes kept of a
sample plus `_RECOMPUTE_BYTES` bytes for each recomputed element. It is a minimum cut in a network of the frozen nodes;
of several with the same cost, the latest.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..model.dims import count, dims_or_none
from ..model.uses import reads
from .batch_sizes import from_size
from .numbering import Numbering
from .per_sample import places
from .sample_layout import Place, SampleLayout

# Recomputing an element costs as much as keeping this many bytes. By time alone it would be 2 to 20: a light operator
# takes 0.07-0.6 ns per element, fetching a kept byte 0.03 ns. But bytes are kept of every sample, and data that exceeds
# the memory costs far more than it saves: so a patch of an image is not kept nine times for a 3x3 kernel.
_RECOMPUTE_BYTES = 0.25
_FREE = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})  # the runtime copies nothing
HEAVY = frozenset(
    {
        *("AveragePool", "Conv", "ConvInteger", "ConvTranspose", "DeformConv", "Einsum", "GRU", "Gemm"),
        *("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GridSample", "LSTM", "LpPool", "MatMul"),
        *("MatMulInteger", "MaxPool", "MaxRoiPool", "QLinearConv", "QLinearMatMul", "RNN", "Resize", "RoiAlign"),
        "Upsample",
    }
)
_STORED = frozenset(
    {
        *(ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BOOL),
        *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
        *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
    }
)
_NEVER = 1 << 29  # costs more than any cut
_MOST = 1 << 28  # the most that a cut may cost; larger numbers are scaled
_BEGIN, _SOURCE, _SINK, _FIRST = 0, 1, 2, 3  # vertices; _FIRST is the first vertex of a node


@dataclass(frozen=True)
class Crossing:
    """A frozen value that the rest of the graphs reads.

    Attributes:
        value: the value in the first of the graphs.
        number: its number, which is the same in all graphs.
        layout: where the samples are in it.
    """

    value: ir.Value
    number: int
    layout: SampleLayout


@dataclass(frozen=True)
class Cut:
    """A cut through several graphs.

    Attributes:
        crossings: the values that cross it, in the order in which the first graph makes them.
        numbers: for each graph, the number of each of its values.
        places: for each graph, where the samples are in each of its values.
    """

    crossings: tuple[Crossing, ...]
    numbers: tuple[Mapping[ir.Value, int], ...]
    places: tuple[Mapping[ir.Value, Place], ...]


def find_cut(models: Sequence[ir.Model], data: Collection[str]) -> Cut:
    """Find the cheapest cut.

    Args:
        models: graphs of one training, with shapes; the first of them determines what is frozen.
        data: names of the model's inputs, which have the batch first.
    """
    numbering = Numbering()
    numbers = tuple(numbering.of(model.graph) for model in models)
    all_places = tuple(places(model, data) for model in models)
    frozen = _Frozen(models[0].graph, numbers[0], all_places[0])
    read: set[int] = set()
    for model, known, places_here in zip(models, numbers, all_places, strict=True):
        for node in model.graph:
            if known[node.outputs[0]] not in frozen.made and not from_size(node, places_here):
                read.update(known[value] for value in reads(node) if value is not None)
        read.update(known[value] for value in model.graph.outputs)
    crossing = _cheapest(frozen, frozen.needed(read), read)
    order = [Crossing(value, number, place) for number, (value, place) in frozen.values.items() if number in crossing]
    return Cut(tuple(order), numbers, all_places)


class _Frozen:
    """The frozen nodes of a graph, and their outputs that have samples.

    Attributes:
        values: by number, inputs first: the value, and where its samples are.
        made: by the number of a node's first output: the node.
        operands: by the same number, the numbers of the values with samples that the node reads.
        results: by the same number, the numbers of the node's outputs.
        producer: by the number of a value, the number of the first output of its node.
    """

    def __init__(self, graph: ir.Graph, numbers: Mapping[ir.Value, int], places: Mapping[ir.Value, Place]) -> None:
        self.values: dict[int, tuple[ir.Value, SampleLayout]] = {}
        self.made: dict[int, ir.Node] = {}
        self.operands: dict[int, tuple[int, ...]] = {}
        self.results: dict[int, tuple[int, ...]] = {}
        self.producer: dict[int, int] = {}
        for value in graph.inputs:
            place = places[value]
            if isinstance(place, SampleLayout):
                self.values.setdefault(numbers[value], (value, place))
        for node in graph:
            first = numbers[node.outputs[0]]
            if first in self.made or not any(isinstance(places[value], SampleLayout) for value in node.outputs):
                continue
            given = [
                numbers[value] for value in reads(node) if value is not None and isinstance(places[value], SampleLayout)
            ]
            self.made[first], self.operands[first] = node, tuple(dict.fromkeys(given))
            self.results[first] = tuple(numbers[value] for value in node.outputs)
            for value in node.outputs:
                place = places[value]
                self.producer[numbers[value]] = first
                if isinstance(place, SampleLayout):
                    self.values.setdefault(numbers[value], (value, place))

    def needed(self, read: Collection[int]) -> set[int]:
        """The nodes that these values depend on."""
        needed: set[int] = set()
        stack = [self.producer[number] for number in read if number in self.producer]
        while stack:
            node = stack.pop()
            if node not in needed:
                needed.add(node)
                stack.extend(self.producer[number] for number in self.operands[node] if number in self.producer)
        return needed

    def kept_bytes(self, number: int) -> int:
        """The cost of keeping a value of one sample."""
        value, _ = self.values[number]
        extents = dims_or_none(value)
        if extents is None or value.dtype not in _STORED:
            return _NEVER
        return math.ceil(count(extents, 1) * value.dtype.itemsize)

    def recompute_cost(self, node: int) -> int:
        """The cost of recomputing a node for one sample."""
        if self.made[node].op_type in HEAVY:
            return _NEVER
        if self.made[node].op_type in _FREE:
            return 1
        shapes = [dims_or_none(value) for value in self.made[node].outputs]
        return math.ceil(_RECOMPUTE_BYTES * sum(count(shape or (), 1) for shape in shapes))


def _cheapest(frozen: _Frozen, needed: set[int], read: Collection[int]) -> set[int]:
    """The values that cross the cheapest cut; if no cut is possible, the inputs that are needed."""
    network = _Network(frozen, needed, read)
    kept = network.before()
    if kept is None:  # the output of a heavy node cannot be kept
        kept = set()
    crossing = set()
    for number in (n for n in frozen.values if n not in frozen.producer or frozen.producer[n] in kept):
        later = any(number in frozen.operands[node] for node in needed - kept)
        if later or number in read:
            crossing.add(number)
    return crossing


class _Network:
    """A flow network whose minimum cut is the cheapest cut of the graph.

    Every node and every value is a vertex. The capacity from the source to a node is the cost of recomputing it; from a
    node to its value, the cost of keeping the value. Edges from a value to all its readers, and from a node back to the
    nodes it depends on, cannot be cut.
    """

    def __init__(self, frozen: _Frozen, needed: set[int], read: Collection[int]) -> None:
        self._nodes = {node: i + _FIRST for i, node in enumerate(sorted(needed))}
        values = [n for n in frozen.values if frozen.producer.get(n, -1) in needed or n not in frozen.producer]
        self._size = _FIRST + len(self._nodes) + len(values)
        at = {number: _FIRST + len(self._nodes) + i for i, number in enumerate(values)}
        # This edge limits the flow, so that no sum of flows overflows.
        self._edges: dict[tuple[int, int], int] = {(_BEGIN, _SOURCE): _NEVER}
        costs = {n: frozen.kept_bytes(n) for n in values} | {-1 - n: frozen.recompute_cost(n) for n in needed}
        total = sum(cost for cost in costs.values() if cost < _NEVER)
        self._scale = min(1.0, _MOST / max(total, 1))
        for number in values:
            made = frozen.producer.get(number)
            self._edge(_SOURCE if made is None else self._nodes[made], at[number], costs[number])
            if number in read:
                self._edge(at[number], _SINK, _NEVER)
        for node in needed:
            self._edge(_SOURCE, self._nodes[node], costs[-1 - node])
            for number in frozen.operands[node]:
                self._edge(at[number], self._nodes[node], _NEVER)
                made = frozen.producer.get(number)
                if made is not None:
                    self._edge(self._nodes[node], self._nodes[made], _NEVER)

    def _edge(self, begin: int, end: int, cost: int) -> None:
        self._edges[begin, end] = _NEVER if cost >= _NEVER else max(1, round(cost * self._scale))

    def before(self) -> set[int] | None:
        """The nodes before the latest of the cheapest cuts; None if every cut costs too much."""
        from scipy.sparse import csr_matrix  # imported late, since loading scipy takes a while
        from scipy.sparse.csgraph import maximum_flow

        ends = np.array(list(self._edges), np.int32).reshape(-1, 2).T
        capacity = csr_matrix((np.array(list(self._edges.values()), np.int32), ends), shape=(self._size, self._size))
        result = maximum_flow(capacity, _BEGIN, _SINK)
        if result.flow_value >= _NEVER:
            return None
        residual = (capacity - result.flow).tocoo()
        into: dict[int, list[int]] = {}
        for begin, end, capacity_left in zip(
            residual.row.tolist(), residual.col.tolist(), residual.data.tolist(), strict=True
        ):
            if capacity_left > 0:
                into.setdefault(end, []).append(begin)
        reaches, queue = {_SINK}, deque([_SINK])
        while queue:
            for vertex in into.get(queue.popleft(), ()):
                if vertex not in reaches:
                    reaches.add(vertex)
                    queue.append(vertex)
        return {node for node, vertex in self._nodes.items() if vertex not in reaches}
