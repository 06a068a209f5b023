"""Which inputs preprocessing is for, and whether what they get are integers."""

from __future__ import annotations

from collections.abc import Mapping

from ..model.open import Model
from .dataset import Dataset, Form
from .pictures import picture_input


def prepared_inputs(model: Model, forms: Mapping[str, Form]) -> tuple[str, ...]:
    """The one place that decides which inputs scale, mean and std are for.

    Accepted are inputs of float32; where there are several, those that take pictures, if any do; and where some of
    these get integers and others floats, those with integers. A table of numbers beside an image is fed as it is.

    Args:
        model: the model.
        forms: of the data, by the names of the inputs (``""``: the only one).
    """
    floats = [spec for spec in model.inputs if spec.dtype == "float32"]
    if len(floats) > 1:
        floats = [spec for spec in floats if picture_input(model, spec) is not None] or floats
    names = [spec.name for spec in floats]
    whole = [name for name in names if _whole(name, forms)]
    return tuple(whole or names)


def integer_data(model: Model, dataset: Dataset) -> bool:
    """Whether the inputs that preprocessing is for get integers (images of 0 to 255)."""
    forms = dataset.rows.forms
    return any(_whole(name, forms) for name in prepared_inputs(model, forms))


def _whole(name: str, forms: Mapping[str, Form]) -> bool:
    form = forms.get(name, forms.get(""))
    return form is not None and form.dtype.kind in "iu"
