"""Replace operators of ai.onnx.ml by equivalent standard ones.

skl2onnx writes scalers as Scaler, linear models as LinearClassifier or LinearRegressor, the look-up of a label as
ArrayFeatureExtractor. Trees, support vector machines and the like have no equivalent and stay.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ...errors import ModelError
from .replacement import Replacement
from .unused import RemoveUnused

DOMAIN = "ai.onnx.ml"
_AXES_AS_INPUT = 18  # from this opset on, reductions take their axes as an input
_NORMS = {"L1": "ReduceL1", "L2": "ReduceL2", "MAX": "ReduceMax"}


class ReplaceClassical(ir.passes.InPlacePass):
    """Replace operators of ai.onnx.ml by standard ones where these exist.

    Attributes:
        replaced: name and operator of each replaced node, with a description of the replacement.

    Raises (on call):
        ModelError: attributes of a node contradict each other; the message names it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.replaced: list[tuple[str, str, str]] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        opset = model.opset_imports.get("") or 0
        for node in list(model.graph):
            rewrite = _REWRITERS.get(node.op_type) if node.domain == DOMAIN else None
            if rewrite is None or not node.inputs or any(value is None for value in node.inputs):
                continue
            name, op_type = node.name or "", node.op_type
            became = rewrite(_ReplacedNode(model.graph, node, opset))
            if became:
                self.replaced.append((name, op_type, became))
        if self.replaced:
            RemoveUnused()(model)
            if all(node.domain != DOMAIN for node in model.graph.all_nodes()):
                model.opset_imports.pop(DOMAIN, None)
        return ir.passes.PassResult(model, bool(self.replaced))


def has_classical(model: ir.Model) -> bool:
    """Whether any node can be replaced."""
    return any(node.domain == DOMAIN and node.op_type in _REWRITERS for node in model.graph)


class _ReplacedNode(Replacement):
    """A node to replace: access to its attributes and first input, and construction of new nodes before it."""

    def __init__(self, graph: ir.Graph, node: ir.Node, opset: int) -> None:
        super().__init__(graph, node)
        self.graph, self.node, self.opset = graph, node, opset

    @property
    def x(self) -> ir.Value:
        """The first input."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def floats(self) -> ir.Value:
        """The first input as floats, to which these operators convert any number."""
        known = self.x.dtype
        return self.x if known == ir.DataType.FLOAT else self.apply("Cast", self.x, to=int(ir.DataType.FLOAT))

    def numbers(self, name: str) -> np.ndarray:
        """An attribute of floats; empty if missing."""
        return np.asarray(self.node.attributes.get_floats(name, ()), np.float32)

    def text(self, name: str, default: str) -> str:
        """An attribute of text."""
        return self.node.attributes.get_string(name, default)

    def weight(self, name: str, array: np.ndarray) -> ir.Value:
        """A parameter, named after the node."""
        value = ir.Value(
            name=f"{self.node.name}.{name}", const_value=ir.tensor(np.ascontiguousarray(array, np.float32))
        )
        self.graph.register_initializer(value)
        return value

    def reduce(self, op_type: str, x: ir.Value) -> ir.Value:
        """A reduction of the last axis, which stays."""
        if self.opset >= _AXES_AS_INPUT:
            return self.apply(op_type, x, self.constant("axis", np.array([-1], np.int64)), keepdims=1)
        return self.apply(op_type, x, axes=[-1], keepdims=1)

    def wrong(self, why: str) -> ModelError:
        """The error for attributes that contradict each other."""
        return ModelError(
            f"node {self.node.name!r} ({DOMAIN}.{self.node.op_type}) {why}. The file is damaged: export it again."
        )


def _scaler(work: _ReplacedNode) -> str:
    value = work.floats
    for operator, name, neutral in (("Sub", "offset", 0), ("Mul", "scale", 1)):
        array = work.numbers(name)
        if array.size and (array != neutral).any():
            value = work.apply(operator, value, work.constant(name, array))
    if value is work.x:
        value = work.apply("Identity", value)
    work.finish(value)
    return "Sub and Mul"


def _normalizer(work: _ReplacedNode) -> str:
    """Divide by the norm, or by 1 if that is 0; probabilities, which sum to 1, stay."""
    norm = work.text("norm", "MAX")
    before = work.x.producer()
    if norm == "L1" and before is not None and before.op_type == "Softmax":
        work.finish(work.apply("Identity", work.x))
        return "nothing, after a Softmax"
    if norm not in _NORMS:
        return ""
    x = work.floats
    size = work.reduce(_NORMS[norm], x)
    zero, one = work.constant("zero", np.array(0.0)), work.constant("one", np.array(1.0))
    none = work.apply("Equal", size, zero)
    none.dtype = ir.DataType.BOOL
    work.finish(work.apply("Div", x, work.apply("Where", none, one, size)))
    return f"{_NORMS[norm]} and Div"


def _binarizer(work: _ReplacedNode) -> str:
    threshold = work.constant("threshold", np.array(work.node.attributes.get_float("threshold", 0.0)))
    above = work.apply("Greater", work.floats, threshold)
    above.dtype = ir.DataType.BOOL
    work.finish(work.apply("Cast", above, to=int(ir.DataType.FLOAT)))
    return "Greater and Cast"


def _imputer(work: _ReplacedNode) -> str:
    filled, replaced = work.numbers("imputed_value_floats"), work.node.attributes.get_float("replaced_value_float", 0.0)
    if not filled.size:  # integer imputation
        return ""
    x = work.floats
    if np.isnan(replaced):
        missing = work.apply("IsNaN", x)
    else:
        missing = work.apply("Equal", x, work.constant("missing", np.array(replaced)))
    missing.dtype = ir.DataType.BOOL
    work.finish(work.apply("Where", missing, work.constant("filled", filled), x))
    return f"{'IsNaN' if np.isnan(replaced) else 'Equal'} and Where"


def _columns(work: _ReplacedNode) -> str:
    """Select columns by index; the selected elements of a vector become a row."""
    table, index = work.node.inputs[:2]
    assert table is not None
    assert index is not None
    flat = work.apply("Reshape", index, work.constant("flat", np.array([-1], np.int64)))
    flat.dtype = ir.DataType.INT64
    selected = work.apply("Gather", table, flat, axis=-1)
    selected.type = table.type
    tensor = ir.convenience.get_const_tensor(table)
    if tensor is not None and len(tensor.shape) == 1:
        selected = work.apply("Reshape", selected, work.constant("row", np.array([1, -1], np.int64)))
        selected.type = table.type
    work.finish(selected)
    return "Gather"


def _regressor(work: _ReplacedNode) -> str:
    if work.text("post_transform", "NONE") != "NONE":
        return ""
    targets = work.node.attributes.get_int("targets", 1)
    work.finish(_product(work, targets, *_linear(work, targets)))
    return "Gemm"


def _linear(work: _ReplacedNode, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients, one row for each output, and intercepts."""
    coefficients, intercepts = work.numbers("coefficients"), work.numbers("intercepts")
    if not coefficients.size or coefficients.size % rows or intercepts.size not in (0, rows):
        raise work.wrong(f"has {coefficients.size} coefficients and {intercepts.size} intercepts for {rows} outputs")
    return coefficients.reshape(rows, -1), intercepts if intercepts.size else np.zeros(rows, np.float32)


def _product(work: _ReplacedNode, rows: int, coefficients: np.ndarray, intercepts: np.ndarray) -> ir.Value:
    weights = work.weight("coefficients", coefficients), work.weight("intercepts", intercepts)
    return work.apply("Gemm", work.floats, *weights, transB=1)


def _classifier(work: _ReplacedNode) -> str:
    """Write a classifier as a Gemm, a conversion to probabilities, and the class of the largest.

    For two classes with one number z and its sigmoid p, the columns are 1 - p and p: the Softmax of -z/2 and z/2.
    """
    attributes, transform = work.node.attributes, work.text("post_transform", "NONE")
    labels = list(attributes.get_ints("classlabels_ints", ()) or attributes.get_strings("classlabels_strings", ()))
    if transform not in ("NONE", "SOFTMAX", "LOGISTIC") or len(labels) < 2:
        return ""
    columns = len(labels)
    one_row = columns == 2 and work.numbers("intercepts").size == 1
    coefficients, intercepts = _linear(work, 1 if one_row else columns)
    if one_row:
        coefficients, intercepts = np.vstack([-coefficients, coefficients]), np.concatenate([-intercepts, intercepts])
    mirrored = np.array_equal(coefficients[0], -coefficients[-1]) and np.array_equal(intercepts[0], -intercepts[-1])
    became = "Gemm"
    if transform == "LOGISTIC" and columns == 2 and mirrored:
        coefficients, intercepts, transform = coefficients / 2, intercepts / 2, "SOFTMAX"
    scores = _product(work, columns, coefficients, intercepts)
    result = scores
    if transform != "NONE":
        operator = "Softmax" if transform == "SOFTMAX" else "Sigmoid"
        result = work.apply(operator, scores, **({"axis": 1} if operator == "Softmax" else {}))
        became += f" and {operator}"
    _label(work, labels, scores)
    _replace_second_output(work, result)
    return became


def _label(work: _ReplacedNode, labels: list[object], scores: ir.Value) -> None:
    """Write the classifier's first output, if it is a number and is read."""
    output = work.node.outputs[0]
    if not output.name or not (output.uses() or output.is_graph_output()) or not isinstance(labels[0], int):
        return
    largest = work.apply("ArgMax", scores, axis=1, keepdims=0)
    table = work.constant("labels", np.array(labels, np.int64))
    label = work.apply("Gather", table, largest)
    largest.dtype = label.dtype = ir.DataType.INT64
    _take_over(output, label)


def _replace_second_output(work: _ReplacedNode, value: ir.Value) -> None:
    """Replace the classifier's second output by a value; remove the node if its first output is not read any more."""
    if len(work.node.outputs) > 1:
        _take_over(work.node.outputs[1], value)
    if not any(output.uses() or output.is_graph_output() for output in work.node.outputs):
        work.graph.remove(work.node, safe=True)


def _take_over(old: ir.Value, new: ir.Value) -> None:
    name, old.name = old.name, None
    if new.shape is None:
        new.shape = old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = name


_REWRITERS: dict[str, Callable[[_ReplacedNode], str]] = {
    "ArrayFeatureExtractor": _columns,
    "Binarizer": _binarizer,
    "Imputer": _imputer,
    "LinearClassifier": _classifier,
    "LinearRegressor": _regressor,
    "Normalizer": _normalizer,
    "Scaler": _scaler,
}
