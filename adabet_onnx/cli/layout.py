"""How --help is laid out: options under headings, with their defaults; commands in the order of the work."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import UsageError

FLEET = "Fleet"
# The headings of options, the everyday ones first.
GROUPS = ("Output", "Model", "Data", "Choosing", "Scoring", "Training", FLEET, "Budget", "Artifacts", "Runtime")
CONFIG = "adabet_onnx.config"  # under which a context notes the file that options are taken from
_WIDEST = 26  # of the names of options beside which their help begins

_SPACE, _HYPHEN = "\u00a0", "\u2011"  # at which lines are not broken
_SAME = object()

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]


class Option(click.Option):
    """An option under a heading.

    Args:
        names: as click's.
        group: the heading, one of GROUPS.
        aliases: names it had before: they work, and no help shows them.
        attributes: as click's; a text as ``show_default`` is shown as it is.
    """

    def __init__(self, names: Sequence[str], *, group: str, aliases: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(names, **attributes)
        self.group, self.aliases = group, tuple(aliases)

    @property
    def key(self) -> str:
        """Its name without dashes, as in a file of options."""
        return max(self.opts, key=len).lstrip("-")

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the parser know the aliases as well."""
        shown = self.opts
        self.opts = [*shown, *self.aliases]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown

    def get_help_extra(self, ctx: click.Context) -> Any:
        """The default, said as it is written; and the range of numbers, unless it is only a lowest one."""
        extra = super().get_help_extra(ctx)
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default
        if getattr(self.type, "max", None) is None:
            extra.pop("range", None)
        return extra


class Command(click.Command):
    """A command whose options stand under headings."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run; where options come from a file, what is wrong with one says so.

        Nothing is written in the place of what is read: a slip with -o must not cost a model or the data.
        """
        try:
            self._keep_inputs(ctx)
            return super().invoke(ctx)
        except UsageError as error:
            if CONFIG not in ctx.meta:
                raise
            raise UsageError(f"{error} (Options are taken from {ctx.meta[CONFIG]}.)") from error

    def _keep_inputs(self, ctx: click.Context) -> None:
        from ..files import keep_apart

        given: dict[bool, list[tuple[click.Parameter, Path]]] = {True: [], False: []}  # by whether it has to be there
        for param in self.params:
            path = ctx.params.get(param.name or "")
            if isinstance(param.type, click.Path) and isinstance(path, Path):
                given[param.type.exists].append((param, path))
        for param, path in given[False]:
            keep_apart(path, [other for _, other in given[True]], max(param.opts, key=len))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, one heading after the other, their help in one column."""
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None and isinstance(option, click.Option):
                name, text = record
                rows[option.group if isinstance(option, Option) else GROUPS[-1]].append((name, _in_one(text)))
        names = [name for records in rows.values() for name, _ in records if len(name) <= _WIDEST]
        width, begin = max(map(len, names)), len(formatter.buffer)
        for group, records in rows.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl([(name.ljust(width), text) for name, text in records], col_max=width)
        formatter.buffer[begin:] = [
            text.replace(_SPACE, " ").replace(_HYPHEN, "-") for text in formatter.buffer[begin:]
        ]


def _in_one(text: str) -> str:
    """A help text in which no word with a hyphen and no short default is spread over two lines."""
    return re.sub(r"\[[^\]]{1,32}\]$", lambda match: match[0].replace(" ", _SPACE), text).replace("-", _HYPHEN)


def together(*options: Decorator[Any]) -> Decorator[Any]:
    """Several options as one decorator, in this order in --help."""

    def decorate(command: Function) -> Function:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class Declared:
    """An option, declared once: it means the same in every command that has it, whose default may differ.

    Args:
        names: as click's.
        group: the heading, one of GROUPS.
        help: what it means.
        attributes: as click's.
    """

    def __init__(self, *names: str, group: str, help: str, **attributes: Any) -> None:
        self._names, self._attributes = names, {"group": group, "help": help, "show_default": True, **attributes}

    def __call__(self, command: Function) -> Function:
        """Give a command this option."""
        return click.option(*self._names, cls=Option, **self._attributes)(command)

    def varied(
        self,
        *,
        default: Any = _SAME,
        shown: str | None = None,
        required: bool = False,
        aliases: Sequence[str] = (),
        choices: Sequence[str] | None = None,
    ) -> Declared:
        """The same for one command.

        Args:
            default: where this command has one of its own.
            shown: how the default is described where it is no value.
            required: whether it must be given.
            aliases: names it had in this command before.
            choices: the words it takes, where this command has others.
        """
        own: dict[str, Any] = {"required": required, "aliases": aliases}
        if choices is not None:
            own["type"] = click.Choice(choices)
        if default is not _SAME:
            own |= {"default": default, "show_default": True}
        if shown is not None:
            own["show_default"] = shown
        made = copy.copy(self)
        made._attributes = self._attributes | own
        return made
