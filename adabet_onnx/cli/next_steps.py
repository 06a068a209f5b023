"""Which commands come next, as they can be typed: after a run, and after one that was interrupted."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..file_names import ADAPTED
from .layout import Option
from .parameters import Share, weights_text

_READING = ("layout", "allow_resize")
_COMPUTING = ("threads", "provider", "provider_options")
_LABELS = ("loss", "class_axis", "ignore_label")
# What a comparison is given as the run was, so that the two can be held against each other.
_COMPARED = (
    *("num_classes", "keep_tail", "append", "bind", "preset", "scale", "mean", "std", "bgr", *_READING, *_LABELS),
    *("epochs", "batch_size", "accumulate", "optimizer", "weight_decay", "momentum", "clip_norm", "label_smoothing"),
    "class_weights",
    *("batch_norm", "max_memory", "max_step_time", "max_update", "max_accumulate", "backend", *_COMPUTING),
)


def after_run(ctx: click.Context, *, comparable: bool = True) -> str:
    """What to do with what a run has written, in lines.

    Args:
        ctx: of the run.
        comparable: whether there are test data, without which nothing is compared.
    """
    model, data, folder = (Path(ctx.params[name]) for name in ("model", "data", "output"))
    adapted = folder / ADAPTED
    commands = [
        ["predict", adapted, data, *_given(ctx, (*_READING, *_COMPUTING[1:]))],
        ["evaluate", adapted, data, *_given(ctx, (*_READING, *_LABELS, *_COMPUTING[1:]))],
        ["report", folder, "-o", folder / "report.html"],
    ]
    if comparable:
        trained = ctx.params["epochs"] != 0  # a comparison trains
        compared = _COMPARED if trained else [name for name in _COMPARED if name != "epochs"]
        commands.append(["compare", model, data, "-o", folder, *_given(ctx, compared)])
    return "\n".join(["next:", *(f"  {_typed(words)}" for words in commands)])


def after_interruption(words: Sequence[str]) -> str | None:
    """The command that goes on where one stopped; None where there is none.

    Args:
        words: of the command line, without the name of the program.
    """
    if not words or words[0] not in ("run", "train", "compare"):
        return None
    more = ["--resume"] if words[0] != "compare" and "--resume" not in words else []
    return _typed([*words, *more])


def _typed(words: Sequence[object]) -> str:
    return shlex.join(["adabet-onnx", *map(str, words)])


def _given(ctx: click.Context, names: Sequence[str]) -> list[str]:
    """Options as they were given on the command line, or in a file."""
    asked = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    found = [option for option in ctx.command.params if isinstance(option, Option) and option.name in names]
    return [
        word
        for option in found
        if ctx.get_parameter_source(option.name or "") in asked
        for word in _words(option, ctx.params[option.name or ""])
    ]


def _words(option: Option, value: Any) -> Iterator[str]:
    name = f"--{option.key}"
    if option.is_flag:
        if value or option.secondary_opts:
            yield name if value else option.secondary_opts[0]
        return
    for one in value if option.multiple else [value]:
        yield from (name, _text(one))


def _text(value: Any) -> str:
    """A value as its option takes it."""
    if isinstance(value, Share):
        return f"{float(value):g}x"
    if isinstance(value, dict):
        return weights_text(value)
    if isinstance(value, tuple) and isinstance(value[0], str):  # of --input
        return f"{value[0]}={value[1] if isinstance(value[1], str) else json.dumps(value[1])}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
