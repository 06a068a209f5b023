"""Which values a graph computes from constants alone, and what they are."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from .. import runtime
from ..errors import ModelError, RuntimeMissingError
from ..isolation import during
from .shapes import TRIAL_SECONDS, serialised_tensor
from .uses import ancestors, reads, subgraphs

# Operators whose result differs from run to run.
RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)

DIVISIONS = frozenset({"Div", "Mod"})


def is_random(node: ir.Node) -> bool:
    """Whether a node, or one in a subgraph of it, generates random numbers (a Dropout does not count)."""
    if node.op_type in RANDOM and node.domain in ("", "ai.onnx"):
        return True
    return any(is_random(inner) for graph in subgraphs(node) for inner in graph)


def varying(graph: ir.Graph) -> set[ir.Value]:
    """Values that may differ from run to run because they depend on an input or on chance. All others are constant.

    Constant is whatever is computed from initializers and constants alone, by any operators. Varying is whatever
    depends on an input at any distance, also through a subgraph, and the results of random operators.
    """
    changing = {value for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        if any(value in changing for value in reads(node)) or is_random(node):
            changing.update(node.outputs)
    return changing


def evaluate(model: ir.Model, values: Sequence[ir.Value]) -> dict[ir.Value, np.ndarray]:
    """Compute constant values, as far as that is possible within the time limit.

    Args:
        model: the graph.
        values: outputs of its nodes, none of them `varying`.

    Raises:
        ModelError: integers are divided by zero, which would terminate the process.
    """
    check_divisors(model, ancestors(values))
    return _evaluate(model, values, time.monotonic() + TRIAL_SECONDS)


def _evaluate(model: ir.Model, values: Sequence[ir.Value], end: float) -> dict[ir.Value, np.ndarray]:
    arrays_by_value: dict[ir.Value, np.ndarray] = {}
    stack = [list(values)]
    while stack:
        part = stack.pop()
        seconds_left = end - time.monotonic()
        if not part or seconds_left <= 0:
            continue
        arrays = _run(model, part, seconds_left)
        if arrays is not None:
            arrays_by_value.update(
                (value, array) for value, array in zip(part, arrays, strict=True) if _is_plain(array)
            )
        elif len(part) > 1:  # one of them cannot be computed
            stack += [part[: len(part) // 2], part[len(part) // 2 :]]
    return arrays_by_value


def check_divisors(model: ir.Model, nodes: Collection[ir.Node] | None = None) -> None:
    """Check that no integer is divided by a zero computed from constants, which would terminate the process.

    Args:
        model: the graph.
        nodes: the nodes to check; None: all.

    Raises:
        ModelError: a node divides by zero; the message names it.
    """
    changing, end = varying(model.graph), time.monotonic() + TRIAL_SECONDS
    known: dict[ir.Value, np.ndarray] = {}
    for node in model.graph:  # in order: the inputs of a divisor are checked before it is computed
        if node.op_type not in DIVISIONS or len(node.inputs) < 2 or not (nodes is None or node in nodes):
            continue
        divisor = node.inputs[1]
        if divisor is None or divisor.producer() is None or divisor in changing:
            continue
        if divisor not in known:
            known |= _evaluate(model, [divisor], end)
        array = known.get(divisor)
        if array is not None and array.dtype.kind in "iu" and not np.all(array):
            raise ModelError(f"node {node.name!r} ({node.op_type}) divides integers by zero. Export the model again.")


def _is_plain(array: object) -> bool:
    return isinstance(array, np.ndarray | np.generic) and array.dtype.kind in "biuf"


def _run(model: ir.Model, values: Sequence[ir.Value], seconds: float) -> list[np.ndarray] | None:
    proto = part_of(model, values)
    if proto is None:
        return None
    try:
        runtime.onnxruntime()
    except RuntimeMissingError:
        return _by_reference(proto)
    options = runtime.session_options(1)
    options.graph_optimization_level = runtime.onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = runtime.inference_session(proto.SerializeToString(), "the constants", options)
        return runtime.run_session(session, None, {}, "the constants", seconds=seconds)
    except ModelError:
        return None


def _by_reference(proto: onnx.ModelProto) -> list[np.ndarray] | None:
    """Evaluate with onnx's reference evaluator where no runtime is installed; no loops, which could not be stopped."""
    if any(attribute.HasField("g") for node in proto.graph.node for attribute in node.attribute):
        return None
    try:
        with during("onnx evaluates constants"), np.errstate(all="ignore"):
            return list(onnx.reference.ReferenceEvaluator(proto).run(None, {}))
    except Exception:  # operators of a file can raise anything
        return None


def part_of(model: ir.Model, values: Collection[ir.Value]) -> onnx.ModelProto | None:
    """A model whose outputs are the given constant values; None if its initializers exceed the size limit."""
    needed = ancestors(values)
    nodes = [node for node in model.graph if node in needed]
    read = dict.fromkeys(value for node in nodes for value in reads(node) if value is not None)
    weights = [value for value in read if value.is_initializer() and value.const_value is not None]
    if sum(value.const_value.nbytes for value in weights if value.const_value is not None) >= runtime.MOST_BYTES:
        return None
    proto = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    proto.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in model.opset_imports.items())
    proto.graph.name = "constants"
    proto.graph.node.extend(ir.serde.serialize_node(node) for node in nodes)
    proto.graph.initializer.extend(serialised_tensor(value) for value in weights)
    proto.graph.output.extend(onnx.ValueInfoProto(name=value.name or "") for value in values)
    return proto
