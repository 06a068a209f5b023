"""Finding the logits: what a loss is computed from, before any final Softmax."""

from __future__ import annotations

import onnx_ir as ir

from ..errors import ModelError

_AFTER_LOGITS = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
_SHAPE_ONLY = frozenset({"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze"})


def find_logits(model: ir.Model, name: str) -> ir.Value:
    """The value before a final Softmax, LogSoftmax or Sigmoid; otherwise the output itself.

    Raises:
        ModelError: the output is not float32.
    """
    value = model.graph.outputs[0]
    if value.dtype is not None and value.dtype != ir.DataType.FLOAT:
        raise ModelError(
            f"{name}: output {value.name!r} is {value.dtype.name.lower()}, but a loss needs float32 logits. Choose the "
            f"value before it (an ArgMax or Cast?): adabet-onnx import {name} -o logits.onnx --logits NAME."
        )
    before = _before_probabilities(value)
    while before is not None:
        value, before = before, _before_probabilities(before)
    return value


def _before_probabilities(value: ir.Value) -> ir.Value | None:
    """What a final Softmax or Sigmoid, maybe with changes of shape or an Identity after it, was computed from.

    onnx converts a Softmax of opset 12 or lower to Reshape(Softmax(Flatten(x)), Shape(x)); that gives Flatten(x).
    """
    producer = value.producer()
    while producer is not None and producer.op_type in _SHAPE_ONLY:
        source = producer.inputs[0]
        producer = source.producer() if source is not None else None
    if producer is None or producer.op_type not in _AFTER_LOGITS:
        return None
    source = producer.inputs[0]
    return source if source is not None and source.producer() is not None else None


def ends_in_probabilities(model: ir.Model, logits: str) -> bool:
    """Whether the model's output is not the logits themselves."""
    return all(value.name != logits for value in model.graph.outputs)
