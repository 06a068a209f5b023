"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ..data.data import Data
from ..data.preprocess import PRESETS, Preprocessing
from ..errors import UsageError
from ..model.open import Model, open_model
from ..scoring.options import ESTIMATORS, ORDERS, Scoring
from ..selection.budget import Budget
from ..selection.options import HEADS, STRATEGIES, Choosing
from ..trainability.choices import BACKENDS, BATCH_NORMS, FROZEN, LOSSES, OPTIMIZERS, PROFILES, Choices
from ..training.schedule import SCHEDULES
from .parameters import SHARE, Bound, Limit, Numbers, Share, Size

Command = TypeVar("Command", bound=Callable[..., Any])
Bindings = tuple[tuple[str, Any], ...]


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in this order in --help."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print errors only (and what --json asks for).")
threads_option = click.option("--threads", type=click.IntRange(1), help="Threads for ONNX Runtime.")
seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all that is random."
)

input_option = click.option(
    "--input",
    "bind",
    type=Bound(),
    multiple=True,
    metavar="NAME=VALUE",
    help="A value for an input that is no data: sr=16000, training=false, lora_A=FILE.npy; repeatable.",
)

reading_options = together(
    click.option(
        "--layout",
        multiple=True,
        metavar="[INPUT=]LETTERS",
        help="Axes of arrays as stored, where shapes leave them open: NTC, NHWC, 'N(HW)', NTC:NCT (data:model).",
    ),
    click.option("--allow-resize", is_flag=True, help="Resize arrays to the model's images also where hardly meant."),
)
preprocessing_options = together(
    click.option(
        "--preset",
        type=click.Choice(PRESETS),
        default="auto",
        show_default=True,
        help="How images become input: auto (the model's metadata), unit (x/255), imagenet, none (as they are).",
    ),
    click.option("--scale", type=float, help="By hand: input = (x * scale - mean) / std."),
    click.option("--mean", type=Numbers(), help="By hand: one number, or one per channel."),
    click.option("--std", type=Numbers(), help="By hand: one number, or one per channel."),
    click.option("--bgr/--rgb", default=None, help="Feed colours as blue, green, red (then --mean and --std too)."),
    reading_options,
)
scoring_options = together(
    click.option(
        "--estimator",
        type=click.Choice(ESTIMATORS),
        default="subsets",
        show_default=True,
        help="batches is the paper's.",
    ),
    click.option("--samples", type=int, default=128, show_default=True, help="subsets: samples in all."),
    click.option("--subset-size", type=int, default=32, show_default=True, help="subsets: points of one Betti number."),
    click.option("--subsets", type=int, default=64, show_default=True, help="subsets: how many per group of 128."),
    click.option("--batches", type=int, default=4, show_default=True, help="batches: how many."),
    click.option("--order", type=click.Choice(ORDERS), default="shuffled", show_default=True, help="Which samples."),
    click.option(
        "--scoring-memory", type=Size(), help="For scoring's forward pass, e.g. 2GB.  [default: 3/4 of what is free]"
    ),
)
selection_options = together(
    click.option(
        "--strategy", type=click.Choice(STRATEGIES), default="adabet", show_default=True, help="How to choose."
    ),
    click.option("--rho", type=float, help="Fraction of layers to select.  [default: 0.1; auto: no cap]"),
    click.option(
        "--head",
        type=click.Choice(HEADS),
        default="auto",
        show_default=True,
        help="The head: always selected, in the pool, or never; auto: always if it is new.",
    ),
    click.option(
        "--channel-rho", type=float, help="In each selected layer train only this fraction of output channels."
    ),
    click.option("--layers", multiple=True, metavar="GLOB", help="Select these layers instead; repeatable."),
)
budget_options = together(
    click.option(
        "--max-memory",
        type=Limit(),
        help="Step memory at most, e.g. 64MB, or 0.25x of what training all layers takes.",
    ),
    click.option("--max-step-time", type=SHARE, help="Time of a step at most, e.g. 0.5x of training all layers."),
    click.option("--max-update", type=Size(), help="Size of the trained parameters at most, e.g. 200KB."),
    click.option(
        "--max-accumulate",
        type=click.IntRange(1),
        help="Cut a batch into up to so many parts to keep to the budget.  [default: 1; auto: as many as it takes]",
    ),
)
cost_options = together(
    click.option(
        "--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help="Whose step a budget is for."
    ),
    click.option(
        "--optimizer",
        type=click.Choice(OPTIMIZERS),
        default="adamw",
        show_default=True,
        help="Its state takes memory: adamw has two values per parameter.",
    ),
    click.option("--recompute", is_flag=True, help="Predict a step that computes activations again."),
)
artifact_options = together(
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default="auto",
        show_default=True,
        help="portable: plain ONNX for any onnxruntime; ort: onnxruntime-training; auto: portable if it can.",
    ),
    click.option("--loss", type=click.Choice(LOSSES), default="cross-entropy", show_default=True, help="To minimise."),
    click.option(
        "--optimizer",
        type=click.Choice(OPTIMIZERS),
        default="adamw",
        show_default=True,
        help="adamw is onnxruntime-training's, adamw-torch torch's.",
    ),
    click.option("--weight-decay", type=click.FloatRange(0), default=0.0, show_default=True, help="Of the optimizer."),
    click.option(
        "--momentum", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True, help="Of sgd."
    ),
    click.option("--clip-norm", type=click.FloatRange(0, min_open=True), help="Clip gradients by their global norm."),
    click.option(
        "--label-smoothing",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        show_default=True,
        help="Of cross-entropy.",
    ),
    click.option(
        "--class-axis",
        type=int,
        help="Of the logits, for a label per pixel or token.  [default: the Softmax's or head's; 1; the last of three]",
    ),
    click.option("--ignore-label", type=int, help="A label per pixel or token that does not count, such as 255."),
    click.option(
        "--batch-norm",
        type=click.Choice(BATCH_NORMS),
        default="frozen",
        show_default=True,
        help="Statistics of selected BatchNormalization layers: stored, or of the batch.",
    ),
    click.option("--recompute", is_flag=True, help="Less memory for more time: compute activations again."),
    click.option("--profile", type=click.Choice(tuple(PROFILES)), help="Use only operators that this target has."),
    click.option(
        "--frozen",
        type=click.Choice(FROZEN),
        default="embedded",
        show_default=True,
        help="Where frozen weights live.",
    ),
    click.option("--ort-format", is_flag=True, help="Write .ort models instead of .onnx."),
    click.option(
        "--check/--no-check", default=True, show_default=True, help="Verify outputs, loss and a gradient first."
    ),
)
training_options = together(
    click.option("--epochs", type=click.IntRange(1), help="Passes over the data.  [default: 10]"),
    click.option("--accumulate", type=click.IntRange(1), help="Batches gathered for one update.  [default: 1]"),
    click.option("--lr", "learning_rate", type=float, help="Learning rate.  [default: 0.001; sgd: 0.01]"),
    click.option("--schedule", type=click.Choice(tuple(SCHEDULES)), help="Of the learning rate.  [default: cosine]"),
    click.option("--validation", type=float, help="Fraction of the training data kept for eval_loss.  [default: 0.1]"),
    click.option("--patience", type=int, help="Stop after so many epochs without a lower eval_loss; keep the best."),
    click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped."),
)


def once(bind: Bindings) -> dict[str, Any]:
    """What `input_option` gave, by input.

    Raises:
        UsageError: an input is given two values.
    """
    names = [name for name, _ in bind]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--input gives {twice!r} two values. Give one.")
    return dict(bind)


def bound_model(model: Path, bind: Bindings, noted: Mapping[str, Any] | None = None) -> Path | Model:
    """The path; or the opened model, where `input_option` gave inputs values, or results note some.

    Raises:
        UsageError: an input is given two values, or a value does not fit.
    """
    values = once(bind) or noted
    return open_model(model, bind=values) if values else model


def take_choices(options: dict[str, Any]) -> Choices:
    """Take what `artifact_options` gave, but --backend and --check, out of the options."""
    return Choices(**{name: options.pop(name) for name in Choices.__dataclass_fields__})


def take_budget(options: dict[str, Any]) -> Budget:
    """Take what `budget_options` gave out of the options."""
    memory, time, update = (options.pop(name) for name in ("max_memory", "max_step_time", "max_update"))
    return Budget(
        max_memory=None if isinstance(memory, Share) else memory,
        max_memory_share=float(memory) if isinstance(memory, Share) else None,
        max_step_time=None if time is None else float(time),
        max_update=update,
    )


def take_choosing(options: dict[str, Any]) -> Choosing:
    """Take what `selection_options` and `budget_options` gave out of the options."""
    budget = take_budget(options)
    names = ("strategy", "rho", "head", "layers", "channel_rho", "max_accumulate")
    return Choosing(budget=budget, **{name: options.pop(name) for name in names})


def take_scoring(options: dict[str, Any], batch_size: int) -> Scoring:
    """Take what `scoring_options` gave out of the options."""
    names = ("estimator", "samples", "subset_size", "subsets", "batches", "order")
    taken = {name: options.pop(name) for name in names}
    return Scoring(batch_size=batch_size, max_memory=options.pop("scoring_memory"), **taken)


def take_preprocessing(options: dict[str, Any]) -> Preprocessing:
    """Take what `preprocessing_options` gave, but how data is read, out of the options."""
    return Preprocessing(**{name: options.pop(name) for name in ("preset", "scale", "mean", "std", "bgr")})


def take_data(source: Path, options: dict[str, Any]) -> Data:
    """A path with what `reading_options` gave (--layout, --allow-resize), taken out of the options."""
    return Data(source, layout=options.pop("layout") or None, allow_resize=options.pop("allow_resize"))


def this_command() -> str:
    """The command line, to note beside its results."""
    return shlex.join(["adabet-onnx", *sys.argv[1:]])
