"""Rewrites of a graph on opening, each reported in a note, and verified by running the graph before and after it.

Each takes the graph, which it changes in place, the model's name, for messages, and the notes, to which it adds. It
raises a ModelError if the graph cannot be rewritten, or if its outputs change.
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
_MOST_DIFFERENCE = 1e-3  # of the outputs' size, where only the order of summation may change
_MOST_ROUNDING, _MOST_QUANTISED = 0.1, 0.5  # of the outputs' size; a broken graph differs by more


def replace_classical(model: ir.Model, name: str, notes: list[str]) -> None:
    """Replace operators of ai.onnx.ml by standard ones, where equivalents exist."""
    if not has_classical(model):
        return
    original = model.clone()
    replacing = ReplaceClassical()
    with prefix_errors(name):
        replacing(model)
    if replacing.replaced:
        _check_same_outputs(original, model, name, "with standard operators in place of scikit-learn's")
        listed = ", ".join(f"{node!r} ({op_type}) by {became}" for node, op_type, became in replacing.replaced[:6])
        more = len(replacing.replaced) - _MOST_LISTED
        notes.append(
            f"operators of ai.onnx.ml (of scikit-learn) were replaced: {listed}" + f" and {more} more" * (more > 0)
        )


def to_float32(model: ir.Model, name: str, notes: list[str]) -> None:
    """Bring half and double precision to float32."""
    types = other_precision(model)
    if not types:
        return
    original = model.clone()
    SinglePrecision()(model)
    difference = compare(original, model)
    if difference is not None and difference > _MOST_ROUNDING:
        raise ModelError(
            f"{name} is {' and '.join(types)}, and in float32 its outputs change (by {difference:.0%}). Export the "
            "model in float32."
        )
    notes.append(f"{' and '.join(types)} was converted to float32{_difference_note(difference)}")


def set_inference_mode(model: ir.Model, notes: list[str]) -> None:
    """Switch operators in training mode to inference mode, with a note."""
    switching = InferenceMode()
    switching(model)
    if switching.dropouts:
        notes.append(f"Dropout was in training mode and was set to inference: {_listed(switching.dropouts)}")
    if switching.normalisations:
        notes.append(
            "BatchNormalization was in training mode and was set to inference, so that it uses its stored statistics "
            f"instead of the batch's: {_listed(switching.normalisations)}"
        )
    if switching.dropped:
        notes.append(f"input {_listed(switching.dropped)}, which only configured Dropout, was dropped")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(map(repr, names[:_MOST_LISTED])) + more


def inline(model: ir.Model, name: str, notes: list[str], inlining: InlineConstantIfs) -> bool:
    """Replace every If with a constant condition by the branch that it takes; return whether there was one."""
    if not any(node.op_type == "If" for node in model.graph):
        return False
    original = model.clone()
    with prefix_errors(name):
        inlining(model)
    if not inlining.inlined:
        return False
    difference = _check_same_outputs(original, model, name, "with branches in place of Ifs")
    notes.append(
        "If with a constant condition was replaced by the branch that it takes: "
        f"{_listed(inlining.inlined)}{_difference_note(difference)}"
    )
    return True


def decompose_sequences(model: ir.Model, name: str, notes: list[str]) -> None:
    """Replace sequences of tensors by Split, Squeeze and Concat."""
    if not any(is_sequence_node(node) for node in model.graph.all_nodes()):
        return
    original, taking = model.clone(), DecomposeSequences()
    with prefix_errors(name):
        taking(model)
    difference = _check_same_outputs(original, model, name, "without sequences of tensors")
    notes.append(
        "sequences of tensors were replaced by Split, Squeeze and Concat: "
        f"{_listed(taking.rewritten)}{_difference_note(difference)}"
    )


def free_initial_states(model: ir.Model, name: str, notes: list[str]) -> None:
    """Make stored initial states of recurrent layers fit any batch size."""
    if not any(node.op_type in RECURRENT for node in model.graph):
        return
    original, freeing = model.clone(), FreeInitialStates()
    with prefix_errors(name):
        changed = freeing(model).modified
    if not changed:
        return
    RemoveUnused()(model)
    difference = _check_same_outputs(original, model, name, "with initial states for any batch")
    if freeing.dropped:
        notes.append(
            "a stored initial state of zeros, which is the default, was dropped: "
            f"{_listed(freeing.dropped)}{_difference_note(difference)}"
        )
    if freeing.expanded:
        notes.append(
            "a stored initial state was expanded to the batch, the same for each sample: "
            f"{_listed(freeing.expanded)}{_difference_note(difference)}"
        )


def unfuse(model: ir.Model, name: str, notes: list[str]) -> None:
    """Decompose operators that ONNX Runtime's optimiser fused."""
    if not any(can_unfuse(node) for node in model.graph.all_nodes()):
        return
    original, unfusing = model.clone(), Unfuse()
    with prefix_errors(name):
        unfusing(model)
    difference = _check_same_outputs(original, model, name, "with fused operators decomposed")
    notes.append(
        "the file was optimised by ONNX Runtime; fused operators were decomposed: "
        f"{', '.join(unfusing.unfused)}{_difference_note(difference)}"
    )


def fold(model: ir.Model, name: str) -> None:
    """Turn values computed from constants alone into initializers; `origins` records what they were computed from."""
    if not computed_constants(model.graph):
        return
    original = model.clone()
    folding = FoldConstants()
    with prefix_errors(name):
        folding(model)
    if folding.folded:
        check_divisions(model, name)
        _check_same_outputs(original, model, name, "with constant computations replaced by their results")


@contextlib.contextmanager
def prefix_errors(name: str) -> Iterator[None]:
    """Prefix errors raised inside the block with the model's name."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error


def _check_same_outputs(original: ir.Model, changed: ir.Model, name: str, change: str) -> float | None:
    if weight_bytes(original) >= MOST_BYTES:  # too many to load twice
        return None
    difference = compare(original, changed)
    if difference is not None and difference > _MOST_DIFFERENCE:
        raise ModelError(
            f"{name}: {change}, its outputs change (by {difference:.0%}): a rewrite is wrong. Please report this with "
            "the model."
        )
    return difference


def from_quantised(model: ir.Model, name: str, notes: list[str]) -> ir.Model | None:
    """Convert quantised weights and activations back to float32; return the original graph, or None without any."""
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
            f"{name} is quantised, and converted back to float32 its outputs change (by {difference:.0%}). Give the "
            "original float32 model."
        )
    notes.append(f"quantised weights and activations were converted back to float32{_difference_note(difference)}")
    return original


def _difference_note(difference: float | None) -> str:
    return "" if difference is None else f" (on random inputs, outputs differ by {difference:.2g} of their size)"
