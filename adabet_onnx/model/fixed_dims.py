"""Fix the sizes of dimensions that an exporter left open: sequence length, height and width."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx_ir as ir

from ..errors import ModelError, UsageError
from ..pieces import path_of
from .producer import batch_first
from .settings import is_setting, suggestion
from .shapes import BATCH

_MOST = 1 << 24
_BATCH_NAMES = frozenset({"batch", "batch_size", "batchsize", "batch_dim", "bs", "nbatch", "num_batch", "n_batch"})
_MAY_BE_BATCH = frozenset({"n", "b"})  # but also used for points or boxes
_PLACEHOLDER = re.compile(r"|\?+(_?\d+)?|none|null|nan|-?\d+|unk_*\d*|unknown_*\d*|undefined|any|dynamic")
_NUMBERS = frozenset(
    {
        ir.DataType.FLOAT,
        ir.DataType.FLOAT16,
        ir.DataType.BFLOAT16,
        ir.DataType.DOUBLE,
        ir.DataType.BOOL,
        ir.DataType.INT8,
        ir.DataType.INT16,
        ir.DataType.INT32,
        ir.DataType.INT64,
        ir.DataType.UINT8,
        ir.DataType.UINT16,
        ir.DataType.UINT32,
        ir.DataType.UINT64,
    }
)


def fix_dims(model: ir.Model, name: str, dims: Mapping[str, int]) -> None:
    """Replace symbolic dimensions by numbers, in place.

    Args:
        model: the graph.
        name: of the model, for messages.
        dims: sizes by dimension name, or by ``INPUT:AXIS`` for a dimension without a name.

    Raises:
        UsageError: there is no such dimension, it is the batch, or the size is out of range.
        ModelError: the name of a dimension other than the first says that it is the batch.
    """
    if not dims:
        return
    for key, size in dims.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MOST:
            raise UsageError(f"the size of dimension {key!r} must be a number from 1 to {_MOST}, not {size!r}.")
    inputs = _inputs(model)
    used: set[str] = set()
    for value in inputs:
        if value.shape is None or len(value.shape) == 0:
            continue
        batch = value.shape[0]
        if not isinstance(batch, int) and batch.value in dims:
            raise UsageError(
                f"{name}: {batch.value!r} is the first dimension of input {value.name!r}, that is, its batch, which "
                "stays open. Omit it; if the batch is not the first dimension, export the model with the batch first."
            )
        _reject_hidden_batch(value, name, model.producer_name)
        extents: list[int | ir.SymbolicDim] = [batch]
        for axis, extent in enumerate(value.shape):
            if axis == 0:
                continue
            dim_name = "" if isinstance(extent, int) else extent.value or ""
            matching_key = next((key for key in (f"{value.name}:{axis}", dim_name) if key in dims), None)
            if matching_key is not None and isinstance(extent, int) and extent != dims[matching_key]:
                raise UsageError(f"{name}: dimension {axis} of input {value.name!r} is {extent} already.")
            used |= {matching_key} if matching_key is not None else set()
            extents.append(extent if matching_key is None else dims[matching_key])
        value.shape = ir.Shape(extents)
    unknown = sorted(set(dims) - used)
    if unknown:
        listed = ", ".join(f"{key} of {value.name!r}" for value in inputs for key in _open(value)) or "none"
        raise UsageError(f"{name} has no open dimension {unknown[0]!r}. It has: {listed}.")
    for value in model.graph.outputs:
        if value.shape is not None:
            value.shape = ir.Shape(
                [extent if isinstance(extent, int) else dims.get(extent.value or "", extent) for extent in value.shape]
            )


def forget_unknown(model: ir.Model, name: str, dims: Mapping[str, int]) -> None:
    """Make dimensions that exporters marked as unknown open and nameless, in place.

    These are extents of 0 or less, and placeholder names: ``?``, ``None``, ``unk__12``, ``-1``. Two dimensions with the
    same placeholder are not the same dimension, and none of them is the batch unless it is the first.

    Args:
        model: the graph.
        name: of the model, for messages.
        dims: the given sizes; a placeholder used by a single dimension is kept if it is among them.

    Raises:
        UsageError: a size was given for a placeholder that several dimensions have.
    """
    inputs = _inputs(model)
    named = [
        (extent.value, f"{value.name}:{axis}")
        for value in inputs
        for axis, extent in enumerate(value.shape or ())
        if axis and not isinstance(extent, int) and extent.value in dims
    ]
    kept = set()
    for placeholder in {placeholder for placeholder, _ in named if _is_placeholder(placeholder)}:
        places = [place for other, place in named if other == placeholder]
        if len(places) > 1:
            arguments = ", ".join(f"{place!r}: SIZE" for place in places)
            raise UsageError(
                f"{name}: {placeholder!r} is not a name but a placeholder for an unknown size, and {len(places)} "
                f"dimensions have it. Give each by its position: `dims={{{arguments}}}`."
            )
        kept.add(placeholder)
    for value in (*inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([None if _unknown(extent, kept) else extent for extent in value.shape])


def _unknown(extent: int | ir.SymbolicDim, kept: set[str | None]) -> bool:
    if isinstance(extent, int):
        return extent <= 0
    return _is_placeholder(extent.value) and extent.value not in kept


def _is_placeholder(dim_name: str | None) -> bool:
    return dim_name is None or _PLACEHOLDER.fullmatch(dim_name.strip().lower()) is not None


def name_batch(model: ir.Model) -> None:
    """Call the open first dimension of every input ``N``, in place."""
    for value in _inputs(model):
        if value.shape is not None and not isinstance(value.shape[0], int):
            value.shape = ir.Shape([BATCH, *value.shape[1:]])


def check_dims(model: ir.Model, name: str) -> None:
    """Check that the batch, the first dimension of every input, is the only open one.

    Raises:
        ModelError: an input has no batch, or another dimension is open; the message names the call that fixes it.
    """
    inputs = _inputs(model)
    for value in inputs:
        if value.shape is None or len(value.shape) == 0 or (len(inputs) > 1 and is_setting(value)):
            suggested = suggestion(value)
            raise ModelError(
                f"{name}: input {value.name!r} has no shape with a batch dimension. "
                + (
                    "Export the model with input shapes, the batch first."
                    if value.shape is None or suggested is None or len(inputs) == 1
                    else "It is one number for all samples, so bind it "
                    f"(`open_model({path_of(name)}, bind={{{value.name!r}: {suggested}}})`)."
                )
            )
        if value.dtype not in _NUMBERS:
            kind = value.dtype.name.lower() if value.dtype is not None else "an unknown type"
            raise ModelError(
                f"{name}: input {value.name!r} is {kind}, but only numbers can be fed. Export the model from the first "
                "numeric input on, without text preprocessing."
            )
    batches = {
        value.shape[0].value: value.name
        for value in inputs
        if value.shape is not None and not isinstance(value.shape[0], int) and value.shape[0].value
    }
    for value in inputs:
        assert value.shape is not None
        for axis, extent in enumerate(value.shape):
            if axis and not isinstance(extent, int) and extent.value in batches:
                raise ModelError(
                    f"{name}: {extent.value!r} is dimension {axis} of input {value.name!r} and the first one of "
                    f"{batches[extent.value]!r}, so the batch is not the first dimension of every input. Export the "
                    f"model with the batch first; or, if {value.name!r} is not data but a state that starts at zero, "
                    f"bind it: `bind={{{value.name!r}: 0}}`."
                )
    for value in inputs:
        _reject_hidden_batch(value, name, model.producer_name)
    open_dims = {key: value for value in inputs for key in _open(value)}
    if open_dims:
        key, value = next(iter(open_dims.items()))
        sizes = ", ".join(f"{key!r}: SIZE" for key in open_dims)
        raise ModelError(
            f"{name}: dimension {key} of input {value.name!r} {_shown(value)} is not a fixed number, so activation "
            f"sizes are unknown. Fix all dimensions but the batch: `open_model({path_of(name)}, dims={{{sizes}}})`."
        )


def _shown(value: ir.Value) -> str:
    """The shape as text, with ? for unknown extents."""
    extents = (extent if isinstance(extent, int) else extent.value or "?" for extent in value.shape or ())
    return f"({', '.join(map(str, extents))})"


def _inputs(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _reject_hidden_batch(value: ir.Value, name: str, producer: str | None) -> None:
    hidden = _hidden_batch(value)
    if hidden is not None:
        raise ModelError(
            f"{name}: dimension {hidden} of input {value.name!r} {_shown(value)} is named like a batch, but the batch "
            "must be the first dimension of every input: the steps of one sample would be treated as samples. Export "
            f"the model with the batch first ({batch_first(producer)}); or, if it is not data but a state that starts "
            f"at zero, bind it: `bind={{{value.name!r}: 0}}`."
        )


def _hidden_batch(value: ir.Value) -> int | None:
    """An axis after the first that is the batch according to its name, as in time-major inputs.

    It is named ``batch``, ``batch_size`` or the like and the first dimension has another name or is a number; or it is
    named ``N`` or ``B`` and the first dimension is a number above 1: (20, N, 8).

    None for ``N`` and ``B`` after a 1 or a name: (1, N) may be tokens, (batch, 3, N) points.
    """
    extents = list(value.shape or ())
    names = [None if isinstance(extent, int) else (extent.value or "").lower() for extent in extents]
    if not names or names[0] in _BATCH_NAMES | _MAY_BE_BATCH:
        return None
    steps = isinstance(extents[0], int) and extents[0] > 1
    return next((i for i, dim_name in enumerate(names) if i and _is_batch(dim_name, steps)), None)


def _is_batch(dim_name: str | None, steps: bool) -> bool:
    return dim_name in _BATCH_NAMES or (steps and dim_name in _MAY_BE_BATCH)


def _open(value: ir.Value) -> list[str]:
    """The keys by which `fix_dims` addresses the open dimensions of an input."""
    keys = []
    for axis, extent in enumerate(value.shape or ()):
        if axis and not isinstance(extent, int):
            keys.append(str(extent.value) if extent.value else f"{value.name}:{axis}")
    return keys
