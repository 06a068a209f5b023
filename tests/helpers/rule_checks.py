"""Checks of one gradient rule: against torch and finite differences in float64.

A rule is tested on a graph of one or a few nodes; the loss is the sum of the output times fixed random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from adabet_onnx.portable.autodiff import differentiate, plan
from adabet_onnx.portable.builder import Builder
from adabet_onnx.portable.shapes import annotate

_SEED_INPUT = "output_gradient"


def values(*shape: int, seed: int = 0, low: float | None = None, high: float = 2.0) -> np.ndarray:
    """Random float32 numbers: normal, or uniform between two bounds."""
    rng = np.random.default_rng([seed, *shape])
    drawn = rng.standard_normal(shape) if low is None else rng.uniform(low, high, shape)
    return drawn.astype(np.float32)


def graph_of(
    nodes: onnx.NodeProto | Sequence[onnx.NodeProto],
    feeds: dict[str, np.ndarray],
    constants: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    batched: Sequence[str] = ("x",),
) -> onnx.ModelProto:
    """A model of these nodes; inputs named in ``batched`` have the batch in front. Its output is the last node's."""
    nodes = [nodes] if isinstance(nodes, onnx.NodeProto) else list(nodes)
    inputs = []
    for name, array in feeds.items():
        shape = ["N", *array.shape[1:]] if name in batched else list(array.shape)
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape))
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    output = onnx.ValueInfoProto(name=nodes[-1].output[0])
    for i, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}_{i}"
    graph = helper.make_graph(nodes, "rule", inputs, [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    if not inferred.graph.output[0].type.tensor_type.elem_type:  # shape inference stops at a GroupNormalization
        double = any(array.dtype == np.float64 for array in (*feeds.values(), *(constants or {}).values()))
        inferred.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE if double else TensorProto.FLOAT
    return inferred


def obstacles(model: onnx.ModelProto, wrt: Sequence[str]) -> list[str]:
    """The reasons why ``wrt`` has no gradients; empty if it has."""
    made = ir.from_proto(model)
    annotate(made)
    found = {value.name: value for value in (*made.graph.inputs, *made.graph.initializers.values())}
    route = plan(made.graph, made.graph.outputs[0], [found[name] for name in wrt], opset=made.opset_imports[""])
    return [str(obstacle) for obstacle in route.obstacles]


def gradient_graph(model: onnx.ModelProto, wrt: Sequence[str], allowed: Sequence[str] | None = None) -> onnx.ModelProto:
    """The model with one more input, the output's gradient, and the gradients of ``wrt`` as further outputs."""
    made = ir.from_proto(model)
    annotate(made)
    opset = made.opset_imports[""]
    values = {value.name: value for value in (*made.graph.inputs, *made.graph.initializers.values())}
    output = made.graph.outputs[0]
    seed = ir.Value(name=_SEED_INPUT, type=ir.TensorType(output.dtype), shape=output.shape)
    route = plan(made.graph, output, [values[name] for name in wrt], opset=opset)
    assert not route.obstacles, [str(o) for o in route.obstacles]
    build = Builder(made.graph, opset=opset, batch=made.graph.inputs[0], allowed=allowed)
    gradients = differentiate(route, seed, build)
    for value in build.initializers:
        made.graph.register_initializer(value)
    made.graph.extend(build.nodes)
    made.graph.inputs.append(seed)
    build.begin("out")
    for name in wrt:  # an Identity for each, since two gradients may be the same value
        node = ir.node("Identity", [gradients[values[name]]], name=f"out/{name}")
        node.outputs[0].name = f"gradient of {name}"
        node.outputs[0].dtype = gradients[values[name]].dtype
        made.graph.append(node)
        made.graph.outputs.append(node.outputs[0])
    return ir.to_proto(made)


def our_gradients(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], seed: np.ndarray, wrt: Sequence[str], **options: object
) -> dict[str, np.ndarray]:
    """Gradients by our rules, in onnxruntime."""
    proto = gradient_graph(model, wrt, **options)  # type: ignore[arg-type]
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    names = [f"gradient of {name}" for name in wrt]
    return dict(zip(wrt, session.run(names, {**feeds, _SEED_INPUT: seed}), strict=True))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected number (at least 1e-3); infinite for another shape or NaN."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    scale = max(1e-3, float(np.abs(expected).max(initial=0)))
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0)) / scale


def check_torch(
    oracle, nodes, feeds, wrt, constants=None, *, tolerance=1e-4, opset=17, batched=("x",), allowed=None, seed=0
) -> None:
    """Our gradients in float32 equal torch's (of tests/helpers/torch_oracle.py, in float64)."""
    import torch

    model = graph_of(nodes, feeds, constants, opset=opset, batched=batched)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    leaves = {}
    given = {}
    for name, array in {**stored, **feeds}.items():
        tensor = torch.from_numpy(np.array(array, np.float64 if array.dtype.kind == "f" else array.dtype))
        if name in wrt:
            tensor.requires_grad_(True)
            leaves[name] = tensor
        given[name] = tensor
    y = oracle.execute(model, given)[model.graph.output[0].name]
    upstream = np.random.default_rng([seed, 9]).standard_normal(tuple(y.shape)).astype(np.float32)
    (y * torch.from_numpy(upstream.astype(np.float64))).sum().backward()
    ours = our_gradients(model, feeds, upstream, wrt, allowed=allowed)
    for name in wrt:
        expected = leaves[name].grad
        expected = np.zeros(leaves[name].shape) if expected is None else expected.numpy()
        error = relative(ours[name], expected)
        assert error <= tolerance, f"gradient of {name}: {error:.2e} from torch's"


def check_differences(
    nodes,
    feeds,
    wrt,
    constants=None,
    *,
    tolerance=1e-5,
    opset=17,
    batched=("x",),
    allowed=None,
    single=(),
    count=12,
    seed=0,
) -> None:
    """Our rules, in float64 on the ONNX reference evaluator, agree with central finite differences.

    Constants named in ``single`` stay in float32.
    """
    double = lambda a: a.astype(np.float64) if a.dtype == np.float32 else a  # noqa: E731
    feeds = {name: double(a) for name, a in feeds.items()}
    constants = {name: a if name in single else double(a) for name, a in (constants or {}).items()}
    model = graph_of(nodes, feeds, constants, opset=opset, batched=batched)
    stored = {t.name for t in model.graph.initializer}
    forward = ReferenceEvaluator(_with_inputs(model))
    values = {**constants, **feeds}

    def run(given):
        return forward.run(None, given)[0]

    y = run(values)
    rng = np.random.default_rng([seed, 9])
    upstream = rng.standard_normal(y.shape)
    backward = ReferenceEvaluator(gradient_graph(model, wrt, allowed))
    names = [f"gradient of {name}" for name in wrt]
    graph_feeds = {k: v for k, v in values.items() if k not in stored}
    ours = dict(zip(wrt, backward.run(names, {**graph_feeds, _SEED_INPUT: upstream}), strict=True))
    step = 1e-5
    for name in wrt:
        assert ours[name].shape == values[name].shape
        scale = max(1e-3, float(np.abs(ours[name]).max()))
        for index in rng.permutation(values[name].size)[:count]:
            sums = []
            for sign in (1, -1):
                moved = values[name].copy().reshape(-1)
                moved[index] += sign * step
                sums.append(float((run({**values, name: moved.reshape(values[name].shape)}) * upstream).sum()))
            slope = (sums[0] - sums[1]) / (2 * step)
            error = abs(slope - float(ours[name].reshape(-1)[index])) / scale
            assert error <= tolerance, f"gradient of {name}[{index}]: {error:.2e} from finite differences"


def _with_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its initializers as inputs, so that they can be moved."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    del made.graph.initializer[:]
    return made
