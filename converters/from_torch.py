# /// script
# requires-python = ">=3.10"
# dependencies = [
#   "numpy>=1.26", "onnx>=1.18", "onnxruntime>=1.17", "onnxscript>=0.5", "safetensors>=0.4", "torch>=2.6",
# ]
# ///
"""Convert a PyTorch model to ONNX, its batch normalisations and parameter names kept.

  uv run converters/from_torch.py package.module:function --weights weights.pt --input 3,224,224 -o model.onnx
  uv run converters/from_torch.py my_net.py:Net --arg classes=10 --weights net.safetensors --input 3,32,32 -o model.onnx
  uv run converters/from_torch.py program.pt2 -o model.onnx

or with pip: pip install numpy onnx onnxruntime onnxscript safetensors torch; python converters/from_torch.py ...
What your own code imports comes with uv run --with torchvision ..., or from the environment that has it.

The model is named by what makes it, a function or class (or the module itself), as package.module:name or file.py:name,
looked for in the current folder first; its code runs. Weights are a state_dict (.pt, .pth, .bin or .safetensors), read
without running code. A .pt2 file is a program of torch.export.save.

An input is one sample's shape, without the batch: 3,224,224. Others than float32, and names, are written out:
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
    Input,
    failing,
    finish,
    parse,
    parser,
    run,
    say,
)
from converting_function import make, read_argument, read_input

OPSET_OF_PROGRAMS = 18  # the oldest that the exporter of torch.export's programs writes
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net")  # where checkpoints keep a state_dict
WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and torch.compile


def main(arguments: list[str] | None = None) -> None:
    """Build or read, convert, compare, write."""
    made = parser(__doc__ or "")
    made.add_argument("model", help="package.module:name, file.py:name, or a .pt2 file")
    made.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="for the function; JSON or text")
    made.add_argument("--weights", type=Path, help="a state_dict: .pt, .pth, .bin or .safetensors")
    made.add_argument("--input", action="append", default=[], metavar="SHAPE", help="[name=]3,224,224[:dtype[:below]]")
    made.add_argument("--take", metavar="KEY", help="which output, where the model returns several: a number or key")
    options = parse(made, arguments)
    logging.disable(logging.WARNING)  # torch's exporters log their own insides
    torch.manual_seed(options.seed)
    if options.model.endswith(".pt2"):
        convert_program(Path(options.model), options, made)
    else:
        convert_module(options, made)


def convert_module(options: argparse.Namespace, made: argparse.ArgumentParser) -> None:
    """Convert what a function makes, with the exporter that traces: it keeps names, and layers as they are."""
    if ":" not in options.model:
        made.error(f"{options.model}: give package.module:name, file.py:name or a .pt2 file")
    inputs = [read_input(text, index, made) for index, text in enumerate(options.input)]
    if not inputs:
        made.error("--input is missing: one sample's shape, such as --input 3,224,224")
    model = build(options.model, dict(read_argument(text, made) for text in options.arg))
    if options.weights is not None:
        load_weights(model, options.weights)
    else:
        say("No --weights: the weights are those that the function gave.")
    model = model.float().eval()
    model.register_forward_hook(lambda module, given, output: take(output, options.take))
    torch.backends.mha.set_fastpath_enabled(False)  # it has no ONNX form
    named = {name: as_array(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    named = {name: array for name, array in named.items() if array.dtype == np.float32}
    proto = trace(model, inputs, set(named))

    def reference(feeds: Feeds) -> np.ndarray:
        with torch.no_grad():
            return as_array(model(*(torch.from_numpy(feeds[each.name]) for each in inputs)))

    finish(proto, inputs, reference, named, options)


def trace(model: torch.nn.Module, inputs: list[Input], named: set[str]) -> onnx.ModelProto:
    """Export by tracing, nothing folded.

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
    wanted = {each.name for each in inputs}
    unused = wanted - {value for node in proto.graph.node for value in node.input}
    if unused:
        raise ConversionError(f"the model does not use its input {', '.join(sorted(unused))}: leave that --input out.")
    real = [value for value in proto.graph.input if value.name in wanted]
    del proto.graph.input[:]
    proto.graph.input.extend(real)
    return proto


def convert_program(path: Path, options: argparse.Namespace, made: argparse.ArgumentParser) -> None:
    """Convert a program of torch.export, with the exporter made for it, unoptimised so that nothing is folded."""
    if not path.is_file():
        made.error(f"{path} does not exist or is not a file")
    for name in ("arg", "input", "weights", "take"):
        if getattr(options, name):
            made.error(f"--{name} does not go with a .pt2 file, which holds its code, weights and inputs itself")
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
        Input(value.name, extents(example.shape, value.name), str(example.dtype).removeprefix("torch."))
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
    """One sample's shape."""
    if not all(isinstance(extent, int) for extent in shape[1:]):
        raise ConversionError(
            f"the program's input {name} has open extents besides the batch: {tuple(shape)}. adabet-onnx needs fixed "
            "ones: export the program with the batch alone dynamic."
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
    """The module that the user names, or makes."""
    model = make(target, arguments, lambda found: isinstance(found, torch.nn.Module))
    if not isinstance(model, torch.nn.Module):
        raise ConversionError(f"{target} gave {type(model).__name__}, not a torch.nn.Module.")
    return model


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load a state_dict, which may lie inside a checkpoint or under a wrapper's names.

    Raises:
        ConversionError: it is not a state_dict, or does not fit the model.
    """
    state = read_weights(path)
    keys = [key for key in NESTED if isinstance(state.get(key), dict)]
    if keys:
        say(f"{path} is a checkpoint: its entry {keys[0]!r} is taken.")
        state = state[keys[0]]
    state = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    for wrapper in WRAPPERS:
        if state and all(name.startswith(wrapper) for name in state):
            say(f"{path}: {wrapper!r} before every name is left out.")
            state = {name.removeprefix(wrapper): value for name, value in state.items()}
    wanted = model.state_dict()
    problems = {
        "lacks": [name for name in wanted if name not in state],
        "has, but the model does not,": [name for name in state if name not in wanted],
        "has in another shape": [
            f"{name} ({tuple(state[name].shape)} for {tuple(wanted[name].shape)})"
            for name in wanted
            if name in state and state[name].shape != wanted[name].shape
        ],
    }
    found = [f"{what} {len(names)}: {', '.join(names[:4])}" for what, names in problems.items() if names]
    if found:
        raise ConversionError(
            f"{path} does not fit the model; it {'; it '.join(found)}. Are --arg and file the right ones?"
        )
    model.load_state_dict(state)


def read_weights(path: Path) -> dict[str, Any]:
    """What a file of weights holds, read without running code."""
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


def take(output: Any, key: str | None) -> torch.Tensor:
    """The one output that the graph gets."""
    if isinstance(output, torch.Tensor) and key is None:
        return output
    named = dict(output) if hasattr(output, "keys") else {}
    if not named and isinstance(output, (tuple, list)):
        named = {str(index): value for index, value in enumerate(output)}
    tensors = [name for name, value in named.items() if isinstance(value, torch.Tensor)]
    if key is None and len(tensors) == 1:
        key = tensors[0]
    if key is None or not isinstance(named.get(key), torch.Tensor):
        choice = f"choose with --take: {', '.join(tensors)}" if tensors else "one tensor is wanted"
        raise ConversionError(f"the model returns {type(output).__name__}; {choice}.")
    return named[key]


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as an array, without its gradient."""
    return tensor.detach().cpu().numpy()


if __name__ == "__main__":
    run(main)
