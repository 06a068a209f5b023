"""Rewrites of a graph on opening, each noted, and checked by running the graph before and after it.

Each takes the graph, which it changes in place, the model's name, for messages, and the notes, to which it adds. It
raises a ModelError where the graph cannot be rewritten, or computes something else afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from ..errors import ModelError
from ..runtime import MOST_BYTES
from .limits import check_divisions
from .liveness import weight_bytes
from .passes.classical import ReplaceClassical, has_classical
from .passes.dequantise import Dequantise, input_ranges, is_quantised
from .passes.fold_constants import FoldConstants, computed_constants
from .passes.inference_mode import InferenceMode
from .passes.initial_states import RECURRENT, FreeInitialStates
from .passes.inline_if import InlineConstantIfs
from .passes.sequences import DecomposeSequences, is_sequence_node
from .passes.single_precision import SinglePrecision, other_precision
from .passes.unfuse import Unfuse, can_unfuse
from .passes.unused import RemoveUnused
from .trial_runs import compare

_MOST_LISTED = 6
_MOST_ELSE = 1e-3  # of the outputs' size, where nothing but the order of a sum may change
_MOST_ROUNDING, _MOST_QUANTISED = 0.1, 0.5  # of the outputs' size; a graph that was broken differs by more


def replace_classical(model: ir.Model, name: str, notes: list[str]) -> None:
    """Write operators of ai.onnx.ml as standard ones, where they have any."""
    if not has_classical(model):
        return
    original = model.clone()
    replacing = ReplaceClassical()
    with named(name):
        replacing(model)
    if replacing.replaced:
        _same(original, model, name, "with standard operators in place of scikit-learn's")
        listed = ", ".join(f"{node!r} ({op_type}) by {became}" for node, op_type, became in replacing.replaced[:6])
        more = len(replacing.replaced) - _MOST_LISTED
        notes.append(
            f"operators of ai.onnx.ml (of scikit-learn) were replaced: {listed}" + f" and {more} more" * (more > 0)
        )


def to_float32(model: ir.Model, name: str, notes: list[str]) -> None:
    """Bring half and double precision to float32."""
    found = other_precision(model)
    if not found:
        return
    original = model.clone()
    SinglePrecision()(model)
    difference = compare(original, model)
    if difference is not None and difference > _MOST_ROUNDING:
        raise ModelError(
            f"{name} is {' and '.join(found)}, and in float32 it computes something else (outputs differ by "
            f"{difference:.0%}). Export the model in float32."
        )
    notes.append(f"{' and '.join(found)} was converted to float32{_checked(difference)}")


def set_inference_mode(model: ir.Model, notes: list[str]) -> None:
    """Set what is in training mode to inference, and say so."""
    switching = InferenceMode()
    switching(model)
    if switching.dropouts:
        notes.append(f"Dropout was in training mode and set to inference: {_listed(switching.dropouts)}")
    if switching.normalisations:
        notes.append(
            "BatchNormalization was in training mode and set to inference, so that it uses its stored statistics "
            f"instead of the batch's: {_listed(switching.normalisations)}"
        )
    if switching.dropped:
        notes.append(f"input {_listed(switching.dropped)}, which only set Dropout up, was dropped")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(map(repr, names[:_MOST_LISTED])) + more


def inline(model: ir.Model, name: str, notes: list[str], inlining: InlineConstantIfs) -> bool:
    """Let every If with a constant condition give way to the branch that it takes; return whether there was one."""
    if not any(node.op_type == "If" for node in model.graph):
        return False
    original = model.clone()
    with named(name):
        inlining(model)
    if not inlining.inlined:
        return False
    difference = _same(original, model, name, "with branches in place of Ifs")
    notes.append(
        "If with a constant condition gave way to the branch that it takes: "
        f"{_listed(inlining.inlined)}{_checked(difference)}"
    )
    return True


def decompose_sequences(model: ir.Model, name: str, notes: list[str]) -> None:
    """Let Split, Squeeze and Concat stand for sequences of tensors."""
    if not any(is_sequence_node(node) for node in model.graph.all_nodes()):
        return
    original, taking = model.clone(), DecomposeSequences()
    with named(name):
        taking(model)
    difference = _same(original, model, name, "without sequences of tensors")
    notes.append(
        "sequences of tensors were taken apart into Split, Squeeze and Concat: "
        f"{_listed(taking.rewritten)}{_checked(difference)}"
    )


def free_initial_states(model: ir.Model, name: str, notes: list[str]) -> None:
    """Let stored initial states of recurrent layers serve any batch."""
    if not any(node.op_type in RECURRENT for node in model.graph):
        return
    original, freeing = model.clone(), FreeInitialStates()
    with named(name):
        changed = freeing(model).modified
    if not changed:
        return
    RemoveUnused()(model)
    difference = _same(original, model, name, "with initial states for any batch")
    if freeing.dropped:
        notes.append(
            "a stored initial state of zeros, which is what a node takes without one, was dropped: "
            f"{_listed(freeing.dropped)}{_checked(difference)}"
        )
    if freeing.expanded:
        notes.append(
            "a stored initial state was expanded to the batch, the same for each sample: "
            f"{_listed(freeing.expanded)}{_checked(difference)}"
        )


def unfuse(model: ir.Model, name: str, notes: list[str]) -> None:
    """Let what ONNX Runtime's optimiser made one node be several again."""
    if not any(can_unfuse(node) for node in model.graph.all_nodes()):
        return
    original, unfusing = model.clone(), Unfuse()
    with named(name):
        unfusing(model)
    difference = _same(original, model, name, "with fused operators taken apart")
    notes.append(
        "the file was optimised by ONNX Runtime; what it had made one operator was taken apart again: "
        f"{', '.join(unfusing.unfused)}{_checked(difference)}"
    )


def fold(model: ir.Model, name: str) -> None:
    """Let what is computed from constants alone be initializers; what they took the place of is in `origins`."""
    if not computed_constants(model.graph):
        return
    original = model.clone()
    folding = FoldConstants()
    with named(name):
        folding(model)
    if folding.folded:
        check_divisions(model, name)
        _same(original, model, name, "with computed constants in place of their computation")


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """For what knows no model's name."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error


def _same(original: ir.Model, changed: ir.Model, name: str, what: str) -> float | None:
    if weight_bytes(original) >= MOST_BYTES:  # too many to load twice
        return None
    difference = compare(original, changed)
    if difference is not None and difference > _MOST_ELSE:
        raise ModelError(
            f"{name}: {what}, it computes something else (outputs differ by {difference:.0%}): a rewrite is wrong. "
            "Please report this with the model."
        )
    return difference


def from_quantised(model: ir.Model, name: str, notes: list[str]) -> ir.Model | None:
    """Bring quantised weights and activations back to float32; gives the graph as it was, if it had any."""
    if not is_quantised(model):
        return None
    original = model.clone()
    try:
        Dequantise()(model)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    difference = compare(original, model, ranges=input_ranges(original))
    if difference is not None and difference > _MOST_QUANTISED:
        raise ModelError(
            f"{name} is quantised, and brought back to float32 it computes something else (outputs differ by "
            f"{difference:.0%}). Give the float32 model it was made from."
        )
    notes.append(f"quantised weights and activations were brought back to float32{_checked(difference)}")
    return original


def _checked(difference: float | None) -> str:
    return "" if difference is None else f" (on random inputs, outputs differ by {difference:.2g} of their size)"
