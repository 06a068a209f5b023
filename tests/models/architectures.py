"""Real architectures for tests, as torch modules with random weights, and their export to ONNX.

`module` makes one, ``small`` (narrow, few pixels, every kind of block once or twice) or, for some, ``full`` (as
published, 224 pixels). `export` gives the bytes of an ONNX model that keeps the names of the module's parameters.

All modules are in eval mode. Their weights are drawn anew, so that no two tensors are equal (exporters merge those)
and no signal dies out; the running statistics of BatchNormalization are those of the network's own activations.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .networks import (
    Bert,
    Gpt,
    Recurrent,
    UNet,
    ViT,
    alexnet,
    audio,
    convnext,
    densenet,
    efficientnet,
    inception,
    mlp,
    mobilenetv1,
    mobilenetv2,
    mobilenetv3,
    resnet18,
    resnet50,
    shufflenetv2,
    squeezenet,
    vgg,
)

IMAGES = ("input",)
TEXT = ("input_ids",)
MASKED = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Architecture:
    """How to make one.

    Attributes:
        make: the module, from its arguments.
        small: arguments.
        shape: of one sample of the small one.
        folding: let the TorchScript exporter fold constants: it writes the weights of recurrent layers as
            arithmetic on torch's otherwise, which is no layer.
        full: arguments of the published size, for (3, 224, 224), or None.
        names: of the inputs.
        vocabulary: of token ids.
    """

    make: Callable[..., nn.Module]
    small: dict[str, Any]
    shape: tuple[int, ...] = (3, 32, 32)
    full: dict[str, Any] | None = None
    names: tuple[str, ...] = IMAGES
    vocabulary: int = 50
    folding: bool = False


_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_V3 = (
    (3, 8, 8, True, False, 2),
    (3, 24, 8, False, False, 1),
    (5, 24, 12, True, True, 2),
    (5, 40, 12, True, True, 1),
)
_VIT = {"pixels": 16, "patch": 4, "width": 24, "depth": 2, "heads": 3, "classes": 5}
_BERT = {"tokens": 7, "vocabulary": 50, "width": 16, "depth": 2, "heads": 2, "classes": 5}

ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture(resnet18, {"width": 4, "classes": 5}, (3, 40, 40), full={}),
    "resnet50": Architecture(resnet50, {"width": 4, "classes": 5, "blocks": (2, 1, 2, 1)}, (3, 40, 40)),
    "mobilenetv1": Architecture(
        mobilenetv1, {"width": 4, "classes": 5, "layers": ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1))}
    ),
    "mobilenetv2": Architecture(
        mobilenetv2,
        {"stem": 4, "last": 16, "classes": 5, "stages": ((1, 4, 1, 1), (6, 6, 2, 2), (6, 8, 2, 2))},
        full={"stages": _V2},
    ),
    "mobilenetv3": Architecture(mobilenetv3, {"stem": 8, "last": 16, "classes": 5, "blocks": _V3}),
    "efficientnet": Architecture(
        efficientnet,
        {"stem": 4, "last": 16, "classes": 5, "blocks": ((1, 4, 3, 1), (6, 6, 3, 2), (6, 6, 5, 1), (6, 8, 5, 2))},
    ),
    "densenet": Architecture(densenet, {"width": 8, "growth": 4, "classes": 5, "stages": (2, 2)}),
    "inception": Architecture(inception, {"width": 4, "classes": 5}),
    "shufflenetv2": Architecture(shufflenetv2, {"stem": 4, "stages": ((8, 2), (16, 2)), "last": 16, "classes": 5}),
    "unet_transpose": Architecture(UNet, {"width": 4, "depth": 2, "classes": 3, "resize": False}, (3, 16, 16)),
    "unet_resize": Architecture(UNet, {"width": 4, "depth": 2, "classes": 3, "resize": True}, (3, 16, 16)),
    "convnext": Architecture(convnext, {"widths": (8, 12), "depths": (2, 1), "classes": 5}),
    "vit_tiny": Architecture(
        ViT,
        _VIT,
        (3, 16, 16),
        full={"pixels": 224, "patch": 16, "width": 192, "depth": 12, "heads": 3, "classes": 1000},
    ),
    "vit_explicit": Architecture(ViT, {**_VIT, "fused": False}, (3, 16, 16)),
    "bert": Architecture(Bert, _BERT, (7,), names=TEXT),
    "bert_masked": Architecture(Bert, _BERT, (7,), names=MASKED),
    "bert_indexed": Architecture(Bert, {**_BERT, "indexed": True}, (7,), names=MASKED),
    "gpt": Architecture(Gpt, {"tokens": 7, "vocabulary": 50, "width": 16, "depth": 2, "heads": 2}, (7,), names=TEXT),
    "lstm": Architecture(
        Recurrent,
        {"kind": "LSTM", "inputs": 6, "units": 8, "classes": 5, "bidirectional": True},
        (9, 6),
        folding=True,
    ),
    "gru": Architecture(Recurrent, {"kind": "GRU", "inputs": 6, "units": 8, "classes": 5}, (9, 6), folding=True),
    "gru_bidirectional": Architecture(
        Recurrent,
        {"kind": "GRU", "inputs": 6, "units": 8, "classes": 5, "bidirectional": True},
        (9, 6),
        folding=True,
    ),
    "rnn": Architecture(Recurrent, {"kind": "RNN", "inputs": 6, "units": 8, "classes": 5}, (9, 6), folding=True),
    "audio": Architecture(audio, {"width": 8, "classes": 5}, (1, 800)),
    "vgg": Architecture(vgg, {"width": 4, "classes": 5, "layers": (1, 0, 2, 0, 4, 4, 0)}),
    "squeezenet": Architecture(squeezenet, {"width": 8, "classes": 5}, (3, 36, 36)),
    "alexnet": Architecture(alexnet, {"width": 8, "classes": 5}, (3, 67, 67)),
    "mlp": Architecture(mlp, {"inputs": 12, "units": 16, "classes": 5}, (12,)),
}


def feeds(name: str, *, size: str = "small", batch: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs by name: normal floats, token ids, masks of sequences of differing lengths."""
    architecture, rng = ARCHITECTURES[name], np.random.default_rng(seed)
    shape = architecture.shape if size == "small" else (3, 224, 224)
    if architecture.names == IMAGES:
        return {"input": rng.standard_normal((batch, *shape)).astype(np.float32)}
    found = {"input_ids": rng.integers(0, architecture.vocabulary, (batch, *shape))}
    if "attention_mask" in architecture.names:
        lengths = rng.integers(2, shape[0] + 1, (batch, 1))
        found["attention_mask"] = (np.arange(shape[0]) < lengths).astype(np.int64)
    return found


def module(name: str, *, size: str = "small") -> tuple[nn.Module, tuple[np.ndarray, ...], tuple[str, ...]]:
    """A module in eval mode, inputs for it (two samples) and their names; always the same ones.

    Args:
        name: one of ARCHITECTURES.
        size: ``small`` or, where there is one, ``full``.
    """
    architecture = ARCHITECTURES[name]
    arguments = architecture.small if size == "small" else architecture.full
    if arguments is None:
        raise ValueError(f"{name} has no size {size!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = architecture.make(**arguments)
        _draw(made)
        _settle(made, tuple(feeds(name, size=size, batch=16 if size == "small" else 4, seed=100).values()))
    given = feeds(name, size=size, batch=2)
    return made.eval().requires_grad_(True), tuple(given.values()), tuple(given)


@torch.no_grad()
def _draw(made: nn.Module) -> None:
    """Draw the weights of every layer: signals keep their size, and no vector is constant."""
    for part in made.modules():
        if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.kaiming_normal_(part.weight)
            if part.bias is not None:
                part.bias.normal_(0, 0.1)
        elif isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
            part.weight.uniform_(0.5, 1.5)
            part.bias.normal_(0, 0.1)
        else:
            for parameter in part.parameters(recurse=False):
                parameter.normal_(0, 0.5)


@torch.no_grad()
def _settle(made: nn.Module, inputs: Sequence[np.ndarray]) -> None:
    """Set the running statistics to those of the network's own activations."""
    norms = [part for part in made.modules() if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momentum = [norm.momentum for norm in norms]
    made.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        made(*map(torch.from_numpy, inputs))
    for norm, value in zip(norms, momentum, strict=True):
        norm.eval()
        norm.momentum = value


def folded(made: nn.Module) -> nn.Module:
    """In place: every BatchNormalization after a convolution folded into it, as ``dynamo`` does."""
    for part in made.modules():
        children = list(part.named_children()) if isinstance(part, nn.Sequential) else []
        for (at, conv), (after, norm) in pairwise(children):
            if isinstance(conv, (nn.Conv1d, nn.Conv2d)) and isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                setattr(part, at, fuse_conv_bn_eval(conv, norm))
                setattr(part, after, nn.Identity())
    return made.requires_grad_(True)


def export(
    name: str,
    size: str = "small",
    path: Any = None,
    exporter: str = "torchscript",
    opset: int = 17,
    *,
    optimize: bool = True,
) -> bytes:
    """The module as ONNX with a dynamic batch ``N``, its parameters under their own names.

    Without constant folding, the TorchScript exporter keeps BatchNormalization, and a Transpose before the weight of
    a Linear that is no Gemm. The exporter by torch.export needs opset 18 or newer; with `optimize` it folds
    BatchNormalization into the convolution before it, whose weight then is another one under the old name.

    Args:
        name: one of ARCHITECTURES.
        size: ``small`` or ``full``.
        path: also write it there.
        exporter: ``torchscript`` or ``dynamo``.
        opset: 17, 18 or 20.
        optimize: for ``dynamo``, which is its default.
    """
    made, given, names = module(name, size=size)
    inputs = tuple(map(torch.from_numpy, given))
    folding = ARCHITECTURES[name].folding
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            data = _EXPORTERS[exporter](made, inputs, names, opset, folding if exporter == "torchscript" else optimize)
        finally:
            logger.setLevel(level)
    if path is not None:
        with open(path, "wb") as file:
            file.write(data)
    return data


def _torchscript(made: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], opset: int, folding: bool) -> bytes:
    buffer = io.BytesIO()
    torch.onnx.export(
        made,
        inputs,
        buffer,  # type: ignore[arg-type]
        dynamo=False,
        opset_version=opset,
        input_names=list(names),
        output_names=["logits"],
        dynamic_axes={name: {0: "N"} for name in (*names, "logits")},
        do_constant_folding=folding,
    )
    return buffer.getvalue()


def _dynamo(made: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], opset: int, optimize: bool) -> bytes:
    batch = torch.export.Dim("N")
    program = torch.onnx.export(
        made,
        inputs,
        dynamo=True,
        opset_version=opset,
        input_names=list(names),
        output_names=["logits"],
        dynamic_shapes=tuple({0: batch} for _ in names),
        optimize=optimize,
        verbose=False,
    )
    assert program is not None
    return program.model_proto.SerializeToString()


_EXPORTERS = {"torchscript": _torchscript, "dynamo": _dynamo}
