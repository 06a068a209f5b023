"""Map the axes of a sample to the axes of a model input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ..errors import UsageError
from .reading import AxisLayout

Shape = tuple[int, ...]
Order = tuple[int, ...]
_CANONICAL = "DTHW"  # the order of these letters in model inputs, ignoring channels: N C D H W, N T H W C
_MANY = 1000  # stop listing orders that fit after this many


class AmbiguousAxesError(Exception):
    """Raised if several orders of axes fit."""


@dataclass(frozen=True)
class AxisMapping:
    """How the axes of a sample are rearranged; no number is changed.

    Attributes:
        stored: shape of a sample as it is stored.
        split: the same shape with flattened axes split up.
        order: order in which the input takes the axes of ``split`` that are longer than 1.
        target: shape of a sample as the input takes it.
        layout: layout of the data in letters, if axes are moved or a layout was given; else None.
        square: whether another order would fit as well and no layout was given: another axis is as long as the channel
            axis or, if that is unknown, all axes are equally long.
    """

    stored: Shape
    split: Shape
    order: Order
    target: Shape
    layout: str | None = None
    square: bool = False

    @property
    def moved(self) -> bool:
        """Whether the order of the axes changes."""
        return self.order != tuple(range(len(self.order)))

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Rearrange samples from (N, *stored) to (N, *target)."""
        if self.stored == self.target and not self.moved:
            return array
        long = array.reshape(len(array), *(extent for extent in self.split if extent != 1))
        moved: np.ndarray = long.transpose(0, *(axis + 1 for axis in self.order))
        return moved.reshape(len(array), *self.target)


def decide_axes(
    stored: Shape, target: Shape, layout: AxisLayout | None = None, channels: int | None = None
) -> AxisMapping | None:
    """Decide how the axes of a sample map to those of an input, for samples of any rank. No other code decides this.

    Accepted, in this order:

    1. The same shape, or one that differs only by axes of size 1: used unchanged. (Such axes are added or dropped; an
       array is never reshaped otherwise.)
    2. An order of the axes that gives the input's shape, if it is the only one.
    3. If several orders do, because axes are equally long: the only one that moves a single axis and leaves the others
       in their order. (28, 28, 3) becomes (3, 28, 28) with rows before columns.

    A layout replaces 1 to 3. Its letters are matched with the input's letters if those were given after a colon.
    Otherwise an order fits if it gives the input's shape, keeps depth or time, rows and columns in this order, and puts
    C at ``channels``, if that is known.

    Args:
        stored: shape of a sample, without the batch.
        target: shape that the input takes, without the batch.
        layout: the layout given by the user.
        channels: the channel axis of ``target``, if known. Without a layout it decides nothing and only affects what is
            reported.

    Returns:
        The mapping, or None if no order of the axes gives the input's shape.

    Raises:
        AmbiguousAxesError: several orders fit.
        UsageError: the number of letters in the layout differs from the number of axes of the data, or the layout does
            not fit the input.
    """
    if layout is not None:
        return _by_letters(stored, target, layout, channels)
    long, long_target = _long(stored), _long(target)
    same = tuple(range(len(long)))
    if long == long_target:
        return AxisMapping(stored, stored, same, target, square=_could_be_another(target, channels))
    fits = _fitting(long, long_target)
    if len(fits) > 1:
        fits = [order for order in fits if _moves_one(order)]
        if len(fits) != 1:
            raise AmbiguousAxesError
    if not fits:
        return None
    return AxisMapping(stored, stored, fits[0], target, letters_of(stored, target, fits[0], channels))


def _could_be_another(target: Shape, channels: int | None) -> bool:
    """Whether in samples of the target shape the channels could be on another axis than the input expects."""
    if channels is not None:
        return target[channels] != 1 and target.count(target[channels]) > 1
    return len(target) > 1 and 1 not in target and len(set(target)) == 1


def letters_of(stored: Shape, target: Shape, order: Order, channels: int | None) -> str:
    """Letters for a layout that was inferred from the shape, such as NTC.

    C is the axis that the model reads as channels; if that is unknown, the one that is moved (of two, the one with
    fewer elements). The others are T, HW or DHW, depending on their number and in the model's order.
    """
    places = [axis for axis, extent in enumerate(stored) if extent != 1]
    targets = [axis for axis, extent in enumerate(target) if extent != 1]
    at = {axis: places[source] for axis, source in zip(targets, order, strict=True)}
    ones = [axis for axis, extent in enumerate(stored) if extent == 1]
    if channels is not None and channels in at:
        channel = at[channels]
    elif channels is not None and target[channels] == 1:
        channel = ones[-1] if ones else -1  # there may be no axis for a single channel
    elif len(order) == 2:
        channel = min(places, key=lambda axis: stored[axis])
    else:
        channel = places[_moved_one(order)]
    rest = [axis for axis in range(len(stored)) if axis != channel]
    names = {1: "T", 2: "HW", 3: "DHW"}.get(len(rest), "ABDEFGHIJKLM"[: len(rest)])
    kept = sorted(rest, key=lambda axis: (axis not in places, _rank(at, axis)))
    letters = {axis: names[number] for number, axis in enumerate(kept)}
    letters[channel] = "C"
    return "N" + "".join(letters[axis] for axis in range(len(stored)))


def _rank(at: dict[int, int], axis: int) -> int:
    """The position of an axis in the input."""
    return next((position for position, source in at.items() if source == axis), -1)


def _long(shape: Sequence[int]) -> Shape:
    return tuple(extent for extent in shape if extent != 1)


def _fitting(long: Shape, target: Shape) -> list[Order]:
    """Orders of axes that give the target shape, at most `_MANY`."""
    if sorted(long) != sorted(target):
        return []

    def orders(rest: Shape, left: frozenset[int]) -> Iterator[Order]:
        if not rest:
            yield ()
        for axis in sorted(left):
            if long[axis] == rest[0]:
                yield from ((axis, *more) for more in orders(rest[1:], left - {axis}))

    return list(islice(orders(target, frozenset(range(len(long)))), _MANY))


def _moves_one(order: Order) -> bool:
    """Whether the order results from moving one axis while the others keep their order."""
    return _moved_one(order) >= 0


def _moved_one(order: Order) -> int:
    """The axis without which the others are in order, the one that moves furthest; -1 if there is none."""
    axes = [axis for axis in order if [a for a in order if a != axis] == sorted(set(order) - {axis})]
    return max(axes, key=lambda axis: abs(order.index(axis) - axis), default=-1)


def _by_letters(stored: Shape, target: Shape, layout: AxisLayout, channels: int | None) -> AxisMapping | None:
    split, split_target = _split_axes(stored, target, layout)
    names = [letter for letter, extent in zip(layout.letters, split, strict=True) if extent != 1]
    if layout.model is not None:
        letters = "".join(layout.model)
        target_names = [letter for letter, extent in zip(letters, split_target, strict=True) if extent != 1]
        if sorted(target_names) != sorted(names):
            return None
        order = tuple(names.index(letter) for letter in target_names)
        fits = [order] if tuple(_long(split)[axis] for axis in order) == _long(split_target) else []
    else:
        fits = _sensible(_fitting(_long(split), _long(split_target)), names)
        if channels is not None and target[channels] != 1 and "C" in names:
            place = len(_long(target[:channels]))
            fits = [order for order in fits if names[order[place]] == "C"]
        if len(fits) > 1:
            raise AmbiguousAxesError
    return AxisMapping(stored, split, fits[0], target, str(layout)) if fits else None


def _sensible(fits: list[Order], names: list[str]) -> list[Order]:
    """Orders that keep the axes other than C in the usual order of models; for unknown letters, in that of the data."""
    known = set(names) <= {*_CANONICAL, "C"}

    def in_order(order: Order) -> bool:
        others = [names[axis] for axis in order if names[axis] != "C"]
        return others == sorted(others, key=_CANONICAL.index if known else names.index)

    kept = [order for order in fits if in_order(order)]
    return kept or ([] if known else fits)


def _split_axes(stored: Shape, target: Shape, layout: AxisLayout) -> tuple[Shape, Shape]:
    """Both shapes with flattened axes split up, using the sizes of the same letters in the other shape."""
    sides = [(layout.axes, stored, "the data has")]
    if layout.model is not None:
        sides.append((layout.model, target, "the model takes"))
    sizes: dict[str, int] = {}
    for axes, shape, what in sides:
        if len(axes) != len(shape):
            raise UsageError(
                f"layout {layout} names {len(axes)} axes besides N, but {what} samples of shape {shape}: give one "
                "letter for each of its axes."
            )
        sizes |= {axis: extent for axis, extent in zip(axes, shape, strict=True) if len(axis) == 1}
    split = [
        tuple(part for axis, extent in zip(axes, shape, strict=True) for part in _parts(axis, extent, sizes, layout))
        for axes, shape, _ in sides
    ]
    return split[0], split[1] if len(split) > 1 else target


def _parts(axis: str, extent: int, sizes: dict[str, int], layout: AxisLayout) -> Shape:
    """The sizes of the axes that are flattened into one axis of this extent."""
    if len(axis) == 1:
        return (extent,)
    if layout.model is None:
        raise UsageError(
            f"layout {layout} has flattened axes of unknown sizes: give the model's layout after a colon, such as "
            f"{layout}:N{layout.letters}."
        )
    known = math.prod(sizes.get(letter, 1) for letter in axis)
    unknown = [letter for letter in axis if letter not in sizes]
    if len(unknown) > 1 or extent % known or (not unknown and extent != known):
        parts = " x ".join(str(sizes.get(letter, letter)) for letter in axis)
        raise UsageError(f"layout {layout}: an axis of {extent} cannot be split into {parts}.")
    return tuple(sizes.get(letter, extent // known) for letter in axis)
