"""Calls in messages keep the arguments that were given: a message asks for one more, and not for one instead."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any

from ..errors import AdabetError
from ..pieces import replaced
from .bindings import in_python

Given = dict[str, ast.expr]  # by parameter of `open_model`, in its order


def opening_arguments(logits: str | None, dims: Mapping[str, int] | None, bind: Mapping[str, Any] | None) -> Given:
    """What a model is opened with, as arguments of ``open_model``.

    Args:
        logits: name of a value, or None.
        dims: sizes by dimension.
        bind: values by input, as results note them; an array that is in no file is called ``ARRAY``.
    """
    found: Given = {} if logits is None else {"logits": ast.Constant(logits)}
    if dims:
        found["dims"] = _dict(
            {key: ast.Constant(int(size) if isinstance(size, Integral) else size) for key, size in dims.items()}
        )
    if bind:
        found["bind"] = _dict({key: ast.parse(in_python(value), mode="eval").body for key, value in bind.items()})
    return found


def complete_calls(text: str, given: Given) -> str:
    """A message in which calls of ``open_model`` have the given arguments, and those that the message asks for."""
    return replaced(text, lambda call: _complete(call, given)) if given else text


@contextlib.contextmanager
def complete_calls_in_errors(given: Given) -> Iterator[None]:
    """Let the calls in messages of errors that are raised inside keep the given arguments."""
    try:
        yield
    except AdabetError as error:
        error.args = tuple(complete_calls(part, given) if isinstance(part, str) else part for part in error.args)
        raise


def _complete(call: ast.Call, given: Given) -> str | None:
    found = [node for node in ast.walk(call) if isinstance(node, ast.Call) and _opens(node.func)]
    for node in found:
        asked = {keyword.arg or "": keyword.value for keyword in node.keywords}
        merged = {key: _both(given.get(key), asked.get(key)) for key in (*given, *asked)}
        order = [key for key in ("logits", "dims", "bind", *merged) if key in merged]
        node.keywords = [ast.keyword(key or None, merged[key]) for key in dict.fromkeys(order)]
    return f"`{', '.join(map(ast.unparse, (*call.args, *call.keywords)))}`" if found else None


def _opens(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id == "open_model"


def _both(given: ast.expr | None, asked: ast.expr | None) -> Any:
    """One argument: what is asked for, after what was given for other names."""
    if not isinstance(given, ast.Dict) or not isinstance(asked, ast.Dict):
        return asked or given
    names = {ast.unparse(key) for key in asked.keys if key is not None}
    kept = [
        pair for pair in zip(given.keys, given.values, strict=True) if pair[0] and ast.unparse(pair[0]) not in names
    ]
    pairs = [*kept, *zip(asked.keys, asked.values, strict=True)]
    return ast.Dict([key for key, _ in pairs], [value for _, value in pairs])


def _dict(values: Mapping[str, ast.expr]) -> ast.Dict:
    return ast.Dict([ast.Constant(key) for key in values], list(values.values()))
