"""Choose the output that holds the logits, or is computed from them; drop others and what only they needed.

Outputs computed from the logits alone stay: probabilities, the largest of them and their indices, the class.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..errors import ModelError, UsageError
from ..pieces import path_of
from .passes.unused import RemoveUnused
from .probabilities import made_from, tail_of

_TELLING = ("logits", "logit", "output", "output0", "output_0", "outputs")  # telling names, in order of preference
_MOST_LISTED = 12


def choose_output(model: ir.Model, name: str, logits: str | None, notes: list[str]) -> str:
    """Keep one output and those computed from the same logits alone, in place.

    Args:
        model: the graph.
        name: of the model, for messages.
        logits: name of an output or of a value inside; None: the only output, or the only one with a telling name.
        notes: receives a sentence about the choice where there was one.

    Returns:
        The name of the output, or of the requested value inside the graph, which need not be an output if outputs are
        computed from it.

    Raises:
        UsageError: no value has that name.
        ModelError: the choice is ambiguous.
    """
    graph = model.graph
    outputs = list(graph.outputs)
    if logits is not None:
        chosen = next((value for value in outputs if value.name == logits), None) or _inner(graph, logits)
        if chosen is None:
            raise UsageError(f"{name} has no value {logits!r} to be the logits. Its outputs are {_listed(outputs)}.")
    elif len(outputs) == 1:
        return outputs[0].name or ""
    elif not outputs:
        raise ModelError(f"{name} has no outputs. Export it again, with the logits as its output.")
    else:
        chosen = _telling(outputs)
        if chosen is None:
            raise ModelError(
                f"{name} has {len(outputs)} outputs, and it is unclear which of them a loss is computed from: "
                f"{_listed(outputs)}. Choose one: `open_model({path_of(name)}, logits='NAME')`."
            )
    if outputs == [chosen]:
        return chosen.name or ""
    tail = tail_of(chosen)
    source = chosen if tail is None else tail.logits
    remaining = [value for value in outputs if value is chosen or made_from(value, source)] or [chosen]
    inputs = [value for value in graph.inputs if value.uses()]
    graph.outputs.clear()
    graph.outputs.extend(remaining)
    RemoveUnused()(model)
    dropped = [value for value in inputs if not value.uses() and value not in remaining]
    for value in dropped:
        graph.inputs.remove(value)
    notes.append(
        _choice_note(chosen, source, remaining, [value for value in outputs if value not in remaining], dropped)
    )
    return chosen.name or ""


def _choice_note(
    chosen: ir.Value,
    logits: ir.Value,
    kept: Sequence[ir.Value],
    others: Sequence[ir.Value],
    inputs: Sequence[ir.Value],
) -> str:
    """Describe what became of the outputs, and of inputs that only some of them needed."""
    staying = [value for value in kept if value is not chosen]
    is_made = f"{chosen.name!r} is computed from the logits {logits.name!r}"
    sentences = [f"{chosen.name!r} is used as the logits" if chosen is logits else is_made]
    if staying:
        verb = "stays an output" if len(staying) == 1 else "stay outputs"
        sentences.append(f"{_quoted(staying)}, computed from them alone, {verb}")
    if others:
        without = f", with input {_quoted(inputs)}, which only they needed" * bool(inputs)
        sentences.append(f"{_quoted(others)} {'was' if len(others) == 1 else 'were'} dropped{without}")
    return "; ".join(sentences)


def _quoted(values: Sequence[ir.Value]) -> str:
    return ", ".join(repr(value.name or "") for value in values)


def _inner(graph: ir.Graph, name: str) -> ir.Value | None:
    return next((value for node in graph for value in node.outputs if value.name == name), None)


def _telling(outputs: list[ir.Value]) -> ir.Value | None:
    """The only output that holds floats, else the only one with the most telling name.

    Outputs computed from the same logits (probabilities, and the largest of them) count as one.
    """
    floats = [value for value in outputs if isinstance(value.type, ir.TensorType) and _may_be_float(value)]
    tails = [tail_of(value) for value in floats]
    sources = {value if tail is None else tail.logits for value, tail in zip(floats, tails, strict=True)}
    if len(sources) == 1:
        return floats[0]
    for telling_name in _TELLING:
        named = [
            value for value in floats if (value.name or "").lower().rsplit("/", 1)[-1].split(":")[0] == telling_name
        ]
        if len(named) == 1:
            return named[0]
        if named:
            return None
    return None


def _may_be_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()


def _listed(outputs: list[ir.Value]) -> str:
    shown = [f"{value.name!r} {_described(value)}" for value in outputs[:_MOST_LISTED]]
    more = f" and {len(outputs) - _MOST_LISTED} more" if len(outputs) > _MOST_LISTED else ""
    return ", ".join(shown) + more


def _described(value: ir.Value) -> str:
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        return "(a sequence or map)"
    dtype = value.dtype.name.lower() if value.dtype is not None else "of unknown type"
    if value.shape is None:
        return f"({dtype})"
    extents = ", ".join(str(extent) if isinstance(extent, int) else str(extent.value or "?") for extent in value.shape)
    return f"({dtype} [{extents}])"
