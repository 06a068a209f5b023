"""How the code interprets the parts of a model, collected for `inspect` and `check`.

Each decision is made by one function where it is needed; this module calls these functions and describes the results.

In JSON they are a list ``decisions``, each with
    about      the subject: "logits", "batch axis", "class axis", "head", "tied", ...
    taken_for  the interpretation
    because    the evidence for it
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..data.pictures import picture_input
from ..errors import ModelError
from ..model.expectation_grids import expectation_grids
from ..model.input_axes import channel_axis
from ..model.layers import preprocessing_constants
from ..model.logits import ends_in_probabilities
from ..model.logits_axes import LogitsAxes, axes_of, class_axis, detected_class_axis, shape_text, softmax_axis
from ..model.open import Model
from ..model.origins import origins
from ..model.passes.bind_inputs import BOUND
from ..model.plain_norms import plain_norms
from ..model.probabilities import tail_of
from ..model.rotations import rotations
from ..model.sharing import sharings_of
from ..model.unused_inputs import unused_inputs
from ..model.upsampling import head_and_upsampling

_MOST_LISTED = 12  # weights or nodes
_MOST_NAMES = 3


@dataclass(frozen=True)
class Decision:
    """One decision; see the module for the attributes."""

    about: str
    taken_for: str
    because: str

    def __str__(self) -> str:
        return f"{self.about}: {self.taken_for} ({self.because})"


def decisions(model: Model) -> tuple[Decision, ...]:
    """Return the interpretation of a model's parts, in the order in which a reader would ask."""
    return tuple(decision for describe in _DESCRIBERS for decision in describe(model))


_MADE = {
    "probabilities": "by a Softmax over axis {axis}",
    "log-probabilities": "by a LogSoftmax over axis {axis}",
    "sigmoid": "by a Sigmoid",
    "two columns": "as 1 - p and p",
}


def _logits(model: Model) -> Iterator[Decision]:
    outputs = model.graph.graph.outputs
    if not ends_in_probabilities(model.graph, model.logits):
        because = "it is the output, and is not computed by a final Softmax, Sigmoid or the like"
        yield Decision("logits", model.logits, because if model.doubt is None else model.doubt)
        return
    names = ", ".join(repr(value.name) for value in outputs)
    for value in outputs:
        tail = tail_of(value)
        if tail is not None and tail.logits.name == model.logits:
            operation = _MADE[tail.kind].format(axis=tail.axes[0] if tail.axes else "")
            yield Decision(
                "logits",
                model.logits,
                f"output {value.name!r} is computed from it {operation}, as one operator or written out",
            )
            return
    yield Decision("logits", model.logits, f"it was named explicitly; computed from it: {names}")


def _bound(model: Model) -> Iterator[Decision]:
    """Inputs that were removed because they are bound to a value."""
    known = model.metadata(BOUND)
    for name, value in known.items() if isinstance(known, dict) else ():
        zeros = value == "zeros"
        taken = "a recurrent state, zeros at the beginning of every sample" if zeros else f"bound to {value}"
        yield Decision(
            f"input {name}", taken, f"it is not data; `bind={{{name!r}: ...}}` on the original file changes it"
        )


def _preprocessing(model: Model) -> Iterator[Decision]:
    names = preprocessing_constants(model.graph)
    if names:
        yield Decision(
            "preprocessing in the graph",
            ", ".join(names),
            "constants applied to the input before any layer or activation: they normalise it, and are not trained",
        )


def _grids(model: Model) -> Iterator[Decision]:
    """Fixed grid points of a distribution, which look like the weight of a layer."""
    for node, steps in expectation_grids(model.graph.graph):
        because = (
            f"{steps}: evenly spaced numbers that a Softmax is multiplied by, as when computing its mean; not trained"
        )
        yield Decision("fixed steps", f"node {node}, not a layer", because)


def _rotations(model: Model) -> Iterator[Decision]:
    """Tables of rotary embeddings, which look like learned factors."""
    tables = dict.fromkeys(table for _, table in rotations(model.graph.graph))
    if tables:
        more = len(tables) - _MOST_NAMES
        listed = ", ".join(list(tables)[:_MOST_NAMES]) + f" and {more} more" * (more > 0)
        because = "in each sum x cos + y sin, the squares of the two factors have the same sum everywhere; not trained"
        yield Decision("cosines and sines of positions", f"{listed}, not a layer", because)


def _head(model: Model) -> Iterator[Decision]:
    head, enlarging = head_and_upsampling(model.layers, model.graph.graph)
    if head is None:
        yield Decision("head", "none", "no Gemm, MatMul, Conv or ConvTranspose has parameters")
        return
    new = "; new, untrained, as marked in the file" if model.new_head else ""
    after = f" except {', '.join(layer.name for layer in reversed(enlarging))}, which enlarges its output"
    what = f"the last Gemm, MatMul, Conv or ConvTranspose with parameters{after * bool(enlarging)}"
    yield Decision("head", head.name, f"{what}{new}")


def _shared(model: Model) -> Iterator[Decision]:
    for layer in model.layers:
        if layer.applied > 1:
            yield Decision(
                "shared layer",
                layer.name,
                f"its nodes are identical and use the same tensors: one layer, applied {layer.applied} times and "
                "trained as one",
            )


def _tied(model: Model) -> Iterator[Decision]:
    merged = 0
    users: dict[str, dict[str, None]] = {}
    for layer in model.layers:
        for parameter in layer.parameters:
            users.setdefault(parameter.name, {})[layer.name] = None
    for name, sharing in sharings_of(model.layers).items():
        if sharing == "tied":
            yield Decision(
                "tied", name, f"one tensor that {', '.join(users[name])} use in different ways: trained together"
            )
        merged += sharing == "merged"
    if merged:
        vectors = "1 vector" if merged == 1 else f"{merged} vectors"
        yield Decision(
            "merged by the exporter",
            vectors,
            "equal values, stored once, of layers that do not share a matrix: each gets its own copy when trained",
        )


def _learned(model: Model) -> Iterator[Decision]:
    """Weights that the file computes from constants, and the tensors they replace."""
    known = origins(model.graph)
    owners = {parameter.name: layer.name for layer in model.layers for parameter in layer.parameters}
    names = [name for name in owners if name in known]
    for name in names[:_MOST_LISTED]:
        because = f"computed from constants, it replaces {known[name]}; trained as a plain weight"
        yield Decision("learned", f"{name}, of layer {owners[name]}", because)
    rest = names[_MOST_LISTED:]
    if rest:
        layers = len({owners[name] for name in rest})
        yield Decision(
            "learned", f"{len(rest)} more weights of {layers} layers", "computed from constants in the same way"
        )


def _plain_norms(model: Model) -> Iterator[Decision]:
    """Scales of 1 and biases of 0 that may not be parameters in the original framework."""
    for layer in plain_norms(model.graph, model.layers):
        because = (
            "its scale is 1 and its bias 0, without names, as exporters write a norm without parameters "
            "(affine=False); they are trained if the layer is selected; `layers` selects others"
        )
        yield Decision("normalisation, maybe not learned", layer.name, because)


def _formulas(model: Model) -> Iterator[Decision]:
    """Constants that the file computes and that are not weights."""
    constants = [(name, origin) for name, origin in origins(model.graph).items() if not origin.learned]
    for name, origin in constants[:_MOST_NAMES]:
        yield Decision(
            "constant", name, f"computed by a formula with {', '.join(origin.through[:_MOST_LISTED])}: not a weight"
        )
    if len(constants) > _MOST_NAMES:
        yield Decision("constant", f"{len(constants) - _MOST_NAMES} more values", "computed by formulas: not weights")


def _frozen(model: Model) -> Iterator[Decision]:
    """Weights that belong to no layer and are never trained."""
    frozen = model.frozen
    for item in frozen[:_MOST_LISTED]:
        names = ", ".join(item.tensors[:_MOST_NAMES]) + " and others" * (len(item.tensors) > _MOST_NAMES)
        because = f"{names}: weights that belong to no layer; they are included in every share of parameters"
        yield Decision("frozen", f"{item.count:,} numbers in node {item.node} ({item.op_type})", because)
    rest = frozen[_MOST_LISTED:]
    if rest:
        count = sum(item.count for item in rest)
        yield Decision("frozen", f"{count:,} numbers in {len(rest)} more nodes", "they belong to no layer either")


def _batch_axis(model: Model) -> Iterator[Decision]:
    axes = _axes(model)
    if axes is None:
        yield Decision(
            "batch axis", "unknown", "neither shape inference nor a run determines the shape of the logits: no loss"
        )
    elif axes.batch is None:
        yield Decision(
            "batch axis", "none", f"the logits are {shape_text(axes.shape)}, where N is the batch: no loss, only scores"
        )
    else:
        moved = ", moved to the front before a loss" if axes.batch else ""
        yield Decision("batch axis", str(axes.batch), f"of the logits {shape_text(axes.shape)}: it grows with N{moved}")


def _class_axis(model: Model) -> Iterator[Decision]:
    axes = _axes(model)
    if axes is not None and axes.batch is not None and len(axes.shape) > 2:
        shape = axes.batch_first(model.name)
        which = "the last of three axes" if len(shape) == 3 else "the one after the batch"
        own_axis = detected_class_axis(model)
        axis = class_axis(shape, own_axis, "cross-entropy")
        if own_axis is not None:
            softmax = softmax_axis(model) is not None
            which = "the axis of the model's own Softmax" if softmax else "the axis of the head's outputs"
        because = f"of {shape_text(shape)}, for cross-entropy: {which}; `class_axis` changes it"
        yield Decision("class axis", str(axis), because)


def _axes(model: Model) -> LogitsAxes | None:
    try:
        return axes_of(model.graph, model.logits)
    except ModelError:
        return None


def _inputs(model: Model) -> Iterator[Decision]:
    for spec in model.inputs:
        picture, axis = picture_input(model, spec), channel_axis(model.graph, spec.name)
        evidence = "no operator shows its layout" if axis is None else f"the next operators use axis {axis} as channels"
        if picture is not None:
            order = f"N{picture.letters}, {picture.channels} channels of {picture.size[0]} x {picture.size[1]}"
            yield Decision(f"input {spec.name}", f"images, {order}", f"its shape is that of an image; {evidence}")
        elif len(spec.shape) > 2:
            taken = "channels unknown" if axis is None else f"channels on axis {axis}"
            yield Decision(f"input {spec.name}", taken, evidence)


def _unused(model: Model) -> Iterator[Decision]:
    for name in unused_inputs(model.graph):
        because = "the logits do not depend on it: it needs no data, and the exported model still has it"
        yield Decision(f"input {name}", "unused", because)


_DESCRIBERS = (
    _inputs,
    _unused,
    _bound,
    _preprocessing,
    _logits,
    _batch_axis,
    _class_axis,
    _head,
    _grids,
    _rotations,
    _shared,
    _tied,
    _learned,
    _plain_norms,
    _formulas,
    _frozen,
)
