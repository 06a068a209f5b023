"""Options objects with single values replaced by keyword arguments."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

Options = TypeVar("Options")


def with_given(options: Options, **given: Any) -> Options:
    """The options, with what is given (is not None) in place of their own values.

    Args:
        options: an instance of a frozen dataclass.
        given: by the names of its fields.

    Raises:
        UsageError: what the options then are is not possible.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(options, **changes) if changes else options  # type: ignore[type-var]
