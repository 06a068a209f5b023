# /// script
# requires-python = ">=3.10"
# dependencies = [
#   "numpy>=1.26", "onnx>=1.18", "onnxruntime>=1.17", "onnxscript>=0.5", "torch>=2.6", "transformers>=4.50",
# ]
# ///
"""Convert a Hugging Face classifier of texts or images from a folder to ONNX, keeping parameter names.

  uv run converters/from_transformers.py folder/ --length 128 -o model.onnx
  uv run converters/from_transformers.py folder/ --length 128 --mask-padding -o model.onnx
  uv run converters/from_transformers.py vit-folder/ -o model.onnx

or with pip: pip install numpy onnx onnxruntime onnxscript torch transformers; python converters/from_transformers.py

The folder has config.json and model.safetensors (or pytorch_model.bin), as save_pretrained writes them; nothing is
downloaded, and no code in the folder is run. Texts have a fixed length; the inputs are input_ids and attention_mask
(and token_type_ids, if the model has them). With --mask-padding the graph itself masks padding, so that input_ids is
the only input, and adabet-onnx only needs an .npz with these as x. Mean and standard deviation of images, and class
names, are read from the folder.
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from converting import OPSET, ConversionError, Feeds, ModelInput, failing, finish, parse, parser, run, say

LENGTH = 128
COUNTING = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "longformer",
    "ibert",
    "data2vec-text",
    "xmod",
)


def main(arguments: list[str] | None = None) -> None:
    """Load, convert, compare and write."""
    argparser = parser(__doc__ or "")
    argparser.add_argument(
        "folder", type=Path, help="folder with config.json and model.safetensors or pytorch_model.bin"
    )
    argparser.add_argument(
        "--length", type=int, help=f"tokens per text (default {LENGTH}, or fewer if the model is limited to that)"
    )
    argparser.add_argument("--mask-padding", action="store_true", help="input_ids only: the graph masks the padding")
    argparser.add_argument(
        "--no-token-types", action="store_true", help="leave token_type_ids out (all of the first type)"
    )
    argparser.add_argument("--pad-token-id", type=int, help="if config.json has none")
    options = parse(argparser, arguments)
    if not (options.folder / "config.json").is_file():
        argparser.error(f"{options.folder} has no config.json; give a folder that save_pretrained wrote")
    if options.length is not None and options.length < 1:
        argparser.error(f"--length must be at least 1, not {options.length}")
    logging.disable(logging.WARNING)  # torch and transformers log their own internals
    model = load(options)
    inputs = image_inputs(model) if is_image(model) else text_inputs(model, options)
    read_about(model, options)
    hook(model, [each.name for each in inputs], options)
    named = {name: tensor.detach().numpy() for name, tensor in model.state_dict(keep_vars=True).items()}
    named = {name: array for name, array in named.items() if array.dtype == np.float32}

    def reference(feeds: Feeds) -> np.ndarray:
        with torch.no_grad():
            return model(*(torch.from_numpy(feeds[each.name]) for each in inputs)).numpy()

    finish(trace(model, inputs), inputs, reference, named, options)


def load(options: argparse.Namespace) -> Any:
    """Load the model in float32 for evaluation, with attention in plain operators."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    loading = {"local_files_only": True, "trust_remote_code": False}
    with failing(f"{options.folder}/config.json cannot be read"):
        config = transformers.AutoConfig.from_pretrained(options.folder, **loading)
    kinds = [name for name in config.architectures or [] if name.endswith("Classification")]
    image = any(name.endswith("ImageClassification") for name in kinds) or hasattr(config, "image_size")
    auto_class = (
        transformers.AutoModelForImageClassification if image else transformers.AutoModelForSequenceClassification
    )
    if kinds and not image and not kinds[0].endswith("SequenceClassification"):
        raise ConversionError(f"{options.folder} is a {kinds[0]}; only classifiers of whole texts or images work.")
    if not image:
        pad_token(config, options)
    with failing(f"{options.folder} cannot be loaded"):
        model, about = auto_class.from_pretrained(
            options.folder, config=config, attn_implementation="eager", output_loading_info=True, **loading
        )
    missing = sorted(about["missing_keys"])
    if missing:
        say(f"Warning: the folder has no {', '.join(missing[:4])}; they are random now. Is it a classifier?")
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    return model.float().eval()


def pad_token(config: Any, options: argparse.Namespace) -> None:
    """Determine the padding token, which models that classify by the last token need."""
    if options.pad_token_id is not None:
        config.pad_token_id = options.pad_token_id
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = getattr(config, "eos_token_id", None)
        if not isinstance(config.pad_token_id, int):
            raise ConversionError("config.json has no pad_token_id: give --pad-token-id.")
        say(f"config.json has no pad_token_id: the end-of-text token {config.pad_token_id} counts as padding.")


def is_image(model: Any) -> bool:
    """Return whether the model takes images."""
    return bool(model.main_input_name == "pixel_values")


def image_inputs(model: Any) -> list[ModelInput]:
    """Return the only input of an image classifier."""
    size = getattr(model.config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    return [ModelInput("pixel_values", (getattr(model.config, "num_channels", 3), height, width))]


def text_inputs(model: Any, options: argparse.Namespace) -> list[ModelInput]:
    """Return the inputs of a text classifier."""
    config = model.config
    most = getattr(config, "max_position_embeddings", None) or LENGTH
    if counts_from_padding(config):
        most -= config.pad_token_id + 1  # positions start after that of padding
    length = options.length or min(LENGTH, most)
    if length > most:
        raise ConversionError(f"--length {length} is more than the {most} tokens that the model supports.")
    inputs = [ModelInput("input_ids", (length,), "int64", config.vocab_size)]
    if not options.mask_padding:
        inputs.append(ModelInput("attention_mask", (length,), "int64", mask=True))
    types = getattr(config, "type_vocab_size", 0) or 0
    if types > 1 and not options.no_token_types and not options.mask_padding:
        inputs.append(ModelInput("token_type_ids", (length,), "int64", types))
    return inputs


def read_about(model: Any, options: argparse.Namespace) -> None:
    """Read classes, mean and standard deviation from the folder, unless options give them."""
    labels = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
    if options.classes is None and not all(re.fullmatch(r"LABEL_\d+", label) for label in labels):
        options.classes = labels if len(set(labels)) == len(labels) else None
    path = options.folder / "preprocessor_config.json"
    given = any(value is not None for value in (options.mean, options.std, options.scale))
    if given or not is_image(model) or not path.is_file():
        return
    with failing(f"{path} cannot be read"):
        about = json.loads(path.read_text(encoding="utf-8"))
        if about.get("do_normalize", True) and about.get("image_mean") and about.get("image_std"):
            options.mean = [float(number) for number in about["image_mean"]]
            options.std = [float(number) for number in about["image_std"]]
        else:
            options.mean, options.std = [0.0], [1.0]
        factor = float(about.get("rescale_factor", 1 / 255)) if about.get("do_rescale", True) else 1.0
        options.scale = None if abs(factor * 255 - 1) < 1e-6 else factor


def hook(model: Any, names: list[str], options: argparse.Namespace) -> None:
    """Make the model take inputs by position and return logits; unlike a wrapper, hooks do not change names.

    In the graph, positions and token types are given for every sample of the batch.
    """
    accepted = set(inspect.signature(model.forward).parameters)

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        given = dict(zip(names, args, strict=False))  # the exporter appends defaults of missing arguments
        tokens = given.get("input_ids")
        if tokens is None:
            return (), given
        if options.mask_padding:
            given["attention_mask"] = (tokens != module.config.pad_token_id).long()
        if torch.jit.is_tracing():
            if "position_ids" in accepted and not counts_from_padding(module.config):
                given["position_ids"] = torch.arange(tokens.shape[1]).expand_as(tokens)
            if "token_type_ids" in accepted and getattr(module.config, "type_vocab_size", 0):  # not GPT-2's
                given.setdefault("token_type_ids", torch.zeros_like(tokens))
        return (), given

    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(lambda module, given, output: output.logits)


def counts_from_padding(config: Any) -> bool:
    """Return whether positions are counted for real tokens only, starting after the padding token's number."""
    return config.model_type in COUNTING


def trace(model: Any, inputs: list[ModelInput]) -> onnx.ModelProto:
    """Export by tracing, without constant folding.

    With initializers as graph inputs, the exporter does not merge parameters that happen to be equal.
    """
    rng = np.random.default_rng(0)
    names = [each.name for each in inputs]
    file = io.BytesIO()
    with failing("torch.onnx cannot export the model"), torch.no_grad():
        torch.onnx.export(
            model,
            tuple(torch.from_numpy(each.random(2, rng)) for each in inputs),
            file,
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=False,
            keep_initializers_as_inputs=True,
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "N"} for name in (*names, "logits")},
        )
    proto = onnx.load_from_string(file.getvalue())
    real = [value for value in proto.graph.input if value.name in names]
    del proto.graph.input[:]
    proto.graph.input.extend(real)
    return proto


if __name__ == "__main__":
    run(main)
