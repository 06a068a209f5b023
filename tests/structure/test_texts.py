"""Texts in the API's modules: they speak Python, and name existing parameters and functions.

Text in backticks is a piece of Python (see `adabet_onnx.pieces`) with an option or a command on the command line.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import adabet_onnx
from adabet_onnx.cli import translate
from adabet_onnx.cli.main import cli
from adabet_onnx.pieces import parsed

PACKAGE = Path(adabet_onnx.__file__).parent
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if "cli" not in path.relative_to(PACKAGE).parts]
GRAMMAR = "pieces.py"  # what a piece looks like
ONLY_PRINTED = {"isolation.py"}  # prints its own texts, only for the command line
OTHERS = ("pip install --upgrade onnx", "without --optimize)")  # options of other programs
LAYERS = "model.layers"


def click_commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    return {name: command for name in cli.list_commands(context) if (command := cli.get_command(context, name))}


OPTIONS = {
    option
    for command in click_commands().values()
    for parameter in command.params
    if isinstance(parameter, click.Option)
    for option in (*parameter.opts, *parameter.secondary_opts)
}
COMMAND = re.compile(rf"{translate.PROGRAM} ({'|'.join(click_commands())})\b")


def public() -> dict[str, set[str]]:
    """Public callables and their parameters by name; ``fit`` is that of a trainer."""
    found = {"fit": inspect.signature(adabet_onnx.Trainer.fit)}
    for name in adabet_onnx.__all__:
        value = getattr(adabet_onnx, name)
        if not (isinstance(value, type) and issubclass(value, Exception)):
            found[name] = inspect.signature(value)
    return {name: set(signature.parameters) for name, signature in found.items()}


PUBLIC = public()
OPTIONS_CLASSES = {
    name: {field.name for field in dataclasses.fields(getattr(adabet_onnx, name))} for name in translate.OF_CLASSES
}
NAMES = set().union(*PUBLIC.values(), *OPTIONS_CLASSES.values())


def texts(source: str) -> Iterator[tuple[int, str]]:
    """String literals that are not docstrings: (line, text), with ``X`` or ``'x'`` for inserted values."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
        if isinstance(node, ast.JoinedStr):
            skipped.update(part for part in node.values if isinstance(part, ast.Constant))
            yield node.lineno, "".join(map(written, node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            yield node.lineno, node.value


def written(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue)
    return "'x'" if part.conversion == ord("r") else "X"


def spoken_of(source: str) -> list[str]:
    """Options and commands that texts name."""
    found = []
    for line, text in texts(source):
        for other in OTHERS:
            text = text.replace(other, "")
        found += [f"{line}: {word}" for word in re.findall(r"--[a-z][\w-]*", text) + COMMAND.findall(text)]
    return found


def pieces(source: str) -> Iterator[tuple[int, str]]:
    for line, text in texts(source):
        parts = text.split("`")
        assert len(parts) % 2, f"line {line}: a backtick without its other one: {text}"
        yield from ((line, part) for part in parts[1::2])


def unknown_in(piece: str) -> str | None:
    """Names in a piece that do not exist, in the API or on the command line."""
    call = parsed(piece)
    if call is None:
        return "no Python"
    for item in call.args:
        if isinstance(item, ast.Name) and item.id not in (*NAMES, *translate.COMMANDS) and not item.id.isupper():
            return f"no parameter or function {item.id}"
        if isinstance(item, ast.Attribute) and ast.unparse(item) != LAYERS:
            return f"no attribute {ast.unparse(item)}"
    for node in (node for node in ast.walk(call) if isinstance(node, ast.Call) and node is not call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        missing = {word.arg for word in node.keywords} - PUBLIC.get(name, set())
        if name not in PUBLIC or missing:
            return f"no {name}({', '.join(map(str, missing))})"
    words = {node.arg for node in ast.walk(call) if isinstance(node, ast.keyword)}
    if not words <= NAMES:
        return f"no parameter {words - NAMES}"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_texts_speak_python(path):
    source = path.read_text()
    if path.name not in ONLY_PRINTED:
        assert not spoken_of(source)
    if path.name != GRAMMAR:
        assert not {f"{line}: {piece}": why for line, piece in pieces(source) if (why := unknown_in(piece)) is not None}


def test_the_exceptions_are_there():
    """Exceptions that are no longer needed are removed."""
    together = "\n".join(path.read_text() for path in MODULES)
    assert all(other in together for other in OTHERS)
    assert all(spoken_of((PACKAGE / name).read_text()) for name in ONLY_PRINTED)


@pytest.mark.slow
def test_every_static_piece_has_an_option_or_a_command():
    found = {
        piece for path in MODULES for _, piece in pieces(path.read_text()) if "X" not in piece and "'x'" not in piece
    }
    assert len(found) > 50
    left = {piece for piece in found if "`" in translate.translate(f"`{piece}`")}
    assert not left
    for piece in found:
        said = translate.translate(f"`{piece}`")
        assert set(re.findall(r"--[a-z][\w-]*", said)) <= OPTIONS, said
        assert said.startswith("--") or any(f"{translate.PROGRAM} {word}" in said for word in click_commands()), said


@pytest.mark.parametrize(
    "planted",
    [
        'raise UsageError("Give --preset unit.")',
        'raise UsageError(f"{name}: give --num-classes {count}.")',
        'note = ("a", f"b {c} "\n "adabet-onnx inspect lists them")',
        "hint = f\"more, or a smaller {'--batches' if a else 'b'}\"",
    ],
)
def test_planted_options_are_found(planted):
    assert spoken_of(planted)
    assert not spoken_of(f'"""{planted.partition("(")[2][1:12]} --resume"""')  # they are allowed in docstrings


@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ('"Give `preset unit`."', "no Python"),
        ('"Lower `learning_rat`."', "no parameter or function learning_rat"),
        ("\"Give `los='mse'`.\"", "no parameter {'los'}"),
        ('f"Give `score({path!r}, data, preste={name!r})`."', "no score(preste)"),
        ('"Give `Data(..., layouts=...)`."', "no Data(layouts)"),
        ('"Give `scoring(model)`."', "no scoring()"),
    ],
)
def test_planted_pieces_are_found(planted, why):
    [(_, piece)] = pieces(f"hint = {planted}")
    assert unknown_in(piece) == why


def test_the_tables_are_of_what_there_is():
    assert set(translate.OPTIONS) <= NAMES
    assert set(translate.OPTIONS.values()) | set(translate.OFF.values()) <= OPTIONS
    assert set(translate.COMMANDS) <= set(PUBLIC)
    for name, own in translate.OF_CLASSES.items():
        assert set(own) <= OPTIONS_CLASSES[name]
        assert set(own.values()) <= OPTIONS
    held = {field for fields in OPTIONS_CLASSES.values() for field in fields}
    inside = {"budget", "choices", "choosing", "preprocessing", "scoring", "settings"}
    untold = held - inside - set(translate.OPTIONS) - {"command", "rate_validation", "source"}
    assert not untold, "fields of options objects without an option"


@pytest.mark.parametrize("name", sorted(translate.COMMANDS))
def test_commands_take_what_their_functions_take(name):
    command = translate.COMMANDS[name]
    found = click_commands()[command.words]
    arguments = [parameter for parameter in found.params if isinstance(parameter, click.Argument)]
    assert sum(not word.startswith("-") for word in command.takes) == len(arguments)
    writes = "-o" in command.takes or command.writes is not None
    assert writes == any("-o" in parameter.opts for parameter in found.params)
    required = {
        parameter.opts[0] for parameter in found.params if isinstance(parameter, click.Option) and parameter.required
    }
    assert required - {"-o", *command.takes} == set()
