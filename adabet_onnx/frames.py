"""Rows as a data frame of pandas or polars, whichever is installed; neither is needed for anything else."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import RuntimeMissingError, UsageError

LIBRARIES = ("pandas", "polars")


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], library: str | None = None) -> Any:
    """A data frame.

    Args:
        rows: values by column.
        columns: their names, in order.
        library: pandas or polars; None: pandas where it is installed, else polars.

    Raises:
        UsageError: another library is asked for.
        RuntimeMissingError: it, or either, is not installed.
    """
    if library is not None and library not in LIBRARIES:
        raise UsageError(f"library must be {' or '.join(map(repr, LIBRARIES))} (or None), not {library!r}.")
    wanted = LIBRARIES if library is None else (library,)
    name = next((name for name in wanted if importlib.util.find_spec(name) is not None), None)
    if name is None:
        raise RuntimeMissingError(
            f"to_dataframe() needs {' or '.join(wanted)}, which {'is' if library else 'are'} not installed: "
            f"pip install {wanted[0]}."
        )
    content = {column: [row[column] for row in rows] for column in columns}
    if name == "pandas":
        import pandas

        return pandas.DataFrame(content)
    import polars

    return polars.DataFrame(content, strict=False)
