"""The command line: parse, call the API, print, exit. No logic of its own."""

from .entry import main

__all__ = ["main"]
