"""The commands, in the order of a typical workflow: each is imported only when it runs or its help is shown."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


@dataclass(frozen=True)
class CommandEntry:
    """Module and function of a command, and the first sentence of its help."""

    module: str
    function: str
    summary: str


SECTIONS = {
    "The whole job": {
        "run": CommandEntry("run", "run", "Adapt a model to new data: score, select, train and export."),
        "demo": CommandEntry("run", "demo", "Adapt a small embedded model, offline, to see how it works."),
    },
    "Models": {
        "inspect": CommandEntry("model", "inspect", "List a model's inputs, outputs and layers."),
        "check": CommandEntry("model", "check", "Report which layers can be trained, and why others cannot."),
        "new-head": CommandEntry("model", "new_head", "Give a model a new last layer, for another number of classes."),
        "import": CommandEntry("model", "import_", "Write a model as the other commands see it, in plain float32."),
    },
    "Step by step": {
        "score": CommandEntry("scoring", "score", "Score every layer by forward passes alone, without labels."),
        "select": CommandEntry("scoring", "select", "Choose the layers to train."),
        "cost": CommandEntry("cost", "cost", "Predict or measure the cost of inference and training."),
        "artifacts": CommandEntry("training", "artifacts", "Write training graphs for the selected layers."),
        "train": CommandEntry("training", "train", "Train the artifacts in DIR on labelled data."),
        "evaluate": CommandEntry("training", "evaluate", "Compute loss, accuracy and other metrics on test data."),
        "predict": CommandEntry("training", "predict", "Predict for images or arrays."),
        "export": CommandEntry("training", "export", "Write the adapted model, for any ONNX runtime."),
    },
    "On devices": {
        "device": CommandEntry("device", "device", "Write a device package from the artifacts in DIR."),
        "menu": CommandEntry("device", "menu", "Write a device package with several choices of layers."),
        "delta save": CommandEntry("delta", "save", "Write the values that training changed, to be sent elsewhere."),
        "delta show": CommandEntry("delta", "show_", "Show what a delta contains and which model it is for."),
        "delta apply": CommandEntry("delta", "apply", "Apply a delta to the model that it belongs to."),
        "delta diff": CommandEntry("delta", "diff", "Compare two deltas, tensor by tensor."),
    },
    "Fleets": {
        "fleet simulate": CommandEntry(
            "fleet", "simulate", "Simulate the training of a fleet of devices in this process."
        ),
        "fleet round": CommandEntry("fleet", "round_", "Merge the deltas that devices have sent into one."),
        "fleet app": CommandEntry("fleet", "app", "Write a Flower app that trains a real fleet."),
    },
    "Studies": {
        "compare": CommandEntry("compare", "compare", "Train with several strategies; say what is more than chance."),
        "stability": CommandEntry("stability", "stability", "Say whether other samples would rank the layers alike."),
        "report": CommandEntry("report", "report", "Write the results in a folder as one HTML page."),
    },
    "Tools": {
        "surgery": CommandEntry("model", "surgery", "Expose activations, Gram matrices or sketches as outputs."),
        "doctor": CommandEntry("run", "doctor", "Report what is installed and what can be done with it."),
    },
}
ENTRIES = {name: entry for entries in SECTIONS.values() for name, entry in entries.items()}
# The help of each group of two-word commands, by the first word.
FAMILIES = {
    "delta": "Save, show, apply and compare the values that training changed.",
    "fleet": "Federated choice and training of layers: data stays on the devices.",
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
        raise TypeError(f"{name} must be declared in SECTIONS")

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name} cannot be removed")

    def __iter__(self) -> Iterator[str]:
        return iter(ENTRIES)

    def __len__(self) -> int:
        return len(ENTRIES)


def _family(name: str) -> click.Group:
    """Return the group of the two-word commands that begin with this word; `Commands` lists only its commands."""
    commands = Commands()
    members = {words[1]: commands[full] for full in ENTRIES if (words := full.split())[0] == name}
    return click.Group(name, members, help=FAMILIES[name])


class LazyGroup(click.Group):
    """A group that lists and completes its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order of a typical workflow."""
        return list(ENTRIES)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under headings, each with its full summary."""
        width = max(map(len, ENTRIES))
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), entry.summary) for name, entry in entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that begin with the incomplete text."""
        from click.shell_completion import CompletionItem

        summaries = {name.split()[0]: FAMILIES.get(name.split()[0], entry.summary) for name, entry in ENTRIES.items()}
        commands = [
            CompletionItem(name, help=summary) for name, summary in summaries.items() if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]
