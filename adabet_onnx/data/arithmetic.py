"""Which model inputs preprocessing applies to, and whether their data are integers."""

from __future__ import annotations

from collections.abc import Mapping

from ..model.open import Model
from .dataset import Dataset, Form
from .pictures import picture_input


def prepared_inputs(model: Model, forms: Mapping[str, Form]) -> tuple[str, ...]:
    """Decide which inputs scale, mean and std apply to. No other code decides this.

    Only float32 inputs qualify. If there are several, those that take images are chosen, if any do; if some of these
    receive integers and others floats, only those with integers. A table of numbers next to an image is fed unchanged.

    Args:
        model: the model.
        forms: forms of the data by input name (``""``: the only input).
    """
    floats = [spec for spec in model.inputs if spec.dtype == "float32"]
    if len(floats) > 1:
        floats = [spec for spec in floats if picture_input(model, spec) is not None] or floats
    names = [spec.name for spec in floats]
    whole = [name for name in names if _whole(name, forms)]
    return tuple(whole or names)


def integer_data(model: Model, dataset: Dataset) -> bool:
    """Whether the inputs that preprocessing applies to receive integers (images of 0 to 255)."""
    forms = dataset.rows.forms
    return any(_whole(name, forms) for name in prepared_inputs(model, forms))


def _whole(name: str, forms: Mapping[str, Form]) -> bool:
    form = forms.get(name, forms.get(""))
    return form is not None and form.dtype.kind in "iu"
