"""How the axes of a sample become the axes of a model's input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ..errors import UsageError
from .reading import Layout

Shape = tuple[int, ...]
Order = tuple[int, ...]
_CANONICAL = "DTHW"  # the order in which models take these letters, channels apart: N C D H W, N T H W C
_MANY = 1000  # orders that fit, of which it is enough to know that there are so many


class AmbiguousAxesError(Exception):
    """Several orders of axes fit."""


@dataclass(frozen=True)
class Axes:
    """How a sample is laid out anew; no number is changed.

    Attributes:
        have: shape of a sample as it is stored.
        split: the same with flattened axes taken apart.
        order: of the axes of ``split`` longer than 1, as the input takes them.
        want: shape of a sample as the input takes it.
        layout: of the data, in letters, where axes are moved or a layout was given; else None.
        square: that another order would fit as well, and no layout was given: another axis is as long as that of the
            channels, or, where that is not known, all axes are equally long.
    """

    have: Shape
    split: Shape
    order: Order
    want: Shape
    layout: str | None = None
    square: bool = False

    @property
    def moved(self) -> bool:
        """Whether axes change their order."""
        return self.order != tuple(range(len(self.order)))

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Lay out samples, (N, *have) to (N, *want)."""
        if self.have == self.want and not self.moved:
            return array
        long = array.reshape(len(array), *(extent for extent in self.split if extent != 1))
        moved: np.ndarray = long.transpose(0, *(axis + 1 for axis in self.order))
        return moved.reshape(len(array), *self.want)


def decide_axes(have: Shape, want: Shape, layout: Layout | None = None, channels: int | None = None) -> Axes | None:
    """The one place that decides how the axes of a sample become those of an input, for samples of any rank.

    Accepted, in this order:

    1. The same shape, or one that differs by axes of size 1 only: taken as it is. (Such axes are added or dropped; an
       array is never reshaped otherwise.)
    2. An order of its axes that gives the input's shape, if it is the only one.
    3. Where several do, because axes are equally long: the only one that moves a single axis past others, which stay in
       their order. (28, 28, 3) is taken for (3, 28, 28) with rows before columns.

    A layout decides instead of 1 to 3. Its letters are matched with the input's, where those were given after a colon.
    Otherwise an order fits that gives the input's shape and has depth or time, rows and columns in this order, and C
    where ``channels`` says, if that is known.

    Args:
        have: shape of a sample, without the batch.
        want: shape that the input takes, without the batch.
        layout: what the user says about the data.
        channels: the axis of ``want`` that holds channels, where that is known. Without a layout it decides nothing,
            and only tells what to report.

    Returns:
        How, or None if no order of the axes gives the input's shape.

    Raises:
        AmbiguousAxesError: several orders fit.
        UsageError: the layout has another number of letters than the data has axes, or does not fit the input.
    """
    if layout is not None:
        return _by_letters(have, want, layout, channels)
    long, wanted = _long(have), _long(want)
    same = tuple(range(len(long)))
    if long == wanted:
        return Axes(have, have, same, want, square=_could_be_another(want, channels))
    fits = _fitting(long, wanted)
    if len(fits) > 1:
        fits = [order for order in fits if _moves_one(order)]
        if len(fits) != 1:
            raise AmbiguousAxesError
    if not fits:
        return None
    return Axes(have, have, fits[0], want, letters_of(have, want, fits[0], channels))


def _could_be_another(want: Shape, channels: int | None) -> bool:
    """Whether samples of the wanted shape may as well have another axis where the input has its channels."""
    if channels is not None:
        return want[channels] != 1 and want.count(want[channels]) > 1
    return len(want) > 1 and 1 not in want and len(set(want)) == 1


def letters_of(have: Shape, want: Shape, order: Order, channels: int | None) -> str:
    """Letters for a layout that was found by its shape, such as NTC.

    C is the axis that the model takes for channels; where that is not known, the one that is moved (of two, that with
    fewer elements). The others are T, HW or DHW, by their number and as the model takes them.
    """
    places = [axis for axis, extent in enumerate(have) if extent != 1]
    targets = [axis for axis, extent in enumerate(want) if extent != 1]
    at = {target: places[source] for target, source in zip(targets, order, strict=True)}
    ones = [axis for axis, extent in enumerate(have) if extent == 1]
    if channels is not None and channels in at:
        channel = at[channels]
    elif channels is not None and want[channels] == 1:
        channel = ones[-1] if ones else -1  # there may be no axis for a single channel
    elif len(order) == 2:
        channel = min(places, key=lambda axis: have[axis])
    else:
        channel = places[_moved_one(order)]
    rest = [axis for axis in range(len(have)) if axis != channel]
    names = {1: "T", 2: "HW", 3: "DHW"}.get(len(rest), "ABDEFGHIJKLM"[: len(rest)])
    kept = sorted(rest, key=lambda axis: (axis not in places, _rank(at, axis)))
    letters = {axis: names[number] for number, axis in enumerate(kept)}
    letters[channel] = "C"
    return "N" + "".join(letters[axis] for axis in range(len(have)))


def _rank(at: dict[int, int], axis: int) -> int:
    """The place an axis gets in the input."""
    return next((target for target, source in at.items() if source == axis), -1)


def _long(shape: Sequence[int]) -> Shape:
    return tuple(extent for extent in shape if extent != 1)


def _fitting(long: Shape, wanted: Shape) -> list[Order]:
    """Orders of axes that give the wanted shape, `_MANY` at most."""
    if sorted(long) != sorted(wanted):
        return []

    def orders(rest: Shape, left: frozenset[int]) -> Iterator[Order]:
        if not rest:
            yield ()
        for axis in sorted(left):
            if long[axis] == rest[0]:
                yield from ((axis, *more) for more in orders(rest[1:], left - {axis}))

    return list(islice(orders(wanted, frozenset(range(len(long)))), _MANY))


def _moves_one(order: Order) -> bool:
    """Whether the order comes about by moving one axis, the others keeping theirs."""
    return _moved_one(order) >= 0


def _moved_one(order: Order) -> int:
    """The axis without which the others are in their order; -1 if there is none. The one that moves furthest."""
    found = [axis for axis in order if [a for a in order if a != axis] == sorted(set(order) - {axis})]
    return max(found, key=lambda axis: abs(order.index(axis) - axis), default=-1)


def _by_letters(have: Shape, want: Shape, layout: Layout, channels: int | None) -> Axes | None:
    split, wanted = _taken_apart(have, want, layout)
    names = [letter for letter, extent in zip(layout.letters, split, strict=True) if extent != 1]
    if layout.model is not None:
        letters = "".join(layout.model)
        taken = [letter for letter, extent in zip(letters, wanted, strict=True) if extent != 1]
        if sorted(taken) != sorted(names):
            return None
        order = tuple(names.index(letter) for letter in taken)
        fits = [order] if tuple(_long(split)[axis] for axis in order) == _long(wanted) else []
    else:
        fits = _sensible(_fitting(_long(split), _long(wanted)), names)
        if channels is not None and want[channels] != 1 and "C" in names:
            place = len(_long(want[:channels]))
            fits = [order for order in fits if names[order[place]] == "C"]
        if len(fits) > 1:
            raise AmbiguousAxesError
    return Axes(have, split, fits[0], want, str(layout)) if fits else None


def _sensible(fits: list[Order], names: list[str]) -> list[Order]:
    """Orders in which the axes other than C are as models take them; unknown letters: as the data has them."""
    known = set(names) <= {*_CANONICAL, "C"}

    def in_order(order: Order) -> bool:
        others = [names[axis] for axis in order if names[axis] != "C"]
        return others == sorted(others, key=_CANONICAL.index if known else names.index)

    kept = [order for order in fits if in_order(order)]
    return kept or ([] if known else fits)


def _taken_apart(have: Shape, want: Shape, layout: Layout) -> tuple[Shape, Shape]:
    """Both shapes with flattened axes taken apart, by the sizes that the other one has for their letters."""
    sides = [(layout.axes, have, "the data has")]
    if layout.model is not None:
        sides.append((layout.model, want, "the model takes"))
    sizes: dict[str, int] = {}
    for axes, shape, what in sides:
        if len(axes) != len(shape):
            raise UsageError(
                f"layout {layout} names {len(axes)} axes beside N, but {what} samples of shape {shape}: give one "
                "letter for each of its axes."
            )
        sizes |= {axis: extent for axis, extent in zip(axes, shape, strict=True) if len(axis) == 1}
    apart = [
        tuple(part for axis, extent in zip(axes, shape, strict=True) for part in _parts(axis, extent, sizes, layout))
        for axes, shape, _ in sides
    ]
    return apart[0], apart[1] if len(apart) > 1 else want


def _parts(axis: str, extent: int, sizes: dict[str, int], layout: Layout) -> Shape:
    """The sizes of the axes that are flattened into one of this extent."""
    if len(axis) == 1:
        return (extent,)
    if layout.model is None:
        raise UsageError(
            f"layout {layout} has flattened axes, whose sizes are not known: say after a colon what the model takes, "
            f"such as {layout}:N{layout.letters}."
        )
    known = math.prod(sizes.get(letter, 1) for letter in axis)
    unknown = [letter for letter in axis if letter not in sizes]
    if len(unknown) > 1 or extent % known or (not unknown and extent != known):
        told = " x ".join(str(sizes.get(letter, letter)) for letter in axis)
        raise UsageError(f"layout {layout}: an axis of {extent} cannot be taken apart into {told}.")
    return tuple(sizes.get(letter, extent // known) for letter in axis)
