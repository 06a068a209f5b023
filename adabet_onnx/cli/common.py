"""What several commands make of their options."""

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
    """What `--input` gave, by input.

    Raises:
        UsageError: an input is given two values.
    """
    names = [name for name, _ in bind]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--input gives {twice!r} two values. Give one.")
    return dict(bind)


def bound_model(model: Path, bind: Bindings, noted: Mapping[str, Any] | None = None) -> Path | Model:
    """The path; or the opened model, where `--input` gave inputs values, or results note some.

    Raises:
        UsageError: an input is given two values, or a value does not fit.
    """
    from ..model.open import open_model

    values = once(bind) or noted
    return open_model(model, bind=values) if values else model


def take_runtime(options: dict[str, Any]) -> Threads:
    """Take what Runtime holds out of the options; a number of threads alone stays one.

    Raises:
        UsageError: there is no such provider, or an option of it has two values.
    """
    from ..runtime import Runtime

    threads, provider, given = (options.pop(name) for name in ("threads", "provider", "provider_options"))
    names = [name for name, _ in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--provider-option gives {twice!r} two values. Give one.")
    return Runtime(threads, provider, dict(given)) if provider or given else threads


def take_choices(options: dict[str, Any]) -> Choices:
    """Take what Choices holds out of the options."""
    from ..trainability.choices import Choices

    return Choices(**{name: options.pop(name) for name in Choices.__dataclass_fields__})


def take_budget(options: dict[str, Any]) -> Budget:
    """Take what the options of a budget gave out of the options."""
    from ..selection.budget import Budget

    memory, time, update = (options.pop(name) for name in ("max_memory", "max_step_time", "max_update"))
    return Budget(
        max_memory=None if isinstance(memory, Share) else memory,
        max_memory_share=float(memory) if isinstance(memory, Share) else None,
        max_step_time=None if time is None else float(time),
        max_update=update,
    )


def take_choosing(options: dict[str, Any]) -> Choosing:
    """Take what Choosing holds out of the options."""
    from ..selection.options import Choosing

    names = ("strategy", "rho", "head", "layers", "channel_rho", "max_accumulate")
    return Choosing(budget=take_budget(options), **{name: options.pop(name) for name in names})


def take_scoring(options: dict[str, Any]) -> Scoring:
    """Take what Scoring holds, but ``channels``, out of the options."""
    from ..scoring.options import Scoring

    names = ("estimator", "samples", "subset_size", "subsets", "batches", "sketch", "order")
    taken = {name: options.pop(name) for name in names}
    return Scoring(batch_size=options.pop("batch_points"), max_memory=options.pop("scoring_memory"), **taken)


def take_preprocessing(options: dict[str, Any]) -> Preprocessing:
    """Take what Preprocessing holds out of the options."""
    from ..data.preprocess import Preprocessing

    return Preprocessing(**{name: options.pop(name) for name in ("preset", "scale", "mean", "std", "bgr")})


def take_data(source: Path, options: dict[str, Any]) -> Data:
    """A path with --layout and --allow-resize, which are taken out of the options."""
    from ..data.data import Data

    return Data(source, layout=options.pop("layout") or None, allow_resize=options.pop("allow_resize"))


def this_command() -> str:
    """The command line, to note beside its results."""
    return shlex.join(["adabet-onnx", *sys.argv[1:]])
