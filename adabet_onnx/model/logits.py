"""Finding the logits: what a loss is computed from, before any final step to probabilities."""

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

_OF_LOGITS = frozenset({"cross-entropy", "bce-with-logits"})  # losses that make probabilities of what they are given
_EMBEDDING = "an embedding that is brought to length 1"
_MOST_BYTES = 64 << 20  # of weights in a model that is run to see what its outputs look like
# What may end in numbers in [0, 1] although no known form does. Layers, their biases, pooling and normalisations end in
# numbers without bounds: after these nothing is run.
_MAY_BE_BOUNDED = frozenset(
    {
        *(
            "Div",
            "Mul",
            "Sub",
            "Add",
            "Sum",
            "Mean",
            "Exp",
            "Pow",
            "Reciprocal",
            "Concat",
            "Where",
            "Clip",
            "Max",
            "Min",
        ),
        *("LpNormalization", "Neg"),
        *("HardSigmoid", "Sigmoid", "Softmax", "Hardmax", "Softplus", "Sqrt", "ReduceMean", "ReduceSum", "ReduceProd"),
        *("ReduceMax", "TopK", "Gather", "GatherND", "GatherElements", "ScatterND", "Slice", "Split", "If", "Loop"),
    }
)
_POOLING = frozenset({"ReduceMean", "ReduceMax", "ReduceMin"})
_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"})


@dataclass(frozen=True)
class Logits:
    """What a loss is computed from.

    Attributes:
        name: of the value.
        doubt: why it may be probabilities, or an embedding, rather than logits, a sentence without its end; None if
            there is none.
    """

    name: str
    doubt: str | None = None


def find_logits(model: ir.Model, name: str, chosen: str, *, named: bool, notes: list[str]) -> Logits:
    """The value before the last step to probabilities; otherwise the output itself.

    Of two columns 1 - p and p, the logits are 0 and the number that p is the sigmoid of; they are put into the graph,
    and the columns become their Softmax, in place. So do sigmoids that are divided by their sum; the logits are their
    logarithms.

    Args:
        model: the opened graph.
        name: of the model, for messages.
        chosen: the value that is the logits or made from them.
        named: whether the user named it: then no doubt remains.
        notes: what was changed, or is in doubt, is added.

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
    doubt = _not_of_classes(model, value, tail) if tail is not None else _embedded(value) or _looks(model, value)
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
            f"{doubt}; it is taken as logits, since it was named" if named else f"{doubt}; {advice(name, doubt)}"
        )
    return Logits(value.name or "", None if named else doubt)


def advice(name: str, doubt: str) -> str:
    """What to do about outputs that may be probabilities."""
    if _EMBEDDING in doubt:
        return (
            f"give it a classifier (`new_head(open_model({path_of(name)}), N, append=True)`; without `append=True` it "
            "takes the place of the last layer), or name it if it is the logits all the same: "
            f"`open_model({path_of(name)}, logits='NAME')`"
        )
    return f"name the logits, or this output if it is no probability: `open_model({path_of(name)}, logits='NAME')`"


def refusal(doubt: str | None, loss: str, name: str) -> str | None:
    """Why a loss that makes probabilities of what it is given is not computed, or None.

    Args:
        doubt: the model's, see `Logits`.
        loss: its name.
        name: of the model.
    """
    if doubt is None or loss not in _OF_LOGITS:
        return None
    return f"{loss} needs logits, but {doubt}: {advice(name, doubt)}."


def _value(graph: ir.Graph, name: str) -> ir.Value:
    inner = (value for node in graph for value in node.outputs)
    return next(value for value in (*graph.outputs, *inner) if value.name == name)


def _not_of_classes(model: ir.Model, value: ir.Value, tail: Tail) -> str | None:
    """In words, a Softmax that is not over the classes."""
    if tail.kind == "sigmoid" or (tail.axes in ((1,), (-1,)) and _rank(value) == 2):
        return None
    of = value if tail.kind == "two columns" else tail.logits
    shape = infer_shapes(model, 2).get(of.name or "")
    if is_class_axis(tail.axes, shape) or _of_the_head(model, of.name or "", tail.axes, len(shape or ())):
        return None
    extents = "" if shape is None else f" of shape ({', '.join(map(str, ('N', *shape[1:])))})"
    axes = [axis for axis in tail.axes if shape is None or axis < len(shape)]
    over = f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"
    return (
        f"{value.name!r} is a Softmax over {over} of {of.name!r}{extents}, which is not where classes are looked for "
        "(axis 1 of two or four axes, the last of three)"
    )


def _of_the_head(model: ir.Model, logits: str, axes: Sequence[int], rank: int) -> bool:
    """Whether axes are the one along which the head's outputs lie, as that of the channels of (N, C, steps)."""
    head, upsampling = head_and_upsampling(find_layers(model), model.graph)
    if head is None or len(axes) != 1:
        return False
    found = head_axis(model.graph, (head, *upsampling), logits, infer_shapes(model, 2))
    return found is not None and found == axes[0] % rank


def _embedded(value: ir.Value) -> str | None:
    """In words, outputs of length 1."""
    norm = embedded(value)
    return None if norm is None else f"{value.name!r} is {_EMBEDDING} ({norm}), which holds no classes"


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _looks(model: ir.Model, value: ir.Value) -> str | None:
    """In words, outputs of a trial run that look like probabilities; None too where nothing can or need be run."""
    source, _ = behind_shape(value)
    node = source.producer()
    if node is not None and node.op_type in _POOLING and tail_of(node.inputs[0]) is not None:
        return f"{value.name!r} is the {node.op_type} of probabilities"
    if node is None or node.op_type not in _MAY_BE_BOUNDED or weight_bytes(model) > _MOST_BYTES:
        return None
    before = [behind_shape(operand)[0].producer() for operand in node.inputs if operand is not None]
    if node.op_type == "Add" and any(made is not None and made.op_type in _LINEAR for made in before):
        return None
    cut = model.clone()
    shown = _value(cut.graph, value.name or "")
    cut.graph.outputs.clear()
    cut.graph.outputs.append(shown)
    found = [made for scale in (1.0, 30.0) if (made := outputs_of_trial(cut, scale)) is not None]
    finite = [made for made in found if np.isfinite(made).all()]
    what = describe_probabilities(finite)
    if what is None:
        return None
    return f"{value.name!r} looks like probabilities ({what}), and how they are made was not recognised"


def ends_in_probabilities(model: ir.Model, logits: str) -> bool:
    """Whether the model's output is not the logits themselves."""
    return all(value.name != logits for value in model.graph.outputs)
