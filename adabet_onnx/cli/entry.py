"""Entry point of the command: runs the command line in a watched process (see `isolation`)."""

from __future__ import annotations

from .. import isolation
from .main import main as run


def main() -> None:
    """Run the command line; a native crash becomes a message and exit code 1."""
    isolation.watch()
    run()
