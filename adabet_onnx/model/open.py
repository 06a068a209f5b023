"""Open a model: from a file or ModelProto to a graph that the rest of the package can rely on.

An opened model has: IR version 4 to 10 and opset 12 to 21 (what onnxruntime-training 1.19.2 reads), float32
weights, initializers that are not graph inputs, no local functions, unique node names, weights stored as initializers
rather than Constant nodes, a dynamic batch dimension ``N``, known activation shapes, and one output: the logits, or a
value computed from them (with possibly more outputs that are computed from the same logits alone). Nodes and
initializers keep their names; rewrites for training come later (see `prepare`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import onnx
import onnx_ir as ir

from ..errors import ModelError, UsageError
from ..options import typed
from ..runtime import MOST_BYTES, in_memory
from ..showing import clipped, counted, file_name, html_table, named, one_line
from ..sizes import size_text
from .activations import with_shapes
from .bindings import Binding, read_bindings, recorded_bindings
from .call_arguments import OpeningArguments, complete_calls, complete_calls_in_errors, opening_arguments
from .equal_weights import equal_weight_notes
from .error_context import error_context, name_of
from .folded_norms import folded_note
from .frozen import Frozen, frozen_weights
from .layers import Layer, find_layers
from .liveness import weight_bytes
from .logits import find_logits
from .metadata import get_metadata
from .opening_steps import normalise, recorded_logits
from .origins import untied_weight_notes
from .quantised_form import Quantised, keep_quantised
from .reading import read
from .upsampling import head_of

ModelSource: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model | Model"


@dataclass(frozen=True)
class Tensor:
    """A graph input: its name, NumPy dtype name and shape (the batch dimension is the string ``N``)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{clipped(self.name)!r} {self.dtype} ({', '.join(map(str, self.shape))})"

    def __repr__(self) -> str:
        return one_line(self, str(self))


@dataclass(frozen=True)
class Model:
    """An opened model.

    Attributes:
        name: its name in messages (the path, ``<ModelProto>`` or ``<bytes>``).
        sha256: hash of the file followed by its external data files in order of name, or of the serialised bytes for a
            ModelProto. If ``logits``, ``dims`` or ``bind`` were given, the hash covers them too.
        graph: the graph (read-only; ``clone`` it to make changes).
        layers: the layers in topological order.
        logits: name of the value a loss is computed from (before a final Softmax).
        inputs: the graph's inputs.
        notes: the changes made on opening, a sentence each.
        doubt: why the logits may be probabilities, which are unsuitable for cross-entropy; None without doubt.
        bound: the values of inputs given by ``bind``, in recorded form (see `bindings`); None if there are none.
        quantised: the file's graph with quantised numbers, which makes the predictions; None if it is not quantised.

    Example:
        >>> from adabet_onnx import open_model
        >>> open_model("model.onnx").head.name
        'head'
    """

    name: str
    sha256: str
    graph: ir.Model = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)
    logits: str
    inputs: tuple[Tensor, ...]
    notes: tuple[str, ...] = field(default=())
    doubt: str | None = None
    bound: dict[str, Any] | None = None
    quantised: Quantised | None = field(default=None, repr=False)

    @property
    def head(self) -> Layer | None:
        """The last parameterised Gemm, MatMul, Conv or ConvTranspose; see `head_of`."""
        return head_of(self.layers, self.graph.graph)

    @property
    def new_head(self) -> bool:
        """Whether the head is marked as new (untrained) in the file's metadata."""
        head = self.head
        return head is not None and self.metadata("new_head") == head.name

    @property
    def parameter_count(self) -> int:
        """Number of trainable elements; a tensor shared by layers counts once."""
        sizes = {parameter.name: parameter.size for layer in self.layers for parameter in layer.parameters}
        return sum(sizes.values())

    @property
    def file(self) -> str | None:
        """The path it was opened from; None if it was opened from memory."""
        return None if self.name.startswith("<") else self.name

    @property
    def frozen(self) -> tuple[Frozen, ...]:
        """Weights that belong to no layer, so that no selection trains them."""
        return frozen_weights(self.graph, self.layers, self.logits)

    @property
    def weight_count(self) -> int:
        """Number of elements of all weights: the trainable ones and the frozen ones."""
        return self.parameter_count + sum(item.count for item in self.frozen)

    def __repr__(self) -> str:
        head = self.head
        new = " (new, untrained)" if self.new_head else ""
        return one_line(
            self,
            f"{file_name(self.name)}: {self._size()}",
            f"input {named([str(spec) for spec in self.inputs])}",
            f"logits {clipped(self.logits)!r}",
            f"head {clipped(head.name)!r}{new}" if head is not None else None,
        )

    def _repr_html_(self) -> str:
        head = self.head
        rows = []
        for index, layer in enumerate(self.layers):
            shape = " x ".join(map(str, layer.activation_shape or ()))
            marks = " (head)" * (head is not None and layer.name == head.name)
            rows.append((index, clipped(layer.name, 80) + marks, layer.op_type, layer.parameter_count, shape))
        lines = [f"input {spec}" for spec in self.inputs] + [f"logits {self.logits}", *self.notes]
        headings = ("", "layer", "operator", "parameters", "activation")
        title = f"{file_name(self.name)}: {self._size()}"
        return html_table(title, headings, rows, lines=lines, ends=True, what="layer")

    def _size(self) -> str:
        return f"{counted(len(self.layers), 'layer')}, {counted(self.parameter_count, 'parameter')}"

    def metadata(self, key: str) -> Any:
        """The value of a metadata entry of this package (JSON), or None if absent or unreadable."""
        return get_metadata(self.graph, key)

    def layer(self, name: str) -> Layer:
        """The layer with a name.

        Raises:
            UsageError: there is no such layer.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise UsageError(f"{self.name} has no layer {name!r}; `model.layers` lists them.")

    def proto(self) -> onnx.ModelProto:
        """The graph as a new ModelProto.

        Raises:
            ModelError: its weights are 2 GB or more, too many for a ModelProto.
        """
        if weight_bytes(self.graph) >= MOST_BYTES:
            raise ModelError(
                f"{self.name} has {size_text(weight_bytes(self.graph))} of weights, too many to pass in memory (2 GB "
                "at most). It can be inspected, scored and written by `save_model`, but not trained."
            )
        return ir.to_proto(in_memory(self.graph))


@typed
def open_model(
    source: ModelSource,
    *,
    logits: str | None = None,
    dims: Mapping[str, int] | None = None,
    bind: Mapping[str, Any] | None = None,
) -> Model:
    """Open a trained ONNX model.

    Args:
        source: path of an ``.onnx`` file (external data beside it is read), its bytes, an ``onnx.ModelProto`` or an
            ``onnx_ir.Model``. An opened model is returned unchanged.
        logits: the output, or value inside, that a loss is computed from, if the model has several outputs. It may be
            the result of a Softmax or Sigmoid. Outputs computed from it alone, for example by a Softmax, stay. The
            choice is written into the graph's metadata, so that files made from the model are opened the same way.
        dims: sizes of dimensions other than the batch that the file leaves open, by name: ``{"sequence": 64}``; by
            ``INPUT:AXIS`` for a dimension without a name.
        bind: values of inputs that are not data, by name: ``{"sr": 16000}``; a number (for the whole input, whatever
            its shape), an array, or the path of a file with one. See `bindings`. Such inputs are removed from the
            graph. By default, the state of a recurrent network is bound to zeros, and a bool named ``training`` to
            false.

    Returns:
        The model with its layers.

    Raises:
        ModelError: the file is missing, empty, truncated, not ONNX, invalid, not a network (a tree ensemble, for
            example), has operators specific to ONNX Runtime that cannot be decomposed, or its graph cannot be handled;
            the message says what to do.
        UsageError: ``logits``, ``dims`` or ``bind`` do not fit the model, or are given for an opened one.

    Example:
        >>> from adabet_onnx import open_model
        >>> model = open_model("model.onnx")
        >>> model.inputs[0].shape
        ('N', 1, 16, 16)
    """
    if isinstance(source, Model):
        if logits is not None or dims or bind:
            raise UsageError(f"{source.name} is already open: give logits, dims and bind when opening the file.")
        return source
    if isinstance(source, ir.Model):
        source = _as_proto(source)
    name, values = name_of(source), read_bindings(bind)
    given = opening_arguments(logits, dims, recorded_bindings(values))
    with error_context(name, "opening"), complete_calls_in_errors(given):
        return _open(source, logits, dims, values, given)


def _as_proto(graph: ir.Model) -> onnx.ModelProto:
    """Serialise a graph, with weights in external files loaded into memory.

    Raises:
        ModelError: the weights are too many, or cannot be read.
    """
    try:
        if weight_bytes(graph) >= MOST_BYTES:
            raise ModelError("an onnx_ir.Model of 2 GB and more cannot be opened: save it, and give the path.")
        return ir.to_proto(in_memory(graph.clone()))
    except (OSError, ValueError) as error:
        raise ModelError(f"the onnx_ir.Model cannot be read: {error}. Save it, and give the path.") from error


def _open(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto,
    logits: str | None,
    dims: Mapping[str, int] | None,
    bind: Mapping[str, Binding],
    given: OpeningArguments,
) -> Model:
    source_model = read(source)
    notes: list[str] = []
    graph, chosen, before = normalise(source_model, logits, dims or {}, bind, notes)
    logits_value = find_logits(graph, source_model.name, chosen, named=recorded_logits(graph) == chosen, notes=notes)
    layers = with_shapes(graph, find_layers(graph), source_model.name, dims or {}, notes)
    if not layers:
        raise ModelError(
            f"{source_model.name} has no layer with float32 parameters, so there is nothing to select or train."
        )
    names = list(dict.fromkeys(item.name for layer in layers for item in layer.parameters))
    notes += [*untied_weight_notes(graph, names), *equal_weight_notes(graph, names)]
    note = folded_note(layers, graph.producer_name)
    if note is not None:
        notes.append(note)
    notes = [complete_calls(note, given) for note in notes]
    inputs = tuple(_tensor(value) for value in graph.graph.inputs)
    digest = _with_choices(source_model.sha256, logits, dims, bind)
    return Model(
        source_model.name,
        digest,
        graph,
        layers,
        logits_value.name,
        inputs,
        tuple(notes),
        logits_value.doubt,
        recorded_bindings(bind),
        keep_quantised(before, graph, logits_value.name),
    )


def _with_choices(sha256: str, logits: str | None, dims: Mapping[str, int] | None, bind: Mapping[str, Binding]) -> str:
    """The hash of a file and of the options it was opened with: selections for other options do not fit."""
    if logits is None and not dims and not bind:
        return sha256
    values = [[[name, *bind[name].digest] for name in sorted(bind)]] if bind else []
    choices = json.dumps([sha256, logits, sorted((dims or {}).items()), *values])
    return hashlib.sha256(choices.encode()).hexdigest()


def _tensor(value: ir.Value) -> Tensor:
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(extent if isinstance(extent, int) else str(extent) for extent in value.shape)
    return Tensor(value.name or "", str(value.dtype.numpy()), shape)
