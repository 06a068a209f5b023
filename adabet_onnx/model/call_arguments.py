"""Complete the calls in messages with the arguments the user gave: a message adds an argument, it replaces none."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any

from ..errors import AdabetError
from ..pieces import replaced
from .bindings import binding_expression

OpeningArguments = dict[str, ast.expr]  # by parameter of `open_model`, in the order of its signature


def opening_arguments(
    logits: str | None, dims: Mapping[str, int] | None, bind: Mapping[str, Any] | None
) -> OpeningArguments:
    """The arguments with which a model was opened, as expressions.

    Args:
        logits: name of a value, or None.
        dims: sizes by dimension.
        bind: values by input in their recorded form; an array without a file is written ``ARRAY``.
    """
    arguments: OpeningArguments = {} if logits is None else {"logits": ast.Constant(logits)}
    if dims:
        arguments["dims"] = _dict(
            {key: ast.Constant(int(size) if isinstance(size, Integral) else size) for key, size in dims.items()}
        )
    if bind:
        arguments["bind"] = _dict(
            {key: ast.parse(binding_expression(value), mode="eval").body for key, value in bind.items()}
        )
    return arguments


def complete_calls(text: str, given: OpeningArguments) -> str:
    """A message whose calls of ``open_model`` have the given arguments as well as those of the message."""
    return replaced(text, lambda call: _complete(call, given)) if given else text


@contextlib.contextmanager
def complete_calls_in_errors(given: OpeningArguments) -> Iterator[None]:
    """Complete the calls in the messages of errors that are raised inside the block."""
    try:
        yield
    except AdabetError as error:
        error.args = tuple(complete_calls(part, given) if isinstance(part, str) else part for part in error.args)
        raise


def _complete(call: ast.Call, given: OpeningArguments) -> str | None:
    calls = [node for node in ast.walk(call) if isinstance(node, ast.Call) and _opens(node.func)]
    for node in calls:
        own = {keyword.arg or "": keyword.value for keyword in node.keywords}
        merged = {key: _merged(given.get(key), own.get(key)) for key in (*given, *own)}
        order = [key for key in ("logits", "dims", "bind", *merged) if key in merged]
        node.keywords = [ast.keyword(key or None, merged[key]) for key in dict.fromkeys(order)]
    return f"`{', '.join(map(ast.unparse, (*call.args, *call.keywords)))}`" if calls else None


def _opens(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id == "open_model"


def _merged(given: ast.expr | None, own: ast.expr | None) -> Any:
    """One argument: dictionaries are merged, with the entries of the message last; otherwise the message's own wins."""
    if not isinstance(given, ast.Dict) or not isinstance(own, ast.Dict):
        return own or given
    names = {ast.unparse(key) for key in own.keys if key is not None}
    others = [
        pair for pair in zip(given.keys, given.values, strict=True) if pair[0] and ast.unparse(pair[0]) not in names
    ]
    pairs = [*others, *zip(own.keys, own.values, strict=True)]
    return ast.Dict([key for key, _ in pairs], [value for _, value in pairs])


def _dict(values: Mapping[str, ast.expr]) -> ast.Dict:
    return ast.Dict([ast.Constant(key) for key in values], list(values.values()))
