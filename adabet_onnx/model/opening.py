"""What is done to every model on opening, in which order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import ModelError
from .batch import make_batch_dynamic
from .choice import choose_output
from .fixed_dims import check_dims, fix_dims, forget_unknown, name_batch
from .limits import check_nodes, check_sizes
from .metadata import get_metadata, set_metadata
from .opsets import into_range, lower_ir_version
from .output_shapes import state_shapes, state_types
from .passes.dequantise import Dequantise, input_ranges, is_quantised
from .passes.fill_constants import FillConstants
from .passes.node_names import NameNodes
from .passes.single_precision import SinglePrecision, other_precision
from .reading import Source, with_external, without_external
from .refusals import check_valid, refuse_foreign
from .trial import compare

_MOST_ROUNDING, _MOST_QUANTISED = 0.1, 0.5  # of the outputs' size; a graph that was broken differs by more


def normalise(source: Source, logits: str | None, dims: Mapping[str, int], notes: list[str]) -> tuple[ir.Model, str]:
    """The graph that the rest of the package relies on, and which value is the logits or is made from them.

    See `open` for what is true of it.

    Args:
        source: what was read.
        logits: name of the value to be the logits; None to choose.
        dims: sizes of symbolic dimensions.
        notes: what was changed is added to it, a sentence each.

    Raises:
        ModelError: something stands in the way.
        UsageError: ``logits`` or ``dims`` name nothing of the graph.
    """
    name = source.name
    proto, weights = without_external(source.proto)
    check_nodes(proto, name)
    check_valid(proto, name)
    proto = with_external(into_range(proto, name, notes), weights)
    with _trusting(name):
        model = ir.from_proto(proto)
    if source.folder is not None:
        ir.external_data.set_base_dir(model.graph, source.folder)
    _tidy(model, name)
    lower_ir_version(model, notes)
    chosen = choose_output(model, name, logits or named_before(model), notes)
    if logits is not None:
        set_metadata(model, "logits", chosen)
    common.RemoveUnusedNodesPass()(model)  # what the logits do not depend on is no layer to choose
    state_types(model)
    forget_unknown(model)
    fix_dims(model, name, dims)
    check_dims(model, name)
    name_batch(model)
    check_sizes(model, name)
    _to_float32(model, name, notes)
    _from_quantised(model, name, notes)
    refuse_foreign(model, name)
    if make_batch_dynamic(model, name):
        notes.append("the fixed batch dimension was made dynamic")
    state_shapes(model, name)
    return model, chosen


def named_before(model: ir.Model) -> str | None:
    """The logits as they were named when the file was written, if it has them still."""
    name = get_metadata(model, "logits")
    known = {value.name for value in model.graph.outputs} | {v.name for node in model.graph for v in node.outputs}
    return name if isinstance(name, str) and name in known else None


@contextlib.contextmanager
def _trusting(name: str) -> Iterator[None]:
    """For what trusts the graph."""
    try:
        yield
    except Exception as error:  # onnx_ir wraps whatever it meets in a chain of its own kind
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ModelError(f"{name} is not a valid ONNX model: {str(cause)[:300]}. Export it again.") from error


def _tidy(model: ir.Model, name: str) -> None:
    """Constants as initializers, no functions, a name for everything."""
    lifting = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=1)
    with _trusting(name):
        for step in (common.InlinePass(), common.RemoveInitializersFromInputsPass(), lifting):
            step(model)
    for repair in (FillConstants(), NameNodes(), common.NameFixPass()):
        repair(model)


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
