"""The blocks of code in the pages of the documentation."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from conftest import ROOT


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: as its fence says; empty for an indented block.
        text: without fence and indentation.
        reason: why it cannot run here, or None.
        line: where it begins.
    """

    language: str
    text: str
    reason: str | None
    line: int


_BLOCKS = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n\n?)?"
    r"(?:^```(?P<language>\S*)[^\n]*\n(?P<fenced>.*?)^```$|(?<=\n\n)(?P<indented>(?:    [^\n]*\n|\n(?=    ))+))",
    re.MULTILINE | re.DOTALL,
)


def blocks_of(text: str) -> list[Block]:
    """The blocks of code of a page, fenced or indented."""
    blocks = []
    for match in _BLOCKS.finditer(text):
        code = match["fenced"] if match["indented"] is None else re.sub("^    ", "", match["indented"], flags=re.M)
        blocks.append(Block(match["language"] or "", code, match["reason"], text.count("\n", 0, match.start()) + 1))
    return blocks


def page(name: str) -> list[Block]:
    return blocks_of((ROOT / name).read_text(encoding="utf-8"))


def commands_of(block: Block) -> list[list[str]]:
    """The arguments of each command, without comments."""
    lines = [line for line in block.text.replace("\\\n", " ").splitlines() if line.strip()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]
