"""The steps performed on every model when it is opened, in order."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes import common

from .batch import check_sample_independence
from .bindings import Binding
from .constant_values import check_divisors
from .error_context import error_context
from .fixed_dims import check_dims, fix_dims, forget_unknown, name_batch
from .limits import check_nodes, check_sizes
from .metadata import get_metadata, set_metadata
from .opsets import check_versions, convert_opset, lower_ir_version, normalise_domains, opset_of
from .output_choice import choose_output
from .output_shapes import set_output_shapes, set_output_types
from .passes.bind_inputs import bind_defaults, bind_inputs, drop_next_states, record_bound
from .passes.constants import constants_of_shapes
from .passes.empty_reductions import DropEmptyReductions
from .passes.fill_constants import FillConstants
from .passes.inline_if import InlineConstantIfs
from .passes.node_names import NameNodes
from .passes.unfuse import name_norms
from .passes.unused import RemoveUnused
from .reading import ReadModel, with_external, without_external
from .refusals import check_valid, reject_custom_operators, reject_random, reject_sequences
from .rewriting import (
    decompose_sequences,
    fold,
    free_initial_states,
    from_quantised,
    inline,
    prefix_errors,
    replace_classical,
    set_inference_mode,
    to_float32,
    unfuse,
)
from .single_sample import free_batch
from .untrainable_models import reject_classical
from .unused_inputs import drop_unused_inputs
from .zip_maps import replace_zip_maps


def normalise(
    source: ReadModel, logits: str | None, dims: Mapping[str, int], bind: Mapping[str, Binding], notes: list[str]
) -> tuple[ir.Model, str, ir.Model | None]:
    """Turn a file's contents into the graph that the rest of the package relies on; `open` lists its properties.

    Args:
        source: the model as read from the file.
        logits: name of the value to use as the logits; None to choose.
        dims: sizes of symbolic dimensions.
        bind: values of inputs that are not data.
        notes: receives a sentence for each change.

    Returns:
        The graph, the name of the value that is the logits or is computed from them, and, for a quantised file, the
        graph before its conversion to float32, else None.

    Raises:
        ModelError: the graph cannot be handled.
        UsageError: ``logits``, ``dims`` or ``bind`` name nothing of the graph, or a value does not fit its input.
    """
    name = source.name
    proto, weights = without_external(source.proto)
    reject_classical(proto, name)
    check_nodes(proto, name)
    check_versions(proto, name)
    normalise_domains(proto, name)
    name_norms(proto, opset_of(proto))
    check_valid(proto, name)
    replace_zip_maps(proto, notes)
    proto = with_external(convert_opset(proto, name, notes), weights)
    with error_context(name, "importing the graph of"):
        model = ir.from_proto(proto)
    if source.folder is not None:
        ir.external_data.set_base_dir(model.graph, source.folder)
    _tidy(model, name)
    replace_classical(model, name, notes)
    bound = bind_inputs(model, name, bind, dims, notes)
    set_inference_mode(model, notes)
    bind_defaults(model, name, dims, notes, bound)
    lower_ir_version(model, notes)
    drop_next_states(model, bound, logits, notes)
    chosen = choose_output(model, name, logits or recorded_logits(model), notes)
    if logits is not None:
        set_metadata(model, "logits", chosen)
    RemoveUnused()(model)  # only layers that the logits depend on can be selected
    drop_unused_inputs(model)
    reject_sequences(model, name)
    set_output_types(model)
    forget_unknown(model, name, dims)
    fix_dims(model, name, dims)
    check_dims(model, name)
    name_batch(model)
    check_sizes(model, name)
    reject_random(model, name)
    with prefix_errors(name):
        check_divisors(model)
    inline(model, name, notes, InlineConstantIfs())
    decompose_sequences(model, name, notes)
    to_float32(model, name, notes)
    quantised = from_quantised(model, name, notes)
    unfuse(model, name, notes)
    reject_custom_operators(model, name)
    fold(model, name)
    free_initial_states(model, name, notes)
    model = free_batch(model, name, chosen, notes)
    if inline(model, name, notes, InlineConstantIfs(constants_of_shapes)):
        fold(model, name)
    DropEmptyReductions()(model)
    check_sample_independence(model, name, bound.states)
    set_output_shapes(model, name)
    record_bound(model, bound)
    return model, chosen, quantised


def recorded_logits(model: ir.Model) -> str | None:
    """The name of the logits recorded in the file's metadata, if such a value still exists."""
    name = get_metadata(model, "logits")
    known = {value.name for value in model.graph.outputs} | {v.name for node in model.graph for v in node.outputs}
    return name if isinstance(name, str) and name in known else None


def _tidy(model: ir.Model, name: str) -> None:
    """Turn constants into initializers, inline functions, and name all nodes and values."""
    lifting = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=1)
    with error_context(name, "tidying the graph of"):
        for step in (common.InlinePass(), common.RemoveInitializersFromInputsPass(), lifting):
            step(model)
    for repair in (FillConstants(), NameNodes(), common.NameFixPass()):
        repair(model)
