"""Inputs that are no data become constants: those that were given a value, and initial states, which are zeros.

A state has the batch somewhere among its dimensions, so its zeros are made in the graph, for as many samples as there
are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
import onnx_ir as ir

from ...errors import UsageError
from ..bindings import Binding, binding_text
from ..metadata import get_metadata, set_metadata
from ..settings import is_training_switch, state_of

BOUND, KEPT = "inputs", "inputs_kept"  # metadata


@dataclass(frozen=True)
class BoundInputs:
    """What became of inputs.

    Attributes:
        texts: by input, its value as text for messages.
        uses: by input, how many nodes read its value at first.
        states: the inputs that became zeros, and others of floats that have one number for every sample.
        next: outputs that are the next values of states.
    """

    texts: dict[str, str] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    states: set[str] = field(default_factory=set)
    next: set[str] = field(default_factory=set)


def bind_inputs(
    model: ir.Model, name: str, bind: Mapping[str, Binding], dims: Mapping[str, int], notes: list[str]
) -> BoundInputs:
    """Let constants take the place of inputs, in place.

    Args:
        model: the graph, with all its outputs.
        name: of the model, for messages.
        bind: values by input.
        dims: sizes of symbolic dimensions.
        notes: what was done is added, a sentence each.

    Returns:
        What became of the inputs that are gone.

    Raises:
        UsageError: there is no such input, or the value does not fit it.
    """
    bound = BoundInputs()
    graph = model.graph
    for key, binding in bind.items():
        value = next((value for value in graph.inputs if value.name == key), None)
        if value is None:
            listed = ", ".join(f"{value.name!r} {described(value)}" for value in graph.inputs)
            raise UsageError(f"{name} has no input {key!r} to bind. It has: {listed}.")
        if len(graph.inputs) == 1:
            raise UsageError(f"{name} has no input but {key!r}: with it bound, there is nothing to feed.")
        array = _fitted(value, binding.array, name)
        everywhere = array.shape == () and len(value.shape or ()) > 0
        shape = None if everywhere or _one_for_all(model, value, array) else array.shape
        bound.uses[key] = len(value.uses())
        if everywhere and value.dtype is not None and value.dtype.is_floating_point():
            bound.states.add(key)  # as far as can be seen
        _replace(graph, value, array, shape, dims, name)
        bound.texts[key] = (
            PurePath(binding_text(binding.written)).name
            if isinstance(binding.written, Mapping)
            else binding_text(binding.written)
        )
        notes.append(f"input {key!r} was bound to {bound.texts[key]}")
    return bound


def bind_defaults(model: ir.Model, name: str, dims: Mapping[str, int], notes: list[str], bound: BoundInputs) -> None:
    """Bind states to zeros, and what surely switches training on to false, in place, as long as an input stays.

    Args:
        model: the graph, with all its outputs.
        name: of the model, for messages.
        dims: sizes of symbolic dimensions.
        notes: what was done is added, a sentence each.
        bound: what was bound is added.

    Raises:
        UsageError: the size of a state is not known.
    """
    graph = model.graph
    for value in list(graph.inputs):
        called, state = value.name or "", state_of(model, value)
        if len(graph.inputs) == 1:
            break
        if state is not None:
            shape = described(value)
            _replace(graph, value, np.zeros((), np.float32), None, dims, name)
            bound.texts[called] = "zeros"
            bound.states.add(called)
            if state.next is not None:
                bound.next.add(state.next.name or "")
            notes.append(
                f"input {called!r} {shape} is taken for a recurrent state, since {state.because}: it is zeros, as at "
                f"the beginning of a sequence (`bind={{{called!r}: 'FILE.npy'}}` binds another)"
            )
        elif is_training_switch(value):
            array = np.zeros([1] * len(value.shape or ()), bool)
            _replace(graph, value, array, array.shape, dims, name)
            bound.texts[called] = "false"
            notes.append(f"input {called!r} says by its name that it switches training on: it is bound to false")


def _one_for_all(model: ir.Model, value: ir.Value, array: np.ndarray) -> bool:
    """Whether an array is the state that every sample begins with, and its batch is open."""
    open_at = [at for at, extent in enumerate(value.shape or ()) if not isinstance(extent, int) or extent < 1]
    return len(open_at) == 1 and array.shape[open_at[0]] == 1 and state_of(model, value) is not None


def drop_next_states(model: ir.Model, bound: BoundInputs, logits: str | None, notes: list[str]) -> None:
    """Drop the next values of states from the outputs, in place, where others stay and none is to be the logits."""
    outputs = model.graph.outputs
    dropped = [value for value in outputs if value.name in bound.next]
    if not dropped or len(dropped) == len(outputs) or logits in bound.next:
        return
    for value in dropped:
        outputs.remove(value)
    listed = ", ".join(repr(value.name) for value in dropped)
    notes.append(f"{listed}, the next value of the state, was dropped: an exported model begins anew in every call")


def record_bound(model: ir.Model, bound: BoundInputs) -> None:
    """Note in the graph's metadata which inputs it had, and which of their values nothing was computed from since.

    To the latter, an exported model gives the value as a default, so that it can still be fed another one.
    """
    if not bound.texts:
        return
    earlier = get_metadata(model, BOUND)
    set_metadata(model, BOUND, {**(earlier if isinstance(earlier, dict) else {}), **bound.texts})
    left = {name: model.graph.initializers.get(name) for name in bound.uses}
    kept = [name for name, value in left.items() if value is not None and len(value.uses()) == bound.uses[name]]
    if kept:
        set_metadata(model, KEPT, kept)


def restore_bound_inputs(model: ir.Model, trained: Collection[str]) -> None:
    """Let inputs that were bound be inputs again, with their values as defaults, where nothing else came of them.

    Args:
        model: a graph with our metadata, changed in place.
        trained: names of tensors that stay what they are: fed another value, they would lose what was learned.
    """
    kept = get_metadata(model, KEPT)
    for name in kept if isinstance(kept, list) else []:
        value = model.graph.initializers.get(str(name))
        if value is not None and name not in trained and value.uses() and not value.is_graph_input():
            model.graph.inputs.append(value)


def described(value: ir.Value) -> str:
    """Type and shape of an input."""
    dtype = value.dtype.name.lower() if value.dtype is not None else "of unknown type"
    if value.shape is None:
        return f"({dtype})"
    extents = ", ".join(str(extent) if isinstance(extent, int) else str(extent.value or "?") for extent in value.shape)
    return f"({dtype} [{extents}])"


def _fitted(value: ir.Value, array: np.ndarray, name: str) -> np.ndarray:
    """The array in the input's type.

    Raises:
        UsageError: the type cannot hold it, or the shape is another.
    """
    expected = f"{name}: input {value.name!r} is {described(value)}"
    if value.dtype is None or value.dtype == ir.DataType.STRING:
        raise UsageError(f"{expected}, which no number is: it cannot be bound.")
    dtype = np.dtype(value.dtype.numpy())
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "fiu"}.get(dtype.kind, "fiu")
    fits = array.dtype.kind in kinds or (
        dtype.kind == "b" and array.dtype.kind in "iu" and set(array.ravel()) <= {0, 1}
    )
    with np.errstate(all="ignore"):
        made = array.astype(dtype)
    if not fits or (array.dtype.kind in "iu" and made.dtype.kind in "iu" and not np.array_equal(made, array)):
        shown = array.tolist() if array.size <= 4 else f"{array.dtype} {list(array.shape)}"
        raise UsageError(f"{expected}, which {shown!r} is not. Give a value of that type.")
    shape = value.shape
    if array.shape == () or shape is None:
        return made
    pairs = zip(shape, array.shape, strict=False)
    if len(shape) != array.ndim or any(isinstance(a, int) and a > 0 and a != b for a, b in pairs):
        raise UsageError(f"{expected}, and the value has the shape {list(array.shape)}. Give one of that shape.")
    return made


def _replace(
    graph: ir.Graph,
    value: ir.Value,
    array: np.ndarray,
    shape: tuple[int, ...] | None,
    dims: Mapping[str, int],
    name: str,
) -> None:
    """Put a constant in an input's place; without ``shape``, the same for every sample, in the input's own shape."""
    called = value.name or ""
    if value.dtype is not None:
        array = array.astype(value.dtype.numpy())
    graph.inputs.remove(value)
    value.name = None
    if shape is None:
        extents = [dims.get(str(e.value), e) if not isinstance(e, int) else e for e in value.shape or ()]
        open_at = [at for at, e in enumerate(extents) if not isinstance(e, int) or e < 1]
        batch_at = open_at[0] if open_at else _fixed_batch(graph, extents)
        if len(open_at) > 1:
            raise UsageError(
                f"{name}: input {called!r} has several open dimensions, {open_at}, so one number does not tell its "
                f"shape. Give `dims` for all but the batch, or an array: `bind={{{called!r}: 'FILE.npy'}}`."
            )
        if batch_at is not None:
            _expand(graph, value, array, [e if isinstance(e, int) else 0 for e in extents], batch_at, called)
            return
        array = np.broadcast_to(array, [int(e) for e in extents if isinstance(e, int)]).copy()
    made = ir.Value(name=called, const_value=ir.tensor(array, name=called))
    value.replace_all_uses_with(made, replace_graph_outputs=True)
    graph.register_initializer(made)


def _fixed_batch(graph: ir.Graph, extents: Sequence[object]) -> int | None:
    """Where a state repeats the batch size 1 that data has: before the last axis, as layers x batch x units."""
    data = [value for value in graph.inputs if value.shape is not None and len(value.shape) > 1]
    if not data or data[0].shape is None:
        return None
    at = 1 if len(extents) == 3 else 0
    batch = data[0].shape[0]
    return at if len(extents) in (2, 3) and batch == 1 and extents[at] == 1 else None


def _expand(graph: ir.Graph, value: ir.Value, array: np.ndarray, extents: list[int], at: int, called: str) -> None:
    """The number in a shape whose extent ``at`` is the batch of the data."""
    data = next((item for item in graph.inputs if item.shape is not None and len(item.shape) > 1), graph.inputs[0])

    def constant(suffix: str, what: np.ndarray) -> ir.Value:
        made = ir.Value(name=f"{called}/{suffix}", const_value=ir.tensor(what, name=f"{called}/{suffix}"))
        graph.register_initializer(made)
        return made

    def node(op_type: str, inputs: list[ir.Value], dtype: ir.DataType, **attributes: int) -> ir.Node:
        made = ir.node(op_type, inputs, attributes, name=f"{called}/{op_type.lower()}")
        made.outputs[0].name, made.outputs[0].dtype = f"{called}/{op_type.lower()}:0", dtype
        return made

    whole = node("Shape", [data], ir.DataType.INT64)
    batch = node("Gather", [whole.outputs[0], constant("first", np.array([0]))], ir.DataType.INT64)
    parts = [batch.outputs[0]]
    if extents[:at]:
        parts.insert(0, constant("before", np.array(extents[:at], np.int64)))
    if extents[at + 1 :]:
        parts.append(constant("behind", np.array(extents[at + 1 :], np.int64)))
    shape = node("Concat", parts, ir.DataType.INT64, axis=0)
    assert value.dtype is not None
    number = constant("value", array.astype(value.dtype.numpy()))
    made = node("Expand", [number, shape.outputs[0]], value.dtype)
    made.outputs[0].name = called
    nodes = [whole, batch, shape, made]
    first = next(iter(graph), None)
    if first is None:
        graph.extend(nodes)
    else:
        graph.insert_before(first, nodes)
    value.replace_all_uses_with(made.outputs[0], replace_graph_outputs=True)
