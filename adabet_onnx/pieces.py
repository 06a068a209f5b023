"""Pieces of Python code between backticks in errors, notes and advice.

Messages address callers of the API: ``Give `preset='unit'` ``, ``lower `learning_rate` ``, ``name the logits:
`open_model('m.onnx', logits='NAME')` ``. A piece consists of the arguments of a call, or of calls; names in capitals
are placeholders, and ``...`` stands for any value. Names from a model are written with ``repr``, in texts and in
pieces, so that a backtick in them neither begins nor ends a piece.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable

_STRING = r"'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\""
_PIECE = re.compile(rf"(?<![\w`])(?:{_STRING})|`(?P<piece>(?:[^`'\"]|{_STRING})+)`")
_LONGEST = 4000  # characters in a piece


def replaced(text: str, translate: Callable[[ast.Call], str | None]) -> str:
    """Replace the pieces in a text.

    Args:
        text: an error, a note, or the like.
        translate: receives a piece as the arguments of a call, and returns the text that replaces it and its backticks,
            or None to keep it.
    """
    done, at = [], 0
    while (match := _PIECE.search(text, at)) is not None:
        call = None if match["piece"] is None else parsed(match["piece"])
        words = None if call is None else _translated(call, translate)
        if words is not None:
            done.append(text[at : match.start()] + words)
            at = match.end()
        else:  # a backtick that begins no piece: the next one may
            end = match.end() if match["piece"] is None or call is not None else match.start() + 1
            done.append(text[at:end])
            at = end
    return "".join(done) + text[at:]


def _translated(call: ast.Call, translate: Callable[[ast.Call], str | None]) -> str | None:
    try:
        return translate(call)
    except RecursionError:  # a piece that is nested too deeply
        return None


def parsed(piece: str) -> ast.Call | None:
    """Parse a piece as the arguments of a call; None if it cannot be. Nothing is evaluated."""
    if len(piece) > _LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            call = ast.parse(f"_({piece})", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    ours = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "_"
    return call if ours and isinstance(call, ast.Call) and (call.args or call.keywords) else None


def path_of(name: str) -> str:
    """Return how a piece refers to a model: its path, or ``model`` if it did not come from a file."""
    return "model" if name.startswith("<") else repr(name)
