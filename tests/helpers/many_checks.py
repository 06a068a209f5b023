"""Checks many one-node graphs in one session: separate sessions would take most of the time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from rule_checks import relative

from adabet_onnx.portable.autodiff import differentiate, plan
from adabet_onnx.portable.builder import Builder
from adabet_onnx.portable.shapes import annotate

Case = tuple[onnx.NodeProto, np.ndarray, dict[str, np.ndarray]]  # node of x, its input x, its constants


def one_graph(cases: Sequence[Case], opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A graph in which node i makes y<i> from x<i>, and its feeds."""
    nodes, inputs, outputs, tensors, feeds = [], [], [], [], {}
    for i, (given, x, constants) in enumerate(cases):
        node = onnx.NodeProto()
        node.CopyFrom(given)
        node.name, node.output[0] = f"{node.op_type}_{i}", f"y{i}"
        for position, name in enumerate(node.input):
            node.input[position] = name and f"{name}{i}"
        nodes.append(node)
        feeds[f"x{i}"] = x
        inputs.append(helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["N", *x.shape[1:]]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None))
        tensors += [numpy_helper.from_array(array, f"{name}{i}") for name, array in constants.items()]
    graph = helper.make_graph(nodes, "many", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), feeds


def refused(cases: Sequence[Case], opset: int) -> list[str | None]:
    """For each case, the reason why it has no gradient, or None."""
    made = ir.from_proto(one_graph(cases, opset)[0])
    annotate(made, measure=False)
    found = []
    for x, y in zip(made.graph.inputs, made.graph.outputs, strict=True):
        obstacles = plan(made.graph, y, [x], opset=opset).obstacles
        found.append(str(obstacles[0]) if obstacles else None)
    return found


def run_many(
    cases: Sequence[Case], opset: int, *, allowed: Sequence[str] | None = None, seed: int = 0
) -> tuple[onnx.ModelProto, dict[str, np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Our gradients in onnxruntime: the graph, its feeds, the gradients given to outputs, and those of the inputs."""
    model, feeds = one_graph(cases, opset)
    made = ir.from_proto(model)
    annotate(made, measure=False)
    forward = list(made.graph.inputs)
    build = Builder(made.graph, opset=opset, batch=forward[0], allowed=allowed)
    rng = np.random.default_rng(seed)
    upstream, gradients = [], []
    for i, (x, y) in enumerate(zip(forward, list(made.graph.outputs), strict=True)):
        route = plan(made.graph, y, [x], opset=opset)
        assert not route.obstacles, str(route.obstacles[0])
        dy = ir.Value(name=f"dy{i}", type=ir.TensorType(y.dtype), shape=y.shape)
        gradients.append(differentiate(route, dy, build)[x])
        made.graph.inputs.append(dy)
        shape = [len(feeds["x0"]) if isinstance(d, ir.SymbolicDim) else d for d in y.shape]
        upstream.append(rng.standard_normal(shape).astype(np.float32))
        feeds[f"dy{i}"] = upstream[-1]
    for value in build.initializers:
        made.graph.register_initializer(value)
    made.graph.extend(build.nodes)
    for i, value in enumerate(gradients):
        node = ir.node("Identity", [value], name=f"out{i}")
        node.outputs[0].name, node.outputs[0].dtype = f"dx{i}", ir.DataType.FLOAT
        made.graph.append(node)
        made.graph.outputs.append(node.outputs[0])
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        ir.to_proto(made).SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return model, feeds, upstream, session.run([f"dx{i}" for i in range(len(cases))], feeds)


def check_many(
    oracle, cases: Sequence[Case], opset: int, *, allowed: Sequence[str] | None = None, tolerance: float = 1e-4
) -> None:
    """Our gradients equal torch's."""
    import torch

    model, feeds, upstream, ours = run_many(cases, opset, allowed=allowed)
    given = {t.name: torch.from_numpy(np.array(numpy_helper.to_array(t))) for t in model.graph.initializer}
    leaves = [torch.from_numpy(feeds[f"x{i}"].astype(np.float64)).requires_grad_() for i in range(len(cases))]
    given |= {f"x{i}": leaf for i, leaf in enumerate(leaves)}
    found = oracle.execute(model, given)
    sums = [(found[f"y{i}"] * torch.from_numpy(dy.astype(np.float64))).sum() for i, dy in enumerate(upstream)]
    torch.stack(sums).sum().backward()
    for i, (node, x, _) in enumerate(cases):
        error = relative(ours[i], leaves[i].grad.numpy())
        assert error <= tolerance, f"{error:.1e} from torch's for x of {x.shape}: {node}"
