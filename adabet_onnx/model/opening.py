"""What is done to every model on opening, in which order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import ModelError
from ..runtime import MOST_BYTES
from .batch import check_apart
from .bindings import Binding
from .choice import choose_output
from .constant import check_divisors
from .door import through
from .fixed_dims import check_dims, fix_dims, forget_unknown, name_batch
from .foreign import refuse_classical
from .limits import check_divisions, check_nodes, check_sizes
from .liveness import weight_bytes
from .maps import without_maps
from .metadata import get_metadata, set_metadata
from .opsets import check_known, into_range, lower_ir_version, opset_of, plain_domains
from .output_shapes import state_shapes, state_types
from .passes.bind_inputs import bind_inputs, bind_unasked, drop_next_states, keep_bound
from .passes.classical import ReplaceClassical, has_classical
from .passes.constants import constants_of_shapes
from .passes.dequantise import Dequantise, input_ranges, is_quantised
from .passes.empty_reductions import DropEmptyReductions
from .passes.fill_constants import FillConstants
from .passes.fold_constants import FoldConstants, computed_constants
from .passes.inference_mode import InferenceMode
from .passes.initial_states import RECURRENT, FreeInitialStates
from .passes.inline_if import InlineConstantIfs
from .passes.node_names import NameNodes
from .passes.sequences import TakeSequencesApart, is_sequence_node
from .passes.single_precision import SinglePrecision, other_precision
from .passes.unfuse import Unfuse, can_unfuse, name_norms
from .passes.unused import RemoveUnused
from .reading import Source, with_external, without_external
from .refusals import check_valid, refuse_foreign, refuse_random, refuse_sequences
from .single_sample import free_batch
from .trial import compare
from .unused_inputs import drop_unused_inputs

_MOST_LISTED = 6
_MOST_ELSE = 1e-3  # of the outputs' size, where nothing but the order of a sum may change
_MOST_ROUNDING, _MOST_QUANTISED = 0.1, 0.5  # of the outputs' size; a graph that was broken differs by more


def normalise(
    source: Source, logits: str | None, dims: Mapping[str, int], bind: Mapping[str, Binding], notes: list[str]
) -> tuple[ir.Model, str]:
    """The graph that the rest of the package relies on, and which value is the logits or is made from them.

    See `open` for what is true of it.

    Args:
        source: what was read.
        logits: name of the value to be the logits; None to choose.
        dims: sizes of symbolic dimensions.
        bind: values of inputs that are no data.
        notes: what was changed is added to it, a sentence each.

    Raises:
        ModelError: something stands in the way.
        UsageError: ``logits``, ``dims`` or ``bind`` name nothing of the graph, or a value does not fit its input.
    """
    name = source.name
    proto, weights = without_external(source.proto)
    refuse_classical(proto, name)
    check_nodes(proto, name)
    check_known(proto, name)
    plain_domains(proto, name)
    name_norms(proto, opset_of(proto))
    check_valid(proto, name)
    without_maps(proto, notes)
    proto = with_external(into_range(proto, name, notes), weights)
    with through(name, "taking in the graph of"):
        model = ir.from_proto(proto)
    if source.folder is not None:
        ir.external_data.set_base_dir(model.graph, source.folder)
    _tidy(model, name)
    _replace_classical(model, name, notes)
    bound = bind_inputs(model, name, bind, dims, notes)
    _at_inference(model, notes)
    bind_unasked(model, name, dims, notes, bound)
    lower_ir_version(model, notes)
    drop_next_states(model, bound, logits, notes)
    chosen = choose_output(model, name, logits or named_before(model), notes)
    if logits is not None:
        set_metadata(model, "logits", chosen)
    RemoveUnused()(model)  # what the logits do not depend on is no layer to choose
    drop_unused_inputs(model)
    refuse_sequences(model, name)
    state_types(model)
    forget_unknown(model, name, dims)
    fix_dims(model, name, dims)
    check_dims(model, name)
    name_batch(model)
    check_sizes(model, name)
    refuse_random(model, name)
    with _named(name):
        check_divisors(model)
    _inline(model, name, notes, InlineConstantIfs())
    _without_sequences(model, name, notes)
    _to_float32(model, name, notes)
    _from_quantised(model, name, notes)
    _unfuse(model, name, notes)
    refuse_foreign(model, name)
    _fold(model, name)
    _free_states(model, name, notes)
    model = free_batch(model, name, chosen, notes)
    if _inline(model, name, notes, InlineConstantIfs(constants_of_shapes)):
        _fold(model, name)
    DropEmptyReductions()(model)
    check_apart(model, name, bound.states)
    state_shapes(model, name)
    keep_bound(model, bound)
    return model, chosen


def named_before(model: ir.Model) -> str | None:
    """The logits as they were named when the file was written, if it has them still."""
    name = get_metadata(model, "logits")
    known = {value.name for value in model.graph.outputs} | {v.name for node in model.graph for v in node.outputs}
    return name if isinstance(name, str) and name in known else None


def _tidy(model: ir.Model, name: str) -> None:
    """Constants as initializers, no functions, a name for everything."""
    lifting = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=1)
    with through(name, "tidying the graph of"):
        for step in (common.InlinePass(), common.RemoveInitializersFromInputsPass(), lifting):
            step(model)
    for repair in (FillConstants(), NameNodes(), common.NameFixPass()):
        repair(model)


def _replace_classical(model: ir.Model, name: str, notes: list[str]) -> None:
    if not has_classical(model):
        return
    original = model.clone()
    replacing = ReplaceClassical()
    with _named(name):
        replacing(model)
    if replacing.replaced:
        _same(original, model, name, "with standard operators in place of scikit-learn's")
        listed = ", ".join(f"{node!r} ({op_type}) by {became}" for node, op_type, became in replacing.replaced[:6])
        more = len(replacing.replaced) - _MOST_LISTED
        notes.append(
            f"operators of ai.onnx.ml (of scikit-learn) were replaced: {listed}" + f" and {more} more" * (more > 0)
        )


def _to_float32(model: ir.Model, name: str, notes: list[str]) -> None:
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


def _at_inference(model: ir.Model, notes: list[str]) -> None:
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


def _inline(model: ir.Model, name: str, notes: list[str], inlining: InlineConstantIfs) -> bool:
    """Let every If with a constant condition give way to the branch that it takes; return whether there was one."""
    if not any(node.op_type == "If" for node in model.graph):
        return False
    original = model.clone()
    with _named(name):
        inlining(model)
    if not inlining.inlined:
        return False
    difference = _same(original, model, name, "with branches in place of Ifs")
    notes.append(
        f"If with a constant condition gave way to the branch that it takes: {_listed(inlining.inlined)}"
        f"{_checked(difference)}"
    )
    return True


def _without_sequences(model: ir.Model, name: str, notes: list[str]) -> None:
    """Let Split, Squeeze and Concat stand for sequences of tensors."""
    if not any(is_sequence_node(node) for node in model.graph.all_nodes()):
        return
    original, taking = model.clone(), TakeSequencesApart()
    with _named(name):
        taking(model)
    difference = _same(original, model, name, "without sequences of tensors")
    notes.append(
        "sequences of tensors were taken apart into Split, Squeeze and Concat: "
        f"{_listed(taking.rewritten)}{_checked(difference)}"
    )


def _free_states(model: ir.Model, name: str, notes: list[str]) -> None:
    """Let stored initial states of recurrent layers serve any batch."""
    if not any(node.op_type in RECURRENT for node in model.graph):
        return
    original, freeing = model.clone(), FreeInitialStates()
    with _named(name):
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


def _unfuse(model: ir.Model, name: str, notes: list[str]) -> None:
    """Let what ONNX Runtime's optimiser made one node be several again."""
    if not any(can_unfuse(node) for node in model.graph.all_nodes()):
        return
    original, unfusing = model.clone(), Unfuse()
    with _named(name):
        unfusing(model)
    difference = _same(original, model, name, "with fused operators taken apart")
    notes.append(
        "the file was optimised by ONNX Runtime; what it had made one operator was taken apart again: "
        f"{', '.join(unfusing.unfused)}{_checked(difference)}"
    )


def _fold(model: ir.Model, name: str) -> None:
    """Let what is computed from constants alone be initializers; what they took the place of is in `origins`."""
    if not computed_constants(model.graph):
        return
    original = model.clone()
    folding = FoldConstants()
    with _named(name):
        folding(model)
    if folding.folded:
        check_divisions(model, name)
        _same(original, model, name, "with computed constants in place of their computation")


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
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


def _from_quantised(model: ir.Model, name: str, notes: list[str]) -> None:
    if not is_quantised(model):
        return
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


def _checked(difference: float | None) -> str:
    return "" if difference is None else f" (on random inputs, outputs differ by {difference:.2g} of their size)"
