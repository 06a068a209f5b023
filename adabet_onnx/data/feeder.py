"""From raw samples to what a model's inputs get: laid out, in range, with the arithmetic applied."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..errors import DataError
from ..model.input_ids import lookup_table
from ..model.open import Model, Tensor
from .arithmetic import prepared_inputs
from .augment import Augmentation
from .dataset import Dataset, Form, in_blocks
from .layout import Entrance, Fit, decide, entrance
from .preprocess import NONE, Arithmetic, check_applicable
from .ranges import check_pixels, check_range
from .reading import Reading
from .taken import taken_for

Changed = Callable[[np.ndarray], np.ndarray]  # pictures (N, height, width, channels), into others of that form
_ROWS = 4096  # that are looked at together


class Feeder:
    """Turns raw samples into feeds for a model.

    Args:
        model: the model to feed.
        preprocessing: the arithmetic, applied to float32 inputs.
        augmentation: what other views of a sample than the first are.

    Raises:
        UsageError: there is arithmetic, but no input that it can be applied to.
    """

    def __init__(self, model: Model, preprocessing: Arithmetic, augmentation: Augmentation | None = None) -> None:
        check_applicable(model, preprocessing)
        self._model = model
        self._entrances: dict[str, Entrance] = {spec.name: entrance(model, spec) for spec in model.inputs}
        self._tables = {spec.name: lookup_table(model.graph, spec.name) for spec in model.inputs}
        self._fits: dict[tuple[Form, str, Reading], Fit] = {}
        self.preprocessing, self._augmentation = preprocessing, augmentation

    def feeds(self, dataset: Dataset, indices: np.ndarray, views: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Inputs of the model by name, for these rows.

        Args:
            dataset: where they are.
            indices: which.
            views: the number of the view of each, where pictures are augmented; None: the samples themselves.

        Raises:
            DataError: names, shapes, types or numbers do not fit the model's inputs.
            UsageError: a layout does not fit.
        """
        indices = np.asarray(indices, np.int64)
        once, again = (indices, None) if views is None else np.unique(indices, return_inverse=True)
        fetched = dataset.rows.fetch(once)
        raw = self._by_input(fetched if again is None else {name: array[again] for name, array in fetched.items()})
        forms = self._by_input(dataset.rows.forms)
        prepared, changed = prepared_inputs(self._model, forms), None
        if views is not None and self._augmentation is not None:
            changed = partial(self._augmentation.views, samples=indices, numbers=views)
        return {
            spec.name: self._input(
                raw[spec.name],
                spec,
                self._fit(forms[spec.name], spec, dataset),
                self.preprocessing if spec.name in prepared else NONE,
                dataset.name,
                changed,
            )
            for spec in self._model.inputs
        }

    def pictures(self, dataset: Dataset) -> tuple[str, ...]:
        """The inputs that get pictures of uint8, which can be augmented."""
        forms = self._by_input(dataset.rows.forms)
        fits = {spec.name: self._fit(forms[spec.name], spec, dataset) for spec in self._model.inputs}
        return tuple(name for name, fit in fits.items() if _is_picture(fit))

    def taken(self, dataset: Dataset) -> str:
        """What data is taken for, in one line; everything about it that can be checked beforehand is.

        Raises:
            DataError: shapes, types, or integers anywhere in it, do not fit the model's inputs.
            UsageError: a layout does not fit.
        """
        forms = self._by_input(dataset.rows.forms)
        fits = {spec.name: self._fit(forms[spec.name], spec, dataset) for spec in self._model.inputs}
        prepared = prepared_inputs(self._model, forms)
        whole = [spec for spec in self._model.inputs if self._ranged(spec, forms[spec.name], spec.name in prepared)]
        for rows in in_blocks(dataset, _ROWS) if whole else ():
            raw = self._by_input(rows)
            for spec in whole:
                if spec.dtype == "float32":
                    check_pixels(raw[spec.name], spec, dataset.name)
                else:
                    check_range(raw[spec.name], spec, dataset.name, self._tables[spec.name])
        line = taken_for(len(dataset), fits)
        if self.preprocessing.bgr:
            line += "; fed as blue, green, red"
        if len(fits) > 1 and not self.preprocessing.is_identity:
            line += f"; scale, mean and std are for {', '.join(prepared)}"
        return line

    def _ranged(self, spec: Tensor, form: Form, prepared: bool) -> bool:
        """Whether numbers for an input could be out of its range."""
        if spec.dtype != "float32":
            return not form.files
        return prepared and self.preprocessing.of_pixels and form.dtype.kind in "iu" and form.dtype != np.uint8

    def _by_input(self, found: dict[str, Any]) -> dict[str, Any]:
        """What was found by the names of the data, by those of the inputs."""
        names = [spec.name for spec in self._model.inputs]
        if set(found) == {""}:
            if len(names) != 1:
                raise DataError(
                    f"{self._model.name} has {len(names)} inputs ({', '.join(names)}); give a mapping of these names "
                    "to arrays."
                )
            return {names[0]: found[""]}
        if set(found) != set(names):
            raise DataError(f"the data has inputs {sorted(found)}, but {self._model.name} has {sorted(names)}.")
        return found

    def _fit(self, form: Form, spec: Tensor, dataset: Dataset) -> Fit:
        key = form, spec.name, dataset.reading
        if key not in self._fits:
            layout = dataset.reading.layout_of(spec.name, list(self._entrances), self._model.name)
            into = self._entrances[spec.name]
            self._fits[key] = decide(form, into, layout, dataset.reading.allow_resize, dataset.name)
        return self._fits[key]

    def _coloured(self, fit: Fit, array: np.ndarray, changed: Changed | None) -> np.ndarray:
        """Samples as an input takes them, numbers unscaled; of pictures the colours in the order that is fed."""
        laid, picture = fit.apply(array), fit.entrance.picture
        if changed is not None and picture is not None and _is_picture(fit):
            laid = np.moveaxis(changed(np.moveaxis(laid, picture.channel_axis, 3)), 3, picture.channel_axis)
        swapped = self.preprocessing.bgr and picture is not None and picture.channels == 3
        return np.flip(laid, picture.channel_axis) if swapped and picture is not None else laid

    def _input(
        self,
        array: np.ndarray,
        spec: Tensor,
        fit: Fit,
        preprocessing: Arithmetic,
        where: str,
        changed: Changed | None,
    ) -> np.ndarray:
        if spec.dtype != "float32":
            check_range(array, spec, where, self._tables[spec.name])
            return np.ascontiguousarray(self._coloured(fit, array, changed).astype(spec.dtype))
        into = self._entrances[spec.name]
        axis = into.channels
        if axis is None and len(spec.shape) > 1:
            axis = 1
        if preprocessing.of_pixels:
            check_pixels(array, spec, where)
        fed = preprocessing.apply(self._coloured(fit, array, changed), axis)
        if not np.isfinite(fed).all():
            raise DataError(
                f"{where}: the data for input {spec.name!r} has NaN or infinite values. Remove those samples."
            )
        return np.ascontiguousarray(fed)


def _is_picture(fit: Fit) -> bool:
    """Whether an input that takes pictures gets some, of uint8."""
    return fit.entrance.picture is not None and fit.form.dtype == np.uint8
