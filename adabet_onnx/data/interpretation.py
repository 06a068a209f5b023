"""What data was taken for, in one line: ``1,000 grey images of 28 x 28 -> 3 x 32 x 32: channels repeated, ...``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .layout import Fit
from .pictures import COLOURS, Picture, recolour_step, scales


def taken_for(count: int, fits: Mapping[str, Fit]) -> str:
    """The line.

    Args:
        count: of samples.
        fits: how the samples for each input were laid out, by its name.
    """
    if len(fits) > 1:
        parts = [f"{name}{_one(fit)}" for name, fit in fits.items()]
        return f"{_number(count, 'sample')}: {'; '.join(parts)}"
    (fit,) = fits.values()
    return f"{_number(count, _kind(fit))}{_one(fit)}"


def _number(count: int, kind: str) -> str:
    return f"{count:,} {kind}{'' if count == 1 else 's'}"


def _kind(fit: Fit) -> str:
    if fit.form.files:
        return "image file"
    picture = _as_pixels(fit)
    return "sample" if picture is None else f"{COLOURS[picture.channels]} image"


def _one(fit: Fit) -> str:
    """Shape as stored, shape as fed, and what was done in between."""
    have, want = fit.form.shape, fit.entrance.want
    picture = _as_pixels(fit)
    if fit.form.files:
        target = fit.entrance.picture
        assert target is not None
        return f" -> {_shape(want)}: {COLOURS[target.channels]}, upright by EXIF, resized"
    known = "one number" if not have else _shape(have if picture is None else picture.size)
    becomes = f" -> {_shape(want) if want else 'one number'}" if have != want else ""
    steps = ", ".join(_steps(fit))
    return f" of {known}{becomes}" + (f": {steps}" if steps else "")


def _steps(fit: Fit) -> list[str]:
    if fit.axes is not None:
        if fit.axes.moved:
            return [f"axes moved (layout {fit.axes.layout})"]
        if fit.layout is not None:
            done = "as it is" if fit.axes.split == fit.form.shape == fit.entrance.want else "reshaped"
            return [f"{done} (layout {fit.layout})"]
        if fit.axes.square and fit.entrance.picture is None:
            return ["as it is, though its axes would fit in another order too (a layout says which)"]
        return []
    picture, target = fit.picture, fit.entrance.picture
    assert picture is not None
    assert target is not None
    steps = [recolour_step(picture.channels, target.channels) or ""]
    if picture.letters != target.letters and picture.channels > 1:
        steps.append(f"axes moved (layout N{picture.letters})")
    steps.append(resize_step(picture.size, target.size))
    return [step for step in steps if step]


def resize_step(have: tuple[int, int], want: tuple[int, int]) -> str:
    """``enlarged 1.1x``, ``shrunk 2.0x``, or what happens to each side where that differs."""
    if have == want:
        return ""
    height, width = (f"{max(factor, 1 / factor):.1f}x" for factor in scales(have, want))
    ways = ["enlarged" if new > old else "shrunk" if new < old else "" for old, new in zip(have, want, strict=True)]
    if ways[0] == ways[1] and height == width:
        return f"{ways[0]} {height}"
    parts = [
        f"{side} {way} {factor}" if way else f"{side} kept"
        for side, way, factor in (("height", ways[0], height), ("width", ways[1], width))
    ]
    return " and ".join(parts)


def _as_pixels(fit: Fit) -> Picture | None:
    """As what pictures to speak of samples: those whose size or colour is changed, and uint8 for such an input."""
    if fit.picture is not None or fit.entrance.picture is None or fit.axes is None:
        return fit.picture
    if fit.form.dtype != np.uint8:
        return None
    target = fit.entrance.picture
    return Picture((0, 1, 2), target.size, target.channels)


def _shape(extents: tuple[int, ...]) -> str:
    return " x ".join(map(str, extents))
