"""Predict step memory: the arena of simulated runs, plus what a process holds besides the arena.

Figures that cannot be derived from a graph (the runtime's code and tables, overhead per node) were fitted to the
measurements of tests/benchmarks/bench_cost.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .. import runtime
from ..portable.weights import INSIDE
from .optimized import optimized, optimized_step
from .run import SimulatedRun
from .value_sizes import ValueSizes

_LARGE = 1024  # constants with more elements are reduced to their shapes
_RUNS = 6  # number of simulated runs; later runs rarely need more memory
_BASE = 12_000_000  # bytes of the runtime once it is in use
_BASE_FROZEN = 10_500_000  # the same if only inference runs
_BASE_ORT = 14_000_000  # the same with onnxruntime-training's modules
_NODE = 5_500  # bytes per node: its kernel, names and shapes
_NODE_ORT = (
    12_000  # the same with onnxruntime-training, which loads nodes of three graphs per node of the training graph
)
_COPIES = 1.35  # simultaneous copies of constants while loading with `runtime.frugal_loading`
_COPIES_FRUGAL = 0.45  # additional copies of constants that convolutions read
_COPIES_ORT = 2.5  # simultaneous copies of constants without `runtime.frugal_loading`
_COPIES_CONVOLVED = 1.2  # additional copies of constants that convolutions read, which are reordered
_LEFT = 64_000_000  # maximum bytes freed by loading that stay with the process, without `runtime.frugal_loading`
_UPDATING = 300_000  # bytes of the update's session
_STATE_COPIES = 2  # copies of parameters and state while they are read


_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvTranspose"})


@dataclass(frozen=True)
class Parts:
    """The memory of a process with a loaded graph, in bytes.

    Attributes:
        nodes: the number of nodes that run.
        inputs: inputs that the caller holds: data, labels, and the values that a step takes and returns.
        constants: weights in the graph.
        convolved: the part of the weights that convolutions read.
        repacked: weights read by a second matrix product, which packs them again.
        packed: packed copies of weights that matrix products hold outside the arena; 0 if not simulated.
        first: resident size of the arena after the first run, including constants.
        arena: the same after several runs.
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
    """A graph whose runs can be simulated at any batch size.

    Args:
        model: the graph as stored in the file.
        frugal: whether it runs with `runtime.training_options`.
        known: the same graph with the shapes of its values; None: ``model``. ONNX Runtime plans memory only for values
            with a shape in the file.
        packing: whether its weights are in a separate file (see `SimulatedRun`).
        copied: whether outputs are copied (see `SimulatedRun`).

    Raises:
        ModelError: ONNX Runtime rejects the graph.
        RuntimeMissingError: ONNX Runtime is not installed.
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
        """Simulate runs at a batch size."""
        graph = self._graph
        sizes = ValueSizes(graph, self._known, batch)
        run = SimulatedRun(
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
    """Replace large weights by placeholders with the same shapes."""
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.size > _LARGE:
            shape = ir.Shape(tensor.shape.numpy())
            value.dtype, value.shape = tensor.dtype, shape
            value.const_value = ir.ExternalTensor("weights", None, None, tensor.dtype, shape=shape, name=name)


def portable_bytes(parts: Parts, carried: int, large: int) -> int:
    """Memory of a step of the portable backend.

    Args:
        parts: memory parts of the step's graph.
        carried: bytes of parameters and state.
        large: the part of them that is returned to the system once the first step's results replace them.
    """
    held = _BASE + _NODE * parts.nodes + parts.inputs
    loading = held + _loading(parts)
    held += parts.packed
    return max(loading, held + parts.first, held - large + parts.arena, _BASE + _STATE_COPIES * carried)


def frozen_bytes(parts: Parts, carried: int) -> int:
    """Memory of the frozen pass of the portable backend.

    Args:
        parts: memory parts of the frozen graph.
        carried: bytes of parameters and state.
    """
    held = _BASE_FROZEN + carried
    return held + max(_NODE * parts.nodes + parts.inputs + _loading(parts), loaded_bytes(parts))


def loaded_bytes(parts: Parts) -> int:
    """Memory of a graph that is loaded and has run."""
    return _NODE * parts.nodes + parts.inputs + parts.packed + parts.arena


def _loading(parts: Parts) -> int:
    return parts.repacked + int(_COPIES * parts.constants + _COPIES_FRUGAL * parts.convolved)


def accumulation_bytes(update: int) -> int:
    """Memory for accumulating gradients: their sum, those of a micro-batch, and a second session with its own arena.

    Args:
        update: size of the trained parameters in bytes.
    """
    return _UPDATING + 4 * update


def ort_bytes(parts: Parts, frozen: int, state: int) -> int:
    """Step memory of the ort backend, which loads a graph for evaluation as well.

    Args:
        parts: memory parts of the training graph, whose inputs include parameters and gradients.
        frozen: bytes of the weights that are not trained.
        state: bytes of the optimizer's state.
    """
    held = _BASE_ORT + _NODE_ORT * parts.nodes + parts.inputs + state
    copies = _copies(parts)
    loading = held + parts.constants + int(copies * frozen)
    # It copies the outputs of a step, so no later run needs more than the first.
    return max(loading, held + parts.first + frozen + _left(copies, frozen))


def inference_bytes(parts: Parts) -> int:
    """Memory of a forward pass."""
    held, copies = _BASE + _NODE * parts.nodes + parts.inputs, _copies(parts)
    return held + max(parts.arena + _left(copies, parts.constants), int(copies * parts.constants))


def _left(copies: float, weights: int) -> int:
    """Memory freed by loading that stays with the process."""
    return min(_LEFT, int(weights * (copies - 1)))


def _copies(parts: Parts) -> float:
    """The number of copies of its constants that a process holds while it loads them."""
    return _COPIES_ORT + _COPIES_CONVOLVED * parts.convolved / max(1, parts.constants)
