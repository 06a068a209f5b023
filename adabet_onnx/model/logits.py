"""Find the logits: the value that a loss is computed from, before any final conversion to probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..errors import ModelError
from ..pieces import path_of
from .embedding import embedded
from .head_axis import head_axis
from .layers import find_layers
from .liveness import weight_bytes
from .passes.sigmoid_shares import logits_of_shares
from .passes.two_columns import logits_of_columns
from .probabilities import Tail, behind_shape, describe_probabilities, is_class_axis, tail_of
from .shapes import infer_shapes
from .trial_runs import outputs_of_trial
from .upsampling import head_and_upsampling

_OF_LOGITS = frozenset({"cross-entropy", "bce-with-logits"})  # losses that convert their input to probabilities
_EMBEDDING = "an embedding normalised to length 1"
_MOST_BYTES = 64 << 20  # of weights of a model that is run to inspect its outputs
# Operators whose results may be in [0, 1] without a recognised form. Layers, their biases, pooling and normalisations
# have unbounded results: no trial run is needed after them.
_MAY_BE_BOUNDED = frozenset(
    {
        *("Div", "Mul", "Sub", "Add", "Sum", "Mean", "Exp", "Pow", "Reciprocal", "Concat", "Where", "Clip", "Max"),
        *("Min", "LpNormalization", "Neg"),
        *("HardSigmoid", "Sigmoid", "Softmax", "Hardmax", "Softplus", "Sqrt", "ReduceMean", "ReduceSum", "ReduceProd"),
        *("ReduceMax", "TopK", "Gather", "GatherND", "GatherElements", "ScatterND", "Slice", "Split", "If", "Loop"),
    }
)
_POOLING = frozenset({"ReduceMean", "ReduceMax", "ReduceMin"})
_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"})


@dataclass(frozen=True)
class Logits:
    """The value that a loss is computed from.

    Attributes:
        name: name of the value.
        doubt: why it may be probabilities or an embedding rather than logits, a clause; None without doubt.
    """

    name: str
    doubt: str | None = None


def find_logits(model: ir.Model, name: str, chosen: str, *, named: bool, notes: list[str]) -> Logits:
    """Find the value before the last conversion to probabilities, or the output itself if there is none.

    For two columns 1 - p and p, the logits are 0 and the number whose sigmoid is p; they are added to the graph, and
    the columns become their Softmax, in place. Likewise for sigmoids divided by their sum, whose logits are the
    logarithms of the sigmoids.

    Args:
        model: the opened graph.
        name: of the model, for messages.
        chosen: name of the value that is the logits or is computed from them.
        named: whether the user named it, which leaves no doubt.
        notes: receives sentences about changes and doubts.

    Raises:
        ModelError: the value is not float32.
    """
    value = _value(model.graph, chosen)
    if value.dtype is not None and value.dtype != ir.DataType.FLOAT:
        raise ModelError(
            f"{name}: output {value.name!r} is {value.dtype.name.lower()}, but a loss needs float32 logits. Choose the "
            f"value before it (an ArgMax or Cast?): `open_model({path_of(name)}, logits='NAME')`."
        )
    tail = tail_of(value)
    doubt = (
        _not_of_classes(model, value, tail)
        if tail is not None
        else _embedded(value) or _looks_like_probabilities(model, value)
    )
    if tail is None and doubt is not None and not named:
        shares = logits_of_shares(model, value, notes)
        if shares is not None:
            return Logits(shares)
    if tail is not None and doubt is None:
        if tail.kind == "two columns":
            return Logits(logits_of_columns(model, value, name, notes))
        return Logits(tail.logits.name or "")
    if doubt is not None:
        notes.append(
            f"{doubt}; it is used as logits because it was named" if named else f"{doubt}; {advice(name, doubt)}"
        )
    return Logits(value.name or "", None if named else doubt)


def advice(name: str, doubt: str) -> str:
    """Advice about outputs that may be probabilities."""
    if _EMBEDDING in doubt:
        return (
            f"give it a classifier (`new_head(open_model({path_of(name)}), N, append=True)`; without `append=True` it "
            "replaces the last layer), or name it if it is the logits nevertheless: "
            f"`open_model({path_of(name)}, logits='NAME')`"
        )
    return f"name the logits, or this output if it is not a probability: `open_model({path_of(name)}, logits='NAME')`"


def refusal(doubt: str | None, loss: str, name: str) -> str | None:
    """The message if a loss needs logits but the model's are in doubt, else None.

    Args:
        doubt: the doubt about the model's logits, see `Logits`.
        loss: name of the loss.
        name: name of the model.
    """
    if doubt is None or loss not in _OF_LOGITS:
        return None
    return f"{loss} needs logits, but {doubt}: {advice(name, doubt)}."


def _value(graph: ir.Graph, name: str) -> ir.Value:
    inner = (value for node in graph for value in node.outputs)
    return next(value for value in (*graph.outputs, *inner) if value.name == name)


def _not_of_classes(model: ir.Model, value: ir.Value, tail: Tail) -> str | None:
    """Why a Softmax is not over the classes, as a clause; None if it is."""
    if tail.kind == "sigmoid" or (tail.axes in ((1,), (-1,)) and _rank(value) == 2):
        return None
    softmax_input = value if tail.kind == "two columns" else tail.logits
    shape = infer_shapes(model, 2).get(softmax_input.name or "")
    if is_class_axis(tail.axes, shape) or _of_the_head(model, softmax_input.name or "", tail.axes, len(shape or ())):
        return None
    extents = "" if shape is None else f" of shape ({', '.join(map(str, ('N', *shape[1:])))})"
    axes = [axis for axis in tail.axes if shape is None or axis < len(shape)]
    over = f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"
    return (
        f"{value.name!r} is a Softmax over {over} of {softmax_input.name!r}{extents}, which is not a class axis (axis "
        "1 of two or four axes, the last of three)"
    )


def _of_the_head(model: ir.Model, logits: str, axes: Sequence[int], rank: int) -> bool:
    """Whether axes are the one axis that holds the head's outputs, for example the channels of (N, C, steps)."""
    head, upsampling = head_and_upsampling(find_layers(model), model.graph)
    if head is None or len(axes) != 1:
        return False
    axis_of_head = head_axis(model.graph, (head, *upsampling), logits, infer_shapes(model, 2))
    return axis_of_head is not None and axis_of_head == axes[0] % rank


def _embedded(value: ir.Value) -> str | None:
    """Why outputs are an embedding of length 1, as a clause; None if they are not."""
    norm = embedded(value)
    return None if norm is None else f"{value.name!r} is {_EMBEDDING} ({norm}), which has no classes"


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _looks_like_probabilities(model: ir.Model, value: ir.Value) -> str | None:
    """Why outputs look like probabilities in a trial run, as a clause; None if not, or without a run."""
    source, _ = behind_shape(value)
    node = source.producer()
    if node is not None and node.op_type in _POOLING and tail_of(node.inputs[0]) is not None:
        return f"{value.name!r} is the {node.op_type} of probabilities"
    if node is None or node.op_type not in _MAY_BE_BOUNDED or weight_bytes(model) > _MOST_BYTES:
        return None
    before = [behind_shape(operand)[0].producer() for operand in node.inputs if operand is not None]
    if node.op_type == "Add" and any(array is not None and array.op_type in _LINEAR for array in before):
        return None
    truncated = model.clone()
    output = _value(truncated.graph, value.name or "")
    truncated.graph.outputs.clear()
    truncated.graph.outputs.append(output)
    outputs = [array for scale in (1.0, 30.0) if (array := outputs_of_trial(truncated, scale)) is not None]
    finite = [array for array in outputs if np.isfinite(array).all()]
    description = describe_probabilities(finite)
    if description is None:
        return None
    return f"{value.name!r} looks like probabilities ({description}), but how they are computed was not recognised"


def ends_in_probabilities(model: ir.Model, logits: str) -> bool:
    """Whether the model's outputs do not include the logits themselves."""
    return all(value.name != logits for value in model.graph.outputs)
