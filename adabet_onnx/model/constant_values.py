"""What a graph computes from constants alone, and what comes out."""

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
    """Whether a node, or one in a graph inside it, gives random numbers. (A Dropout does not: see `inference`.)"""
    if node.op_type in RANDOM and node.domain in ("", "ai.onnx"):
        return True
    return any(is_random(inner) for graph in subgraphs(node) for inner in graph)


def varying(graph: ir.Graph) -> set[ir.Value]:
    """Values that may differ from run to run: they depend on an input or on chance. All others are constant.

    Accepted as constant is whatever is computed from initializers and constants alone, by any operators; rejected what
    depends on an input at any distance, also by a graph inside a node, and what a random operator gives.
    """
    found = {value for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        if any(value in found for value in reads(node)) or is_random(node):
            found.update(node.outputs)
    return found


def evaluate(model: ir.Model, values: Sequence[ir.Value]) -> dict[ir.Value, np.ndarray]:
    """What constant values are, as far as it can be computed in time.

    Args:
        model: the graph.
        values: outputs of its nodes, none of them `varying`.

    Raises:
        ModelError: integers are divided by zero, which would end the process.
    """
    check_divisors(model, ancestors(values))
    return _evaluate(model, values, time.monotonic() + TRIAL_SECONDS)


def _evaluate(model: ir.Model, values: Sequence[ir.Value], end: float) -> dict[ir.Value, np.ndarray]:
    found: dict[ir.Value, np.ndarray] = {}
    stack = [list(values)]
    while stack:
        part = stack.pop()
        left = end - time.monotonic()
        if not part or left <= 0:
            continue
        arrays = _run(model, part, left)
        if arrays is not None:
            found.update((value, array) for value, array in zip(part, arrays, strict=True) if _is_plain(array))
        elif len(part) > 1:  # one of them cannot be computed
            stack += [part[: len(part) // 2], part[len(part) // 2 :]]
    return found


def check_divisors(model: ir.Model, nodes: Collection[ir.Node] | None = None) -> None:
    """See that no integer is divided by a zero that is computed from constants, which ends the process.

    Args:
        model: the graph.
        nodes: to look at; None: all.

    Raises:
        ModelError: one is; the node is named.
    """
    changing, end = varying(model.graph), time.monotonic() + TRIAL_SECONDS
    known: dict[ir.Value, np.ndarray] = {}
    for node in model.graph:  # in order: a divisor is computed when what it is computed by was looked at
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
    """Where no runtime is installed: by onnx's own evaluator, but for loops, which nothing could stop."""
    if any(attribute.HasField("g") for node in proto.graph.node for attribute in node.attribute):
        return None
    try:
        with during("onnx evaluates constants"), np.errstate(all="ignore"):
            return list(onnx.reference.ReferenceEvaluator(proto).run(None, {}))
    except Exception:  # whatever it meets in the operators of a file
        return None


def part_of(model: ir.Model, values: Collection[ir.Value]) -> onnx.ModelProto | None:
    """A model that gives out constant values alone; None where their initializers are too many for one."""
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
