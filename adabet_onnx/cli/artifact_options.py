"""The options that describe artifacts, declared once for all commands that have them."""

from __future__ import annotations

from functools import partial

import click

from ..vocabulary import BACKENDS, FROZEN, FROZEN_PRECISIONS, PROFILES
from .layout import ARTIFACTS, Declared, together

_artifacts = partial(Declared, group=ARTIFACTS)

backend = _artifacts(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    help="Training backend: portable (plain ONNX) or ort (onnxruntime-training); auto: portable if possible.",
)
recompute = _artifacts(
    "--recompute", is_flag=True, help="Recompute activations in the backward pass: less memory, more time."
)
check = _artifacts("--check/--no-check", default=True, help="Verify the written files.")
profile = _artifacts(
    "--profile",
    type=click.Choice(PROFILES),
    help="Write graphs that use only operators which this target computes correctly.",
    show_default="all operators",
)
ort_format = _artifacts(
    "--ort-format", is_flag=True, help="Write .ort models instead of .onnx (artifacts: with --backend ort only)."
)
form = together(
    backend,
    recompute,
    profile,
    _artifacts(
        "--frozen",
        type=click.Choice(FROZEN),
        default="embedded",
        help="Where frozen weights are stored: in each graph, or once in the checkpoint (--backend ort).",
    ),
    _artifacts(
        "--frozen-precision",
        type=click.Choice(FROZEN_PRECISIONS),
        default="auto",
        help="Precision of the frozen part; int8: quantised, with ranges measured on training data; auto: the file's.",
    ),
    ort_format,
)
