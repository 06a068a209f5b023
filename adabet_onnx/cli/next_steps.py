"""Suggested next commands, ready to be typed: after a run, and after an interrupted one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..file_names import ADAPTED, ARTIFACTS
from .layout import Option
from .parameters import Share, weights_text

_READING = ("layout", "allow_resize")
_COMPUTING = ("threads", "provider", "provider_options")
_LABELS = ("loss", "class_axis", "ignore_label")
# The options that a comparison shares with the run, so that their results are comparable.
_COMPARED = (
    *("num_classes", "keep_tail", "append", "bind", "preset", "scale", "mean", "std", "bgr", *_READING, *_LABELS),
    *("epochs", "batch_size", "accumulate", "optimizer", "weight_decay", "momentum", "clip_norm", "label_smoothing"),
    "class_weights",
    *("batch_norm", "max_memory", "max_step_time", "max_update", "max_accumulate", "backend", *_COMPUTING),
)


def after_run(ctx: click.Context, *, portable: bool = True, comparable: bool = True) -> str:
    """Return lines with the commands that make use of the results of a run.

    Args:
        ctx: the context of the run.
        portable: whether a device package can be made of the artifacts.
        comparable: whether there is test data, which a comparison needs.
    """
    model, data, folder = (Path(ctx.params[name]) for name in ("model", "data", "output"))
    adapted = folder / ADAPTED
    commands = [
        ["predict", adapted, data, *_given(ctx, (*_READING, *_COMPUTING[1:]))],
        ["evaluate", adapted, data, *_given(ctx, (*_READING, *_LABELS, *_COMPUTING[1:]))],
        ["report", folder, "-o", folder / "report.html"],
    ]
    if portable:
        commands.append(["device", folder / ARTIFACTS, "-o", folder / "device"])
    if comparable:
        trained = ctx.params["epochs"] != 0  # a comparison trains
        compared = _COMPARED if trained else [name for name in _COMPARED if name != "epochs"]
        commands.append(["compare", model, data, "-o", folder, *_given(ctx, compared)])
    return "\n".join(["next:", *(f"  {_typed(words)}" for words in commands)])


def after_interruption(words: Sequence[str]) -> str | None:
    """Return the command that resumes an interrupted one, or None if it cannot be resumed.

    Args:
        words: the command line, without the name of the program.
    """
    if not words or words[0] not in ("run", "train", "compare"):
        return None
    more = ["--resume"] if words[0] != "compare" and "--resume" not in words else []
    return _typed([*words, *more])


def _typed(words: Sequence[object]) -> str:
    return shlex.join(["adabet-onnx", *map(str, words)])


def _given(ctx: click.Context, names: Sequence[str]) -> list[str]:
    """Return the options that were given on the command line or in a file, in the same form."""
    explicit = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    options = [option for option in ctx.command.params if isinstance(option, Option) and option.name in names]
    return [
        word
        for option in options
        if ctx.get_parameter_source(option.name or "") in explicit
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
    """Format a value in the form that its option accepts."""
    if isinstance(value, Share):
        return f"{float(value):g}x"
    if isinstance(value, dict):
        return weights_text(value)
    if isinstance(value, tuple) and isinstance(value[0], str):  # --input
        return f"{value[0]}={value[1] if isinstance(value[1], str) else json.dumps(value[1])}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
