"""docs/troubleshooting.md quotes messages that the program still gives.

A heading in backticks is a message; "…" stands for inserted values. The parts between must occur in this order in one
text of the package, as Python or the command line prints it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

import adabet_onnx
from adabet_onnx.cli.translate import translate

PAGE = ROOT / "docs" / "troubleshooting.md"
PACKAGE = Path(adabet_onnx.__file__).parent
ANYTHING = "…"
QUOTED = [
    (number, line.removeprefix("### `").removesuffix("`"))
    for number, line in enumerate(PAGE.read_text(encoding="utf-8").splitlines(), 1)
    if line.startswith("### `")
]


def text_of(node: ast.AST, constants: dict[str, str]) -> str | None:
    """A text of the source, with ``…`` for inserted values; constants of its module are inserted."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, constants) or ANYTHING for part in node.values)
    if isinstance(node, ast.FormattedValue):
        named = node.value.id if isinstance(node.value, ast.Name) else ""
        return constants.get(named, ANYTHING)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = (text_of(node.left, constants), text_of(node.right, constants))
        return None if None in sides else "".join(side or "" for side in sides)
    return None


def texts_of(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(node.targets[0].elts, node.value.elts, strict=False))
            for target, value in pairs:
                if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                    constants[target.id] = value.value
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if node not in docstrings and isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
            text = text_of(node, constants)
            if text:
                yield text


@cache
def texts() -> tuple[str, ...]:
    """Texts of the package, as Python prints them and, if that differs, as the command line does."""
    python = {text for path in PACKAGE.rglob("*.py") for text in texts_of(path) if " " in text}
    return tuple(sorted(python | {translate(text) for text in python if "`" in text}))


def is_given(message: str) -> bool:
    parts = [part for part in message.split(ANYTHING) if part.strip()]
    pattern = re.compile(".*?".join(map(re.escape, parts)), re.DOTALL)
    return any(pattern.search(text) for text in texts())


def test_there_are_messages():
    assert len(QUOTED) >= 40
    assert len({message for _, message in QUOTED}) == len(QUOTED)
    assert all(max(map(len, message.split(ANYTHING))) > 10 for _, message in QUOTED), "too little to look for"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "message"), QUOTED, ids=[f"line {number}" for number, _ in QUOTED])
def test_a_message_is_still_given(number, message):
    assert is_given(message), f"docs/troubleshooting.md, line {number}: no message in adabet_onnx reads {message!r}"


def test_a_message_that_was_changed_is_found():
    assert is_given("scoring needs … samples, but the data has ….")
    assert not is_given("scoring wants … samples, but the data has ….")
    assert not is_given("samples, but the data has … scoring needs")
