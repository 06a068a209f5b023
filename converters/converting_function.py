"""Parsing of what a user names on the command line: the function for the model, its arguments, and input shapes."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converting import ConversionError, ModelInput, failing


def make(target: str, arguments: dict[str, Any], ready: Callable[[Any], bool]) -> Any:
    """Import the named object, and call it with the arguments unless it already is a model.

    Args:
        target: package.module:name or file.py:name, searched for in the current folder first.
        arguments: arguments of the call.
        ready: function that returns whether an object already is a model.

    Raises:
        ConversionError: the object cannot be imported, does not exist, cannot be called, or the call fails.
    """
    module_name, _, name = target.rpartition(":")
    sys.path.insert(0, os.getcwd())
    with failing(f"{module_name} cannot be imported"):
        module = (
            _import_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
        )
    factory: Any = module
    for part in name.split("."):
        if not hasattr(factory, part):
            names = ", ".join(entry for entry in vars(module) if not entry.startswith("_"))
            raise ConversionError(f"{module_name} has no {name}; it has {names[:300]}.")
        factory = getattr(factory, part)
    if ready(factory):
        return factory
    if not callable(factory):
        raise ConversionError(f"{target} is {type(factory).__name__}, neither a model nor a function that returns one.")
    with failing(f"{target}({', '.join(f'{key}={value!r}' for key, value in arguments.items())}) fails"):
        return factory(**arguments)


def read_input(text: str, index: int, argparser: argparse.ArgumentParser) -> ModelInput:
    """Parse [name=]3,224,224[:dtype[:below]]."""
    match = re.fullmatch(r"(?:(\w+)=)?([\d,x]*)(?::(float32|int64|int32)(?::(\d+))?)?", text)
    extents = [int(part) for part in re.split(r"[,x]", match[2]) if part] if match else []
    if match is None or 0 in extents or (match[4] and int(match[4]) < 1):
        argparser.error(f"--input {text}: write one sample's shape, such as 3,224,224 or tokens=16:int64:1000")
    name = match[1] or ("input" if index == 0 else f"input{index}")
    return ModelInput(name, tuple(extents), match[3] or "float32", int(match[4] or 2))


def read_argument(text: str, argparser: argparse.ArgumentParser) -> tuple[str, Any]:
    """Parse NAME=VALUE; a value that is not JSON is text."""
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        argparser.error(f"--arg {text}: write NAME=VALUE, such as num_classes=10")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _import_file(path: Path) -> Any:
    """Import a module from a file of any name."""
    if not path.is_file():
        raise ConversionError(f"{path} does not exist or is not a file.")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
