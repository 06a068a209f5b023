"""Convert raw samples to model inputs: rearrange axes, check ranges and apply the arithmetic."""

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
from .input_fit import InputFit, ModelInput, decide, model_input
from .interpretation import describe_data
from .preprocess import NONE, Arithmetic, check_applicable
from .ranges import check_pixels, check_range
from .reading import Reading

Augment = Callable[[np.ndarray], np.ndarray]  # images (N, height, width, channels) to images of the same shape
_ROWS = 4096  # samples checked at a time


class Feeder:
    """Turns raw samples into feeds for a model.

    Args:
        model: the model to feed.
        preprocessing: the arithmetic, applied to float32 inputs.
        augmentation: how views of a sample other than the first are made.

    Raises:
        UsageError: there is arithmetic, but no input it can be applied to.
    """

    def __init__(self, model: Model, preprocessing: Arithmetic, augmentation: Augmentation | None = None) -> None:
        check_applicable(model, preprocessing)
        self._model = model
        self._entrances: dict[str, ModelInput] = {spec.name: model_input(model, spec) for spec in model.inputs}
        self._tables = {spec.name: lookup_table(model.graph, spec.name) for spec in model.inputs}
        self._fits: dict[tuple[Form, str, Reading], InputFit] = {}
        self.preprocessing, self._augmentation = preprocessing, augmentation

    def feeds(self, dataset: Dataset, indices: np.ndarray, views: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Compute model inputs by name for these rows.

        Args:
            dataset: the dataset that holds the rows.
            indices: indices of the rows.
            views: the view number for each row if images are augmented; None: the samples themselves.

        Raises:
            DataError: names, shapes, types or numbers do not fit the model's inputs.
            UsageError: a layout does not fit.
        """
        indices = np.asarray(indices, np.int64)
        unique, inverse = (indices, None) if views is None else np.unique(indices, return_inverse=True)
        fetched = dataset.rows.fetch(unique)
        raw = self._by_input(fetched if inverse is None else {name: array[inverse] for name, array in fetched.items()})
        forms = self._by_input(dataset.rows.forms)
        prepared, augment = prepared_inputs(self._model, forms), None
        if views is not None and self._augmentation is not None:
            augment = partial(self._augmentation.views, samples=indices, numbers=views)
        return {
            spec.name: self._input(
                raw[spec.name],
                spec,
                self._fit(forms[spec.name], spec, dataset),
                self.preprocessing if spec.name in prepared else NONE,
                dataset.name,
                augment,
            )
            for spec in self._model.inputs
        }

    def pictures(self, dataset: Dataset) -> tuple[str, ...]:
        """Names of the inputs that receive uint8 images, which can be augmented."""
        forms = self._by_input(dataset.rows.forms)
        fits = {spec.name: self._fit(forms[spec.name], spec, dataset) for spec in self._model.inputs}
        return tuple(name for name, fit in fits.items() if _is_picture(fit))

    def describe(self, dataset: Dataset) -> str:
        """Describe in one line how data is interpreted, after checking everything that can be checked in advance.

        Raises:
            DataError: shapes, types, or integers anywhere in the data do not fit the model's inputs.
            UsageError: a layout does not fit.
        """
        forms = self._by_input(dataset.rows.forms)
        fits = {spec.name: self._fit(forms[spec.name], spec, dataset) for spec in self._model.inputs}
        prepared = prepared_inputs(self._model, forms)
        ranged = [spec for spec in self._model.inputs if self._ranged(spec, forms[spec.name], spec.name in prepared)]
        for rows in in_blocks(dataset, _ROWS) if ranged else ():
            raw = self._by_input(rows)
            for spec in ranged:
                if spec.dtype == "float32":
                    check_pixels(raw[spec.name], spec, dataset.name)
                else:
                    check_range(raw[spec.name], spec, dataset.name, self._tables[spec.name])
        line = describe_data(len(dataset), fits)
        if self.preprocessing.bgr:
            line += "; fed as blue, green, red"
        if len(fits) > 1 and not self.preprocessing.is_identity:
            line += f"; scale, mean and std are for {', '.join(prepared)}"
        return line

    def _ranged(self, spec: Tensor, form: Form, prepared: bool) -> bool:
        """Whether the data for an input could be out of its range."""
        if spec.dtype != "float32":
            return not form.files
        return prepared and self.preprocessing.of_pixels and form.dtype.kind in "iu" and form.dtype != np.uint8

    def _by_input(self, by_name: dict[str, Any]) -> dict[str, Any]:
        """Values by the names in the data, keyed by the names of the inputs."""
        names = [spec.name for spec in self._model.inputs]
        if set(by_name) == {""}:
            if len(names) != 1:
                raise DataError(
                    f"{self._model.name} has {len(names)} inputs ({', '.join(names)}); give a mapping of these names "
                    "to arrays, or an .npz file with arrays of these names."
                )
            return {names[0]: by_name[""]}
        if set(by_name) != set(names):
            raise DataError(f"the data has inputs {sorted(by_name)}, but {self._model.name} has {sorted(names)}.")
        return by_name

    def _fit(self, form: Form, spec: Tensor, dataset: Dataset) -> InputFit:
        key = form, spec.name, dataset.reading
        if key not in self._fits:
            layout = dataset.reading.layout_of(spec.name, list(self._entrances), self._model.name)
            into = self._entrances[spec.name]
            self._fits[key] = decide(form, into, layout, dataset.reading.allow_resize, dataset.name)
        return self._fits[key]

    def _coloured(self, fit: InputFit, array: np.ndarray, augment: Augment | None) -> np.ndarray:
        """Samples in the shape an input takes, unscaled; for images with the colours in the order that is fed."""
        laid, picture = fit.apply(array), fit.model_input.picture
        if augment is not None and picture is not None and _is_picture(fit):
            laid = np.moveaxis(augment(np.moveaxis(laid, picture.channel_axis, 3)), 3, picture.channel_axis)
        swapped = self.preprocessing.bgr and picture is not None and picture.channels == 3
        return np.flip(laid, picture.channel_axis) if swapped and picture is not None else laid

    def _input(
        self,
        array: np.ndarray,
        spec: Tensor,
        fit: InputFit,
        preprocessing: Arithmetic,
        where: str,
        augment: Augment | None,
    ) -> np.ndarray:
        if spec.dtype != "float32":
            check_range(array, spec, where, self._tables[spec.name])
            return np.ascontiguousarray(self._coloured(fit, array, augment).astype(spec.dtype))
        into = self._entrances[spec.name]
        axis = into.channels
        if axis is None and len(spec.shape) > 1:
            axis = 1
        if preprocessing.of_pixels:
            check_pixels(array, spec, where)
        fed = preprocessing.apply(self._coloured(fit, array, augment), axis)
        if not np.isfinite(fed).all():
            raise DataError(
                f"{where}: the data for input {spec.name!r} has NaN or infinite values. Remove those samples."
            )
        return np.ascontiguousarray(fed)


def _is_picture(fit: InputFit) -> bool:
    """Whether the input takes images and receives uint8 images."""
    return fit.model_input.picture is not None and fit.form.dtype == np.uint8
