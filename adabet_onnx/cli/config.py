"""Options in a TOML file: ``--config FILE`` reads them, ``--save-config FILE`` writes them.

Keys are the names of options without leading dashes, and ``model`` and ``data`` for the arguments MODEL and DATA. They
are at the top level, or in tables named after the headings of --help (``[choosing]``), as in files that are written.
Paths are relative to the file. The command line overrides the file.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from .layout import CONFIG, GROUPS, Declared, Option, together
from .parameters import (
    FILE,
    OUTPUT,
    ClassWeights,
    Factor,
    InputValue,
    Limit,
    Numbers,
    ProviderOption,
    Rate,
    Share,
    ShareType,
    Size,
    SketchSize,
    Words,
    weights_text,
)

_NOT_TAKEN = ("config", "save-config")
_NOT_WRITTEN = (*_NOT_TAKEN, "json", "quiet", "resume")  # they concern a single call
_TABLES = {group.lower(): group for group in GROUPS}
# For each type of option, the accepted types of TOML values and their description in messages; the first match counts.
_EXPECTED: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (click.types.BoolParamType, (bool,), "true or false"),
    (click.types.IntParamType, (int,), "a whole number"),
    (click.types.FloatParamType, (int, float), "a number"),
    (ClassWeights, (list, str), 'a list of numbers, "balanced", or "cat=2,dog=1"'),
    (Rate, (int, float, str), 'a number or "auto"'),
    (SketchSize, (int, str), 'a whole number, "auto" or "off"'),
    (Factor, (int, float, str), 'a number, or a fraction such as "1/255"'),
    (Numbers, (int, float, list, str), "a number or a list of numbers"),
    (Words, (list, str), "a list of names"),
    (Size, (int, str), 'a size such as "64MB"'),
    (Limit, (int, str), 'a size such as "64MB", or "0.25x"'),
    (ShareType, (str,), 'a share such as "0.5x"'),
    (InputValue, (dict, list, str), "a table of names and values"),
    (click.ParamType, (str,), "text in quotes"),
)


def _take(ctx: click.Context, option: click.Parameter, path: Path | None) -> None:
    if path is not None and not ctx.resilient_parsing:
        ctx.meta[CONFIG] = path
        ctx.default_map = {**(ctx.default_map or {}), **read_config(path, ctx)}


files = together(
    Declared(
        "--config",
        type=FILE,
        metavar="FILE",
        group="Runtime",
        is_eager=True,
        expose_value=False,
        callback=_take,
        help="Read MODEL, DATA and options from a TOML file; the command line overrides it.",
    ),
    Declared(
        "--save-config",
        type=OUTPUT,
        metavar="FILE",
        group="Runtime",
        help="Also write MODEL, DATA and all options to a TOML file, for --config.",
    ),
)


def read_config(path: Path, ctx: click.Context) -> dict[str, Any]:
    """Return the values of a file by the names of the command's parameters, in the form that click expects.

    Raises:
        click.UsageError: the file is not TOML, or has a key or value that the command does not accept.
    """
    known = _parameters(ctx.command)
    values: dict[str, Any] = {}
    for key, value in _entries(path, ctx, known):
        parameter = known.get(key)
        if parameter is None:
            raise click.UsageError(f"{path}: {key!r} is not an option of {ctx.info_name}.{_hint(key, known)}", ctx)
        if parameter.name in values:
            raise click.UsageError(f"{path} has {key!r} twice. Remove one of the two.", ctx)
        values[parameter.name or ""] = _value(path, ctx, key, parameter, value)
    return values


def write_config(path: Path, ctx: click.Context) -> None:
    """Write the arguments and options that a command was called with, defaults included.

    Raises:
        OutputError: the file cannot be written.
    """
    import tomli_w

    from ..files import write_bytes

    tables: dict[str, dict[str, Any]] = {table: {} for table in _TABLES}
    for key, parameter in _parameters(ctx.command).items():
        value = ctx.params.get(parameter.name or "")
        if key not in _NOT_WRITTEN and value is not None and value != ():
            group = parameter.group.lower() if isinstance(parameter, Option) else key
            tables[group][key] = _written(parameter, value, path.absolute().parent)
    text = tomli_w.dumps({table: entries for table, entries in tables.items() if entries})
    write_bytes(path, text.encode())


def _parameters(command: click.Command) -> dict[str, click.Parameter]:
    """Return the arguments, and the options that a file may have, by key."""
    parameters: dict[str, click.Parameter] = {}
    for parameter in command.params:
        key = parameter.key if isinstance(parameter, Option) else parameter.name or ""
        if key not in _NOT_TAKEN:
            parameters[key] = parameter
    return parameters


def _entries(path: Path, ctx: click.Context, known: dict[str, click.Parameter]) -> Iterator[tuple[str, Any]]:
    """Yield keys and values from the top level and from tables."""
    from difflib import get_close_matches

    for name, value in _parsed(path, ctx).items():
        if isinstance(value, dict) and name in _TABLES:
            yield from ((key.replace("_", "-"), inner) for key, inner in value.items())
        elif isinstance(value, dict) and not isinstance(getattr(known.get(name), "type", None), InputValue):
            tables = [f"[{table}]" for table in _TABLES]
            near = get_close_matches(f"[{name}]", tables, n=1)
            known_ones = f"Did you mean {near[0]}?" if near else f"Tables are {', '.join(tables)}."
            raise click.UsageError(f"{path}: there is no table [{name}]. {known_ones}", ctx)
        else:
            yield name.replace("_", "-"), value


def _parsed(path: Path, ctx: click.Context) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return content
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise click.UsageError(f"{path} cannot be read as TOML: {error}.", ctx) from error


def _hint(key: str, known: dict[str, click.Parameter]) -> str:
    """Suggest the key that a misspelt one may stand for."""
    from difflib import get_close_matches

    near = get_close_matches(key, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else " Keys are the options of --help without leading dashes."


def _value(path: Path, ctx: click.Context, key: str, parameter: click.Parameter, value: Any) -> Any:
    """Return a value of the file in the form that click expects, with paths relative to the file resolved."""
    types, expected = next(
        (accepted, wording) for kind, accepted, wording in _EXPECTED if isinstance(parameter.type, kind)
    )
    if isinstance(parameter.type, click.Choice):
        expected = f"one of {', '.join(parameter.type.choices)}"
    if parameter.multiple and not isinstance(parameter.type, InputValue):
        types, expected = (list, str), f"{expected}, or a list of these"
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise click.UsageError(f"{path}: {key} = {_shown(value)}: expected {expected}.", ctx)
    try:
        given = _given(parameter, value, path.parent)
        parameter.type_cast_value(ctx, given)
    except (click.BadParameter, UsageError) as error:
        message = error.message if isinstance(error, click.BadParameter) else str(error)
        raise click.UsageError(f"{path}: {key} = {_shown(value)}: {message}", ctx) from error
    return given


def _given(parameter: click.Parameter, value: Any, folder: Path) -> Any:
    if isinstance(parameter.type, InputValue):
        texts = [value] if isinstance(value, str) else value
        bound = (
            value.items() if isinstance(value, dict) else [parameter.type.convert(text, None, None) for text in texts]
        )
        return [(name, _beside(inner, folder)) for name, inner in bound]
    if isinstance(parameter.type, click.Path):
        return str(folder / value)
    if parameter.multiple:
        return [value] if isinstance(value, str) else [str(item) for item in value]
    if isinstance(parameter.type, (Numbers, Words)):
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return value


def _beside(value: Any, folder: Path) -> Any:
    """Return a value for an input; if it is the name of a file, its path."""
    from ..model.bindings import SUFFIXES

    return str(folder / value) if isinstance(value, str) and value.endswith(SUFFIXES) else value


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)


def _written(parameter: click.Parameter, value: Any, folder: Path) -> Any:
    """Return a parameter's value in the form that the file has."""
    if isinstance(parameter.type, ProviderOption):
        return dict(value)
    if isinstance(value, Path):
        return _relative(value, folder)
    if isinstance(value, Share):
        return f"{float(value):g}x"
    if isinstance(parameter.type, ClassWeights) and isinstance(value, dict):
        return weights_text(value)
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return [_bound_text(name, inner, folder) for name, inner in value]
    return list(value) if isinstance(value, tuple) else value


def _bound_text(name: str, value: Any, folder: Path) -> str:
    """Format a value in the form that ``--input`` accepts."""
    from ..model.bindings import SUFFIXES

    if isinstance(value, str) and value.endswith(SUFFIXES):
        return f"{name}={_relative(Path(value), folder)}"
    return f"{name}={json.dumps(value)}"


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return path.absolute().as_posix()
