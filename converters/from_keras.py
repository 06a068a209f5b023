# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = [
#   "keras>=3", "numpy>=1.26", "onnx>=1.18", "onnxruntime>=1.17", "tf2onnx>=1.17",
#   "tensorflow-cpu>=2.16; sys_platform != 'darwin'", "tensorflow>=2.16; sys_platform == 'darwin'",
# ]
# ///
"""Convert a Keras model or a TensorFlow SavedModel to ONNX, keeping batch normalisations and variable names.

  uv run converters/from_keras.py model.keras -o model.onnx
  uv run converters/from_keras.py model.h5 -o model.onnx
  uv run converters/from_keras.py saved_model/ -o model.onnx

or with pip: pip install keras numpy onnx onnxruntime tensorflow-cpu tf2onnx; python converters/from_keras.py ...

A .keras or .h5 file is loaded without running code in it (safe mode); for custom layers, --import names the module that
registers them. A SavedModel is a program: convert only those that you trust.

Variables stay outside the graph until it is converted, so that nothing is folded into them or merged; a batch
normalisation that Keras 3 writes as arithmetic becomes one node again. Images keep their layout (N, height, width,
channels); adabet-onnx accepts either layout.
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
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from converting import IR_VERSION, OPSET, ConversionError, Feeds, ModelInput, failing, finish, parse, parser, run
from keras_normalisations import fold, fuse_images, fuse_others
from onnx import numpy_helper

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it rounds differently, and logs that on every start
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["KERAS_BACKEND"] = "tensorflow"

LOOPS = ("While", "StatelessWhile")


def main(arguments: list[str] | None = None) -> None:
    """Load, convert, compare and write."""
    argparser = parser(__doc__ or "")
    argparser.add_argument("model", type=Path, help="a .keras or .h5 file, or a SavedModel folder")
    argparser.add_argument("--shape", help="one sample's shape, such as 224,224,3, if it is dynamic in the model")
    argparser.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE", help="module with custom layers"
    )
    argparser.add_argument(
        "--signature", default="serving_default", help="signature of a SavedModel (default %(default)s)"
    )
    options = parse(argparser, arguments)
    shape = None
    if options.shape is not None:
        if not all(part.isdigit() and int(part) for part in options.shape.split(",")):
            argparser.error(f"--shape {options.shape}: write numbers with commas, such as 224,224,3")
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
        argparser.error(
            f"{options.model} is neither a .keras or .h5 file nor a SavedModel folder (with saved_model.pb)"
        )
    proto, named = convert(function, inputs)
    finish(proto, inputs, reference, named, options)


def from_file(path: Path, shape: tuple[int, ...] | None) -> tuple[Any, list[ModelInput], Callable[[Feeds], np.ndarray]]:
    """Load a Keras model; return a TensorFlow function, its inputs, and a function that runs it."""
    import keras
    import tensorflow as tf

    with failing(f"{path} cannot be loaded"):
        model = keras.saving.load_model(path, compile=False)
    specs = list(getattr(model, "inputs", None) or [])
    if not specs and shape is None:
        raise ConversionError(f"{path} does not define its input's shape: give --shape.")
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
) -> tuple[Any, list[ModelInput], Callable[[Feeds], np.ndarray]]:
    """Load a signature of a SavedModel; return it, its inputs, and a function that runs it."""
    import tensorflow as tf

    with failing(f"{options.model} cannot be loaded"), without_optimizer(options.model) as folder:
        loaded = tf.saved_model.load(folder)
    if options.signature not in loaded.signatures:
        raise ConversionError(
            f"{options.model} has no signature {options.signature}; choose with --signature: "
            f"{', '.join(loaded.signatures) or 'it has none'}."
        )
    function = loaded.signatures[options.signature]
    function.kept = loaded  # variables exist as long as the loaded object
    specs = function.structured_input_signature[1]
    inputs = [
        input_of(name, spec.shape, spec.dtype.name, shape if len(specs) == 1 else None) for name, spec in specs.items()
    ]

    def reference(feeds: Feeds) -> np.ndarray:
        return one_output(function(**{each.name: tf.constant(feeds[each.name]) for each in inputs})).numpy()

    return function, inputs, reference


@contextlib.contextmanager
def without_optimizer(folder: Path) -> Iterator[Path]:
    """Yield the SavedModel, or a copy without its optimizer's slots: Keras 3 cannot load those of Keras 2.

    The slots are the moments of a finished training. The copy links to the variables if links are possible.
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
    """Link a file, or copy it if that is not possible."""
    try:
        os.symlink(os.path.abspath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def input_of(name: str, shape: Any, dtype: str, given: tuple[int, ...] | None) -> ModelInput:
    """Return an input with a fully known shape.

    Raises:
        ConversionError: an extent is unknown, or rank or size differ from --shape.
    """
    known = tuple(shape)[1:]
    extents = given or known
    fits = len(known) == len(extents) and all(a is None or a == b for a, b in zip(known, extents, strict=True))
    if not fits or None in extents:
        raise ConversionError(
            f"input {name} takes samples of shape {known}, where None is dynamic"
            + (f", not {given}." if given else ": give --shape (of models with one input).")
        )
    return ModelInput(name, tuple(int(extent) for extent in extents), dtype)


def one_output(output: Any) -> Any:
    """Return the only output tensor of a model."""
    import tensorflow as tf

    tensors = tf.nest.flatten(output)
    if len(tensors) != 1:
        raise ConversionError(f"the model has {len(tensors)} outputs; make one with a single output, and convert that.")
    return tensors[0]


def convert(function: Any, inputs: list[ModelInput]) -> tuple[onnx.ModelProto, Feeds]:
    """Convert a TensorFlow function; its variables become initializers under their own names."""
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
    for node in proto.graph.node:  # two convolutions of one layer would have the same name
        kernels = [name for name in node.input if name in named and name.endswith("_kernel")]
        node.name = kernels[0].removesuffix("_kernel") if kernels else node.name
    fuse_others(proto)
    named |= {variables[node]: array for node, array in looped.items()}
    return proto, {name: array for name, array in named.items() if name in own}


def variables_of(function: Any) -> dict[str, str]:
    """Return the names of variables by the node that represents each in the frozen graph."""
    handles = {id(variable.handle): variable for variable in function.graph.variables}
    paths = getattr(function, "paths", {})
    names: dict[str, str] = {}
    for outer, inner in function.graph.captures:
        variable = handles.get(id(outer))
        if variable is None:
            continue
        name = paths.get(variable.handle._id, variable.name.removesuffix(":0"))
        while name in names.values():
            name += "_"
        names[inner.op.name] = name
    return names


def take_out(graph: Any, variables: set[str]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Replace, in place, the constants that represent variables by placeholders.

    Returns:
        The values of these, and the values of variables that a loop uses, which stay constants so that tf2onnx
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


if __name__ == "__main__":
    run(main)
