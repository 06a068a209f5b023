"""Step memory, predicted: what a process holds besides the arena, and the arena of simulated runs.

The figures that no graph tells (the runtime's code and tables, what each node takes) were fitted to the measurements
of tests/benchmarks/bench_cost.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .. import runtime
from ..portable.weights import INSIDE
from .optimized import Sizes, optimized, optimized_step
from .run import Run

_LARGE = 1024  # elements of a constant that only its shape is kept of
_RUNS = 6  # after which hardly any run asks for more
_BASE = 12_000_000  # of the runtime, once it is used
_BASE_FROZEN = 10_500_000  # where nothing but inference runs
_BASE_ORT = 14_000_000  # the same with onnxruntime-training's modules
_NODE = 5_500  # of a node: its kernel, names and shapes
_NODE_ORT = 12_000  # the same where nodes of three graphs come with each of the training graph
_COPIES = 1.35  # of the constants that run, at once while they are loaded with `runtime.frugal_loading`;
_COPIES_FRUGAL = 0.45  # more of those that convolutions read
_COPIES_ORT = 2.5  # of the constants, without it;
_COPIES_CONVOLVED = 1.2  # more of those that convolutions read, which are put in another order
_LEFT = 64_000_000  # as much of what loading freed stays with the process, without it
_UPDATING = 300_000  # of the update's session
_STATE_COPIES = 2  # of parameters and state, while they are read


_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvTranspose"})


@dataclass(frozen=True)
class Parts:
    """What a process with a graph in it holds, in bytes.

    Attributes:
        nodes: how many nodes run.
        inputs: that the caller holds: data, labels, and what a step takes and gives back.
        constants: weights in the graph.
        convolved: those of them that convolutions read.
        repacked: those that a second matrix product reads, which puts them in an order of its own.
        packed: what matrix products hold of weights in an order of their own, outside the arena; 0 if not simulated.
        first: what is resident of the arena after the first run, constants included.
        arena: the same after several.
    """

    nodes: int
    inputs: int
    constants: int
    convolved: int
    repacked: int
    packed: int
    first: int
    arena: int


class Simulation:
    """A graph, ready to be run at any batch size.

    Args:
        model: as it stands in the file.
        frugal: whether it runs with `runtime.training_options`.
        known: the same graph with the shapes of its values; None: as above. ONNX Runtime plans ahead only for what has
            a shape in the file.
        packing: whether its weights lie in a file of their own (see `Run`).
        copied: likewise.

    Raises:
        ModelError: ONNX Runtime refuses the graph.
        RuntimeMissingError: it is not installed.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        frugal: bool,
        known: ir.Model | None = None,
        packing: bool = False,
        copied: bool = False,
    ) -> None:
        self._frugal, self._packing, self._copied = frugal, packing, copied
        if frugal:
            self._graph = optimized_step(model, lambda: runtime.training_options(1)).graph
        else:
            self._graph = optimized(model, runtime.session_options(1)).graph
        self._filed = {
            name
            for name, value in model.graph.initializers.items()
            if value.const_value is not None and value.const_value.nbytes >= INSIDE
        }
        _forget_weights(self._graph)
        self._known = {value.name or "": value for node in (known or model).graph for value in node.outputs}

    def parts(self, batch: int) -> Parts:
        """Simulate runs of a batch size."""
        graph = self._graph
        sizes = Sizes(graph, self._known, batch)
        run = Run(
            graph,
            list(graph),
            sizes.size,
            sizes.shape,
            frugal=self._frugal,
            ahead=bool(runtime.installed().training),
            unresolved=sizes.unresolved,
            packing=self._filed if self._packing else None,
            copied=self._copied,
        )
        resident = []
        for _ in range(_RUNS):
            run.step()
            resident.append(run.arena.resident)
        inputs = sum(sizes.size(value) for value in graph.inputs if value not in run.buffers)
        read = {value for node in graph if node.op_type in _CONVOLUTIONS for value in node.inputs[1:2]}
        convolved = sum(sizes.size(value) for value in run.constants if value in read)
        packed = sum(sizes.size(value) for value in run.packed)
        repacked = packed - sum(sizes.size(value) for value in set(run.packed))
        held = packed if self._packing else 0
        return Parts(run.nodes, inputs, run.constant_bytes, convolved, repacked, held, resident[0], resident[-1])


def _forget_weights(graph: ir.Graph) -> None:
    """Keep of large weights no more than their shapes."""
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.size > _LARGE:
            shape = ir.Shape(tensor.shape.numpy())
            value.dtype, value.shape = tensor.dtype, shape
            value.const_value = ir.ExternalTensor("weights", None, None, tensor.dtype, shape=shape, name=name)


def portable_bytes(parts: Parts, carried: int, large: int) -> int:
    """Memory of a step of the portable backend.

    Args:
        parts: of the step's graph.
        carried: bytes of parameters and state.
        large: those of them that the system gets back once the first step's results have taken their place.
    """
    held = _BASE + _NODE * parts.nodes + parts.inputs
    loading = held + _loading(parts)
    held += parts.packed
    return max(loading, held + parts.first, held - large + parts.arena, _BASE + _STATE_COPIES * carried)


def frozen_bytes(parts: Parts, carried: int) -> int:
    """Memory of the frozen pass of the portable backend.

    Args:
        parts: of the frozen graph.
        carried: bytes of parameters and state.
    """
    held = _BASE_FROZEN + carried
    return held + max(_NODE * parts.nodes + parts.inputs + _loading(parts), loaded_bytes(parts))


def loaded_bytes(parts: Parts) -> int:
    """What a graph takes that is loaded and has run."""
    return _NODE * parts.nodes + parts.inputs + parts.packed + parts.arena


def _loading(parts: Parts) -> int:
    return parts.repacked + int(_COPIES * parts.constants + _COPIES_FRUGAL * parts.convolved)


def gathered_bytes(update: int) -> int:
    """What gathering gradients adds: their sum, a part's on top, and a second session with its own arena.

    Args:
        update: bytes of the trained parameters.
    """
    return _UPDATING + 4 * update


def ort_bytes(parts: Parts, frozen: int, state: int) -> int:
    """Step memory of the ort backend, which loads a graph for evaluation as well.

    Args:
        parts: of the training graph; its inputs are parameters and gradients too.
        frozen: bytes of the weights that are not trained.
        state: of the optimizer's state.
    """
    held = _BASE_ORT + _NODE_ORT * parts.nodes + parts.inputs + state
    copies = _copies(parts)
    loading = held + parts.constants + int(copies * frozen)
    # It copies what a step gives, so no later run needs more than the first.
    return max(loading, held + parts.first + frozen + _left(copies, frozen))


def inference_bytes(parts: Parts) -> int:
    """Memory of a forward pass."""
    held, copies = _BASE + _NODE * parts.nodes + parts.inputs, _copies(parts)
    return held + max(parts.arena + _left(copies, parts.constants), int(copies * parts.constants))


def _left(copies: float, weights: int) -> int:
    """What loading freed and the process keeps."""
    return min(_LEFT, int(weights * (copies - 1)))


def _copies(parts: Parts) -> float:
    """How many copies of its constants a process holds while it loads them."""
    return _COPIES_ORT + _COPIES_CONVOLVED * parts.convolved / max(1, parts.constants)
