"""A head from whose parameters to the logits everything is linear: the graphs before and after it, and its layout.

Linear operators move, copy or average the head's outputs, each in the same way: reshaping, transposition, slices, mean
pooling, resizing by interpolation. ConvTranspose is not supported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..model.passes.unused import RemoveUnused
from ..model.probabilities import SHAPE_ONLY
from ..model.uses import ancestors

_MOVES = frozenset({*SHAPE_ONLY, "Dropout", "Gather", "Identity", "Slice", "Transpose"})
_AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Upsample"})
_LINEAR_RESIZE = ("nearest", "linear", "cubic")
_HEADS = frozenset({"Conv", "Gemm", "MatMul"})
# Operators that may be between a bias and the node that adds it.
_BIAS_RESHAPES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


class NotLinearError(Exception):
    """Why no head can be fitted here, in a short phrase."""


@dataclass(frozen=True)
class LinearHead:
    """A head, and the parts of its graph.

    Attributes:
        node: the node that multiplies.
        position: position of the weight among its inputs.
        transposed: whether the weight reaches it transposed.
        source: name of the head's input.
        before: the graph that computes that input; None if it is a graph input.
        activation: name of the head's outputs, bias included.
        after: the graph that computes logits from them as its input; None if they are the logits.
        biased: whether the head has a bias.
    """

    node: ir.Node
    position: int
    transposed: bool
    source: str
    before: ir.Model | None
    activation: str
    after: ir.Model | None
    biased: bool

    def _number(self, name: str, default: float) -> float:
        return float(self.node.attributes.get_float(name, default))

    def _integers(self, name: str, default: list[int]) -> list[int]:
        return [int(value) for value in self.node.attributes.get_ints(name, default)]

    @property
    def axis(self) -> int:
        """The axis of the features in what `rows` returns, and of the outputs in the activation."""
        if self.node.op_type == "MatMul":
            return -1 if self.position == 1 else -2
        return 1

    def outputs(self, shape: tuple[int, ...]) -> int:
        """The number of outputs, by the shape of the weight.

        Raises:
            NotLinearError: the weight is not a matrix, but should be one.
        """
        if self.node.op_type == "Conv":
            return shape[0]
        if len(shape) != 2:
            raise NotLinearError(f"its weight has {len(shape)} axes")
        return shape[0 if self._outputs_first else 1]

    @property
    def _outputs_first(self) -> bool:
        """Whether the first axis of the weight, as it is stored, is the axis of the outputs."""
        by_node = self.position == 0 or (self.node.op_type == "Gemm" and self.node.attributes.get_int("transB", 0) == 1)
        return by_node != self.transposed

    def rows(self, given: np.ndarray, kernel: tuple[int, ...]) -> np.ndarray:
        """The vectors that each output is a weighted sum of, along `axis`; for a convolution, the flattened patches.

        Args:
            given: the head's input.
            kernel: size of its kernel; empty if it is no convolution.
        """
        if self.node.op_type != "Conv":
            return given
        rank = len(kernel)
        strides, dilations = self._integers("strides", [1] * rank), self._integers("dilations", [1] * rank)
        reach = [(extent - 1) * step + 1 for extent, step in zip(kernel, dilations, strict=True)]
        padded = np.pad(given, [(0, 0), (0, 0), *self._pads(given.shape[2:], reach, strides)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(2, 2 + rank)))
        taken = (slice(None), slice(None), *(slice(None, None, step) for step in strides))
        windows = windows[taken + tuple(slice(None, None, step) for step in dilations)]
        order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
        places = windows.shape[2 : 2 + rank]
        return np.ascontiguousarray(windows.transpose(order)).reshape(len(given), -1, *places)

    def _pads(self, extents: tuple[int, ...], reach: list[int], strides: list[int]) -> list[tuple[int, int]]:
        kind = self.node.attributes.get_string("auto_pad", "NOTSET")
        if kind == "NOTSET":
            pads = self._integers("pads", [0] * (2 * len(extents)))
            return list(zip(pads[: len(extents)], pads[len(extents) :], strict=True))
        if kind == "VALID":
            return [(0, 0)] * len(extents)
        pairs = []
        for extent, long, step in zip(extents, reach, strides, strict=True):
            whole = max(0, (-(-extent // step) - 1) * step + long - extent)
            less, more = whole // 2, whole - whole // 2
            pairs.append((less, more) if kind == "SAME_UPPER" else (more, less))
        return pairs

    def parameters(
        self, weight: np.ndarray, bias: np.ndarray, kernel: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The head's tensors in their own layout, except for the shape of the bias.

        Args:
            weight: (D, K).
            bias: (K,).
            kernel: see `rows`.
        """
        op_type = self.node.op_type
        if op_type == "Gemm":
            weight, bias = weight / self._number("alpha", 1.0), bias / self._number("beta", 1.0)
        outputs = weight.shape[1]
        if op_type == "Conv":
            return weight.T.reshape(outputs, -1, *kernel), bias
        return (weight.T if self._outputs_first else weight), bias


def linear_head(graph: ir.Model, weight: str, bias: str | None, logits: str) -> LinearHead:
    """Find a head in a graph.

    Args:
        graph: the graph, which is not changed.
        weight: name of the head's weight: an input or initializer.
        bias: name of its bias; None if it has none.
        logits: name of the value that the loss is computed from.

    Raises:
        NotLinearError: a node between head and logits is not linear, or not supported.
    """
    values = _values(graph.graph)
    for name in (weight, bias, logits):
        if name is not None and name not in values:
            raise NotLinearError(f"the graph that trains has no value {name!r}")
    node, position, transposed = _user(values[weight])
    data = node.inputs[1 - position if node.op_type in ("Gemm", "MatMul") else 0]
    _check(node, position, data)
    assert data is not None
    output = node.outputs[0]
    activation = output if bias is None else _biased(values[bias], node)
    _check_linear_path(values[logits], activation)
    return LinearHead(
        node,
        position,
        transposed,
        data.name or "",
        None if data.producer() is None else _cut(graph, data.name or ""),
        activation.name or "",
        None if activation.name == logits else _cut(graph, logits, activation.name or ""),
        bias is not None,
    )


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    named = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    return {value.name: value for value in named if value.name}


def _only_use(value: ir.Value, role: str) -> tuple[ir.Node, int]:
    uses = list(value.uses())
    if len(uses) != 1:
        raise NotLinearError(f"its {role} is used in {len(uses)} places")
    return uses[0].node, uses[0].idx


def _user(weight: ir.Value) -> tuple[ir.Node, int, bool]:
    """The node that multiplies by a weight, the position of the weight in it, and whether the weight is transposed."""
    transposed = False
    node, position = _only_use(weight, "weight")
    while node.op_type in ("Identity", "Transpose"):
        if node.op_type == "Transpose":
            if list(node.attributes.get_ints("perm", [1, 0])) != [1, 0]:
                raise NotLinearError("its weight is transposed in another way")
            transposed = not transposed
        node, position = _only_use(node.outputs[0], "weight")
    return node, position, transposed


def _check(node: ir.Node, position: int, data: ir.Value | None) -> None:
    op_type = node.op_type
    if op_type not in _HEADS or node.domain not in ("", "ai.onnx"):
        raise NotLinearError(f"it is a {op_type}")
    wrong = position != 1 and not (op_type == "MatMul" and position == 0)
    if wrong or data is None or data.is_initializer() or node.attributes.get_int("transA", 0) == 1:
        raise NotLinearError("its input is not multiplied as x @ W")
    if op_type == "Conv" and node.attributes.get_int("group", 1) != 1:
        raise NotLinearError("it is a grouped convolution")


def _biased(bias: ir.Value, head: ir.Node) -> ir.Value:
    """The head's output with its bias added."""
    node, position = _only_use(bias, "bias")
    while node.op_type in _BIAS_RESHAPES:
        node, position = _only_use(node.outputs[0], "bias")
    if node is head and position == 2:
        return head.outputs[0]
    other = node.inputs[1 - position] if node.op_type == "Add" else None
    if other is not head.outputs[0] or len(list(other.uses())) != 1:
        raise NotLinearError(f"its bias is an input of {node.op_type}")
    return node.outputs[0]


def _check_linear_path(logits: ir.Value, activation: ir.Value) -> None:
    """Check that the outputs become logits by linear nodes alone."""
    value = logits
    while value is not activation:
        node = value.producer()
        if node is None:
            raise NotLinearError("the logits are not made of its outputs")
        known = node.op_type in _MOVES | _AVERAGES and node.domain in ("", "ai.onnx")
        known &= node.op_type != "Cast" or node.attributes.get_int("to", 0) == ir.DataType.FLOAT
        if not known or (node.op_type in ("Resize", "Upsample") and not _interpolates(node)):
            raise NotLinearError(f"{node.op_type} comes after it")
        if any(_reads(other, activation) for other in node.inputs[1:] if other is not None):
            raise NotLinearError(f"{node.op_type} after it depends on what it gives")
        given = node.inputs[0]
        assert given is not None
        value = given


def _interpolates(node: ir.Node) -> bool:
    mode = node.attributes.get_string("mode", "nearest")
    return mode in _LINEAR_RESIZE and (
        node.attributes.get_string("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"
    )


def _reads(value: ir.Value, source: ir.Value) -> bool:
    """Whether a value depends on the numbers of another; it may depend on its shape."""
    stack, seen = [value], set[ir.Value]()
    while stack:
        current = stack.pop()
        if current is source:
            return True
        node = current.producer()
        if current in seen or node is None or node.op_type in ("Shape", "Size"):
            continue
        seen.add(current)
        stack += [given for given in node.inputs if given is not None]
    return False


def _cut(graph: ir.Model, output_name: str, begin: str | None = None) -> ir.Model:
    """The part of a graph that computes a value, starting from another value that becomes an input."""
    part = graph.clone()
    values = _values(part.graph)
    output = values[output_name]
    if begin is not None:
        old = values[begin]
        given = ir.Value(name=f"{begin}/given", type=ir.TensorType(ir.DataType.FLOAT))
        if old.shape is not None:
            given.shape = ir.Shape([None] * len(old.shape))
        old.replace_all_uses_with(given)
        part.graph.inputs.append(given)
    part.graph.outputs.clear()
    output.dtype = ir.DataType.FLOAT
    part.graph.outputs.append(output)
    RemoveUnused()(part)
    alive = {value for node in ancestors(part.graph.outputs) for value in node.inputs}
    for value in list(part.graph.inputs):
        if value not in alive:
            part.graph.inputs.remove(value)
    for value in (value for node in part.graph for value in node.outputs):
        value.shape = None
    return part


def inputs_of(graph: ir.Model) -> Iterator[str]:
    """Names of the inputs of a graph."""
    return (value.name or "" for value in graph.graph.inputs)


def places(indices: np.ndarray, ones: np.ndarray, noise: np.ndarray, outputs: int) -> np.ndarray:
    """For each output its positions in the flattened logits of a sample, (K, P), found from three activations.

    Args:
        indices: logits for an activation in which every output is its own number.
        ones: logits for an activation of ones.
        noise: logits for an activation in which all outputs are equal, and positions differ.
        outputs: number of outputs.

    Raises:
        NotLinearError: an output is missing from the logits, or mixed with others, or a sum is not an average.
    """
    count = len(indices)
    flat, numbers = indices.reshape(count, -1), np.rint(indices.reshape(count, -1)).astype(np.int64)
    each = math.prod(flat.shape[1:]) // outputs
    exact = np.abs(flat - numbers).max(initial=0.0) < 1e-3 * max(1.0, outputs / 1e3)
    if not exact or (numbers != numbers[0]).any() or (np.bincount(numbers[0].clip(0), minlength=outputs) != each).any():
        raise NotLinearError("its outputs are mixed on their way to the logits")
    if np.abs(ones - 1).max(initial=0.0) > 1e-4:
        raise NotLinearError("its outputs are added up, not averaged, on their way to the logits")
    order = np.argsort(numbers[0], kind="stable").reshape(outputs, each)
    laid = noise.reshape(count, -1)[:, order]
    if np.abs(laid - laid[:, :1]).max(initial=0.0) > 1e-4 * max(1.0, float(np.abs(laid).max(initial=0.0))):
        raise NotLinearError("its outputs lie in different orders in the logits")
    return np.asarray(order)
