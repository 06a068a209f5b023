"""Replace inputs that are not data by constants: those with a given value, and initial states, which become zeros.

A state has the batch among its dimensions, so its zeros are expanded in the graph to the number of samples.
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
    """The inputs that were bound.

    Attributes:
        texts: values by input, as text for messages.
        uses: by input, how many nodes read its value initially.
        states: inputs that became zeros, and other float inputs with one number for every sample.
        next: outputs that are the next values of states.
    """

    texts: dict[str, str] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    states: set[str] = field(default_factory=set)
    next: set[str] = field(default_factory=set)


def bind_inputs(
    model: ir.Model, name: str, bind: Mapping[str, Binding], dims: Mapping[str, int], notes: list[str]
) -> BoundInputs:
    """Replace inputs by constants, in place.

    Args:
        model: the graph, with all its outputs.
        name: of the model, for messages.
        bind: values by input.
        dims: sizes of symbolic dimensions.
        notes: receives a sentence for each bound input.

    Returns:
        The bound inputs.

    Raises:
        UsageError: there is no such input, or the value does not fit it.
    """
    bound = BoundInputs()
    graph = model.graph
    for key, binding in bind.items():
        value = next((value for value in graph.inputs if value.name == key), None)
        if value is None:
            listed = ", ".join(f"{value.name!r} {described(value)}" for value in graph.inputs)
            raise UsageError(f"{name} has no input {key!r} to bind. Its inputs: {listed}.")
        if len(graph.inputs) == 1:
            raise UsageError(f"{name} has no input other than {key!r}: with it bound, there would be nothing to feed.")
        array = _fitted(value, binding.array, name)
        everywhere = array.shape == () and len(value.shape or ()) > 0
        shape = None if everywhere or _one_for_all(model, value, array) else array.shape
        bound.uses[key] = len(value.uses())
        if everywhere and value.dtype is not None and value.dtype.is_floating_point():
            bound.states.add(key)  # possibly a state
        _replace(graph, value, array, shape, dims, name)
        bound.texts[key] = (
            PurePath(binding_text(binding.written)).name
            if isinstance(binding.written, Mapping)
            else binding_text(binding.written)
        )
        notes.append(f"input {key!r} was bound to {bound.texts[key]}")
    return bound


def bind_defaults(model: ir.Model, name: str, dims: Mapping[str, int], notes: list[str], bound: BoundInputs) -> None:
    """Bind states to zeros, and certain training switches to false, in place, as long as one input remains.

    Args:
        model: the graph, with all its outputs.
        name: of the model, for messages.
        dims: sizes of symbolic dimensions.
        notes: receives a sentence for each bound input.
        bound: receives the bound inputs.

    Raises:
        UsageError: the size of a state is not known.
    """
    graph = model.graph
    for value in list(graph.inputs):
        input_name, state = value.name or "", state_of(model, value)
        if len(graph.inputs) == 1:
            break
        if state is not None:
            shape = described(value)
            _replace(graph, value, np.zeros((), np.float32), None, dims, name)
            bound.texts[input_name] = "zeros"
            bound.states.add(input_name)
            if state.next is not None:
                bound.next.add(state.next.name or "")
            notes.append(
                f"input {input_name!r} {shape} is treated as a recurrent state, because {state.because}: it is bound "
                f"to zeros, as at the start of a sequence (`bind={{{input_name!r}: 'FILE.npy'}}` binds another)"
            )
        elif is_training_switch(value):
            array = np.zeros([1] * len(value.shape or ()), bool)
            _replace(graph, value, array, array.shape, dims, name)
            bound.texts[input_name] = "false"
            notes.append(f"input {input_name!r} switches training on according to its name: it is bound to false")


def _one_for_all(model: ir.Model, value: ir.Value, array: np.ndarray) -> bool:
    """Whether an array is the initial state of every sample, for an input with an open batch."""
    open_axes = [axis for axis, extent in enumerate(value.shape or ()) if not isinstance(extent, int) or extent < 1]
    return len(open_axes) == 1 and array.shape[open_axes[0]] == 1 and state_of(model, value) is not None


def drop_next_states(model: ir.Model, bound: BoundInputs, logits: str | None, notes: list[str]) -> None:
    """Drop the next values of states from the outputs, in place, if others remain and none is to be the logits."""
    outputs = model.graph.outputs
    dropped = [value for value in outputs if value.name in bound.next]
    if not dropped or len(dropped) == len(outputs) or logits in bound.next:
        return
    for value in dropped:
        outputs.remove(value)
    listed = ", ".join(repr(value.name) for value in dropped)
    notes.append(
        f"{listed}, the next value of the state, was dropped: an exported model starts from the initial state in every "
        "call"
    )


def record_bound(model: ir.Model, bound: BoundInputs) -> None:
    """Record in the graph's metadata which inputs were bound, and which of their values are still read unchanged.

    For the latter, an exported model has the value as a default, so that another one can be fed.
    """
    if not bound.texts:
        return
    recorded = get_metadata(model, BOUND)
    set_metadata(model, BOUND, {**(recorded if isinstance(recorded, dict) else {}), **bound.texts})
    constants = {name: model.graph.initializers.get(name) for name in bound.uses}
    unchanged = [
        name for name, value in constants.items() if value is not None and len(value.uses()) == bound.uses[name]
    ]
    if unchanged:
        set_metadata(model, KEPT, unchanged)


def restore_bound_inputs(model: ir.Model, trained: Collection[str]) -> None:
    """Turn bound inputs into inputs again, with their values as defaults, if the values are still read unchanged.

    Args:
        model: a graph with this package's metadata, changed in place.
        trained: names of tensors that stay constants: feeding another value would discard what was learned.
    """
    unchanged = get_metadata(model, KEPT)
    for name in unchanged if isinstance(unchanged, list) else []:
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
        UsageError: the type cannot represent it, or the shape differs.
    """
    expected = f"{name}: input {value.name!r} is {described(value)}"
    if value.dtype is None or value.dtype == ir.DataType.STRING:
        raise UsageError(f"{expected}, which is not numeric: it cannot be bound.")
    dtype = np.dtype(value.dtype.numpy())
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "fiu"}.get(dtype.kind, "fiu")
    fits = array.dtype.kind in kinds or (
        dtype.kind == "b" and array.dtype.kind in "iu" and set(array.ravel()) <= {0, 1}
    )
    with np.errstate(all="ignore"):
        converted = array.astype(dtype)
    if not fits or (array.dtype.kind in "iu" and converted.dtype.kind in "iu" and not np.array_equal(converted, array)):
        shown = array.tolist() if array.size <= 4 else f"{array.dtype} {list(array.shape)}"
        raise UsageError(f"{expected}, which {shown!r} is not. Give a value of that type.")
    shape = value.shape
    if array.shape == () or shape is None:
        return converted
    pairs = zip(shape, array.shape, strict=False)
    if len(shape) != array.ndim or any(isinstance(a, int) and a > 0 and a != b for a, b in pairs):
        raise UsageError(f"{expected}, but the value has shape {list(array.shape)}. Give one of that shape.")
    return converted


def _replace(
    graph: ir.Graph,
    value: ir.Value,
    array: np.ndarray,
    shape: tuple[int, ...] | None,
    dims: Mapping[str, int],
    name: str,
) -> None:
    """Replace an input by a constant; without ``shape``, by one number for every sample in the input's own shape."""
    input_name = value.name or ""
    if value.dtype is not None:
        array = array.astype(value.dtype.numpy())
    graph.inputs.remove(value)
    value.name = None
    if shape is None:
        extents = [dims.get(str(e.value), e) if not isinstance(e, int) else e for e in value.shape or ()]
        open_axes = [axis for axis, e in enumerate(extents) if not isinstance(e, int) or e < 1]
        batch_axis = open_axes[0] if open_axes else _fixed_batch(graph, extents)
        if len(open_axes) > 1:
            raise UsageError(
                f"{name}: input {input_name!r} has several open dimensions, {open_axes}, so its shape is unknown. Give "
                f"`dims` for all but the batch, or an array: `bind={{{input_name!r}: 'FILE.npy'}}`."
            )
        if batch_axis is not None:
            _expand(graph, value, array, [e if isinstance(e, int) else 0 for e in extents], batch_axis, input_name)
            return
        array = np.broadcast_to(array, [int(e) for e in extents if isinstance(e, int)]).copy()
    constant = ir.Value(name=input_name, const_value=ir.tensor(array, name=input_name))
    value.replace_all_uses_with(constant, replace_graph_outputs=True)
    graph.register_initializer(constant)


def _fixed_batch(graph: ir.Graph, extents: Sequence[object]) -> int | None:
    """The axis of a state that repeats the data's batch size of 1, as in layers x batch x units."""
    data = [value for value in graph.inputs if value.shape is not None and len(value.shape) > 1]
    if not data or data[0].shape is None:
        return None
    axis = 1 if len(extents) == 3 else 0
    batch = data[0].shape[0]
    return axis if len(extents) in (2, 3) and batch == 1 and extents[axis] == 1 else None


def _expand(
    graph: ir.Graph, value: ir.Value, array: np.ndarray, extents: list[int], axis: int, input_name: str
) -> None:
    """Expand a number to a shape whose extent at ``axis`` is the batch size of the data."""
    data = next((item for item in graph.inputs if item.shape is not None and len(item.shape) > 1), graph.inputs[0])

    def constant(suffix: str, numbers: np.ndarray) -> ir.Value:
        initializer = ir.Value(
            name=f"{input_name}/{suffix}", const_value=ir.tensor(numbers, name=f"{input_name}/{suffix}")
        )
        graph.register_initializer(initializer)
        return initializer

    def node(op_type: str, inputs: list[ir.Value], dtype: ir.DataType, **attributes: int) -> ir.Node:
        new = ir.node(op_type, inputs, attributes, name=f"{input_name}/{op_type.lower()}")
        new.outputs[0].name, new.outputs[0].dtype = f"{input_name}/{op_type.lower()}:0", dtype
        return new

    whole = node("Shape", [data], ir.DataType.INT64)
    batch = node("Gather", [whole.outputs[0], constant("first", np.array([0]))], ir.DataType.INT64)
    parts = [batch.outputs[0]]
    if extents[:axis]:
        parts.insert(0, constant("before", np.array(extents[:axis], np.int64)))
    if extents[axis + 1 :]:
        parts.append(constant("behind", np.array(extents[axis + 1 :], np.int64)))
    shape = node("Concat", parts, ir.DataType.INT64, axis=0)
    assert value.dtype is not None
    number = constant("value", array.astype(value.dtype.numpy()))
    expand = node("Expand", [number, shape.outputs[0]], value.dtype)
    expand.outputs[0].name = input_name
    nodes = [whole, batch, shape, expand]
    first = next(iter(graph), None)
    if first is None:
        graph.extend(nodes)
    else:
        graph.insert_before(first, nodes)
    value.replace_all_uses_with(expand.outputs[0], replace_graph_outputs=True)
