"""Add a batch dimension to models whose input is a single sample, where that does not change their results."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .. import runtime
from ..errors import ModelError, RuntimeMissingError
from .batch import make_batch_dynamic
from .passes.add_batch import AddBatch
from .shapes import BATCH, TRIAL_SECONDS
from .trial_runs import random_feeds
from .uses import input_of

_SAME = 1e-4  # of the largest output


def free_batch(model: ir.Model, name: str, chosen: str, notes: list[str]) -> ir.Model:
    """Give every input a dynamic batch as its first dimension.

    If a fixed first dimension cannot be freed, the inputs may be single samples: a batch of 1 is added, the graph is
    run with and without it, and then that batch is made dynamic and checked like any other (`make_batch_dynamic`).

    Args:
        model: a graph whose inputs have a shape, all fixed but the batch; changed in place, or not to be used
            afterwards.
        name: of the model, for messages.
        chosen: name of the value that is the logits or is computed from them.
        notes: receives a sentence for each change.

    Raises:
        ModelError: the batch cannot be freed; the message says if the inputs look like samples without a batch.
    """
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    fixed = all(value.shape is not None and isinstance(value.shape[0], int) for value in inputs)
    original = model.clone() if fixed else model
    try:
        if make_batch_dynamic(model, name, chosen, notes):
            notes.append("the fixed batch dimension was made dynamic")
        return model
    except ModelError as error:
        added = _with_batch(original) if fixed else None
        if added is None:
            raise ModelError(f"{error}{_advice(original)}") from error
    try:
        make_batch_dynamic(added, name, chosen, notes)
    except ModelError as error:
        raise ModelError(f"{error}{_advice(original)}") from error
    shapes = ", ".join(f"{value.name} {_written(value)}" for value in added.graph.inputs)
    notes.append(
        "the inputs are treated as single samples, to which the graph adds a batch inside: the batch is now the first "
        f"dimension of inputs and outputs ({shapes}), also in the adapted model"
    )
    return added


def _with_batch(original: ir.Model) -> ir.Model | None:
    """The graph with a batch of 1; None if it cannot be added, or if the outputs change.

    This is done for graphs that add a batch themselves, and for inputs of one axis. In all other cases, the first
    dimension may be a batch whose samples affect each other.
    """
    changed = original.clone()
    adding = AddBatch()
    adding(changed)
    flat = all(value.shape is not None and len(value.shape) == 1 for value in original.graph.inputs)
    if adding.refused is not None or not (adding.opened or flat):
        return None
    for value in changed.graph.outputs:
        value.shape = None
    feeds = random_feeds(original, {})
    if feeds is None:
        return None
    try:
        before = runtime.run_session(
            runtime.inference_session(original, "the model"), None, feeds, "the model", seconds=TRIAL_SECONDS
        )
        after = runtime.run_session(
            runtime.inference_session(changed, "the model"),
            None,
            {key: array[None] for key, array in feeds.items()},
            "the model",
            seconds=TRIAL_SECONDS,
        )
    except (ModelError, RuntimeMissingError):
        return None
    pairs = list(zip(map(np.asarray, after), map(np.asarray, before), strict=True))
    return changed if all(_same(actual, expected) for actual, expected in pairs) else None


def _same(actual: np.ndarray, expected: np.ndarray) -> bool:
    """Whether an output is the same, with a batch of 1 in front where it had none."""
    if actual.ndim == 0 or actual.shape[0] != 1 or actual.shape not in (expected.shape, (1, *expected.shape)):
        return False
    size = max(1.0, float(np.abs(expected.astype(np.float64)).max(initial=0)))
    return bool(np.allclose(actual.reshape(expected.shape), expected, rtol=0, atol=_SAME * size, equal_nan=True))


def _advice(model: ir.Model) -> str:
    """Advice to append to an error if inputs look like samples without a batch."""
    single = [
        value
        for value in model.graph.inputs
        if any(node.op_type == "Unsqueeze" and _adds_first(node) for node in _near(value))
    ]
    if not single:
        return ""
    value = single[0]
    assert value.shape is not None
    shape = ", ".join(map(str, value.shape))
    return (
        f" Input {value.name!r} ({shape}) looks like one sample without a batch, which the graph adds inside: export "
        f"the model with an input of shape (1, {shape})."
    )


def _near(value: ir.Value, steps: int = 4) -> list[ir.Node]:
    """Nodes that an input reaches within a few steps."""
    reached, values = [], [value]
    for _ in range(steps):
        nodes = [use.node for value in values for use in value.uses()]
        reached += nodes
        values = [output for node in nodes for output in node.outputs]
    return reached


def _adds_first(node: ir.Node) -> bool:
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints()) == [0]
    axes = input_of(node, 1)
    tensor = None if axes is None else ir.convenience.get_const_tensor(axes)
    return tensor is not None and tensor.numpy().reshape(-1).tolist() == [0]


def _written(value: ir.Value) -> str:
    return f"({', '.join([BATCH, *map(str, list(value.shape or ())[1:])])})"
