"""Our gradient rules against onnx-ad, a package with rules of its own for nearly the same operators.

Its rules share nothing with ours or with torch's. KNOWN lists cases that it rejects or gets wrong, and a test checks
that they still are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import test_rules_activations as activations
import test_rules_conv as convolutions
import test_rules_elementwise as elementwise
import test_rules_indexing as indexing
import test_rules_linear as linear
import test_rules_normalization as normalizations
import test_rules_pad as pads
import test_rules_pooling as pooling
import test_rules_reductions as reductions
import test_rules_resize as resizing
import test_rules_shaping as shaping
from conftest import missing
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from rule_checks import check_torch, gradient_graph, graph_of, relative, values

from adabet_onnx.portable.autodiff import plan
from adabet_onnx.portable.rules import differentiable_operators
from adabet_onnx.portable.shapes import annotate

pytestmark = pytest.mark.slow

node = helper.make_node
TOLERANCE = 1e-4
COMPARED = 105  # number of operators, so that a loss is noticed


@dataclass(frozen=True)
class Case:
    """A graph and the inputs to differentiate: the arguments of check_torch."""

    nodes: onnx.NodeProto | Sequence[onnx.NodeProto]
    feeds: dict[str, np.ndarray]
    wrt: Sequence[str]
    constants: dict[str, np.ndarray] | None = None
    opset: int = 17
    batched: Sequence[str] = ("x",)


def conv_cases():
    """The weight and the rest separately: onnx-ad rejects many weights."""
    for name, (given, feeds, constants) in convolutions.CASES.items():
        yield f"{name}: weight", Case(given, feeds, ["w"], constants)
        yield f"{name}: rest", Case(given, feeds, ["x", *(constants.keys() - {"w"})], constants)


def linear_cases():
    for name, (left, right) in linear.MATMULS.items():
        feeds = {"a": values(*left), "b": values(*right, seed=1)}
        yield f"MatMul, {name}", Case(node("MatMul", ["a", "b"], ["y"]), feeds, ["a", "b"], batched=())
    for equation, shapes in linear.EINSUMS.items():
        feeds = {name: values(*shape, seed=i) for i, (name, shape) in enumerate(zip("xvw", shapes, strict=False))}
        made = node("Einsum", list(feeds), ["y"], equation=equation)
        yield f"Einsum, {equation}", Case(made, feeds, list(feeds), batched=())
    for name, shape in linear.BIASES.items():
        for flips in ((0, 0), (0, 1), (1, 0), (1, 1)):
            feeds = {"a": values(*((4, 3) if flips[0] else (3, 4)))}
            feeds["b"] = values(*((5, 4) if flips[1] else (4, 5)), seed=1)
            if shape is not None:
                feeds["c"] = np.asarray(values(*shape, seed=2), np.float32)
            made = node("Gemm", list(feeds), ["y"], transA=flips[0], transB=flips[1], alpha=0.5, beta=-1.5)
            yield f"Gemm, {name}, {flips}", Case(made, feeds, list(feeds), batched=())
    for op_type in ("Softmax", "LogSoftmax"):
        for opset in (12, 17):
            for axis in (0, 1, -1):
                made = node(op_type, ["x"], ["y"], axis=axis)
                yield f"{op_type}, {axis}, {opset}", Case(made, {"x": 3 * values(3, 4, 5)}, ["x"], opset=opset)


def normalization_cases():
    wrt = ["x", "scale", "bias"]
    for name, (made, feeds, constants) in normalizations.BATCH_NORMS.items():
        yield f"BatchNormalization, {name}", Case(made, feeds, wrt, constants)
    for name, (made, feeds) in normalizations.LAYER_NORMS.items():
        yield f"LayerNormalization, {name}", Case(made, feeds, wrt)
    for name, (made, feeds, opset) in normalizations.GROUP_NORMS.items():
        yield f"group normalization, {name}", Case(made, feeds, wrt, opset=opset)
    for name, (made, feeds) in normalizations.OTHERS.items():
        yield f"normalization, {name}", Case(made, feeds, ["x"])


def pool_cases():
    kinds = {"MaxPool": pooling.MAX, "AveragePool": pooling.AVERAGE, "LpPool": pooling.NORM, "global": pooling.GLOBAL}
    for kind, cases in kinds.items():
        for name, (made, x) in cases.items():
            yield f"{kind}, {name}", Case(made, {"x": x}, ["x"])


def cast_cases():
    there, weight = node("Cast", ["x"], ["a"], to=TensorProto.DOUBLE), {"w": values(5, seed=1).astype(np.float64)}
    product, back = node("Mul", ["a", "w"], ["b"]), node("CastLike", ["b", "x"], ["y"])
    yield "Cast", Case([there, product], {"x": values(3, 4, 5)}, ["x", "w"], weight)
    yield "Cast and CastLike", Case([there, product, back], {"x": values(3, 4, 5)}, ["x", "w"], weight)


CASES: dict[str, Case] = {f"activation, {k}": Case(*a, **o) for k, (a, o) in activations.CASES.items()}
CASES |= {f"element, {k}": Case(*a, **o) for k, (a, o) in elementwise.CASES.items()}
CASES |= {f"reduction, {k}": Case(*a, **o) for k, (a, o) in reductions.CASES.items()}
CASES |= {f"index, {k}": Case(*a, batched=indexing.batched(k)) for k, a in indexing.CASES.items()}
CASES |= {f"shape, {k}": Case(*a) for k, a in shaping.CASES.items()}
CASES |= {f"Compress, {k}": Case(*a) for k, a in indexing.COMPRESS.items()}
CASES |= {f"ReverseSequence, {k}": Case(*a, batched=()) for k, a in shaping.REVERSED.items()}
CASES |= {f"Mod, {k}": Case(*elementwise.REMAINDERS, [k]) for k in "xw"}
CASES |= {f"Pad, {k}": Case(n, f, ["x"], c, o) for k, ((n, f, c), o) in pads.CASES.items()}
CASES |= {f"Pad of more, {k}": Case(n, f, ["x"], c, o) for k, ((n, f, c), o) in pads.OTHER_AXES.items()}
CASES |= {f"Resize, {k}": Case(n, f, ["x"], c, o) for k, (n, f, c, o) in resizing.TORCH.items()}
CASES |= {f"Resize too, {k}": Case(n, f, ["x"], c, o) for k, (n, f, c, o) in resizing.DIFFERENCES.items()}
for cases in (conv_cases, linear_cases, normalization_cases, pool_cases, cast_cases):
    CASES |= dict(cases())

# These run on onnx's reference evaluator: onnxruntime has LRN of odd windows only, and 1.19 has no opset 24 and
# no ReduceSum without axes that does nothing.
ON_REFERENCE = ("activation, Swish*", "normalization, lrn, even", "reduction, no axes, nothing done")

# Cases that onnx-ad 0.3.0 fails (* matches anything), and how it fails. A gradient that is "apart"
# from ours is wrong, as torch shows; what is refused or does not run is compared with torch in the rules' own tests.
_SHIFTED = "apart"  # it gives ConvTranspose an output_shape, from which pads are made anew, equal on both sides
_GROUPED = "a grouped Conv is not differentiated with respect to its weight"
_CROPPED = "does not run"  # its gradient gets another shape than the input
KNOWN = {
    "Conv, 1x1, pads: rest": _SHIFTED,
    "Conv, 3x3, asymmetric: rest": _SHIFTED,
    "Conv, depthwise, small, asymmetric: rest": _SHIFTED,
    "Conv, 3x3, wide padding: rest": _SHIFTED,
    "Conv, 3x3, padding alone: rest": _SHIFTED,
    "Conv, 3-D: rest": _SHIFTED,
    "AveragePool, overlapping*": _SHIFTED,
    "AveragePool, 3-D*": _SHIFTED,
    "Conv, *groups*: weight": _GROUPED,
    "Conv, 1x1, every channel: weight": _GROUPED,
    "Conv, depthwise*: weight": _GROUPED,
    "ConvTranspose, *: weight": "ConvTranspose is not differentiated with respect to its weight",
    "*Pool, same *": "is not differentiated; re-export with explicit pads",
    "AveragePool, ceil": "AveragePool with ceil_mode=1 is not differentiated in reverse mode",
    "BatchNormalization, training*": "BatchNormalization with training_mode is not differentiated",
    "Einsum, ...k,kd*": "without the ellipsis the output has is not differentiated in reverse",
    "Einsum, a...d,...d->a...": "Einsum is differentiated in reverse only with a leading ellipsis",
    "*Softmax, *, 12": "before opset 13 flattens the input to 2-D",
    "Pad, cropped*": _CROPPED,
    "Pad*, reflect*": "only constant-mode Pad is differentiated in reverse",
    "Pad*, edge*": "only constant-mode Pad is differentiated in reverse",
    "Pad*, wrap*": "only constant-mode Pad is differentiated in reverse",
    "element, Pow int64": "Pow with a differentiated integer exponent has no derivative",
    "index, tuples for each sample*": "GatherND with batch_dims is not differentiated",
    "reduction, ReduceLogSum, *, 17": "no reverse rule for ReduceLogSum",  # it has one in opset 18
    "shape, slice: nothing": _CROPPED,
    "shape, slice: *every*": "Slice with a step other than 1 is not differentiated in reverse mode",
    "shape, slice: *reversed*": "Slice with a step other than 1 is not differentiated in reverse mode",
}


def known(name: str) -> str | None:
    """How onnx-ad fails in a case, or None."""
    return next((reason for pattern, reason in KNOWN.items() if fnmatchcase(name, pattern)), None)


BOTH = [name for name in CASES if known(name) is None]
OURS_ALONE = [name for name in CASES if known(name) is not None]


@pytest.fixture
def onnx_ad():
    """The package."""
    if importlib.util.find_spec("onnx_ad") is None:
        missing("onnx-ad is not installed")
    import onnx_ad

    return onnx_ad


def run(model: onnx.ModelProto, outputs: list[str], feeds: dict[str, np.ndarray], reference: bool) -> list[np.ndarray]:
    """Outputs of a model."""
    if reference:
        return ReferenceEvaluator(model).run(outputs, feeds)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return session.run(outputs, feeds)


def their_graph(onnx_ad, case: Case, shape: Sequence[int]) -> onnx.ModelProto:
    """onnx-ad's graph of the gradients, of a graph whose shapes are all fixed: some of its rules need that.

    It differentiates only with respect to inputs, and appends the number of output gradients to each shape.
    """
    model = graph_of(case.nodes, case.feeds, case.constants, opset=case.opset, batched=())
    stored = [*model.graph.initializer]
    del model.graph.initializer[:]
    for tensor in stored:
        if tensor.name in case.wrt:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            model.graph.initializer.append(tensor)
    (output,) = model.graph.output
    kind = output.type.tensor_type.elem_type
    output.CopyFrom(helper.make_tensor_value_info(output.name, kind, shape))  # which onnx does not always infer
    return onnx_ad.reverse(model, inputs=list(case.wrt), outputs=[output.name], layout="onnx")


def difference(onnx_ad, name: str) -> str | None:
    """Why onnx-ad does not agree with our gradients in a case, or None."""
    case = CASES[name]
    reference = any(fnmatchcase(name, pattern) for pattern in ON_REFERENCE)
    model = graph_of(case.nodes, case.feeds, case.constants, opset=case.opset, batched=case.batched)
    (y,) = run(model, [model.graph.output[0].name], case.feeds, reference)
    upstream = np.random.default_rng(9).standard_normal(y.shape).astype(y.dtype)
    feeds = {**case.feeds, "output_gradient": upstream}
    wanted = [f"gradient of {wrt}" for wrt in case.wrt]
    ours = run(gradient_graph(model, case.wrt), wanted, feeds, reference)
    try:
        made = their_graph(onnx_ad, case, y.shape)
    except onnx_ad.UnsupportedOperator as error:
        return f"refused: {error}"
    trained = {wrt: case.constants[wrt] for wrt in case.wrt if wrt not in case.feeds}
    feeds = {**case.feeds, **trained, f"adj_{model.graph.output[0].name}": upstream[..., None]}
    try:
        theirs = run(made, [f"adj_{wrt}" for wrt in case.wrt], feeds, reference)
    except Exception as error:
        return f"does not run: {error}"
    errors = []
    for wrt, own, other in zip(case.wrt, ours, theirs, strict=True):
        error = max(relative(own, other[..., 0]), relative(other[..., 0], own))
        if error > TOLERANCE:
            errors.append(f"gradient of {wrt}: {error:.1e} apart")
    return "; ".join(errors) or None


@pytest.mark.parametrize("name", BOTH)
def test_the_same_gradients(name, onnx_ad):
    assert difference(onnx_ad, name) is None


@pytest.mark.parametrize("name", OURS_ALONE)
def test_what_it_does_not_do(name, onnx_ad):
    found = difference(onnx_ad, name)
    assert found is not None, "onnx-ad agrees: no longer one of KNOWN"
    assert known(name) in found


@pytest.mark.parametrize("name", [name for name in OURS_ALONE if known(name) == _SHIFTED])
def test_where_it_is_wrong_ours_are_as_torch_has_them(name, torch_oracle):
    case = CASES[name]
    check_torch(torch_oracle, case.nodes, case.feeds, case.wrt, case.constants, opset=case.opset, batched=case.batched)


@pytest.mark.parametrize("pattern", [*KNOWN, *ON_REFERENCE])
def test_every_pattern_names_a_case(pattern):
    assert any(fnmatchcase(name, pattern) for name in CASES)


def compared() -> set[str]:
    """Operators that are differentiated in a case where both agree."""
    found = set()
    for name in BOTH:
        case = CASES[name]
        made = ir.from_proto(graph_of(case.nodes, case.feeds, case.constants, opset=case.opset, batched=case.batched))
        annotate(made, measure=False)
        given = {value.name: value for value in (*made.graph.inputs, *made.graph.initializers.values())}
        route = plan(made.graph, made.graph.outputs[0], [given[wrt] for wrt in case.wrt], opset=case.opset)
        found |= {forward.op_type for forward, _ in route.steps}
    return found


def test_every_operator_of_both_is_compared(onnx_ad):
    from onnx_ad.lower import LOWERINGS
    from onnx_ad.rules import REVERSE, ZERO_DERIVATIVE

    functions = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.has_function}
    theirs = (
        (REVERSE.keys() - set(ZERO_DERIVATIVE)) | LOWERINGS.keys() | functions
    )  # which it writes out by onnx's body
    found = compared()
    assert theirs.intersection(differentiable_operators()) <= found
    assert len(found.intersection(differentiable_operators())) >= COMPARED
