"""Make a batch dimension that the exporter fixed dynamic, with the constants that repeat it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from .. import runtime
from ..errors import ModelError, RuntimeMissingError
from .alternative_logits import find_alternative
from .dims import batch_axis
from .passes.unused import RemoveUnused
from .reshapes import follow
from .settings import is_adapter
from .shapes import BATCH, TRIAL_SECONDS, infer_shapes
from .trial_runs import random_feeds

_SIZES = (1, 3)


def make_batch_dynamic(model: ir.Model, name: str, chosen: str, notes: list[str]) -> bool:
    """Give every graph input the batch dimension ``N``, in place; return whether a fixed one was replaced.

    Reshape targets that repeat a fixed batch size are changed to follow the batch. Afterwards every output must have
    the batch as an axis, the first or another, and a larger batch must give what its parts give in the original.
    Outputs beside the chosen value that have no such axis go.

    Args:
        model: a graph whose inputs have a shape, all fixed but the batch.
        name: of the model, for messages.
        chosen: name of the value that is the logits or made from them.
        notes: which outputs went is added to it.

    Raises:
        ModelError: a node other than Reshape holds the batch fixed, or an output has no axis for the batch alone.
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
            value.shape = None  # it says the fixed size, and not always in the first axis
        size = next(iter(fixed))
        follow(model, size, infer_shapes(model, size), lambda: infer_shapes(model, 7 * size), dynamic=True)
        dropped = _only_with_batch((model, original), chosen)
        _check_shapes(model, name)
        _check_values(original, model, size, name)
        if dropped:
            what = "output" if len(dropped) == 1 else "outputs"
            left = ", ".join(repr(value.name) for value in model.graph.outputs)
            notes.append(
                f"{what} {', '.join(map(repr, dropped))}, without an axis for the batch alone, went: what is left is "
                f"{left}"
            )
    return bool(fixed)


def _only_with_batch(graphs: Sequence[ir.Model], chosen: str) -> list[str]:
    """Drop outputs, other than the chosen value, without an axis for the batch alone, in place of both graphs.

    Where none is left, the chosen value is the output. Returns the names of what was dropped.
    """
    one, three = (infer_shapes(graphs[0], batch) for batch in _SIZES)
    names = [value.name or "" for value in graphs[0].graph.outputs]
    bad = {x for x in names if x in one and x in three and batch_axis(one[x], three[x], _SIZES) is None} - {chosen}
    for model in graphs if bad else ():
        kept = [value for value in model.graph.outputs if value.name not in bad]
        if not kept:
            kept = [value for node in model.graph for value in node.outputs if value.name == chosen]
            kept[0].dtype = kept[0].dtype or ir.DataType.FLOAT
        model.graph.outputs.clear()
        model.graph.outputs.extend(kept)
        RemoveUnused()(model)
    return [name for name in names if name in bad]


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
            earlier = find_alternative(model, value.name or "")
            instead = "" if earlier is None else earlier.remedy(name, "has an axis for the batch alone") + " Or e"
            raise ModelError(
                f"{name}: output {value.name!r} has shape {small} for a batch of {_SIZES[0]} and {large} for one of "
                f"{_SIZES[1]}: the batch size is fixed inside the graph, or no axis is the batch alone. "
                f"{instead or 'E'}xport the model with a dynamic batch dimension, which its output has too."
            )


def _check_values(original: ir.Model, freed: ir.Model, size: int, name: str) -> None:
    """Shapes can fit where values do not, or where they hide an initial state: run three, together and apart."""
    if not _run_alike(original, freed, size, name):
        raise ModelError(
            f"{name}: the batch size is fixed inside the graph and cannot be freed (other batches run into each other, "
            "or a stored state repeats it, or the first dimension of an input is not the batch). Export the model with "
            f"a dynamic batch dimension, the first one of every input.{_bindable(freed.graph.inputs)}"
        )


def _run_alike(original: ir.Model, freed: ir.Model, size: int, name: str) -> bool:
    """Whether three batches together give what each gives in the original.

    Where no runtime is installed there is nothing that could run either model, and nothing to check with: yes.
    """
    try:
        runtime.onnxruntime()
    except RuntimeMissingError:
        return True
    feeds = random_feeds(freed, {}, 3 * size)
    assert feeds is not None
    apart = runtime.inference_session(original, name)
    together = runtime.inference_session(freed, name)
    parts = [
        runtime.run_session(
            apart, None, {key: array[start : start + size] for key, array in feeds.items()}, name, seconds=TRIAL_SECONDS
        )
        for start in range(0, 3 * size, size)
    ]
    try:
        found = runtime.run_session(together, None, feeds, name, seconds=TRIAL_SECONDS)
        return all(
            np.allclose(whole, _joined(pieces, whole.shape, size), rtol=1e-3, atol=1e-3, equal_nan=True)
            for whole, *pieces in zip(found, *parts, strict=True)
        )
    except (ModelError, ValueError):  # it does not run, or the shapes differ
        return False


def _bindable(inputs: Sequence[ir.Value]) -> str:
    """What to do about inputs that may be no data."""
    several = [value for value in inputs if not value.is_initializer()]
    if len(several) < 2:
        return ""
    named = next((value for value in several if is_adapter(value)), several[-1])
    return (
        " An input that is no data but a weight, a state or a setting is bound to its value, from a file or one number "
        f"for all of it: `bind={{{named.name!r}: 'FILE.npy'}}`."
    )


def check_sample_independence(model: ir.Model, name: str, states: Collection[str]) -> None:
    """See that samples do not run into each other, where initial states became zeros for every sample.

    Raises:
        ModelError: what the model gives for a sample depends on those beside it: they are steps of a sequence.
    """
    try:
        alike = not states or _run_alike(model, model, 1, name)
    except ModelError:  # random numbers may be nothing that it takes
        return
    if not alike:
        listed = ", ".join(map(repr, sorted(states)))
        raise ModelError(
            f"{name}: what it gives for one sample depends on the samples beside it, through its state ({listed}): the "
            "first dimension of its inputs is a sequence of steps, not a batch. Export the model with a batch before "
            "the steps, or one step for each sample."
        )


def _joined(pieces: list[np.ndarray], whole: tuple[int, ...], size: int) -> np.ndarray:
    """Outputs of batches put together along the axis that is the batch."""
    axis = batch_axis(pieces[0].shape, whole, (size, 3 * size))
    if axis is None:
        raise ValueError("no axis is the batch")
    return np.concatenate(pieces, axis)
