"""Conversion of command-line options into the API's options classes, shared by several commands."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .parameters import Share

if TYPE_CHECKING:
    from ..data.data import Data
    from ..data.preprocess import Preprocessing
    from ..model.open import Model
    from ..runtime import Threads
    from ..scoring.options import Scoring
    from ..selection.budget import Budget
    from ..selection.options import Choosing
    from ..trainability.choices import Choices

Bindings = tuple[tuple[str, Any], ...]


def once(bind: Bindings) -> dict[str, Any]:
    """Return the values of `--input` by input name.

    Raises:
        UsageError: an input is given two values.
    """
    names = [name for name, _ in bind]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--input gives {twice!r} two values. Give one.")
    return dict(bind)


def bound_model(model: Path, bind: Bindings, recorded: Mapping[str, Any] | None = None) -> Path | Model:
    """Return the path, or the opened model if `--input` or earlier results give values for inputs.

    Raises:
        UsageError: an input is given two values, or a value does not fit.
    """
    from ..model.open import open_model

    values = once(bind) or recorded
    return open_model(model, bind=values) if values else model


def take_runtime(options: dict[str, Any]) -> Threads:
    """Move the runtime options into a `Runtime`, or return the number of threads if nothing else is set.

    Raises:
        UsageError: the provider does not exist, or one of its options has two values.
    """
    from ..runtime import Runtime

    threads, provider, given = (options.pop(name) for name in ("threads", "provider", "provider_options"))
    names = [name for name, _ in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--provider-option gives {twice!r} two values. Give one.")
    return Runtime(threads, provider, dict(given)) if provider or given else threads


def take_choices(options: dict[str, Any]) -> Choices:
    """Move the training objective and artifact form into a `Choices`."""
    from ..trainability.choices import Choices

    return Choices(**{name: options.pop(name) for name in Choices.__dataclass_fields__})


def take_budget(options: dict[str, Any]) -> Budget:
    """Move the budget options into a `Budget`."""
    from ..selection.budget import Budget

    memory, time, update = (options.pop(name) for name in ("max_memory", "max_step_time", "max_update"))
    return Budget(
        max_memory=None if isinstance(memory, Share) else memory,
        max_memory_share=float(memory) if isinstance(memory, Share) else None,
        max_step_time=None if time is None else float(time),
        max_update=update,
    )


def take_choosing(options: dict[str, Any]) -> Choosing:
    """Move the selection options into a `Choosing`."""
    from ..selection.options import Choosing

    names = ("strategy", "rho", "head", "layers", "channel_rho", "max_accumulate")
    return Choosing(budget=take_budget(options), **{name: options.pop(name) for name in names})


def take_scoring(options: dict[str, Any]) -> Scoring:
    """Move the scoring options into a `Scoring` (all but ``channels``)."""
    from ..scoring.options import Scoring

    names = ("estimator", "samples", "subset_size", "subsets", "batches", "sketch", "order")
    same_names = {name: options.pop(name) for name in names}
    return Scoring(batch_size=options.pop("batch_points"), max_memory=options.pop("scoring_memory"), **same_names)


def take_preprocessing(options: dict[str, Any]) -> Preprocessing:
    """Move the image preprocessing options into a `Preprocessing`."""
    from ..data.preprocess import Preprocessing

    return Preprocessing(**{name: options.pop(name) for name in ("preset", "scale", "mean", "std", "bgr")})


def take_data(source: Path, options: dict[str, Any]) -> Data:
    """Return a `Data` of the path; --layout and --allow-resize are removed from the options."""
    from ..data.data import Data

    return Data(source, layout=options.pop("layout") or None, allow_resize=options.pop("allow_resize"))


def this_command() -> str:
    """Return this command line, to record it with the results."""
    return shlex.join(["adabet-onnx", *sys.argv[1:]])
