"""What is done to every model on opening, in which order."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes import common

from .batch import check_apart
from .bindings import Binding
from .choice import choose_output
from .constant import check_divisors
from .door import through
from .fixed_dims import check_dims, fix_dims, forget_unknown, name_batch
from .foreign import refuse_classical
from .limits import check_nodes, check_sizes
from .maps import without_maps
from .metadata import get_metadata, set_metadata
from .opsets import check_known, into_range, lower_ir_version, opset_of, plain_domains
from .output_shapes import state_shapes, state_types
from .passes.bind_inputs import bind_inputs, bind_unasked, drop_next_states, keep_bound
from .passes.constants import constants_of_shapes
from .passes.empty_reductions import DropEmptyReductions
from .passes.fill_constants import FillConstants
from .passes.inline_if import InlineConstantIfs
from .passes.node_names import NameNodes
from .passes.unfuse import name_norms
from .passes.unused import RemoveUnused
from .reading import Source, with_external, without_external
from .refusals import check_valid, refuse_foreign, refuse_random, refuse_sequences
from .rewriting import (
    at_inference,
    fold,
    free_states,
    from_quantised,
    inline,
    named,
    replace_classical,
    to_float32,
    unfuse,
    without_sequences,
)
from .single_sample import free_batch
from .unused_inputs import drop_unused_inputs


def normalise(
    source: Source, logits: str | None, dims: Mapping[str, int], bind: Mapping[str, Binding], notes: list[str]
) -> tuple[ir.Model, str, ir.Model | None]:
    """The graph that the rest of the package relies on, and which value is the logits or is made from them.

    And, where the file is quantised, the graph before it was brought back to float32.

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
    replace_classical(model, name, notes)
    bound = bind_inputs(model, name, bind, dims, notes)
    at_inference(model, notes)
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
    with named(name):
        check_divisors(model)
    inline(model, name, notes, InlineConstantIfs())
    without_sequences(model, name, notes)
    to_float32(model, name, notes)
    quantised = from_quantised(model, name, notes)
    unfuse(model, name, notes)
    refuse_foreign(model, name)
    fold(model, name)
    free_states(model, name, notes)
    model = free_batch(model, name, chosen, notes)
    if inline(model, name, notes, InlineConstantIfs(constants_of_shapes)):
        fold(model, name)
    DropEmptyReductions()(model)
    check_apart(model, name, bound.states)
    state_shapes(model, name)
    keep_bound(model, bound)
    return model, chosen, quantised


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
