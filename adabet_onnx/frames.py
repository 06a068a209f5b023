"""Conversion of rows into a data frame of pandas or polars, whichever is installed; both are optional."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import RuntimeMissingError, UsageError

LIBRARIES = ("pandas", "polars")


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], library: str | None = None) -> Any:
    """Return a data frame.

    Args:
        rows: values by column name.
        columns: the column names, in order.
        library: pandas or polars; None: pandas if it is installed, else polars.

    Raises:
        UsageError: the library is neither of the two.
        RuntimeMissingError: the library is not installed, or neither of the two is.
    """
    if library is not None and library not in LIBRARIES:
        raise UsageError(f"library must be {' or '.join(map(repr, LIBRARIES))} (or None), not {library!r}.")
    libraries = LIBRARIES if library is None else (library,)
    name = next((name for name in libraries if importlib.util.find_spec(name) is not None), None)
    if name is None:
        raise RuntimeMissingError(
            f"to_dataframe() needs {' or '.join(libraries)}, which {'is' if library else 'are'} not installed: pip "
            f"install {libraries[0]}."
        )
    content = {column: [row[column] for row in rows] for column in columns}
    if name == "pandas":
        import pandas

        return pandas.DataFrame(content)
    import polars

    return polars.DataFrame(content, strict=False)
