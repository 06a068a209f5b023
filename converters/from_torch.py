# /// script
# requires-python = ">=3.10"
# dependencies = [
#   "numpy>=1.26", "onnx>=1.18", "onnxruntime>=1.17", "onnxscript>=0.5", "safetensors>=0.4", "torch>=2.6",
# ]
# ///
"""Convert a PyTorch model to ONNX, keeping batch normalisations and parameter names.

  uv run converters/from_torch.py package.module:function --weights weights.pt --input 3,224,224 -o model.onnx
  uv run converters/from_torch.py my_net.py:Net --arg classes=10 --weights net.safetensors --input 3,32,32 -o model.onnx
  uv run converters/from_torch.py program.pt2 -o model.onnx

or with pip: pip install numpy onnx onnxruntime onnxscript safetensors torch; python converters/from_torch.py ...
For packages that your own code imports, use uv run --with torchvision ..., or an environment that has them.

The model is given as a function or class that creates it (or as the module itself): package.module:name or
file.py:name, searched for in the current folder first; its code runs. Weights are a state_dict (.pt, .pth, .bin or
.safetensors), read without running code. A .pt2 file is a program written by torch.export.save.

An input is one sample's shape, without the batch: 3,224,224. Names, and types other than float32, are given explicitly:
tokens=16:int64:1000 is 16 integers below 1000. Give --input once per input, in the order of the model's arguments.
"""

from __future__ import annotations

import argparse
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from converting import (
    BATCHES,
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

OPSET_OF_PROGRAMS = 18  # the oldest opset that the exporter for torch.export programs writes
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net")  # where checkpoints keep a state_dict
WRAPPERS = ("module.", "_orig_mod.")  # prefixes added by DataParallel and torch.compile


def main(arguments: list[str] | None = None) -> None:
    """Build or read, convert, compare and write."""
    argparser = parser(__doc__ or "")
    argparser.add_argument("model", help="package.module:name, file.py:name, or a .pt2 file")
    argparser.add_argument(
        "--arg", action="append", default=[], metavar="NAME=VALUE", help="argument of the function; JSON or text"
    )
    argparser.add_argument("--weights", type=Path, help="a state_dict: .pt, .pth, .bin or .safetensors")
    argparser.add_argument(
        "--input", action="append", default=[], metavar="SHAPE", help="[name=]3,224,224[:dtype[:below]]"
    )
    argparser.add_argument(
        "--take", metavar="KEY", help="the output to use if the model returns several: a number or key"
    )
    options = parse(argparser, arguments)
    logging.disable(logging.WARNING)  # torch's exporters log their own internals
    torch.manual_seed(options.seed)
    if options.model.endswith(".pt2"):
        convert_program(Path(options.model), options, argparser)
    else:
        convert_module(options, argparser)


def convert_module(options: argparse.Namespace, argparser: argparse.ArgumentParser) -> None:
    """Convert the module that a function returns with the tracing exporter, which keeps names and layers."""
    if ":" not in options.model:
        argparser.error(f"{options.model}: give package.module:name, file.py:name or a .pt2 file")
    inputs = [read_input(text, index, argparser) for index, text in enumerate(options.input)]
    if not inputs:
        argparser.error("--input is missing: one sample's shape, such as --input 3,224,224")
    model = build(options.model, dict(read_argument(text, argparser) for text in options.arg))
    if options.weights is not None:
        load_weights(model, options.weights)
    else:
        say("No --weights: using the weights of the module that the function returned.")
    model = model.float().eval()
    model.register_forward_hook(lambda module, given, output: select_output(output, options.take))
    torch.backends.mha.set_fastpath_enabled(False)  # it has no ONNX form
    named = {name: as_array(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    named = {name: array for name, array in named.items() if array.dtype == np.float32}
    proto = trace(model, inputs, set(named))

    def reference(feeds: Feeds) -> np.ndarray:
        with torch.no_grad():
            return as_array(model(*(torch.from_numpy(feeds[each.name]) for each in inputs)))

    finish(proto, inputs, reference, named, options)


def trace(model: torch.nn.Module, inputs: list[ModelInput], named: set[str]) -> onnx.ModelProto:
    """Export by tracing, without constant folding.

    With initializers as graph inputs, the exporter does not merge parameters that happen to be equal.
    """
    rng = np.random.default_rng(0)
    samples = tuple(torch.from_numpy(each.random(2, rng)) for each in inputs)
    file = io.BytesIO()
    with failing("torch.onnx cannot export the model"), torch.no_grad():
        torch.onnx.export(
            model,
            samples,
            file,
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=False,
            keep_initializers_as_inputs=True,
            input_names=[each.name for each in inputs],
            output_names=["logits"],
            dynamic_axes={name: {0: "N"} for name in (*(each.name for each in inputs), "logits")},
        )
    proto = onnx.load_from_string(file.getvalue())
    names = {each.name for each in inputs}
    unused = names - {value for node in proto.graph.node for value in node.input}
    if unused:
        raise ConversionError(f"the model does not use its input {', '.join(sorted(unused))}: leave that --input out.")
    real = [value for value in proto.graph.input if value.name in names]
    del proto.graph.input[:]
    proto.graph.input.extend(real)
    return proto


def convert_program(path: Path, options: argparse.Namespace, argparser: argparse.ArgumentParser) -> None:
    """Convert a torch.export program with the exporter for such programs, unoptimised so that nothing is folded."""
    if not path.is_file():
        argparser.error(f"{path} does not exist or is not a file")
    for name in ("arg", "input", "weights", "take"):
        if getattr(options, name):
            argparser.error(f"--{name} does not go with a .pt2 file, which holds its code, weights and inputs itself")
    with failing(f"{path} cannot be read as a program of torch.export"):
        program = torch.export.load(path)
    refuse_training(program, path)
    specs = program.graph_signature
    if len(specs.user_outputs) != 1:
        raise ConversionError(f"{path} has {len(specs.user_outputs)} outputs; export a model that returns one tensor.")
    placeholders = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    examples = [placeholders[name] for name in specs.user_inputs]
    with failing("torch.onnx cannot export the program"):
        written = torch.onnx.export(
            program, dynamo=True, optimize=False, opset_version=OPSET_OF_PROGRAMS, verbose=False
        )
    proto = written.model_proto
    proto.ir_version = min(proto.ir_version, IR_VERSION)
    inputs = [
        ModelInput(value.name, extents(example.shape, value.name), str(example.dtype).removeprefix("torch."))
        for value, example in zip(proto.graph.input, examples, strict=True)
    ]
    fixed = [example.shape[0] for example in examples if isinstance(example.shape[0], int)]
    named = {name: as_array(tensor) for name, tensor in program.state_dict.items()}
    named = {name: array for name, array in named.items() if array.dtype == np.float32}
    module = program.module()

    def reference(feeds: Feeds) -> np.ndarray:
        with torch.no_grad():
            return as_array(module(*(torch.from_numpy(feeds[each.name]) for each in inputs)))

    finish(proto, inputs, reference, named, options, batches=tuple(fixed[:1]) or BATCHES)


def extents(shape: Any, name: str) -> tuple[int, ...]:
    """Return one sample's shape."""
    if not all(isinstance(extent, int) for extent in shape[1:]):
        raise ConversionError(
            f"the program's input {name} has dynamic extents besides the batch: {tuple(shape)}. adabet-onnx needs "
            "fixed ones: export the program with only the batch dynamic."
        )
    return tuple(shape[1:])


def refuse_training(program: torch.export.ExportedProgram, path: Path) -> None:
    """Raise if the program was exported in training mode."""
    for node in program.graph.nodes:
        name = str(node.target)
        trains = "batch_norm" in name and len(node.args) > 5 and node.args[5] is True
        if trains or ("dropout" in name and len(node.args) > 2 and node.args[2] is True):
            raise ConversionError(
                f"{path} was exported in training mode ({name}): export model.eval() instead, so that batch "
                "normalisations use their stored statistics."
            )


def build(target: str, arguments: dict[str, Any]) -> torch.nn.Module:
    """Return the module that the user names, or that the named function returns."""
    model = make(target, arguments, lambda candidate: isinstance(candidate, torch.nn.Module))
    if not isinstance(model, torch.nn.Module):
        raise ConversionError(f"{target} returned {type(model).__name__}, not a torch.nn.Module.")
    return model


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load a state_dict, which may be inside a checkpoint or have a wrapper's prefix.

    Raises:
        ConversionError: it is not a state_dict, or does not fit the model.
    """
    state = read_weights(path)
    keys = [key for key in NESTED if isinstance(state.get(key), dict)]
    if keys:
        say(f"{path} is a checkpoint: using its entry {keys[0]!r}.")
        state = state[keys[0]]
    state = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    for wrapper in WRAPPERS:
        if state and all(name.startswith(wrapper) for name in state):
            say(f"{path}: removing the prefix {wrapper!r} of all names.")
            state = {name.removeprefix(wrapper): value for name, value in state.items()}
    expected = model.state_dict()
    problems = {
        "does not have": [name for name in expected if name not in state],
        "has, but the model does not,": [name for name in state if name not in expected],
        "has in another shape": [
            f"{name} ({tuple(state[name].shape)} for {tuple(expected[name].shape)})"
            for name in expected
            if name in state and state[name].shape != expected[name].shape
        ],
    }
    descriptions = [f"{problem} {len(names)}: {', '.join(names[:4])}" for problem, names in problems.items() if names]
    if descriptions:
        raise ConversionError(
            f"{path} does not fit the model; it {'; it '.join(descriptions)}. Are --arg and file the right ones?"
        )
    model.load_state_dict(state)


def read_weights(path: Path) -> dict[str, Any]:
    """Read a file of weights without running code."""
    if not path.is_file():
        raise ConversionError(f"--weights {path} does not exist or is not a file.")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        with failing(f"{path} cannot be read"):
            return dict(load_file(path))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise ConversionError(
            f"{path} cannot be read as a state_dict ({' '.join(str(error).split())[:150]}). If it holds a whole model, "
            "load it where it was made and save model.state_dict(), or torch.export.save it as a .pt2."
        ) from error
    if not isinstance(state, dict):
        raise ConversionError(f"{path} holds {type(state).__name__}, not a state_dict: save model.state_dict().")
    return state


def select_output(output: Any, key: str | None) -> torch.Tensor:
    """Return the output that the graph gets."""
    if isinstance(output, torch.Tensor) and key is None:
        return output
    named = dict(output) if hasattr(output, "keys") else {}
    if not named and isinstance(output, (tuple, list)):
        named = {str(index): value for index, value in enumerate(output)}
    tensors = [name for name, value in named.items() if isinstance(value, torch.Tensor)]
    if key is None and len(tensors) == 1:
        key = tensors[0]
    if key is None or not isinstance(named.get(key), torch.Tensor):
        choice = f"choose with --take: {', '.join(tensors)}" if tensors else "it must return a tensor"
        raise ConversionError(f"the model returns {type(output).__name__}; {choice}.")
    return named[key]


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """Convert a tensor to an array."""
    return tensor.detach().cpu().numpy()


if __name__ == "__main__":
    run(main)
