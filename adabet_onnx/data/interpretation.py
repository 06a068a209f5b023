"""Describe how data is interpreted: ``1,000 grey images of 28 x 28 -> 3 x 32 x 32: channels repeated, ...``.

A resumed training compares this line with the stored one, so its wording must not change between releases.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .input_fit import InputFit
from .pictures import COLOURS, Picture, recolour_step, scales


def describe_data(count: int, fits: Mapping[str, InputFit]) -> str:
    """Describe data in one line.

    Args:
        count: number of samples.
        fits: how the samples for each input are converted, by input name.
    """
    if len(fits) > 1:
        parts = [f"{name}{_one(fit)}" for name, fit in fits.items()]
        return f"{_number(count, 'sample')}: {'; '.join(parts)}"
    (fit,) = fits.values()
    return f"{_number(count, _kind(fit))}{_one(fit)}"


def _number(count: int, kind: str) -> str:
    return f"{count:,} {kind}{'' if count == 1 else 's'}"


def _kind(fit: InputFit) -> str:
    if fit.form.files:
        return "image file"
    picture = _as_pixels(fit)
    return "sample" if picture is None else f"{COLOURS[picture.channels]} image"


def _one(fit: InputFit) -> str:
    """The stored shape, the fed shape, and the steps in between."""
    stored, target_shape = fit.form.shape, fit.model_input.target_shape
    picture = _as_pixels(fit)
    if fit.form.files:
        target = fit.model_input.picture
        assert target is not None
        return f" -> {_shape(target_shape)}: {COLOURS[target.channels]}, upright by EXIF, resized"
    before = "one number" if not stored else _shape(stored if picture is None else picture.size)
    after = f" -> {_shape(target_shape) if target_shape else 'one number'}" if stored != target_shape else ""
    steps = ", ".join(_steps(fit))
    return f" of {before}{after}" + (f": {steps}" if steps else "")


def _steps(fit: InputFit) -> list[str]:
    if fit.axes is not None:
        if fit.axes.moved:
            return [f"axes moved (layout {fit.axes.layout})"]
        if fit.layout is not None:
            step = "as it is" if fit.axes.split == fit.form.shape == fit.model_input.target_shape else "reshaped"
            return [f"{step} (layout {fit.layout})"]
        if fit.axes.square and fit.model_input.picture is None:
            return ["as it is, though its axes would fit in another order too (a layout says which)"]
        return []
    picture, target = fit.picture, fit.model_input.picture
    assert picture is not None
    assert target is not None
    steps = [recolour_step(picture.channels, target.channels) or ""]
    if picture.letters != target.letters and picture.channels > 1:
        steps.append(f"axes moved (layout N{picture.letters})")
    steps.append(resize_step(picture.size, target.size))
    return [step for step in steps if step]


def resize_step(stored: tuple[int, int], target: tuple[int, int]) -> str:
    """``enlarged 1.1x``, ``shrunk 2.0x``, or the change of each side if they differ."""
    if stored == target:
        return ""
    height, width = (f"{max(factor, 1 / factor):.1f}x" for factor in scales(stored, target))
    changes = [
        "enlarged" if new > old else "shrunk" if new < old else "" for old, new in zip(stored, target, strict=True)
    ]
    if changes[0] == changes[1] and height == width:
        return f"{changes[0]} {height}"
    parts = [
        f"{side} {change} {factor}" if change else f"{side} kept"
        for side, change, factor in (("height", changes[0], height), ("width", changes[1], width))
    ]
    return " and ".join(parts)


def _as_pixels(fit: InputFit) -> Picture | None:
    """How to describe samples as images: those whose size or colour is changed, and uint8 for an image input."""
    if fit.picture is not None or fit.model_input.picture is None or fit.axes is None:
        return fit.picture
    if fit.form.dtype != np.uint8:
        return None
    target = fit.model_input.picture
    return Picture((0, 1, 2), target.size, target.channels)


def _shape(extents: tuple[int, ...]) -> str:
    return " x ".join(map(str, extents))
