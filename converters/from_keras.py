# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = [
#   "keras>=3", "numpy>=1.26", "onnx>=1.18", "onnxruntime>=1.17", "tf2onnx>=1.17",
#   "tensorflow-cpu>=2.16; sys_platform != 'darwin'", "tensorflow>=2.16; sys_platform == 'darwin'",
# ]
# ///
"""Convert a Keras model or a SavedModel of TensorFlow to ONNX, its batch normalisations and variable names kept.

  uv run converters/from_keras.py model.keras -o model.onnx
  uv run converters/from_keras.py model.h5 -o model.onnx
  uv run converters/from_keras.py saved_model/ -o model.onnx

or with pip: pip install keras numpy onnx onnxruntime tensorflow-cpu tf2onnx; python converters/from_keras.py ...

A .keras or .h5 file is loaded without running code in it (safe mode); layers of your own are found if --import names
the module that registers them. A SavedModel is a program of its own: convert only those that you trust.

Variables stay outside of the graph until it is converted, so that nothing is folded into them or merged; a batch
normalisation that Keras 3 writes as arithmetic becomes one node again. Images keep their layout (N, height, width,
channels); adabet-onnx takes either.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from converting import IR_VERSION, OPSET, ConversionError, Feeds, Input, failing, finish, parse, parser, run
from onnx import numpy_helper

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it rounds otherwise, and says so on every start
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["KERAS_BACKEND"] = "tensorflow"

LOOPS = ("While", "StatelessWhile")
FOLDED = ("Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze")  # what may stand between a variable and its node


def main(arguments: list[str] | None = None) -> None:
    """Load, convert, compare, write."""
    made = parser(__doc__ or "")
    made.add_argument("model", type=Path, help="a .keras or .h5 file, or a SavedModel folder")
    made.add_argument("--shape", help="one sample's shape, such as 224,224,3, where the model leaves it open")
    made.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE", help="your own layers")
    made.add_argument("--signature", default="serving_default", help="of a SavedModel (default %(default)s)")
    options = parse(made, arguments)
    shape = None
    if options.shape is not None:
        if not all(part.isdigit() and int(part) for part in options.shape.split(",")):
            made.error(f"--shape {options.shape}: write numbers with commas, such as 224,224,3")
        shape = tuple(int(part) for part in options.shape.split(","))
    logging.disable(logging.WARNING)
    sys.path.insert(0, os.getcwd())
    for name in options.imports:
        with failing(f"--import {name}"):
            importlib.import_module(name)
    if (options.model / "saved_model.pb").is_file():
        function, inputs, reference = from_saved_model(options, shape)
    elif options.model.is_file():
        function, inputs, reference = from_file(options.model, shape)
    else:
        made.error(f"{options.model} is neither a .keras or .h5 file nor a SavedModel folder (with saved_model.pb)")
    proto, named = convert(function, inputs)
    finish(proto, inputs, reference, named, options)


def from_file(path: Path, shape: tuple[int, ...] | None) -> tuple[Any, list[Input], Callable[[Feeds], np.ndarray]]:
    """A Keras model as a function of TensorFlow, its inputs, and how to run it."""
    import keras
    import tensorflow as tf

    with failing(f"{path} cannot be loaded"):
        model = keras.saving.load_model(path, compile=False)
    specs = list(getattr(model, "inputs", None) or [])
    if not specs and shape is None:
        raise ConversionError(f"{path} does not say its input's shape: give --shape.")
    if not specs:
        specs = [keras.KerasTensor((None, *shape), name="input")]
    inputs = [input_of(spec.name, spec.shape, spec.dtype, shape if len(specs) == 1 else None) for spec in specs]

    def call(*given: Any) -> Any:
        return one_output(model(given[0] if len(given) == 1 else list(given), training=False))

    signature = [tf.TensorSpec((None, *each.shape), each.dtype, each.name) for each in inputs]
    with failing(f"{path} cannot be traced"):
        function = tf.function(call, autograph=False).get_concrete_function(*signature)
    paths = {variable.value.handle._id: variable.path for variable in model.variables}
    function.paths = paths
    return function, inputs, lambda feeds: call(*(tf.constant(feeds[each.name]) for each in inputs)).numpy()


def from_saved_model(
    options: argparse.Namespace, shape: tuple[int, ...] | None
) -> tuple[Any, list[Input], Callable[[Feeds], np.ndarray]]:
    """A signature of a SavedModel, its inputs, and how to run it."""
    import tensorflow as tf

    with failing(f"{options.model} cannot be loaded"), without_optimizer(options.model) as folder:
        loaded = tf.saved_model.load(folder)
    if options.signature not in loaded.signatures:
        raise ConversionError(
            f"{options.model} has no signature {options.signature}; choose with --signature: "
            f"{', '.join(loaded.signatures) or 'it has none'}."
        )
    function = loaded.signatures[options.signature]
    function.kept = loaded  # variables live as long as what was loaded
    specs = function.structured_input_signature[1]
    inputs = [
        input_of(name, spec.shape, spec.dtype.name, shape if len(specs) == 1 else None) for name, spec in specs.items()
    ]

    def reference(feeds: Feeds) -> np.ndarray:
        return one_output(function(**{each.name: tf.constant(feeds[each.name]) for each in inputs})).numpy()

    return function, inputs, reference


@contextlib.contextmanager
def without_optimizer(folder: Path) -> Iterator[Path]:
    """The SavedModel, or a copy that says nothing of its optimizer's slots: Keras 3 does not know Keras 2's optimizers.

    The slots are the moments of a training that is over. The copy has links to the variables where links are possible.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    nodes = [node for graph in saved.meta_graphs for node in graph.object_graph_def.nodes if node.slot_variables]
    if not nodes:
        yield folder
        return
    for node in nodes:
        del node.slot_variables[:]
    with tempfile.TemporaryDirectory() as made:
        copy = Path(made)
        (copy / "saved_model.pb").write_bytes(saved.SerializeToString())
        for part in ("variables", "assets"):
            if (folder / part).is_dir():
                shutil.copytree(folder / part, copy / part, copy_function=linked)
        yield copy


def linked(source: str, target: str) -> None:
    """Link a file, or copy it where that is not possible."""
    try:
        os.symlink(os.path.abspath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def input_of(name: str, shape: Any, dtype: str, given: tuple[int, ...] | None) -> Input:
    """An input with every extent known.

    Raises:
        ConversionError: one is open, or it is of another rank or size than --shape says.
    """
    known = tuple(shape)[1:]
    extents = given or known
    fits = len(known) == len(extents) and all(a is None or a == b for a, b in zip(known, extents, strict=True))
    if not fits or None in extents:
        raise ConversionError(
            f"input {name} takes samples of shape {known}, where None is open"
            + (f", not {given}." if given else ": give --shape (of models with one input).")
        )
    return Input(name, tuple(int(extent) for extent in extents), dtype)


def one_output(output: Any) -> Any:
    """The one tensor that a model gives."""
    import tensorflow as tf

    tensors = tf.nest.flatten(output)
    if len(tensors) != 1:
        raise ConversionError(f"the model has {len(tensors)} outputs; make one with a single output, and convert that.")
    return tensors[0]


def convert(function: Any, inputs: list[Input]) -> tuple[onnx.ModelProto, Feeds]:
    """Convert a function of TensorFlow whose variables become initializers under their own names."""
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    with failing("TensorFlow cannot freeze the model"):
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    graph = frozen.graph.as_graph_def()
    variables = variables_of(function)
    shapes = {
        operation.name: operation.outputs[0].shape for operation in frozen.graph.get_operations() if operation.outputs
    }
    own = set(variables.values())
    variables |= fuse_images(graph, variables, shapes)
    values, looped = take_out(graph, set(variables))
    named = {variables[node]: array for node, array in values.items()}
    names = {tensor.name: each.name for tensor, each in zip(frozen.inputs, inputs, strict=True)}
    outputs = [tensor.name for tensor in frozen.outputs]
    if len(outputs) != 1:
        raise ConversionError(f"the model has {len(outputs)} outputs; make one with a single output, and convert that.")
    with failing("tf2onnx cannot convert the model"):
        proto, _ = tf2onnx.convert.from_graph_def(
            graph,
            input_names=[*names, *(f"{node}:0" for node in values)],
            output_names=outputs,
            opset=OPSET,
            tensors_to_rename={
                **names,
                **{f"{node}:0": variables[node] for node in values},
                outputs[0]: "output",
            },
        )
    proto.ir_version = IR_VERSION
    used = {value for node in proto.graph.node for value in node.input}
    named = {name: array for name, array in named.items() if name in used}
    real = [value for value in proto.graph.input if value.name not in named and value.name in names.values()]
    del proto.graph.input[:]
    proto.graph.input.extend(real)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in named.items())
    fold(proto, set(named))
    for node in proto.graph.node:  # two convolutions of one layer would both have its name
        kernels = [name for name in node.input if name in named and name.endswith("_kernel")]
        node.name = kernels[0].removesuffix("_kernel") if kernels else node.name
    fuse_others(proto)
    named |= {variables[node]: array for node, array in looped.items()}
    return proto, {name: array for name, array in named.items() if name in own}


def variables_of(function: Any) -> dict[str, str]:
    """Names of variables by the node that stands for each in the frozen graph."""
    handles = {id(variable.handle): variable for variable in function.graph.variables}
    paths = getattr(function, "paths", {})
    found: dict[str, str] = {}
    for outer, inner in function.graph.captures:
        variable = handles.get(id(outer))
        if variable is None:
            continue
        name = paths.get(variable.handle._id, variable.name.removesuffix(":0"))
        while name in found.values():
            name += "_"
        found[inner.op.name] = name
    return found


def take_out(graph: Any, variables: set[str]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Make placeholders, in place, of the constants that stand for variables.

    Returns:
        The values of those, and the values of variables that a loop uses: they stay constants, by which tf2onnx
        recognises an LSTM or GRU.
    """
    import tensorflow as tf

    nodes = {node.name: node for node in graph.node}
    used: list[str] = [name for node in graph.node if node.op in LOOPS for name in node.input]
    looped = set()
    while used:
        node = nodes.get(used.pop().lstrip("^").split(":")[0])
        if node is not None and node.name not in looped and node.op in ("Const", "Identity", "ReadVariableOp", "Cast"):
            looped.add(node.name)
            used.extend(node.input)
    outside, inside = {}, {}
    for node in graph.node:
        if node.name in variables and node.op == "Const":
            array = tf.make_ndarray(node.attr["value"].tensor)
            if node.name in looped:
                inside[node.name] = array
                continue
            outside[node.name] = array
            node.op = "Placeholder"
            del node.attr["value"]
            node.attr["shape"].shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    return outside, inside


@dataclass(frozen=True)
class Normalisation:
    """A batch normalisation written as arithmetic: the value it gives, its input, and its parameters.

    ``shaped`` is the variance as it enters the arithmetic, reshaped to the axis that it belongs to.
    """

    output: str
    x: str
    variance: str
    mean: str
    gamma: str | None
    beta: str | None
    epsilon: float
    shaped: str


def find_normalisations(
    view: dict[str, tuple[str, list[str]]], variables: set[str], numbers: dict[str, float]
) -> Iterator[Normalisation]:
    """Find them: x * inv + (beta - mean * inv), inv = rsqrt(variance + epsilon) * gamma; gamma or beta may be missing.

    Args:
        view: operator and inputs by the value they give.
        variables: values that are variables.
        numbers: values that are constant numbers.
    """

    def variable(value: str | None) -> str | None:
        while value is not None and value not in variables:
            operator, inputs = view.get(value, ("", []))
            value = inputs[0] if operator in ("Identity", "Reshape", "ReadVariableOp") else None
        return value

    def pairs(value: str, operator: str) -> list[tuple[str, str]]:
        found, inputs = view.get(value, ("", []))
        return [(inputs[0], inputs[1]), (inputs[1], inputs[0])] if found == operator else []

    def inverse(value: str) -> tuple[str, str | None, float] | None:
        """The reshaped variance, gamma and epsilon of what may be inv."""
        for root, gamma in [*pairs(value, "Mul"), (value, None)]:
            operator, inputs = view.get(root, ("", []))
            if operator != "Rsqrt" or (gamma is not None and variable(gamma) is None):
                continue
            for variance, epsilon in pairs(inputs[0], "Add"):
                if variable(variance) and epsilon in numbers:
                    return variance, gamma, numbers[epsilon]
        return None

    for output in list(view):
        for scaled, offset in pairs(output, "Add"):
            for x, factor in pairs(scaled, "Mul"):
                found = inverse(factor)
                operator, inputs = view.get(offset, ("", []))
                beta, shift = inputs if operator == "Sub" else (None, offset)
                mean = next((one for one, other in pairs(shift, "Mul") if other == factor), None)
                if mean is not None and beta is None:  # -mean * inv
                    mean = view[mean][1][0] if view.get(mean, ("", []))[0] == "Neg" else None
                names = [variable(mean), variable(beta), variable(found[1]) if found else None]
                if found is None or names[0] is None or (beta is not None and names[1] is None):
                    continue
                variance = str(variable(found[0]))
                yield Normalisation(output, x, variance, names[0], names[2], names[1], found[2], found[0])


def fuse_images(graph: Any, variables: dict[str, str], shapes: dict[str, Any]) -> dict[str, str]:
    """Make one node, in place, of each batch normalisation of images, before tf2onnx moves their channels.

    Returns:
        Names of the scales and shifts, by node, that a normalisation lacked and got.
    """
    import tensorflow as tf

    nodes = {node.name: node for node in graph.node}
    scalars = [node for node in graph.node if node.op == "Const" and shapes[node.name].rank == 0]
    numbers = {
        node.name: float(tf.make_ndarray(node.attr["value"].tensor))
        for node in scalars
        if node.attr["dtype"].type == tf.float32.as_datatype_enum
    }
    view = {
        node.name: (
            {"AddV2": "Add"}.get(node.op, node.op),
            [name.split(":")[0] for name in node.input if name[0] != "^"],
        )
        for node in graph.node
    }
    added = {}
    for found in list(find_normalisations(view, set(variables), numbers)):
        axis = channel_axis(tuple(shapes[found.shaped]), 4)
        if shapes[found.x].rank != 4 or axis not in (1, 3):
            continue
        parts = []
        for given, name, fill in ((found.gamma, "ones", 1.0), (found.beta, "zeros", 0.0)):
            if given is None:
                given = f"{found.output}/{name}"
                constant(graph, given, np.full(shapes[found.variance], fill, np.float32))
                added[given] = f"{module(variables[found.variance])}/{name}"
            parts.append(given)
        node = nodes[found.output]
        x = next(name for name in nodes[scaled_by(view, found)].input if name.split(":")[0] == found.x)
        node.op = "FusedBatchNormV3"
        node.ClearField("attr")
        node.ClearField("input")
        node.input.extend([x, *parts, found.mean, found.variance])
        for key in ("T", "U"):
            node.attr[key].type = tf.float32.as_datatype_enum
        node.attr["epsilon"].f = found.epsilon
        node.attr["is_training"].b = False
        node.attr["data_format"].s = b"NHWC" if axis == 3 else b"NCHW"
    return added


def scaled_by(view: dict[str, tuple[str, list[str]]], found: Normalisation) -> str:
    """The value x * inv."""
    return next(value for value in view[found.output][1] if found.x in view[value][1])


def fuse_others(proto: onnx.ModelProto) -> None:
    """Make one node, in place, of each batch normalisation that is left: of vectors, sequences and volumes."""
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    known = [*inferred.value_info, *inferred.input]
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in known}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    numbers = {
        name: numpy_helper.to_array(tensor).item()
        for name, tensor in tensors.items()
        if tensor.data_type == onnx.TensorProto.FLOAT and int(np.prod(tensor.dims)) == 1
    }
    producers = {node.output[0]: node for node in proto.graph.node}
    view = {value: (node.op_type, list(node.input)) for value, node in producers.items()}
    for value, (operator, inputs) in list(view.items()):
        if operator == "Reciprocal" and view.get(inputs[0], ("", []))[0] == "Sqrt":
            view[value] = ("Rsqrt", view[inputs[0]][1])
    for found in list(find_normalisations(view, set(tensors), numbers)):
        rank = ranks.get(found.x, 0)
        axis = channel_axis(tuple(tensors[found.variance].dims), rank)
        if rank < 2 or axis is None or axis == 0:
            continue
        parts = []
        for given, name in ((found.gamma, "ones"), (found.beta, "zeros"), (found.mean, ""), (found.variance, "")):
            if given is None:
                given = f"{module(found.variance)}/{name}"
                values = np.full(int(np.prod(tensors[found.variance].dims)), float(name == "ones"), np.float32)
                proto.graph.initializer.append(numpy_helper.from_array(values, given))
            else:
                flat = numpy_helper.to_array(tensors[given]).ravel()
                tensors[given].CopyFrom(numpy_helper.from_array(flat, given))
            parts.append(given)
        there = [0, axis, *(other for other in range(1, rank) if other != axis)]
        moved = there != sorted(there)
        node = producers[found.output]
        at = list(proto.graph.node).index(node)
        name = module(found.variance)
        before, after = (f"{name}/first", f"{name}/normalised") if moved else (found.x, found.output)
        made = [onnx.helper.make_node("BatchNormalization", [before, *parts], [after], name, epsilon=found.epsilon)]
        if moved:
            back = [int(position) for position in np.argsort(there)]
            made.insert(0, onnx.helper.make_node("Transpose", [found.x], [before], before, perm=there))
            made.append(onnx.helper.make_node("Transpose", [after], [found.output], after, perm=back))
        proto.graph.node.remove(node)
        for offset, each in enumerate(made):
            proto.graph.node.insert(at + offset, each)
    drop_unused(proto)


def drop_unused(proto: onnx.ModelProto) -> None:
    """Remove, in place, nodes and initializers that nothing uses."""
    wanted = {value.name for value in proto.graph.output}
    for node in reversed(list(proto.graph.node)):
        if wanted & set(node.output):
            wanted |= set(node.input) | inner_names(node)
        else:
            proto.graph.node.remove(node)
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name not in wanted]:
        proto.graph.initializer.remove(tensor)


def inner_names(node: onnx.NodeProto) -> set[str]:
    """Values that the bodies of a loop or branch use."""
    inner = [inside for attribute in node.attribute for inside in attribute.g.node]
    return {name for inside in inner for name in inside.input}.union(*(inner_names(inside) for inside in inner))


def channel_axis(shape: tuple[int, ...], rank: int) -> int | None:
    """Which of so many axes numbers per channel belong to, from the shape that they are broadcast in."""
    long = [axis for axis, extent in enumerate(shape) if extent != 1]
    if not shape or len(long) > 1:
        return None
    return rank - len(shape) + (long[0] if long else len(shape) - 1)


def module(name: str) -> str:
    """The layer that a variable belongs to."""
    return name.rpartition("/")[0]


def constant(graph: Any, name: str, array: np.ndarray) -> str:
    """Add a constant to a graph of TensorFlow."""
    import tensorflow as tf

    node = graph.node.add(name=name, op="Const")
    node.attr["dtype"].type = tf.as_dtype(array.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
    return name


def fold(proto: onnx.ModelProto, names: set[str]) -> None:
    """Apply to the variables themselves, in place, what only changes their layout."""
    from onnx.reference import ReferenceEvaluator

    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    done = False
    while not done:
        done = True
        for node in list(proto.graph.node):
            source = node.input[0] if node.input else ""
            users = [other for other in proto.graph.node if source in other.input]
            if node.op_type not in FOLDED or source not in names or len(users) != 1:
                continue
            if not all(name in tensors for name in node.input):
                continue
            feeds = {name: numpy_helper.to_array(tensors[name]) for name in node.input}
            result = np.ascontiguousarray(ReferenceEvaluator(node).run(None, feeds)[0])
            tensors[source].CopyFrom(numpy_helper.from_array(result, source))
            for other in proto.graph.node:
                for position, value in enumerate(other.input):
                    if value == node.output[0]:
                        other.input[position] = source
            proto.graph.node.remove(node)
            done = False


if __name__ == "__main__":
    run(main)
