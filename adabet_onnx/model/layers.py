"""Find the layers of a graph, their parameters and their activations.

A layer is a node with trainable inputs according to a table by operator. Not every float initializer is a parameter:
bounds of a Clip and running statistics of a BatchNormalization are not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..showing import clipped, counted, one_line
from .applications import Applications, LayerNode, is_matrix
from .expectation_grids import is_expectation_grid
from .input_values import input_values
from .layer_names import layer_names
from .origins import origins
from .rotations import is_rotation
from .uses import dependents

# Positions of trainable inputs, by operator. BatchNormalization's inputs 3 and 4 are stored statistics.
TRAINABLE = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "PRelu": (1,),
    "Gather": (0,),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "Mul": (0, 1),
    "Add": (0, 1),
}
ELEMENTWISE = frozenset({"Mul", "Add"})
NORMALISATIONS = frozenset({"BatchNormalization", "LayerNormalization", "GroupNormalization", "InstanceNormalization"})
HEAD_OPERATORS = frozenset({"Gemm", "MatMul", "Conv", "ConvTranspose"})
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div"})
_HIDDEN = -1e4  # numbers added to mask a token are at most this
# Operators that an exporter may put between an initializer and the node that uses it.
PASSED_THROUGH = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"})


@dataclass(frozen=True)
class Parameter:
    """One trainable initializer of a layer.

    Attributes:
        name: the initializer's name.
        shape: its shape.
        node: name of the node that uses it, in the layer's last application if there are several.
        position: its position among the node's inputs (with possibly an Identity or Transpose between).
        earlier: node and position in the layer's other applications.
    """

    name: str
    shape: tuple[int, ...]
    node: str
    position: int
    earlier: tuple[tuple[str, int], ...] = ()

    @property
    def uses(self) -> tuple[tuple[str, int], ...]:
        """Node and position in every application of the layer, in graph order."""
        return (*self.earlier, (self.node, self.position))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape)) or "one number"
        times = f"{len(self.uses)} uses" if self.earlier else None
        return one_line(self, repr(clipped(self.name)), shape, f"input {self.position} of {clipped(self.node)}", times)


@dataclass(frozen=True)
class Layer:
    """A node with trainable inputs, or several that are applications of one layer; see `applications`.

    Attributes:
        name: unique in the model; see `name_of`.
        op_type: operator of the node.
        node: name of the node, the last application if there are several.
        parameters: its trainable initializers.
        activation: name of the value after the bias is added. For a layer that is applied several times, that of the
            last application: the one nearest the loss, and the final state of a recurrent layer.
        activation_shape: shape of one sample's activation (without the batch dimension); None if unknown.
        batch_axis: axis of the batch in the activation.
        batch_merged: whether that axis is a product of the batch and something else (batch * tokens).
        before_batch: the factor of the product that lies before the batch: 1 for batch * tokens, tokens for tokens *
            batch.
        earlier: names of the nodes of its other applications, in the order of the graph.
    """

    name: str
    op_type: str
    node: str
    parameters: tuple[Parameter, ...]
    activation: str
    activation_shape: tuple[int, ...] | None = None
    batch_axis: int = 0
    batch_merged: bool = False
    before_batch: int = 1
    earlier: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shape = None if self.activation_shape is None else " x ".join(map(str, self.activation_shape)) or "one number"
        applied = f"applied {self.applied} times" if self.applied > 1 else None
        parameters = f"{counted(self.parameter_count, 'parameter')} in {counted(len(self.parameters), 'tensor')}"
        return one_line(
            self, repr(clipped(self.name)), self.op_type, parameters, shape and f"activation {shape}", applied
        )

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes of all applications, in the order of the graph."""
        return (*self.earlier, self.node)

    @property
    def applied(self) -> int:
        """How many times the layer is applied."""
        return len(self.earlier) + 1

    def holds_matrix(self, parameter: Parameter) -> bool:
        """Whether one of its parameters is a matrix, which two nodes share only on purpose."""
        op_type = self.op_type if parameter.node == self.node else "Add"  # of its bias
        return is_matrix(op_type, parameter.position, parameter.shape)

    @property
    def parameter_count(self) -> int:
        """Number of trainable elements."""
        return sum(parameter.size for parameter in self.parameters)

    @property
    def activation_size(self) -> int | None:
        """D: elements of one sample's activation."""
        return None if self.activation_shape is None else math.prod(self.activation_shape)

    @property
    def is_norm(self) -> bool:
        """Whether the layer is a normalisation."""
        return self.op_type in NORMALISATIONS


@dataclass(frozen=True)
class _LayerCandidate:
    """A node with parameters, the Add node of its bias if there is one, and the value after it."""

    node: ir.Node
    parameters: tuple[Parameter, ...]
    activation: ir.Value
    follower: ir.Node | None = None

    @property
    def row(self) -> LayerNode:
        own = [parameter for parameter in self.parameters if parameter.node == self.node.name]
        matrix = any(is_matrix(self.node.op_type, parameter.position, parameter.shape) for parameter in own)
        return LayerNode(self.node, tuple(p.name for p in self.parameters), matrix, self.follower)

    def apart(self) -> tuple[_LayerCandidate, _LayerCandidate]:
        """The node and the Add node as separate layers."""
        assert self.follower is not None
        own = tuple(parameter for parameter in self.parameters if parameter.node == self.node.name)
        bias = tuple(parameter for parameter in self.parameters if parameter.node == self.follower.name)
        return _LayerCandidate(self.node, own, _first_output(self.node)), _LayerCandidate(
            self.follower, bias, self.activation
        )


def find_layers(model: ir.Model) -> tuple[Layer, ...]:
    """List the layers of a graph in topological order (activation shapes are not filled in).

    A layer that is applied several times is listed at the position of its last application.

    Args:
        model: graph with unique node names, constants as initializers.
    """
    depends = _depends_on_input(model.graph)
    made_from = origins(model)
    formulas = {name for name, origin in made_from.items() if not origin.learned}
    candidates = list(_nodes_with_parameters(model.graph, depends, formulas))
    apart = Applications(model.graph, [candidate.row for candidate in candidates], depends).lone_followers()
    candidates = [
        piece for i, candidate in enumerate(candidates) for piece in (candidate.apart() if i in apart else (candidate,))
    ]
    groups = Applications(model.graph, [candidate.row for candidate in candidates], depends).find()
    names = layer_names(
        [(candidates[group[0]].node, _parameter_names(candidates[group[0]])) for group in groups], made_from
    )
    named = sorted(zip(groups, names, strict=True), key=lambda pair: pair[0][-1])
    return tuple(_layer(name, [candidates[i] for i in group]) for group, name in named)


def _nodes_with_parameters(
    graph: ir.Graph, depends: set[ir.Value], formulas: Collection[str]
) -> Iterator[_LayerCandidate]:
    used: set[str] = set()
    preprocessed = input_values(graph, depends)
    for node in graph:
        assert node.name is not None
        if node.domain not in ("", "ai.onnx") or node.name in used or node.op_type not in TRAINABLE:
            continue
        parameters = [item for item in _parameters(node, depends, preprocessed) if item.name not in formulas]
        if not parameters:
            continue
        used.add(node.name)
        activation = _first_output(node)
        one_output = _has_one_output(node.op_type, parameters[0])
        follower = _bias_add(node, activation, depends, preprocessed, one_output)
        biases = [] if follower is None else list(_parameters(follower, depends, preprocessed, single=one_output))
        biases = [item for item in biases if item.name not in formulas]
        if follower is None or not biases:
            yield _LayerCandidate(node, tuple(parameters), activation, None)
            continue
        assert follower.name is not None
        used.add(follower.name)
        yield _LayerCandidate(node, (*parameters, *biases), follower.outputs[0], follower)


def _parameter_names(candidate: _LayerCandidate) -> list[str]:
    return [parameter.name for parameter in candidate.parameters]


def _first_output(node: ir.Node) -> ir.Value:
    return next((value for value in node.outputs if value.name), node.outputs[0])  # an LSTM may lack the first


def _layer(name: str, applications: list[_LayerCandidate]) -> Layer:
    """A layer from its applications, which are in graph order."""
    *before, last = applications
    parameters = tuple(
        dataclasses.replace(
            parameter,
            earlier=tuple((other.parameters[i].node, other.parameters[i].position) for other in before),
        )
        for i, parameter in enumerate(last.parameters)
    )
    nodes = tuple(other.node.name or "" for other in before)
    return Layer(
        name,
        last.node.op_type,
        last.node.name or "",
        parameters,
        last.activation.name or "",
        earlier=nodes,
    )


def preprocessing_constants(model: ir.Model) -> tuple[str, ...]:
    """Names of float tensors of several numbers that preprocess the input inside the graph and belong to no layer."""
    depends = _depends_on_input(model.graph)
    preprocessed = input_values(model.graph, depends)
    names: dict[str, None] = {}
    for node in model.graph:
        if node.op_type in _ELEMENTWISE and any(value in preprocessed for value in node.inputs):
            for value in node.inputs:
                source = None if value in depends else source_initializer(value)
                if source is None or source.const_value is None:
                    continue
                if source.const_value.dtype == ir.DataType.FLOAT and source.const_value.size > 1:
                    names[source.name or ""] = None
    return tuple(names)


def source_initializer(value: ir.Value | None) -> ir.Value | None:
    """The initializer that a value is, or is derived from through Identity, Transpose, Reshape, Cast and the like."""
    while value is not None:
        if value.is_initializer():
            return value
        producer = value.producer()
        if producer is None or producer.op_type not in PASSED_THROUGH:
            return None
        value = producer.inputs[0]
    return None


def _depends_on_input(graph: ir.Graph) -> set[ir.Value]:
    """Values that depend on a graph input; all others are constant, whatever computes them."""
    return dependents(graph, [value for value in graph.inputs if not value.is_initializer()])


def _parameters(
    node: ir.Node, depends: set[ir.Value], preprocessed: set[ir.Value], *, single: bool = False
) -> Iterator[Parameter]:
    """The node's trainable initializers.

    Args:
        node: any node.
        depends: values that depend on a graph input.
        preprocessed: preprocessed inputs, see `input_values`.
        single: whether an elementwise parameter may be a single number.
    """
    inputs = node.inputs
    positions = [position for position in TRAINABLE[node.op_type] if position < len(inputs)]
    if node.op_type in ("Mul", "Add", "MatMul", "Gemm") and not any(
        value in depends for value in inputs[:2] if value is not None
    ):
        return  # arithmetic on constants
    for position in positions:
        value = inputs[position]
        if value is None or value in depends:
            continue
        initializer = source_initializer(value)
        if initializer is None or initializer.const_value is None:
            continue
        tensor = initializer.const_value
        if tensor.dtype != ir.DataType.FLOAT:
            continue
        shape = tuple(int(extent) for extent in tensor.shape.numpy())
        if node.op_type in ("Mul", "Add") and not _is_learned(node, position, shape, preprocessed, single):
            continue
        if node.op_type in ("Mul", "Add") and is_mask(tensor.numpy()):
            continue
        if node.op_type == "Gather" and len(shape) != 2:
            continue
        if max(shape, default=0) == math.prod(shape) and is_expectation_grid(node, position, tensor.numpy()):
            continue
        if node.op_type == "Mul" and is_rotation(node, position, tensor.numpy()):
            continue
        yield Parameter(initializer.name or "", shape, node.name or "", position)


def _is_learned(
    node: ir.Node, position: int, shape: tuple[int, ...], preprocessed: set[ir.Value], single: bool
) -> bool:
    """Whether a tensor in an elementwise Mul or Add is learned rather than a constant of a formula.

    A single number is a constant, unless it is a vector with one element that follows a layer of one output. A tensor
    applied to a preprocessed graph input is preprocessing.
    """
    other = node.inputs[1 - position]
    enough = math.prod(shape) > 1 or (single and len(shape) > 0)
    return enough and other is not None and other not in preprocessed


def is_mask(array: np.ndarray) -> bool:
    """Whether a tensor is a mask, such as a decoder's causal mask: numbers 0 and far below 0, or a table of 0 and 1."""
    if array.ndim < 2:
        return False
    hides = bool((array <= _HIDDEN).any() and (array > _HIDDEN).any())
    return hides or bool(np.isin(array, (0, 1)).all() and 0 < np.count_nonzero(array) < array.size)


def _has_one_output(op_type: str, weight: Parameter) -> bool:
    """Whether the layer has a single output channel, so that its bias is a single number."""
    axis = {"MatMul": -1 if weight.position == 1 else 0, "Conv": 0, "ConvTranspose": 1}.get(op_type)
    return axis is not None and weight.shape[axis] == 1


def _bias_add(
    node: ir.Node, output: ir.Value, depends: set[ir.Value], preprocessed: set[ir.Value], one_output: bool
) -> ir.Node | None:
    """The Add node of a bias that belongs to this node: MatMul + Add, Conv without bias + Add, learned Mul + Add."""
    if node.op_type not in ("MatMul", "Conv", "ConvTranspose", "Mul") or output.is_graph_output():
        return None
    if node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) > 2 and node.inputs[2] is not None:
        return None
    consumers = output.consumers()
    if len(consumers) != 1 or consumers[0].op_type != "Add" or consumers[0].graph is not node.graph:
        return None
    return (
        consumers[0] if any(True for _ in _parameters(consumers[0], depends, preprocessed, single=one_output)) else None
    )
