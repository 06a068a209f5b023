"""The commands, in the order of the work: each is imported when it is run, or its help asked for."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


@dataclass(frozen=True)
class Entry:
    """Where a command is, and the first sentence of its help."""

    module: str
    function: str
    summary: str


SECTIONS = {
    "The whole job": {
        "run": Entry("run", "run", "Adapt a model to new data: score, select, train and export."),
        "demo": Entry("run", "demo", "Adapt a small embedded model, offline, to see how it works."),
    },
    "Models": {
        "inspect": Entry("model", "inspect", "List a model's inputs, outputs and layers."),
        "check": Entry("model", "check", "Say which layers can be trained, and what stands in the way."),
        "new-head": Entry("model", "new_head", "Give a model a new last layer, for another number of classes."),
        "import": Entry("model", "import_", "Write a model as the other commands see it, in plain float32."),
    },
    "Step by step": {
        "score": Entry("scoring", "score", "Score every layer by forward passes alone, without labels."),
        "select": Entry("scoring", "select", "Choose the layers to train."),
        "cost": Entry("cost", "cost", "Predict, or measure, what inference and training take."),
        "artifacts": Entry("training", "artifacts", "Write training graphs in which only selected layers train."),
        "train": Entry("training", "train", "Train the artifacts in DIR on labelled data."),
        "evaluate": Entry("training", "evaluate", "Compute loss, accuracy and the like on the test part of data."),
        "predict": Entry("training", "predict", "Predict for images or arrays."),
        "export": Entry("training", "export", "Write the adapted model, for any ONNX runtime."),
    },
    "On devices": {
        "device": Entry("device", "device", "Write a package for devices from the artifacts in DIR."),
        "menu": Entry("device", "menu", "Write a package with several choices of layers, for devices."),
        "delta save": Entry("delta", "save", "Write what a training changed, to be sent elsewhere."),
        "delta show": Entry("delta", "show_", "Say what a delta holds and which model it is for."),
        "delta apply": Entry("delta", "apply", "Put a delta into the model that it belongs to."),
        "delta diff": Entry("delta", "diff", "Say how far two deltas are apart, tensor by tensor."),
    },
    "Fleets": {
        "fleet simulate": Entry("fleet", "simulate", "Train as a fleet of devices would, in this process."),
        "fleet round": Entry("fleet", "round_", "Make one delta of those that devices have sent."),
        "fleet app": Entry("fleet", "app", "Write an app with which Flower trains a real fleet."),
    },
    "Studies": {
        "compare": Entry("compare", "compare", "Train with several strategies; say what is more than chance."),
        "stability": Entry("stability", "stability", "Say whether other samples would rank the layers alike."),
        "report": Entry("report", "report", "Write the results in a folder as one HTML page."),
    },
    "Tools": {
        "surgery": Entry("model", "surgery", "Expose activations, Gram matrices or sketches as outputs."),
        "doctor": Entry("run", "doctor", "Say what is installed and what it allows."),
    },
}
ENTRIES = {name: entry for entries in SECTIONS.values() for name, entry in entries.items()}
# Commands of two words, by the first: what the group of that name does.
FAMILIES = {
    "delta": "Save, look at, apply and compare what a training changed.",
    "fleet": "Choose and train together, with data that stays where it is.",
}


class Commands(MutableMapping[str, click.Command]):
    """The commands by name, imported when looked up."""

    def __getitem__(self, name: str) -> click.Command:
        if name in FAMILIES:
            return _family(name)
        entry = ENTRIES[name]
        command = getattr(import_module(f"{__package__}.{entry.module}"), entry.function)
        assert isinstance(command, click.Command)
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        raise TypeError(f"{name} belongs into SECTIONS")

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name} stays")

    def __iter__(self) -> Iterator[str]:
        return iter(ENTRIES)

    def __len__(self) -> int:
        return len(ENTRIES)


def _family(name: str) -> click.Group:
    """The group of two-word commands that begin with this word. `Commands` lists the commands and not the group."""
    commands = Commands()
    inside = {words[1]: commands[both] for both in ENTRIES if (words := both.split())[0] == name}
    return click.Group(name, inside, help=FAMILIES[name])


class LazyGroup(click.Group):
    """A group that lists and completes its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the work."""
        return list(ENTRIES)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under headings, each with its whole summary."""
        width = max(map(len, ENTRIES))
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), entry.summary) for name, entry in entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands and options that begin so."""
        from click.shell_completion import CompletionItem

        summaries = {name.split()[0]: FAMILIES.get(name.split()[0], entry.summary) for name, entry in ENTRIES.items()}
        commands = [
            CompletionItem(name, help=summary) for name, summary in summaries.items() if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]
