"""What the rules of LSTM, GRU and RNN support: a known number of steps, and the default activations.

The forward node is unchanged. Its output Y holds the states of all steps, so the gates are recomputed for all steps at
once, and only the part of the backward pass that goes from step to step is written out for each of them: a product with
R and a few elementwise products. The weights' gradients are again one product over all steps (see `recurrent_steps`).
"""

from __future__ import annotations

from .recurrent_steps import directions_of
from .registry import NodeView

_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_LENGTHS, _PEEPHOLES = 4, 7  # positions of inputs
_SPLIT_BY_INPUT = 13  # from this opset on, Split takes its sizes as an input
_MOST_STEPS = 1000


def check_recurrent(view: NodeView) -> str | None:
    """Why an LSTM, GRU or RNN cannot be differentiated, or None."""
    op_type, steps = view.node.op_type, view.shape()[0]
    if not isinstance(steps, int):
        return "runs over a number of steps that is not fixed, or over the batch"
    if steps > _MOST_STEPS:
        return f"runs over {steps} steps; up to {_MOST_STEPS} have a gradient here"
    if view.opset < _SPLIT_BY_INPUT:
        return f"has a gradient here from opset {_SPLIT_BY_INPUT} on, and the graph has opset {view.opset}"
    if view.has(_LENGTHS):
        return "has sequences of differing lengths (sequence_lens)"
    if view.has(_PEEPHOLES):
        return "has peepholes"
    if view.int("layout", 0):
        return "has the batch first (layout 1)"
    if "clip" in view.node.attributes:
        return "clips its cells"
    if view.int("input_forget", 0):
        return "couples its input and forget gates (input_forget)"
    activations = activations_of(view)
    known = [_DEFAULTS[op_type], ["Relu"]] if op_type == "RNN" else [_DEFAULTS[op_type]]
    if any(each not in known for each in activations):
        return f"has the activations {', '.join(name for each in activations for name in each)}"
    if "activation_alpha" in view.node.attributes or "activation_beta" in view.node.attributes:
        return "has activations with parameters (activation_alpha or activation_beta)"
    return None


def activations_of(view: NodeView) -> list[list[str]]:
    """Names of the activations, per direction."""
    default, directions = _DEFAULTS[view.node.op_type], directions_of(view)
    given = view.node.attributes.get("activations")
    names = default * directions if given is None else [name.capitalize() for name in given.as_strings()]
    count = len(default)
    return [names[d * count : (d + 1) * count] for d in range(directions)]
