"""Rewriting a graph into a form that both WebGPU providers of onnxruntime-web compute correctly.

A WebGPU shader is guaranteed eight buffers. The provider of the package's default bundle uses one for each input of a
Concat and each output of a Split, and computes wrong values, without an error, if there are more. It also needs the
attributes of a convolution that ONNX allows to be omitted. Nodes that no other form helps are rejected: see
`webgpu_forms`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from ..errors import UsageError
from ..model.dims import dims_or_none
from ..model.uses import input_of, subgraphs
from .builder import Builder
from .opset_edits import ints, numbers
from .webgpu_windows import explicit_convolution, explicit_transposed, without_ceil

MOST = 7  # the most inputs of a Concat or outputs of a Split; with the one on the other side, eight buffers
_FAR = (1 << 63) - 1


def fit_webgpu(model: ir.Model) -> None:
    """Rewrite a graph, in place; it computes the same.

    Args:
        model: a finished graph of a training, of opset 13 or newer, with shapes on its values if they are known.

    Raises:
        UsageError: the other form of a node depends on an unknown shape.
    """
    _fit(model.graph, model.opset_imports[""] or 0)


def _fit(graph: ir.Graph, opset: int) -> None:
    build = Builder(graph, opset=opset)
    for node in list(graph):
        for inner in subgraphs(node):
            _fit(inner, opset)
        rewrite = _REWRITES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rewrite is not None:
            build.begin(f"{node.name or node.op_type}/webgpu")
            rewrite(graph, node, build)
    for value in build.initializers:
        if value.uses():
            graph.register_initializer(value)


def _narrow_concat(graph: ir.Graph, node: ir.Node, build: Builder) -> None:
    """A Concat as a tree of Concats."""
    parts = list(node.inputs)
    while len(parts) > MOST:
        groups = [parts[i : i + MOST] for i in range(0, len(parts), MOST)]
        axis = node.attributes["axis"].as_int()
        parts = [group[0] if len(group) == 1 else build.op("Concat", *group, axis=axis) for group in groups]
    if len(parts) == len(node.inputs):
        return
    graph.insert_before(node, build.take())
    node.resize_inputs(len(parts))
    for position, value in enumerate(parts):
        node.replace_input_with(position, value)


def _narrow_split(graph: ir.Graph, node: ir.Node, build: Builder) -> None:
    """A Split as a tree of Splits."""
    if len(node.outputs) <= MOST:
        return
    axis, x = node.attributes.get_int("axis", 0), node.inputs[0]
    assert x is not None
    made = _split(x, _sizes(node, axis), axis, build)
    graph.insert_before(node, build.take())
    _replace(graph, node, made)


def _split(x: ir.Value, sizes: Sequence[int], axis: int, build: Builder) -> list[ir.Value]:
    """The parts of a value."""
    width = 1  # width of the parts of the first split
    while width * MOST < len(sizes):
        width *= MOST
    groups = [sizes[i : i + width] for i in range(0, len(sizes), width)]
    wide = [sum(group) for group in groups]
    parts = build.ops("Split", x, build.ints(*wide), outputs=len(wide), axis=axis)
    if width == 1:
        return list(parts)
    return [
        value
        for part, group in zip(parts, groups, strict=True)
        for value in ([part] if len(group) == 1 else _split(part, group, axis, build))
    ]


def _sizes(node: ir.Node, axis: int) -> list[int]:
    """The sizes of the outputs of a Split."""
    given = numbers(node, 1) if input_of(node, 1) is not None else None
    if given is not None:
        return given
    shapes = [dims_or_none(value) for value in node.outputs]
    sizes = [shape[axis] for shape in shapes if shape is not None]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) < len(node.outputs):
        raise UsageError(
            f"node {node.name!r} (Split) has {len(node.outputs)} outputs, more than a shader of WebGPU has buffers "
            "for, and their sizes, by which it could be split in two steps, are unknown. Export the model with "
            "constant sizes, or leave the profile out."
        )
    return known


def _normalise_three_axes(graph: ir.Graph, node: ir.Node, build: Builder) -> None:
    """A BatchNormalization of (N, C), which both providers compute wrongly, as one of (N, C, 1)."""
    x, y = node.inputs[0], node.outputs[0]
    shape = None if x is None else dims_or_none(x) or dims_or_none(y)
    training = bool(node.attributes.get_int("training_mode", 0))
    if x is None or shape is None or len(shape) != 2 or training:
        return
    given = [value for value in node.inputs[1:] if value is not None]
    wide = build.op("Reshape", x, build.ints(0, 0, 1), shape=[*shape, 1])
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    normal = build.op("BatchNormalization", wide, *given, shape=[*shape, 1], epsilon=epsilon)
    made = build.op("Reshape", normal, build.ints(0, 0), shape=shape)
    graph.insert_before(node, build.take())
    _replace(graph, node, [made])


def _float_exponent(graph: ir.Graph, node: ir.Node, build: Builder) -> None:
    """The exponent of a Pow in the dtype of its base, since 64-bit exponents make the default bundle fail."""
    base, exponent = node.inputs
    if base is None or exponent is None or base.dtype is None or base.dtype == exponent.dtype:
        return
    node.replace_input_with(1, build.op("Cast", exponent, to=int(base.dtype)))
    graph.insert_before(node, build.take())


def _sum_from_the_end(graph: ir.Graph, node: ir.Node, build: Builder) -> None:
    """A reversed CumSum, for which the default bundle returns zeros: the total minus the sum of the elements before."""
    x, axis = node.inputs
    if not node.attributes.get_int("reverse", 0) or x is None or axis is None:
        return
    before = build.op("CumSum", x, axis, exclusive=1 - node.attributes.get_int("exclusive", 0))
    whole = build.op("ReduceSum", x, build.op("Reshape", axis, build.ints(1), shape=[1]), keepdims=1)
    made = build.op("Sub", whole, before)
    graph.insert_before(node, build.take())
    _replace(graph, node, [made])


def _one_sum_at_a_time(graph: ir.Graph, node: ir.Node, build: Builder) -> None:
    """An Einsum of two inputs that sums over several indices, which the default bundle computes wrongly, sums over one.

    A ReduceSum sums over the others.
    """
    terms, arrow, result = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    summed = sorted(set(terms) - set(result) - {",", "."})
    if not arrow or "." in terms or len(node.inputs) != 2 or len(summed) < 2:
        return
    kept = "".join(summed[1:])
    wide = build.op("Einsum", *node.inputs, equation=f"{terms}->{kept}{result}")
    made = build.op("ReduceSum", wide, build.ints(*range(len(kept))), keepdims=0)
    graph.insert_before(node, build.take())
    _replace(graph, node, [made])


def _forwards(graph: ir.Graph, node: ir.Node, build: Builder) -> None:
    """A Slice with negative steps, from which the default bundle drops an element, as a Gather."""
    steps = numbers(node, 4) if input_of(node, 4) is not None else None
    if steps is None or min(steps) > 0:
        return
    x, starts, ends = node.inputs[0], numbers(node, 1), numbers(node, 2)
    axes = numbers(node, 3) if input_of(node, 3) is not None else list(range(len(steps)))
    shape = None if x is None else dims_or_none(x)
    turned = [shape[axis] for axis, step in zip(axes or [], steps, strict=False) if step < 0] if shape else []
    if x is None or starts is None or ends is None or not axes or not shape or any(isinstance(n, str) for n in turned):
        raise UsageError(
            f"node {node.name!r} (Slice) goes backwards along an axis of unknown length, or from an unknown position, "
            "which the profile webgpu does not support. Export the model with a fixed size, or leave the profile out."
        )
    value = x
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step > 0:
            value = build.op("Slice", value, *(build.ints(number) for number in (start, end, axis, step)))
        else:
            places = range(*slice(start, end, step).indices(int(shape[axis])))
            value = build.op("Gather", value, build.ints(*places), axis=axis)
    graph.insert_before(node, build.take())
    _replace(graph, node, [value])


def _transposed(graph: ir.Graph, node: ir.Node, build: Builder) -> None:
    """A ConvTranspose whose pads differ before and after is cropped by a Slice.

    The default bundle uses half of their sum, rounded down, as the pads before.
    """
    explicit_transposed(node)
    pads = ints(node, "pads") or []
    rank = len(pads) // 2
    begins, ends = pads[:rank], pads[rank:]
    if all(begin == (begin + end) // 2 for begin, end in zip(begins, ends, strict=True)):
        return
    given = {name: attribute.value for name, attribute in node.attributes.items()} | {"pads": [0] * 2 * rank}
    whole = build.op("ConvTranspose", *node.inputs, **given)
    stops = [-end if end else _FAR for end in ends]
    axes = range(2, 2 + rank)
    made = build.op("Slice", whole, build.ints(*begins), build.ints(*stops), build.ints(*axes))
    graph.insert_before(node, build.take())
    _replace(graph, node, [made])


def _replace(graph: ir.Graph, node: ir.Node, made: Sequence[ir.Value]) -> None:
    """Replace a node's outputs by other values, which also take over the names, and remove the node."""
    old = node.outputs[: len(made)]
    for before, value in zip(old, made, strict=True):
        value.type = value.type or before.type
        value.shape = value.shape or before.shape
        before.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    for before, value in zip(old, made, strict=True):
        value.name, before.name = before.name, None


_REWRITES: dict[str, Callable[[ir.Graph, ir.Node, Builder], None]] = {
    "BatchNormalization": _normalise_three_axes,
    "Concat": _narrow_concat,
    "Pow": _float_exponent,
    "Split": _narrow_split,
    "Conv": lambda _, node, __: explicit_convolution(node),
    "ConvTranspose": _transposed,
    "CumSum": _sum_from_the_end,
    "Einsum": _one_sum_at_a_time,
    "Slice": _forwards,
    "MaxPool": lambda _, node, __: without_ceil(node),
    "AveragePool": lambda _, node, __: without_ceil(node),
}
