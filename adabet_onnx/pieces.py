"""Pieces of Python in texts: what errors, notes and advice say between backticks.

A text speaks to who calls the functions: ``Give `preset='unit'` ``, ``lower `learning_rate` ``, ``name the logits:
`open_model('m.onnx', logits='NAME')` ``. A piece is the arguments of a call or calls, names in them in capitals stand
for what the reader puts there, and ``...`` for any value. What comes from a model stands by ``repr`` in a text, so that
a backtick in it begins no piece, and by ``repr`` in a piece, so that none ends it.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable

_STRING = r"'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\""
_FOUND = re.compile(rf"(?<![\w`])(?:{_STRING})|`(?P<piece>(?:[^`'\"]|{_STRING})+)`")
_LONGEST = 4000  # characters of a piece


def replaced(text: str, say: Callable[[ast.Call], str | None]) -> str:
    """A text with other words for its pieces.

    Args:
        text: of an error, a note, or the like.
        say: gets a piece as a call that has what stands there as arguments; returns what is to stand in its place,
            backticks included, or None to leave it.
    """
    done, at = [], 0
    while (found := _FOUND.search(text, at)) is not None:
        call = None if found["piece"] is None else parsed(found["piece"])
        words = None if call is None else _words(call, say)
        if words is not None:
            done.append(text[at : found.start()] + words)
            at = found.end()
        else:  # a backtick of something else: the next one may begin a piece
            end = found.end() if found["piece"] is None or call is not None else found.start() + 1
            done.append(text[at:end])
            at = end
    return "".join(done) + text[at:]


def _words(call: ast.Call, say: Callable[[ast.Call], str | None]) -> str | None:
    try:
        return say(call)
    except RecursionError:  # a piece as deep as nobody writes one
        return None


def parsed(piece: str) -> ast.Call | None:
    """A piece as a call that has it as arguments; None where it is no Python of this kind. Nothing is evaluated."""
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
    """What a model is opened from, in a piece: its path; ``model`` where it came from no file."""
    return "model" if name.startswith("<") else repr(name)
