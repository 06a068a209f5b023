# /// script
# requires-python = ">=3.11"
# dependencies = ["flax>=0.12", "jax>=0.8.1", "jax2onnx>=0.17", "numpy>=1.26", "onnx>=1.20", "onnxruntime>=1.24"]
# ///
"""Convert a Flax model, or a JAX function with its parameters, to ONNX, keeping parameter names.

  uv run converters/from_jax.py package.module:function --input 32,32,3 -o model.onnx
  uv run converters/from_jax.py my_net.py:load --arg path=weights.npz --input 32,32,3 -o model.onnx

or with pip: pip install flax jax jax2onnx numpy onnx onnxruntime; python converters/from_jax.py ...
For packages that your own code imports, use uv run --with orbax-checkpoint ..., or an environment that has them.

The function is searched for in the current folder first, and its code runs. It returns the trained model with its
weights loaded:

  an nnx.Module, which is put into evaluation mode;
  (module, variables) of flax.linen, called as module.apply(variables, x): if it takes an argument such as train,
    return (functools.partial(module.apply, train=False), variables);
  (function, parameters) of JAX, called as function(parameters, x), where parameters is any tree of arrays.

An input is one sample's shape, without the batch, channels last for images: 32,32,3. Names, and types other than
float32, are given explicitly: tokens=16:int32:1000 is 16 integers below 1000. Give --input once per input, in the
order of the arguments.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from converting import (
    IR_VERSION,
    OPSET,
    ConversionError,
    Feeds,
    ModelInput,
    failing,
    finish,
    parse,
    parser,
    run,
    say,
)
from converting_function import make, read_argument, read_input
from converting_names import restore_names
from onnx import numpy_helper

os.environ.setdefault("JAX_PLATFORMS", "cpu")

OPSETS = (OPSET, 18, 21)
LATER_IR_VERSION = 10
NORMALISATIONS = ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization")


def main(arguments: list[str] | None = None) -> None:
    """Build, convert, compare and write."""
    argparser = parser(__doc__ or "")
    argparser.add_argument("model", help="package.module:name or file.py:name")
    argparser.add_argument(
        "--arg", action="append", default=[], metavar="NAME=VALUE", help="argument of the function; JSON or text"
    )
    argparser.add_argument(
        "--input", action="append", default=[], metavar="SHAPE", help="[name=]32,32,3[:dtype[:below]]"
    )
    options = parse(argparser, arguments)
    inputs = [read_input(text, index, argparser) for index, text in enumerate(options.input)]
    if ":" not in options.model:
        argparser.error(f"{options.model}: give package.module:name or file.py:name")
    if not inputs:
        argparser.error("--input is missing: one sample's shape, such as --input 32,32,3")
    if any(each.dtype == "int64" for each in inputs):
        argparser.error("--input: JAX's integers are int32; write tokens=16:int32:1000")
    arguments_of = dict(read_argument(text, argparser) for text in options.arg)
    logging.disable(logging.WARNING)  # jax2onnx logs its own internals
    function, named = build(options.model, arguments_of)
    check_output(function, inputs)
    proto = convert(function, inputs)
    restore_names(proto, named)
    join_biases(proto, named)
    name_fillers(proto, set(named))

    def reference(feeds: Feeds) -> np.ndarray:
        return np.asarray(function(*(feeds[each.name] for each in inputs)))

    finish(proto, inputs, reference, named, options)


def build(target: str, arguments: dict[str, Any]) -> tuple[Callable[..., Any], Feeds]:
    """Call the user's function; return a function of the inputs alone, and the parameters by name."""
    from flax import linen, nnx

    def ready(candidate: Any) -> bool:
        return isinstance(candidate, (nnx.Module, tuple))

    model = make(target, arguments, ready)
    if isinstance(model, nnx.Module):
        model.eval()
        return model, flatten(nnx.to_pure_dict(nnx.state(model)))
    if isinstance(model, linen.Module):
        raise ConversionError(
            f"{target} returned a flax.linen module without its variables: return (module, variables)."
        )
    if isinstance(model, tuple) and len(model) == 2:
        call, parameters = model
        if isinstance(call, linen.Module):
            return lambda *x: call.apply(parameters, *x), flatten_variables(parameters)
        if callable(call):
            return lambda *x: call(parameters, *x), flatten_variables(parameters)
    if callable(model):
        say(f"{target} returned a function without parameters: its weights will have no names.")
        return model, {}
    raise ConversionError(
        f"{target} returned {type(model).__name__}, not an nnx.Module, (module, variables) or (function, parameters)."
    )


def flatten(tree: Any) -> Feeds:
    """Return the floating-point arrays of a tree by their path: block/conv/kernel."""
    import jax

    arrays = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if hasattr(leaf, "dtype") and str(leaf.dtype) in ("float32", "float64"):
            arrays[jax.tree_util.keystr(path, simple=True, separator="/")] = np.asarray(leaf, np.float32)
    return arrays


def flatten_variables(tree: Any) -> Feeds:
    """Return the arrays by path; for flax.linen without the collection's name (params/), if names stay unique."""
    full = flatten(tree)
    collections = {name.split("/")[0] for name in full}
    if "params" not in collections or not all("/" in name for name in full):
        return full
    short = Counter(name.split("/", 1)[1] for name in full)
    return {name if short[name.split("/", 1)[1]] > 1 else name.split("/", 1)[1]: full[name] for name in full}


def check_output(function: Callable[..., Any], inputs: list[ModelInput]) -> None:
    """Check, without computing anything, that the model accepts these inputs and returns one array.

    Raises:
        ConversionError: it does not.
    """
    import jax

    batch = 3
    shapes = [batch_of(each, batch) for each in inputs]
    with failing(f"the model does not take inputs of shape {', '.join(str(each.shape) for each in shapes)}"):
        outputs = jax.tree_util.tree_leaves(jax.eval_shape(function, *shapes))
    if len(outputs) != 1:
        raise ConversionError(f"the model gives {len(outputs)} arrays: return a function that gives one, the logits.")
    shape = tuple(outputs[0].shape)
    if shape[:1] != (batch,):
        raise ConversionError(
            f"for a batch of {batch} the model gives shape {shape}: the batch must be the first axis."
        )


def convert(function: Callable[..., Any], inputs: list[ModelInput]) -> onnx.ModelProto:
    """Convert with jax2onnx, with normalisations as separate nodes, at the first opset that gives a valid graph.

    Raises:
        ConversionError: jax2onnx cannot convert the model.
    """
    import jax2onnx

    for opset in OPSETS:
        try:
            proto = jax2onnx.to_onnx(
                function,
                [batch_of(each, "N") for each in inputs],
                opset=opset,
                input_names=[each.name for each in inputs],
                output_names=["output"],
                normalization_mode="prefer_native",
            )
        except Exception as error:  # jax2onnx and JAX raise many kinds
            text = " ".join(str(error).split())[:600]
            hint = ""
            if "positional argument" in text:  # its replacements of Flax's functions accept fewer arguments
                hint = " jax2onnx needs arguments of Flax's functions by name: max_pool(x, window_shape=(2, 2), ...)."
            raise ConversionError(
                f"jax2onnx cannot convert the model: {type(error).__name__}: {text}.{hint}"
            ) from error
        proto.ir_version = min(proto.ir_version, IR_VERSION if opset <= OPSET else LATER_IR_VERSION)
        try:
            onnx.checker.check_model(proto, full_check=True)
        except Exception:  # some operators are written in a form that is too new for the opset
            continue
        return proto
    return proto  # `finish` reports the error


def batch_of(each: ModelInput, size: int | str) -> Any:
    """Return the shape and type of a batch of an input."""
    import jax

    return jax.ShapeDtypeStruct((size, *each.shape), each.dtype)


def join_biases(proto: onnx.ModelProto, named: Feeds) -> None:
    """Merge, in place, the Add of a bias into the Gemm before it, if its own bias is zeros: x @ w + b is one layer."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for value in node.input:
            users.setdefault(value, []).append(node)
    for node in [node for node in proto.graph.node if node.op_type == "Gemm" and len(node.input) == 3]:
        zeros = node.input[2]
        after = users.get(node.output[0], [])
        if zeros not in tensors or zeros in named or numpy_helper.to_array(tensors[zeros]).any() or len(after) != 1:
            continue
        biases = [name for name in after[0].input if name in named and named[name].ndim == 1]
        if after[0].op_type == "Add" and len(biases) == 1:
            node.input[2], node.output[0] = biases[0], after[0].output[0]
            kept = [attribute for attribute in node.attribute if attribute.name != "beta"]  # 0, for the zeros
            del node.attribute[:]
            node.attribute.extend(kept)
            proto.graph.node.remove(after[0])
            if len(users[zeros]) == 1:
                proto.graph.initializer.remove(tensors[zeros])


def name_fillers(proto: onnx.ModelProto, named: set[str]) -> None:
    """Name, in place, the ones and zeros of a normalisation whose layer has no scale or bias."""
    uses = Counter(value for node in proto.graph.node for value in node.input)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        layer = next((name.rpartition("/")[0] for name in node.input[1:] if name in named), "")
        if node.op_type not in NORMALISATIONS or not layer:
            continue
        for position, role in zip((1, 2), ("scale", "bias"), strict=True):
            old = node.input[position] if position < len(node.input) else ""
            new = f"{layer}/{role}"
            if old in tensors and old not in named and uses[old] == 1 and new not in tensors:
                tensors[old].name = node.input[position] = new


if __name__ == "__main__":
    run(main)
