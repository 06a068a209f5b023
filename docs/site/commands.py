"""The reference of the command line as Markdown, made from what --help says."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

import click

from adabet_onnx.cli.commands import SECTIONS
from adabet_onnx.cli.layout import GROUPS, Option
from adabet_onnx.cli.main import cli

_INTRODUCTION = """\
# Command line

Every command prints this reference with `--help`. Results go to stdout, progress and errors to stderr. With `--json`, a
command prints its result as JSON and nothing else. The exit code is 2 if the call is wrong, 1 if something failed, and
130 after an interruption.
"""


def command_reference() -> str:
    """The page of all commands, in the order of --help."""
    parts = [_INTRODUCTION]
    with click.Context(cli, info_name="adabet-onnx") as context:
        for title, entries in SECTIONS.items():
            parts.append(f"## {title}\n")
            for name in entries:
                parts += _command(name, context)
    return "\n".join(parts)


def _command(name: str, parent: click.Context) -> Iterator[str]:
    command: click.Command = cli
    context = parent
    for word in name.split():
        assert isinstance(command, click.Group)
        member = command.get_command(context, word)
        assert member is not None, name
        command, context = member, click.Context(member, info_name=word, parent=context)
    yield f"### {name} {{ #{name.replace(' ', '-')} }}\n"
    yield f"```text\n{' '.join(['adabet-onnx', name, *command.collect_usage_pieces(context)])}\n```\n"
    yield _prose(command.help or "")
    rows: dict[str, list[str]] = {group: [] for group in GROUPS}
    for option in command.get_params(context):
        record = option.get_help_record(context)
        if record is not None:
            group = option.group if isinstance(option, Option) else GROUPS[-1]
            rows[group].append(f"| `{_cell(record[0])}` | {_escaped(_cell(record[1]))} |")
    for group, records in rows.items():
        if records:
            yield f"| {group} | |\n|:--|:--|\n" + "\n".join(records) + "\n"
    if command.epilog:
        yield _prose(command.epilog)


def _prose(text: str) -> str:
    """A help text; what it does not wrap (after a backspace) is code, except for its heading."""
    parts = []
    for block in inspect.cleandoc(text).split("\n\n"):
        if block.startswith("\b\n"):
            heading, _, rest = block[2:].partition("\n")
            code = textwrap.dedent(rest)
            parts.append(f"{_escaped(heading)}\n\n```sh\n{code}\n```" if code else _escaped(heading))
        else:
            parts.append(_escaped(" ".join(block.split())))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _escaped(text: str) -> str:
    return re.sub(r"([*_<>\[\]])", r"\\\1", text)
