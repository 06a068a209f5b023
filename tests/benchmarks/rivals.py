"""Training steps of other libraries, with the same model and parameters, single-threaded: torch eager and onnxsim."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as f

from adabet_onnx import runtime

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from models import architectures

Step = Callable[[], object]
RATE = 1e-4


class Eager(nn.Module):
    """A small convolutional network of an ONNX graph, as torch's eager mode runs it: a functional call per node.

    Args:
        model: whose one input is the first of the graph; its logits are the graph's one output.

    Raises:
        NotImplementedError: an operator that is not implemented here.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self._nodes = [
            (node, {a.name: helper.get_attribute_value(a) for a in node.attribute}) for node in model.graph.node
        ]
        self._input, self._output = model.graph.input[0].name, model.graph.output[0].name
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        unknown = {node.op_type for node, _ in self._nodes} - {name for name in vars(Eager) if name[0].isupper()}
        if unknown:
            raise NotImplementedError(f"no torch here for {', '.join(sorted(unknown))}")
        self._names, values = {}, nn.ParameterList()
        for name, array in self._constants.items():
            if array.dtype == np.float32 and array.ndim:
                self._names[name] = len(values)
                values.append(nn.Parameter(torch.from_numpy(array.copy())))
        self.values = values

    def parameter(self, name: str) -> nn.Parameter:
        """Of the initializer of this name."""
        return self.values[self._names[name]]

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        held: dict[str, Any] = {name: self.values[number] for name, number in self._names.items()}
        held[self._input] = x
        for node, attributes in self._nodes:
            given = [held.get(name, self._constants.get(name)) for name in node.input]
            held[node.output[0]] = getattr(self, node.op_type)(*given, **attributes)
        return held[self._output]

    @staticmethod
    def Conv(
        x: Tensor, w: Tensor, b: Tensor | None = None, *, strides=(1, 1), pads=(0, 0, 0, 0), **other: Any
    ) -> Tensor:  # type: ignore[no-untyped-def]
        top, left, bottom, right = pads
        if (top, left) != (bottom, right):
            x, top, left = f.pad(x, (left, right, top, bottom)), 0, 0
        dilations, group = other.get("dilations", (1, 1)), other.get("group", 1)
        return f.conv2d(x, w, b, tuple(strides), (top, left), tuple(dilations), group)

    @staticmethod
    def BatchNormalization(x: Tensor, w: Tensor, b: Tensor, mean: Tensor, var: Tensor, **other: Any) -> Tensor:
        return f.batch_norm(x, mean.detach(), var.detach(), w, b, eps=other.get("epsilon", 1e-5))

    @staticmethod
    def Relu(x: Tensor) -> Tensor:
        return f.relu(x)

    @staticmethod
    def Clip(x: Tensor, low: np.ndarray, high: np.ndarray) -> Tensor:
        return f.hardtanh(x, float(low), float(high))

    @staticmethod
    def Add(x: Tensor, y: Tensor) -> Tensor:
        return x + y

    @staticmethod
    def Pad(x: Tensor, pads: np.ndarray, *_: Any, mode: bytes = b"constant") -> Tensor:
        half = len(pads) // 2
        sides = [int(p) for axis in reversed(range(half)) for p in (pads[axis], pads[half + axis])]
        return f.pad(x, sides, mode.decode())

    @staticmethod
    def Slice(
        x: Tensor, starts: np.ndarray, ends: np.ndarray, axes: np.ndarray, steps: np.ndarray | None = None
    ) -> Tensor:
        where = [slice(None)] * x.ndim
        for number, axis in enumerate(axes):
            stride = 1 if steps is None else int(steps[number])
            where[int(axis)] = slice(int(starts[number]), min(int(ends[number]), x.shape[int(axis)]), stride)
        return x[tuple(where)]

    @staticmethod
    def ReduceMean(x: Tensor, *, axes: Sequence[int], keepdims: int = 1) -> Tensor:
        return x.mean(tuple(axes), keepdim=bool(keepdims))

    @staticmethod
    def GlobalAveragePool(x: Tensor) -> Tensor:
        return f.adaptive_avg_pool2d(x, 1)

    @staticmethod
    def Reshape(x: Tensor, shape: np.ndarray, **_: Any) -> Tensor:
        return x.reshape(len(x), -1) if len(shape) == 2 else x.reshape(tuple(shape.tolist()))

    @staticmethod
    def Gemm(x: Tensor, w: Tensor, b: Tensor, **other: Any) -> Tensor:
        return f.linear(x, w if other.get("transB") else w.T, b)


def torch_step(
    architecture: str | None,
    model: onnx.ModelProto,
    parameters: Sequence[str],
    x: np.ndarray,
    labels: np.ndarray,
    classes: int,
) -> Step:
    """A step in eager mode and evaluation mode with AdamW; everything else is frozen.

    Args:
        architecture: of `architectures`, whose module it is with another head; None: the graph is run.
        model: the graph.
        parameters: that are trained, by their names in the graph.
        x: inputs.
        labels: of them.
        classes: of the head.
    """
    torch.set_num_threads(1)
    if architecture is None:
        module: Any = Eager(model)
        trained = [module.parameter(name) for name in parameters]
    else:
        module, *_ = architectures.module(architecture, size="full")
        path, head = [(path, part) for path, part in module.named_modules() if isinstance(part, nn.Linear)][-1]
        parent, _, last = path.rpartition(".")
        setattr(module.get_submodule(parent), last, nn.Linear(head.in_features, classes))
        named = dict(module.named_parameters())
        trained = [named[name] for name in parameters]
    module.eval().requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    tensors, targets = torch.from_numpy(x), torch.from_numpy(labels)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = f.cross_entropy(module(tensors), targets)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def onnxsim_step(
    model: onnx.ModelProto, parameters: Sequence[str], x: np.ndarray, labels: np.ndarray, classes: int
) -> Step:
    """The step that onnxsim's `compile_training_loop` writes for a fixed batch, with Adam.

    Its graph is run as ours are, in one thread, with parameters and moments kept in the runtime's values: with the
    runtime's optimisations, if that is faster and the losses of the first steps are the same, otherwise without, as
    onnxsim itself runs it.

    Raises:
        ImportError: onnxsim is not installed.
    """
    import onnxsim

    with_loss = _with_loss(onnxsim, model, parameters, x.shape, classes)
    loop = onnxsim.compile_training_loop(with_loss, "loss__", list(parameters))
    feeds = {model.graph.input[0].name: x, "one_hot__": np.eye(classes, dtype=np.float32)[labels]}
    optimised, plain = runtime.training_options(1), runtime.training_options(1)
    plain.graph_optimization_level = runtime.onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    found = []
    for options in (plain, optimised):
        step = _looped(loop, feeds, options)
        losses = []
        for _ in range(4):
            began = time.perf_counter()
            losses.append(step())
            seconds = time.perf_counter() - began
        found.append((step, losses, seconds))
    (step, right, slow), (other, losses, fast) = found
    return other if fast < slow and np.allclose(losses, right, rtol=1e-3) else step


def _looped(loop: Any, feeds: dict[str, np.ndarray], options: Any) -> Callable[[], float]:
    """A function that does the next step of onnxsim's graph."""
    from onnxsim import qat_graph

    written, value = loop.step_graph, runtime.onnxruntime().OrtValue.ortvalue_from_numpy
    session = runtime.inference_session(written.model.SerializeToString(), "onnxsim's step", options)
    state = {name: value(np.ascontiguousarray(array)) for name, array in loop.initial_state.items()}
    names = [output.name for output in session.get_outputs()]
    rate, done = value(np.array(RATE, np.float32)), Counter[str]()

    def step() -> float:
        given = {name: value(array) for name, array in feeds.items()} | state | {"lr": rate}
        given |= {n: value(np.asarray(v, np.float32)) for n, v in qat_graph.adam_bias_corrections(done["t"]).items()}
        found = dict(zip(names, session.run_with_ort_values(names, given), strict=True))
        state.update({name: found[output] for name, output in written.state.items()})
        done["t"] += 1
        return float(found[written.loss_name].numpy())

    return step


def _with_loss(
    onnxsim: Any, model: onnx.ModelProto, parameters: Sequence[str], shape: Sequence[int], classes: int
) -> onnx.ModelProto:
    """A copy for a fixed batch, with the mean cross-entropy, in operators that onnxsim differentiates."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_value = shape[0]
    trained = [tensor for tensor in fixed.graph.initializer if tensor.name in parameters]
    frozen = [tensor for tensor in fixed.graph.initializer if tensor.name not in parameters]
    inputs = list(fixed.graph.input)
    for tensor in trained:  # so that nothing is folded into them
        fixed.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del fixed.graph.initializer[:]
    fixed.graph.initializer.extend(frozen)
    fixed, _ = onnxsim.simplify(fixed, skip_fuse_bn=True)  # shape arithmetic becomes constants
    del fixed.graph.input[:]
    fixed.graph.input.extend(inputs)
    fixed.graph.initializer.extend(trained)
    graph, logits = fixed.graph, fixed.graph.output[0].name
    for node in graph.node:
        if node.op_type == "Flatten":
            node.CopyFrom(helper.make_node("Reshape", [node.input[0], "flat__"], list(node.output), node.name))
    graph.initializer.append(numpy_helper.from_array(np.array([shape[0], -1], np.int64), "flat__"))
    graph.initializer.append(numpy_helper.from_array(np.array(-1 / shape[0], np.float32), "scale__"))
    graph.initializer.append(numpy_helper.from_array(np.array([0, 1], np.int64), "axes__"))
    graph.node.extend(
        [
            helper.make_node("Softmax", [logits], ["shares__"], axis=1),
            helper.make_node("Log", ["shares__"], ["logs__"]),
            helper.make_node("Mul", ["logs__", "one_hot__"], ["own__"]),
            helper.make_node("Mul", ["own__", "scale__"], ["parts__"]),
            helper.make_node("ReduceSum", ["parts__", "axes__"], ["loss__"], keepdims=0),
        ]
    )
    graph.input.append(helper.make_tensor_value_info("one_hot__", TensorProto.FLOAT, [shape[0], classes]))
    graph.output.append(helper.make_tensor_value_info("loss__", TensorProto.FLOAT, []))
    return fixed
