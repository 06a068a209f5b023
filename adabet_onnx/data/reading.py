"""The user's options for reading data: the layout of its axes, and whether it may be resized.

A layout is a letter for each axis of an array as it is stored, the samples (N) first: ``NTC``, ``NHWC``, ``NTHWC``.
C stands for channels (or features), H and W for rows and columns, D for depth, T for time; other letters are for any
other axis. Letters in brackets are one axis into which several are flattened, the last one varying fastest: ``N(HW)``.
The model's layout may follow after a colon, ``NTC:NCT`` or ``NHW:N(HW)``; it is required if the sizes are ambiguous.
For a model with several inputs, each layout names its input: ``audio=NTC``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import UsageError

_AXIS = r"[A-Z]|\([A-Z]{2,}\)"
_FORM = re.compile(f"N((?:{_AXIS})*)(?::N((?:{_AXIS})*))?")
_EXAMPLES = "NTC, NHWC, N(HW), NTC:NCT (data:model), or INPUT=NTC"


@dataclass(frozen=True)
class AxisLayout:
    """Letters of the axes after the sample axis.

    Attributes:
        axes: for each axis of the array its letter, or the letters of the axes that are flattened into it.
        model: the same for the input; None if it was not given.
    """

    axes: tuple[str, ...]
    model: tuple[str, ...] | None = None

    @property
    def letters(self) -> str:
        """Letters of all axes of the array in order, including flattened ones."""
        return "".join(self.axes)

    @property
    def flattened(self) -> bool:
        """Whether an axis of the array holds several flattened axes."""
        return any(len(axis) > 1 for axis in self.axes)

    @property
    def data(self) -> str:
        """The part that describes the array."""
        return f"N{_text(self.axes)}"

    def __str__(self) -> str:
        return self.data + ("" if self.model is None else f":N{_text(self.model)}")


def _text(axes: Sequence[str]) -> str:
    return "".join(letters if len(letters) == 1 else f"({letters})" for letters in axes)


@dataclass(frozen=True)
class Reading:
    """Options for reading data; see the module.

    Attributes:
        layout: one layout, several that name their inputs, or a mapping of input names to layouts.
        allow_resize: whether arrays may be resized even if that is unlikely to be intended (see
            `pictures.resizing_doubt`).

    Raises:
        UsageError: a layout does not have the form that the module describes.
    """

    layout: str | Sequence[str] | Mapping[str, str] | None = None
    allow_resize: bool = False
    layouts: tuple[tuple[str, AxisLayout], ...] = field(init=False, compare=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layouts", tuple(_named(self.layout)))
        object.__setattr__(self, "layout", None if not self.layouts else tuple(f"{n}={v}" for n, v in self.layouts))
        names = [name for name, _ in self.layouts]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"two layouts are given for {f'input {name!r}' if name else 'one input'}; give one.")

    def layout_of(self, name: str, inputs: Sequence[str], model: str) -> AxisLayout | None:
        """The layout given for an input.

        Args:
            name: name of the input.
            inputs: names of all inputs of the model.
            model: the name of the model in messages.

        Raises:
            UsageError: a layout was given for an input that does not exist, or without a name if there are several.
        """
        for called, _ in self.layouts:
            if called and called not in inputs:
                raise UsageError(f"a layout is given for input {called!r}, but {model} has {', '.join(inputs)}.")
            if not called and len(inputs) > 1:
                raise UsageError(
                    f"{model} has {len(inputs)} inputs: name the input that a layout is for, such as {inputs[0]}=NTC."
                )
        return next((layout for called, layout in self.layouts if called in ("", name)), None)


def parse_layout(text: str) -> tuple[str, AxisLayout]:
    """Parse an input's name (or ``""``) and its layout.

    Raises:
        UsageError: the text does not have the form that the module describes.
    """
    name, _, letters = str(text).strip().rpartition("=")
    match = _FORM.fullmatch(letters.strip().upper())
    if match is None:
        raise UsageError(
            f"{text!r} is not a layout. Give a letter for each axis of the data as it is stored, N (the samples) "
            f"first: {_EXAMPLES}."
        )
    axes, model = (
        None if part is None else tuple(axis.strip("()") for axis in re.findall(_AXIS, part)) for part in match.groups()
    )
    for given in (axes, model):
        letters = "N" + "".join(given or ())
        if len(set(letters)) < len(letters):
            raise UsageError(f"layout {text!r} has the same letter twice. Give each axis a different letter.")
    return name, AxisLayout(axes or (), model)


def _named(layout: str | Sequence[str] | Mapping[str, str] | None) -> list[tuple[str, AxisLayout]]:
    if layout is None:
        return []
    if isinstance(layout, str):
        return [parse_layout(layout)]
    if isinstance(layout, Mapping):
        return [(str(name), parse_layout(f"{name}={letters}")[1]) for name, letters in layout.items()]
    return [parse_layout(text) for text in layout]


AS_IT_IS = Reading()
