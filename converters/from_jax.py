# /// script
# requires-python = ">=3.11"
# dependencies = ["flax>=0.12", "jax>=0.8.1", "jax2onnx>=0.17", "numpy>=1.26", "onnx>=1.20", "onnxruntime>=1.24"]
# ///
"""Convert a Flax model, or a function of JAX with its parameters, to ONNX, parameter names kept.

  uv run converters/from_jax.py package.module:function --input 32,32,3 -o model.onnx
  uv run converters/from_jax.py my_net.py:load --arg path=weights.npz --input 32,32,3 -o model.onnx

or with pip: pip install flax jax jax2onnx numpy onnx onnxruntime; python converters/from_jax.py ...
What your own code imports comes with uv run --with orbax-checkpoint ..., or from the environment that has it.

The function is looked for in the current folder first, and its code runs. It returns the trained model, weights loaded:

  an nnx.Module, which is put into evaluation mode;
  (module, variables) of flax.linen, which is called as module.apply(variables, x): where it takes an argument such as
    train, give (functools.partial(module.apply, train=False), variables);
  (function, parameters) of JAX, called as function(parameters, x), parameters being any tree of arrays.

An input is one sample's shape, without the batch, channels last for images: 32,32,3. Others than float32, and names,
are written out: tokens=16:int32:1000 is 16 integers below 1000. Give --input once per input, in the arguments' order.
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
    Input,
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
    """Make, convert, compare, write."""
    made = parser(__doc__ or "")
    made.add_argument("model", help="package.module:name or file.py:name")
    made.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="for the function; JSON or text")
    made.add_argument("--input", action="append", default=[], metavar="SHAPE", help="[name=]32,32,3[:dtype[:below]]")
    options = parse(made, arguments)
    inputs = [read_input(text, index, made) for index, text in enumerate(options.input)]
    if ":" not in options.model:
        made.error(f"{options.model}: give package.module:name or file.py:name")
    if not inputs:
        made.error("--input is missing: one sample's shape, such as --input 32,32,3")
    if any(each.dtype == "int64" for each in inputs):
        made.error("--input: JAX's integers are int32; write tokens=16:int32:1000")
    arguments_of = dict(read_argument(text, made) for text in options.arg)
    logging.disable(logging.WARNING)  # jax2onnx logs its own insides
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
    """What the user's function gives, as a function of the inputs alone, and its parameters by name."""
    from flax import linen, nnx

    def ready(found: Any) -> bool:
        return isinstance(found, (nnx.Module, tuple))

    model = make(target, arguments, ready)
    if isinstance(model, nnx.Module):
        model.eval()
        return model, flatten(nnx.to_pure_dict(nnx.state(model)))
    if isinstance(model, linen.Module):
        raise ConversionError(
            f"{target} gave a module of flax.linen without its variables: return (module, variables)."
        )
    if isinstance(model, tuple) and len(model) == 2:
        call, parameters = model
        if isinstance(call, linen.Module):
            return lambda *x: call.apply(parameters, *x), flatten_variables(parameters)
        if callable(call):
            return lambda *x: call(parameters, *x), flatten_variables(parameters)
    if callable(model):
        say(f"{target} gave a function without parameters: what it computes with has no names.")
        return model, {}
    raise ConversionError(
        f"{target} gave {type(model).__name__}; an nnx.Module, (module, variables) or (function, parameters) is wanted."
    )


def flatten(tree: Any) -> Feeds:
    """Floating-point arrays of a tree by their path: block/conv/kernel."""
    import jax

    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if hasattr(leaf, "dtype") and str(leaf.dtype) in ("float32", "float64"):
            found[jax.tree_util.keystr(path, simple=True, separator="/")] = np.asarray(leaf, np.float32)
    return found


def flatten_variables(tree: Any) -> Feeds:
    """Likewise; of flax.linen's variables without the collection's name (params/), where names stay different."""
    full = flatten(tree)
    collections = {name.split("/")[0] for name in full}
    if "params" not in collections or not all("/" in name for name in full):
        return full
    short = Counter(name.split("/", 1)[1] for name in full)
    return {name if short[name.split("/", 1)[1]] > 1 else name.split("/", 1)[1]: full[name] for name in full}


def check_output(function: Callable[..., Any], inputs: list[Input]) -> None:
    """See, without computing anything, that the model takes these inputs and gives one array.

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
        raise ConversionError(f"for a batch of {batch} the model gives shape {shape}: the batch has to come first.")


def convert(function: Callable[..., Any], inputs: list[Input]) -> onnx.ModelProto:
    """Convert with jax2onnx, with normalisations as nodes of their own, at the first opset whose operators do.

    Raises:
        ConversionError: jax2onnx cannot, or what it makes is not valid.
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
            if "positional argument" in text:  # its stand-ins for Flax's functions take less than these do
                hint = " jax2onnx wants arguments of Flax's functions by name: max_pool(x, window_shape=(2, 2), ...)."
            raise ConversionError(
                f"jax2onnx cannot convert the model: {type(error).__name__}: {text}.{hint}"
            ) from error
        proto.ir_version = min(proto.ir_version, IR_VERSION if opset <= OPSET else LATER_IR_VERSION)
        try:
            onnx.checker.check_model(proto, full_check=True)
        except Exception:  # it writes some operators in a newer form than the opset has
            continue
        return proto
    return proto  # `finish` says what is wrong


def batch_of(each: Input, size: int | str) -> Any:
    """The shape and type of a batch of an input."""
    import jax

    return jax.ShapeDtypeStruct((size, *each.shape), each.dtype)


def join_biases(proto: onnx.ModelProto, named: Feeds) -> None:
    """Take in, in place, the Add of a bias that follows a Gemm whose own is zeros: x @ w + b is one layer."""
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
    """Name, in place, the ones and zeros that a normalisation has for a scale or bias that its layer does without."""
    uses = Counter(value for node in proto.graph.node for value in node.input)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        layer = next((name.rpartition("/")[0] for name in node.input[1:] if name in named), "")
        if node.op_type not in NORMALISATIONS or not layer:
            continue
        for position, what in zip((1, 2), ("scale", "bias"), strict=True):
            old = node.input[position] if position < len(node.input) else ""
            new = f"{layer}/{what}"
            if old in tensors and old not in named and uses[old] == 1 and new not in tensors:
                tensors[old].name = node.input[position] = new


if __name__ == "__main__":
    run(main)
