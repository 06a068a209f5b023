"""Giving sizes to dimensions that an exporter left open: sequence length, height and width."""

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
_CALLED_BATCH = frozenset({"batch", "batch_size", "batchsize", "batch_dim", "bs", "nbatch", "num_batch", "n_batch"})
_MAY_BE_BATCH = frozenset({"n", "b"})  # or points, or boxes
_NO_NAME = re.compile(r"|\?+(_?\d+)?|none|null|nan|-?\d+|unk_*\d*|unknown_*\d*|undefined|any|dynamic")
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
    """Put numbers in place of symbolic dimensions, in place.

    Args:
        model: the graph.
        name: of the model, for messages.
        dims: size by the dimension's name, or by ``INPUT:AXIS`` where it has none.

    Raises:
        UsageError: there is no such dimension, it is the batch, or the size is out of range.
        ModelError: an input has the batch, by its name, in another dimension than the first.
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
                "stays open. Leave it out; if the batch is not the first dimension, export the model so that it is."
            )
        _refuse_hidden_batch(value, name, model.producer_name)
        extents: list[int | ir.SymbolicDim] = [batch]
        for axis, extent in enumerate(value.shape):
            if axis == 0:
                continue
            called = "" if isinstance(extent, int) else extent.value or ""
            given = next((word for word in (f"{value.name}:{axis}", called) if word in dims), None)
            if given is not None and isinstance(extent, int) and extent != dims[given]:
                raise UsageError(f"{name}: dimension {axis} of input {value.name!r} is {extent} already.")
            used |= {given} if given is not None else set()
            extents.append(extent if given is None else dims[given])
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
    """Let dimensions by which exporters say that they do not know be open and without a name, in place.

    These are extents of 0 or less, and names that are none: ``?``, ``None``, ``unk__12``, ``-1``. Two dimensions of
    such a name are not one, and none of them is the batch unless it is the first.

    Args:
        model: the graph.
        name: of the model, for messages.
        dims: sizes that were given; such a name, of one dimension alone, is kept where it is among them.

    Raises:
        UsageError: several dimensions have a name that a size was given for.
    """
    inputs = _inputs(model)
    named = [
        (extent.value, f"{value.name}:{axis}")
        for value in inputs
        for axis, extent in enumerate(value.shape or ())
        if axis and not isinstance(extent, int) and extent.value in dims
    ]
    kept = set()
    for word in {word for word, _ in named if _no_name(word)}:
        places = [place for other, place in named if other == word]
        if len(places) > 1:
            given = ", ".join(f"{place!r}: SIZE" for place in places)
            raise UsageError(
                f"{name}: {word!r} is no name but says that a size is unknown, and {len(places)} dimensions have it. "
                f"Give each by its place: `dims={{{given}}}`."
            )
        kept.add(word)
    for value in (*inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([None if _unknown(extent, kept) else extent for extent in value.shape])


def _unknown(extent: int | ir.SymbolicDim, kept: set[str | None]) -> bool:
    if isinstance(extent, int):
        return extent <= 0
    return _no_name(extent.value) and extent.value not in kept


def _no_name(word: str | None) -> bool:
    return word is None or _NO_NAME.fullmatch(word.strip().lower()) is not None


def name_batch(model: ir.Model) -> None:
    """Call the open first dimension of every input ``N``, in place."""
    for value in _inputs(model):
        if value.shape is not None and not isinstance(value.shape[0], int):
            value.shape = ir.Shape([BATCH, *value.shape[1:]])


def check_dims(model: ir.Model, name: str) -> None:
    """See that the batch, the first dimension of every input, is the only open one.

    Raises:
        ModelError: an input has no batch, or another dimension is open; the call that fixes it is named.
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
                    else "It is one number for all samples, so give it "
                    f"(`open_model({path_of(name)}, bind={{{value.name!r}: {suggested}}})`)."
                )
            )
        if value.dtype not in _NUMBERS:
            kind = value.dtype.name.lower() if value.dtype is not None else "an unknown type"
            raise ModelError(
                f"{name}: input {value.name!r} is {kind}, and only numbers can be fed. Export the model from where it "
                "takes in numbers, without what prepares text."
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
                    f"model with the batch first; or, if {value.name!r} is no data but a state that begins at zero, "
                    f"give it: `bind={{{value.name!r}: 0}}`."
                )
    for value in inputs:
        _refuse_hidden_batch(value, name, model.producer_name)
    wanted = {key: value for value in inputs for key in _open(value)}
    if wanted:
        key, value = next(iter(wanted.items()))
        sizes = ", ".join(f"{key!r}: SIZE" for key in wanted)
        raise ModelError(
            f"{name}: dimension {key} of input {value.name!r} {_shown(value)} is not a fixed number, so activation "
            f"sizes are unknown. Fix all dimensions but the batch: `open_model({path_of(name)}, dims={{{sizes}}})`."
        )


def _shown(value: ir.Value) -> str:
    """The shape, with ? where nothing is known."""
    extents = (extent if isinstance(extent, int) else extent.value or "?" for extent in value.shape or ())
    return f"({', '.join(map(str, extents))})"


def _inputs(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _refuse_hidden_batch(value: ir.Value, name: str, producer: str | None) -> None:
    hidden = _hidden_batch(value)
    if hidden is not None:
        raise ModelError(
            f"{name}: dimension {hidden} of input {value.name!r} {_shown(value)} is called as a batch is, but the "
            "batch must be the first dimension of every input: the steps of one sample would be taken for samples. "
            f"Export the model with the batch first ({batch_first(producer)}); or, if it is no data but a state that "
            f"begins at zero, give it: `bind={{{value.name!r}: 0}}`."
        )


def _hidden_batch(value: ir.Value) -> int | None:
    """An axis behind the first one that is the batch by its name, as in time-major inputs.

    Accepts ``batch``, ``batch_size`` and the like behind a first dimension that is called something else or is a
    number, and ``N`` or ``B`` behind a number above 1: (20, N, 8).

    Rejects, with None, ``N`` and ``B`` behind a 1 or a name: (1, N) may be tokens, (batch, 3, N) points.
    """
    extents = list(value.shape or ())
    names = [None if isinstance(extent, int) else (extent.value or "").lower() for extent in extents]
    if not names or names[0] in _CALLED_BATCH | _MAY_BE_BATCH:
        return None
    steps = isinstance(extents[0], int) and extents[0] > 1
    return next((i for i, word in enumerate(names) if i and _is_batch(word, steps)), None)


def _is_batch(word: str | None, steps: bool) -> bool:
    return word in _CALLED_BATCH or (steps and word in _MAY_BE_BATCH)


def _open(value: ir.Value) -> list[str]:
    """What `fix_dims` calls the open dimensions of an input."""
    found = []
    for axis, extent in enumerate(value.shape or ()):
        if axis and not isinstance(extent, int):
            found.append(str(extent.value) if extent.value else f"{value.name}:{axis}")
    return found
