"""Make a fixed batch dimension dynamic, including the constants that repeat it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from .. import runtime
from ..errors import ModelError, RuntimeMissingError
from .alternative_logits import find_alternative
from .dims import batch_axis
from .passes.unused import RemoveUnused
from .reshapes import update_reshapes
from .settings import is_adapter
from .shapes import BATCH, TRIAL_SECONDS, infer_shapes
from .trial_runs import random_feeds

_SIZES = (1, 3)


def make_batch_dynamic(model: ir.Model, name: str, chosen: str, notes: list[str]) -> bool:
    """Give every graph input the batch dimension ``N``, in place; return whether a fixed one was replaced.

    Reshape targets that repeat a fixed batch size are changed to follow the batch. Afterwards every output must have
    the batch as an axis, not necessarily the first, and a larger batch must give the same results as its parts in the
    original graph. Outputs other than the chosen value that have no such axis are dropped.

    Args:
        model: a graph whose inputs have a shape, all fixed but the batch.
        name: of the model, for messages.
        chosen: name of the value that is the logits or is computed from them.
        notes: receives a sentence about dropped outputs.

    Raises:
        ModelError: a node other than Reshape fixes the batch size, or an output has no axis for the batch alone.
    """
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    fixed = {value.shape[0] for value in inputs if value.shape is not None and isinstance(value.shape[0], int)}
    if len(fixed) > 1:
        raise ModelError(
            f"{name}: the inputs have different fixed batch sizes {sorted(fixed)}; make them equal.{_bindable(inputs)}"
        )
    original = model.clone() if fixed else model
    for value in inputs:
        shape = value.shape
        assert shape is not None
        value.shape = ir.Shape([BATCH, *shape[1:]])
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    if fixed:
        for value in model.graph.outputs:
            value.shape = None  # it states the fixed size, and not always in the first axis
        size = next(iter(fixed))
        update_reshapes(model, size, infer_shapes(model, size), lambda: infer_shapes(model, 7 * size), dynamic=True)
        dropped = _only_with_batch((model, original), chosen)
        _check_shapes(model, name)
        _check_values(original, model, size, name)
        if dropped:
            noun, verb = ("output", "was") if len(dropped) == 1 else ("outputs", "were")
            remaining = ", ".join(repr(value.name) for value in model.graph.outputs)
            notes.append(
                f"{noun} {', '.join(map(repr, dropped))} had no axis for the batch alone and {verb} dropped; what "
                f"remains is {remaining}"
            )
    return bool(fixed)


def _only_with_batch(graphs: Sequence[ir.Model], chosen: str) -> list[str]:
    """Drop outputs other than the chosen value that have no axis for the batch alone, in both graphs, in place.

    If no output remains, the chosen value becomes the output. Returns the names of the dropped outputs.
    """
    one, three = (infer_shapes(graphs[0], batch) for batch in _SIZES)
    names = [value.name or "" for value in graphs[0].graph.outputs]
    without_batch = {x for x in names if x in one and x in three and batch_axis(one[x], three[x], _SIZES) is None} - {
        chosen
    }
    for model in graphs if without_batch else ():
        remaining = [value for value in model.graph.outputs if value.name not in without_batch]
        if not remaining:
            remaining = [value for node in model.graph for value in node.outputs if value.name == chosen]
            remaining[0].dtype = remaining[0].dtype or ir.DataType.FLOAT
        model.graph.outputs.clear()
        model.graph.outputs.extend(remaining)
        RemoveUnused()(model)
    return [name for name in names if name in without_batch]


def _check_shapes(model: ir.Model, name: str) -> None:
    try:
        one, three = (infer_shapes(model, batch, strict=True) for batch in _SIZES)
    except ModelError as error:
        raise ModelError(
            f"{name}: the batch size is fixed inside the graph and cannot be freed ({error}). Export the model with a "
            "dynamic batch dimension."
        ) from error
    for value in model.graph.outputs:
        small, large = one.get(value.name or ""), three.get(value.name or "")
        if small is not None and large is not None and batch_axis(small, large, _SIZES) is None:
            alternative = find_alternative(model, value.name or "")
            instead = (
                "" if alternative is None else alternative.remedy(name, "has an axis for the batch alone") + " Or e"
            )
            raise ModelError(
                f"{name}: output {value.name!r} has shape {small} for a batch of {_SIZES[0]} and {large} for one of "
                f"{_SIZES[1]}: the batch size is fixed inside the graph, or no axis is the batch alone. "
                f"{instead or 'E'}xport the model with a dynamic batch dimension that its output has too."
            )


def _check_values(original: ir.Model, freed: ir.Model, size: int, name: str) -> None:
    """Run three batches together and separately: shapes can fit although values do not, or an initial state differs."""
    if not _run_alike(original, freed, size, name):
        raise ModelError(
            f"{name}: the batch size is fixed inside the graph and cannot be freed (samples affect each other, or a "
            "stored state repeats the batch size, or the first dimension of an input is not the batch). Export the "
            f"model with a dynamic batch dimension, the first one of every input.{_bindable(freed.graph.inputs)}"
        )


def _run_alike(original: ir.Model, freed: ir.Model, size: int, name: str) -> bool:
    """Whether three batches together give the same results as each of them in the original.

    True without a check where no runtime is installed.
    """
    try:
        runtime.onnxruntime()
    except RuntimeMissingError:
        return True
    feeds = random_feeds(freed, {}, 3 * size)
    assert feeds is not None
    separate_session = runtime.inference_session(original, name)
    joint_session = runtime.inference_session(freed, name)
    parts = [
        runtime.run_session(
            separate_session,
            None,
            {key: array[start : start + size] for key, array in feeds.items()},
            name,
            seconds=TRIAL_SECONDS,
        )
        for start in range(0, 3 * size, size)
    ]
    try:
        results = runtime.run_session(joint_session, None, feeds, name, seconds=TRIAL_SECONDS)
        return all(
            np.allclose(whole, _joined(pieces, whole.shape, size), rtol=1e-3, atol=1e-3, equal_nan=True)
            for whole, *pieces in zip(results, *parts, strict=True)
        )
    except (ModelError, ValueError):  # it does not run, or shapes differ
        return False


def _bindable(inputs: Sequence[ir.Value]) -> str:
    """Advice about inputs that may not be data."""
    several = [value for value in inputs if not value.is_initializer()]
    if len(several) < 2:
        return ""
    named = next((value for value in several if is_adapter(value)), several[-1])
    return (
        " An input that is not data but a weight, a state or a setting can be bound to a value, from a file or as one "
        f"number for the whole input: `bind={{{named.name!r}: 'FILE.npy'}}`."
    )


def check_sample_independence(model: ir.Model, name: str, states: Collection[str]) -> None:
    """Check that samples do not affect each other after initial states became zeros for every sample.

    Raises:
        ModelError: the result for a sample depends on the samples beside it: they are steps of a sequence.
    """
    try:
        alike = not states or _run_alike(model, model, 1, name)
    except ModelError:  # the model may not accept random numbers
        return
    if not alike:
        listed = ", ".join(map(repr, sorted(states)))
        raise ModelError(
            f"{name}: the result for one sample depends on the samples beside it, through the state ({listed}): the "
            "first dimension of the inputs is a sequence of steps, not a batch. Export the model with a batch before "
            "the steps, or with one step for each sample."
        )


def _joined(pieces: list[np.ndarray], whole: tuple[int, ...], size: int) -> np.ndarray:
    """Outputs of several batches, concatenated along the batch axis."""
    axis = batch_axis(pieces[0].shape, whole, (size, 3 * size))
    if axis is None:
        raise ValueError("no axis is the batch")
    return np.concatenate(pieces, axis)
