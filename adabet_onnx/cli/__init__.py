"""The command line: parses arguments, calls the API, prints results, exits. It has no logic of its own."""

from .entry import main

__all__ = ["main"]
