"""Reverse-mode differentiation of an ONNX graph, at build time.

`plan` finds the nodes on a path from a trained parameter to the output, and every obstacle among them, before anything
is built; `differentiate` then processes these nodes backwards, one rule per node. Nothing before the earliest trained
parameter is differentiated, and no gradient of a frozen weight is computed, because nothing needs it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..errors import ModelError
from ..model.dims import dims_or_none
from ..model.uses import reads, subgraphs
from .backward_paths import BackwardPath, backward_paths
from .builder import Builder
from .channel_gradients import TrainedPart, narrowed, take
from .composites import find_composite
from .rules import find_rule
from .rules.registry import BackwardContext, NodeView

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})
_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
# Their results change in steps or not at all: the gradient is zero wherever it exists.
_CONSTANT_BETWEEN_STEPS = frozenset({"Floor", "Ceil", "Round", "Sign", "EyeLike"})
REMEDY = "Select layers after it, or export the model with other operators in its place."


@dataclass(frozen=True)
class GradientObstacle:
    """A node that cannot be differentiated.

    Attributes:
        node: its name.
        op_type: its operator.
        reason: why it cannot be differentiated.
        remedy: what the user can do about it.
        value: name of its first output.
    """

    node: str
    op_type: str
    reason: str
    remedy: str
    value: str

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.op_type}) {self.reason}. {self.remedy}"


@dataclass(frozen=True)
class BackwardPlan:
    """The nodes of a backward pass.

    Attributes:
        output: the value whose gradient is given.
        trainable: the trained values.
        steps: nodes on a path from a trained value to the output, in the graph's order, each with the positions of the
            inputs that need a gradient.
        obstacles: nodes among them that cannot be differentiated.
        unreached: trained values without a path to the output.
    """

    output: ir.Value
    trainable: tuple[ir.Value, ...]
    steps: tuple[tuple[ir.Node, tuple[int, ...]], ...]
    obstacles: tuple[GradientObstacle, ...]
    unreached: tuple[ir.Value, ...]


def plan(graph: ir.Graph, output: ir.Value, trainable: Collection[ir.Value], *, opset: int) -> BackwardPlan:
    """Plan the backward pass from a value to trained parameters.

    Args:
        graph: a sorted graph whose values have shapes and dtypes (see `shapes.annotate`).
        output: a float value of the graph, the logits.
        trainable: float initializers or inputs.
        opset: opset of the graph.
    """
    active: set[ir.Value] = set(trainable)
    for node in graph:
        if any(value in active for value in sources(node) if value is not None):
            active.update(value for value in node.outputs if carries(node, value))
    needed: set[ir.Value] = {output}
    reached: set[ir.Value] = set()
    steps: list[tuple[ir.Node, tuple[int, ...]]] = []
    obstacles: list[GradientObstacle] = []
    for node in reversed(list(graph)):
        if not any(value in needed and value in active for value in node.outputs):
            continue
        positions = tuple(i for i, value in enumerate(sources(node)) if value is not None and value in active)
        if not positions:
            continue
        obstacle = _obstacle(node, positions, needed, opset)
        if obstacle is not None:
            obstacles.append(obstacle)
        steps.append((node, positions))
        for i in positions:
            value = sources(node)[i]
            assert value is not None
            needed.add(value)
            reached.add(value)
    unreached = tuple(value for value in trainable if value not in reached)
    return BackwardPlan(output, tuple(trainable), tuple(reversed(steps)), tuple(reversed(obstacles)), unreached)


def plan_each(
    graph: ir.Graph, output: ir.Value, sets: Sequence[Collection[ir.Value]], *, opset: int
) -> list[BackwardPath]:
    """The backward path to each of several sets of trained values; the other arguments are those of `plan`."""
    return backward_paths(
        graph,
        output,
        sets,
        reason=lambda node, positions, needed: obstacle_reason(node, positions, needed, opset),
        inputs=sources,
        carries=carries,
    )


def carries(node: ir.Node, value: ir.Value) -> bool:
    """Whether this output of a node changes smoothly with its inputs."""
    if node.op_type in _CONSTANT_BETWEEN_STEPS and not node.domain:
        return False
    return is_float(node, value)


def is_float(node: ir.Node, value: ir.Value) -> bool:
    """Whether this output of a node is a float tensor, or may be one."""
    return value.dtype is None or value.dtype in _FLOATS | _HALVES


def sources(node: ir.Node) -> Sequence[ir.Value | None]:
    """The values that a result depends on; for the second input of a CastLike only the dtype matters."""
    return node.inputs[:1] if node.op_type == "CastLike" else reads(node)


def _obstacle(node: ir.Node, positions: tuple[int, ...], needed: set[ir.Value], opset: int) -> GradientObstacle | None:
    reason = obstacle_reason(node, positions, needed, opset)
    return None if reason is None else obstacle(node, reason)


def obstacle(node: ir.Node, reason: str, remedy: str = REMEDY) -> GradientObstacle:
    """The obstacle that a node is for this reason."""
    return GradientObstacle(node.name or "", node.op_type, reason, remedy, node.outputs[0].name or "")


def obstacle_reason(node: ir.Node, positions: tuple[int, ...], needed: Collection[ir.Value], opset: int) -> str | None:
    """Why a node cannot be differentiated, worded to follow the name of the node; None if it can.

    Args:
        node: a forward node.
        positions: positions of the inputs that need a gradient.
        needed: values that need a gradient; they include outputs of the node.
        opset: opset of the graph.
    """
    if node.domain not in ("", "ai.onnx"):
        return f"belongs to the domain {node.domain!r}, and only standard operators have gradients here"
    rule = find_rule(node.op_type)
    if rule is None:
        inside = any(True for _ in subgraphs(node))
        return "contains a subgraph, which has no gradient here" if inside else "has no gradient here"
    if any(value is not None and value.dtype in _HALVES for value in (*node.inputs, *node.outputs)):
        return "computes in half precision, and gradients are of float32"
    for value in (*(v for v in node.inputs if v is not None), *node.outputs[:1]):
        if value.dtype is not None and value.dtype in _FLOATS and dims_or_none(value) is None:
            return f"has a value of unknown shape ({value.name!r})"
    if rule.inputs is not None and not set(positions) <= rule.inputs:
        position = min(set(positions) - rule.inputs)
        operand = node.inputs[position]
        return f"has no gradient for its input {position} ({operand.name if operand is not None else None!r})"
    if rule.outputs is not None:
        others = [v for i, v in enumerate(node.outputs) if i not in rule.outputs and v in needed]
        if others:
            return f"has no gradient for its output {others[0].name!r}"
    return None if rule.check is None else rule.check(NodeView(node, positions, opset))


def differentiate(
    plan: BackwardPlan, seed: ir.Value, build: Builder, parts: Mapping[ir.Value, TrainedPart] | None = None
) -> dict[ir.Value, ir.Value]:
    """Write the nodes of the gradient.

    Args:
        plan: a plan without obstacles.
        seed: gradient of the loss with respect to the plan's output, in the shape of that output.
        build: receives the nodes.
        parts: for each trained value that is trained only in part, that part.

    Returns:
        The gradient of each trained value, in its shape, or in that of its part.

    Raises:
        ModelError: a parameter has no gradient.
    """
    if plan.obstacles:
        raise ModelError(str(plan.obstacles[0]))
    parts = parts or {}
    gradients: dict[ir.Value, list[ir.Value]] = {plan.output: [seed]}
    part_gradients: dict[ir.Value, list[ir.Value]] = {}
    for node, positions in reversed(plan.steps):
        outputs = [_summed(gradients, value, build) for value in node.outputs]
        if not any(outputs):
            continue
        build.begin(f"{node.name}/grad")
        composite = find_composite(node)
        if composite is not None:
            equivalent = composite.node()
            gradient = _apply(equivalent, (0,), build, outputs)[0]
            composite.release(equivalent)
            gradients.setdefault(composite.x, []).append(gradient)
            continue
        narrow = narrowed(node, positions, parts, outputs, build)
        if narrow is not None:
            for position, gradient in _apply(narrow.node, narrow.positions, build, [narrow.gradient]).items():
                whole = node.inputs[position]
                assert whole is not None
                part_gradients.setdefault(whole, []).append(gradient)
            narrow.release()
            positions = tuple(position for position in positions if position not in narrow.positions)
        if not positions:
            continue
        for position, gradient in _apply(node, positions, build, outputs).items():
            operand = node.inputs[position]
            assert operand is not None
            assert position in positions, f"{node.op_type} returned a gradient that is not needed ({position})"
            gradients.setdefault(operand, []).append(gradient)
    result = {}
    for parameter in plan.trainable:
        build.begin(f"{parameter.name}/grad")
        total = _summed(gradients, parameter, build)
        name = parameter.name
        if parameter in parts:
            name, part = parts[parameter].value.name, parts[parameter].slice
            if total is not None:
                part_gradients.setdefault(parameter, []).append(take(build, total, part.indices, part.axis))
            total = _summed(part_gradients, parameter, build)
        if total is None:
            raise ModelError(
                f"parameter {name!r} has no gradient: the logits do not depend on it. Select other layers."
            )
        result[parameter] = total
    return result


def _apply(
    node: ir.Node, positions: tuple[int, ...], build: Builder, outputs: list[ir.Value | None]
) -> dict[int, ir.Value]:
    rule = find_rule(node.op_type)
    assert rule is not None
    return rule.rule(BackwardContext(node, positions, build, outputs))


def _summed(gradients: dict[ir.Value, list[ir.Value]], value: ir.Value, build: Builder) -> ir.Value | None:
    """The gradient of a value: the sum over its uses."""
    parts = gradients.get(value)
    if not parts:
        return None
    while len(parts) > 1:
        second = parts.pop(1)
        parts[0] = build.add(parts[0], second)
    return parts[0]
