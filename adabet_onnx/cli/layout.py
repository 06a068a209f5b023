"""Layout of --help: options under headings, with their defaults; commands in the order of a typical workflow."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import UsageError

ARTIFACTS, FLEET, SCORING = "Artifacts", "Fleet", "Scoring"
# The headings of options, the most used ones first.
GROUPS = ("Output", "Model", "Data", "Choosing", SCORING, "Training", FLEET, "Budget", ARTIFACTS, "Runtime")
CONFIG = "adabet_onnx.config"  # the key under which a context holds the path of its configuration file
_WIDEST = 26  # characters: the help of an option with a longer name starts on the next line

_SPACE, _HYPHEN = "\u00a0", "\u2011"  # characters at which a line is never broken
_SAME = object()

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]


class Option(click.Option):
    """An option under a heading.

    Args:
        names: as in click.
        group: the heading, one of GROUPS.
        aliases: former names, which still work but are not shown in help.
        attributes: as in click; a string as ``show_default`` is shown unchanged.
    """

    def __init__(self, names: Sequence[str], *, group: str, aliases: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(names, **attributes)
        self.group, self.aliases = group, tuple(aliases)

    @property
    def key(self) -> str:
        """The name without leading dashes, as in a configuration file."""
        return max(self.opts, key=len).lstrip("-")

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Register the aliases with the parser too."""
        shown = self.opts
        self.opts = [*shown, *self.aliases]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Show a textual default unchanged, and a range only if it has an upper end."""
        extra = super().get_help_extra(ctx)
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default
        if getattr(self.type, "max", None) is None:
            extra.pop("range", None)
        return extra


class Command(click.Command):
    """A command whose options stand under headings."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; usage errors name the configuration file, if options came from one.

        An output path that is also an input is rejected, so that a mistyped -o cannot overwrite a model or the data.
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

        paths: dict[bool, list[tuple[click.Parameter, Path]]] = {True: [], False: []}  # by whether it must exist
        for param in self.params:
            path = ctx.params.get(param.name or "")
            if isinstance(param.type, click.Path) and isinstance(path, Path):
                paths[param.type.exists].append((param, path))
        for param, path in paths[False]:
            keep_apart(path, [other for _, other in paths[True]], max(param.opts, key=len))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options heading by heading, with their help texts aligned in one column."""
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
    """The help text with hyphenated words and short defaults protected from line breaks."""
    return re.sub(r"\[[^\]]{1,32}\]$", lambda match: match[0].replace(" ", _SPACE), text).replace("-", _HYPHEN)


def together(*options: Decorator[Any]) -> Decorator[Any]:
    """Combine several options into one decorator; --help lists them in this order."""

    def decorate(command: Function) -> Function:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class Declared:
    """An option declared once: it means the same in every command that has it; only its default may differ.

    Args:
        names: as in click.
        group: the heading, one of GROUPS.
        help: the help text.
        attributes: as in click.
    """

    def __init__(self, *names: str, group: str, help: str, **attributes: Any) -> None:
        self._names, self._attributes = names, {"group": group, "help": help, "show_default": True, **attributes}

    def __call__(self, command: Function) -> Function:
        """Add this option to a command."""
        return click.option(*self._names, cls=Option, **self._attributes)(command)

    def varied(
        self,
        *,
        default: Any = _SAME,
        shown: str | None = None,
        required: bool = False,
        aliases: Sequence[str] = (),
        choices: Sequence[str] | None = None,
        metavar: str | None = None,
        help: str | None = None,
    ) -> Declared:
        """Return a variant of the option for one command.

        Args:
            default: the default for this command, if it differs.
            shown: the text that describes a default which is not a plain value.
            required: whether the option must be given.
            aliases: former names of the option in this command.
            choices: the accepted values for this command, if they differ.
            metavar: how the value is shown in this command, if it differs.
            help: the help text in this command, if it differs.
        """
        own: dict[str, Any] = {"required": required, "aliases": aliases}
        own |= {key: text for key, text in (("metavar", metavar), ("help", help)) if text is not None}
        if choices is not None:
            own["type"] = click.Choice(choices)
        if default is not _SAME:
            own |= {"default": default, "show_default": True}
        if shown is not None:
            own["show_default"] = shown
        made = copy.copy(self)
        made._attributes = self._attributes | own
        return made
