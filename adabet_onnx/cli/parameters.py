"""Types of command-line values: paths, sizes, shares, numbers, names with values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..sizes import parse_size
from ..vocabulary import AUTO, SKETCHES

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
ANY = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUTPUT = click.Path(path_type=Path)


class Size(click.ParamType[int]):
    """A number of bytes: 500MB, 2GB, 64MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the value, or fail with click's error."""
        try:
            return parse_size(value, "it")
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Share(float):
    """A multiple of the cost of training all layers."""


class ShareType(click.ParamType[Share]):
    """A multiple of the cost of training all layers: 0.5x."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Share:
        """Parse the value, or fail with click's error."""
        if isinstance(value, Share):
            return value
        match = re.fullmatch(r"\s*(\d*\.?\d+)\s*x\s*", str(value).lower())
        if match is None or not 0 < float(match[1]) < math.inf:
            self.fail(f"{value!r} is not a multiple of the cost of training all layers, such as 0.5x.", param, ctx)
        return Share(match[1])


SHARE = ShareType()


class Limit(click.ParamType["int | Share"]):
    """A number of bytes, or a share of the cost of training all layers: 64MB, 0.25x."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Share:
        """Parse the value, or fail with click's error."""
        if isinstance(value, Share):
            return value
        kind = SHARE if str(value).strip().lower().endswith("x") else Size()
        return kind.convert(value, param, ctx)


class Factor(click.ParamType["float"]):
    """A number, or a fraction of two: 0.5, 1/255."""

    name = "factor"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the value, or fail with click's error."""
        above, _, below = str(value).partition("/")
        try:
            return float(above) / float(below or 1)
        except (ValueError, ZeroDivisionError):
            self.fail(f"{value!r} is not a number or a fraction such as 1/255.", param, ctx)


class Numbers(click.ParamType["tuple[float, ...]"]):
    """Numbers separated by commas: 0.485,0.456,0.406."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse the value, or fail with click's error."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a number, or numbers separated by commas.", param, ctx)


def weights_text(weights: dict[str, float]) -> str:
    """Format weights by class name in the form that `ClassWeights` accepts."""
    return ",".join(f"{name}={weight:.9g}" for name, weight in weights.items())


class ClassWeights(Numbers):
    """Class weights: balanced, a number for each class, or numbers by class name."""

    name = "weights"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the value, or fail with click's error."""
        if isinstance(value, dict) or value == "balanced":
            return value
        if "=" not in str(value):
            return super().convert(value, param, ctx)
        pairs = [part.rpartition("=") for part in str(value).split(",")]
        try:
            weights = {name.strip(): float(number) for name, _, number in pairs}
        except ValueError:
            weights = {}
        if len(weights) != len(pairs) or "" in weights:
            self.fail(f"{value!r} is not a list NAME=NUMBER,... with each name once, such as cat=2,dog=1.", param, ctx)
        return weights


class Rate(click.ParamType["float | str"]):
    """A learning rate: a number above 0, or auto."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Parse the value, or fail with click's error."""
        text = str(value).strip().lower()
        if text == AUTO:
            return AUTO
        try:
            return float(text)
        except ValueError:
            self.fail(f"{value!r} is not a number above 0, or {AUTO}.", param, ctx)


class SketchSize(click.ParamType["int | str"]):
    """The largest size of a sketch, auto, or off."""

    name = "sketch"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Parse the value, or fail with click's error."""
        text = str(value).strip().lower()
        if text in SKETCHES:
            return text
        if not text.isdecimal():
            self.fail(f"{value!r} is not a whole number, {' or '.join(SKETCHES)}.", param, ctx)
        return int(text)


class Extent(click.ParamType["tuple[str, int]"]):
    """A named size: sequence=64."""

    name = "extent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Parse the value, or fail with click's error."""
        if isinstance(value, tuple):
            return value
        name, _, size = str(value).rpartition("=")
        if not name or not size.isdecimal():
            self.fail(f"{value!r} is not NAME=SIZE, such as sequence=64.", param, ctx)
        return name, int(size)


class InputValue(click.ParamType["tuple[str, Any]"]):
    """A value for an input: sr=16000, training=false, mask=[1,0], lora_A=FILE.npy."""

    name = "bound"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Parse the value, or fail with click's error."""
        if isinstance(value, tuple):
            return value
        name, _, text = str(value).partition("=")
        if not name or not text:
            self.fail(f"{value!r} is not NAME=VALUE, such as sr=16000 or lora_A=FILE.npy.", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, {"True": True, "False": False}.get(text, text)


class ProviderOption(InputValue):
    """A name and a value: device_type=GPU."""

    name = "setting"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Parse the value, or fail with click's error."""
        name, _, text = str(value).partition("=") if not isinstance(value, tuple) else (value[0], "=", str(value[1]))
        if not name or not text:
            self.fail(f"{value!r} is not KEY=VALUE, such as device_type=GPU.", param, ctx)
        return name, text


class Words(click.ParamType["tuple[str, ...]"]):
    """Known words separated by commas: adabet,last,all."""

    name = "words"

    def __init__(self, known: Sequence[str]) -> None:
        self._known = tuple(known)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse the value, or fail with click's error."""
        if isinstance(value, tuple):
            return value
        words = tuple(word.strip() for word in str(value).split(",") if word.strip())
        for word in words:
            if word not in self._known:
                self.fail(f"{word!r} is not one of {', '.join(self._known)}.", param, ctx)
        if not words:
            self.fail(f"Give at least one of {', '.join(self._known)}.", param, ctx)
        return words


class Texts(click.ParamType["tuple[str, ...]"]):
    """Texts separated by commas: 8MB,64MB."""

    name = "texts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split the value at commas."""
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())
