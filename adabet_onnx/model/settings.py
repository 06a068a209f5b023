"""Recognise inputs that are not data by their names and readers: states, modes, settings, adapters."""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx_ir as ir

_MODES = frozenset(
    {
        *("phase_train", "train_phase", "train", "training", "is_train", "is_training", "training_mode"),
        *("learning_phase", "keras_learning_phase", "istraining", "trainmode", "train_mode"),
    }
)
_KEPT = frozenset({"keep_prob", "keep_probability", "keep_rate", "keepprob"})
_DROPPED = frozenset({"dropout", "dropout_rate", "dropout_prob", "drop_rate", "drop_prob"})
_RATES = frozenset({"sr", "sample_rate", "sampling_rate", "samplerate"})
_STATES = frozenset({"h", "c", "hc", "hidden", "cell", "state", "states", "hiddenstate", "cellstate"})
_AROUND = frozenset({"in", "out", "new", "next", "prev", "previous", "last", "init", "initial", "final", "input"})
_FAMILIES = frozenset({"rnn", "lstm", "gru", "encoder", "decoder"})
_CELLS = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}  # input positions of initial states
_SHAPE_CHANGES = frozenset(
    {"Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
_MOST_STEPS = 64


def is_training_switch(value: ir.Value) -> bool:
    """Whether an input certainly switches training on: a single bool named like ``phase_train`` or ``is_training``."""
    return value.dtype == ir.DataType.BOOL and is_single(value) and _plain(value) in _MODES


def is_single(value: ir.Value) -> bool:
    """Whether an input is a single number rather than one for each sample."""
    return value.shape is not None and all(extent == 1 for extent in value.shape) and len(value.shape) < 2


@dataclass(frozen=True)
class RecurrentState:
    """An input that is the state of a recurrent network.

    Attributes:
        because: how it was recognised, a clause.
        next: the output that is its next value, if recognised by name.
    """

    because: str
    next: ir.Value | None = None


def is_setting(value: ir.Value) -> bool:
    """Whether an input is a single number named like a setting: a mode, a rate of Dropout, a sampling rate."""
    return is_single(value) and _plain(value) in _MODES | _KEPT | _DROPPED | _RATES


def state_of(model: ir.Model, value: ir.Value) -> RecurrentState | None:
    """Recognise an input as the state of a recurrent network whose next value is an output; None if it is not.

    It is a float input of two to four dimensions, with an output of the same type and shape, as far as the file states
    them. The two have matching names (``state`` and ``stateN``, ``h0`` and ``hn``, ``hidden_in`` and ``hidden_out``)
    and the first dimension is a number of layers; or the input is the initial state of an LSTM, GRU or RNN, possibly
    after slicing or reshaping.

    Not recognised are an initial state whose next value is not an output (it may come from an encoder), past keys and
    values, and the state of a dynamical system, which is data: (batch, features), with an output ``next_state``.
    """
    rank = 0 if value.shape is None else len(value.shape)
    if value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE) or not 2 <= rank <= 4:
        return None
    alike = [output for output in model.graph.outputs if _may_follow(value, output)]
    if len(model.graph.outputs) < 2 or not alike:
        return None
    names = _base_names(value)
    for output in alike:
        if names & _base_names(output) & _STATES and _layers_first(model, value, names):
            return RecurrentState(f"output {output.name!r} has the name and shape of its next value", output)
    cell = _cell_behind(value)
    return (
        None
        if cell is None
        else RecurrentState(f"{cell} uses it as its initial state, and output {alike[0].name!r} has its shape")
    )


def suggestion(value: ir.Value) -> str | None:
    """The value to suggest for an input without a batch, in Python; None if it looks like data."""
    plain_name = _plain(value)
    if value.shape is not None and len(value.shape) > 0 and not is_single(value):
        return repr("FILE.npy") if is_adapter(value) else None
    number = "VALUE"
    if plain_name in _MODES:
        number = "False" if value.dtype == ir.DataType.BOOL else "0"
    elif plain_name in _KEPT:
        number = "1"
    elif plain_name in _DROPPED:
        number = "0"
    elif plain_name in _RATES:
        number = "16000"
    return number


def is_adapter(value: ir.Value) -> bool:
    """Whether an input is named like the weights of an adapter (LoRA)."""
    return re.search(r"(^|[^a-z])(lora|adapter)([^a-z]|$)", (value.name or "").lower()) is not None


def _plain(value: ir.Value) -> str:
    """The last part of a name in lower case, without TensorFlow's ``:0``."""
    return re.split(r"[/.]", (value.name or "").lower())[-1].split(":")[0].strip("_")


def _base_names(value: ir.Value) -> set[str]:
    """The base names of a state without markers of old and new: ``{"h", "hn"}`` for ``lstm_h_n``."""
    parts = [part for part in re.split(r"[^a-z]+", _plain(value)) if part and part not in _AROUND | _FAMILIES]
    joined = "".join(part for part in parts if part not in ("n", "x", "t"))
    names = {joined, *({joined[:-1]} if joined[-1:] in ("n", "x", "t") else set())}
    return names | {part for part in parts if part in ("state", "states", "hidden")}


def _may_follow(value: ir.Value, output: ir.Value) -> bool:
    """Whether an output may have an input's type and shape."""
    if output.dtype != value.dtype:
        return False
    if output.shape is None or value.shape is None:
        return True
    pairs = zip(output.shape, value.shape, strict=False)
    alike = all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int) and min(a, b) > 0)
    return len(output.shape) == len(value.shape) and alike


def _layers_first(model: ir.Model, value: ir.Value, names: set[str]) -> bool:
    """Whether the first axis of an input counts layers; for a possible batch, the name ``state`` is not enough."""
    shape = value.shape
    if shape is None or len(shape) < 3 or not isinstance(shape[0], int) or shape[0] < 1:
        return False
    batches = {other.shape[0] for other in model.graph.inputs if other is not value and other.shape}
    return shape[0] not in batches or not names & {"state", "states"}


def _cell_behind(value: ir.Value) -> str | None:
    """The recurrent operator that uses a value as its initial state."""
    stack, seen = [value], {value}
    while stack and len(seen) < _MOST_STEPS:
        for node, position in stack.pop().uses():
            if position in _CELLS.get(node.op_type, ()):
                return node.op_type
            if node.op_type in _SHAPE_CHANGES and position == 0:
                new = [output for output in node.outputs if output not in seen]
                seen.update(new)
                stack += new
    return None
