"""The table of a package for devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from ..device.choosing import needed_bytes
from ..showing import counted, listed
from ..sizes import size_text


def package_table(content: Mapping[str, Any]) -> Table:
    """A table of the choices of layers in a package, one per row, with the memory at the package's batch size.

    Args:
        content: content of device.json.
    """
    entries = content["entries"]
    batch = content["training"]["batch_size"]
    table = Table(title=f"{content['model']}: {counted(len(entries), 'choice')} of layers")
    columns = ("choice", "layers", "trained", "update", "kept per sample", f"memory at batch {batch}")
    for name in columns:
        table.add_column(name, justify="left" if name in columns[:2] else "right")
    for entry in entries:
        kept = sum(part["bytes"] for part in entry["boundary"])
        table.add_row(
            Text(entry["name"]),
            Text(listed(entry["layers"], 3)),
            f"{entry['trained']:,}",
            size_text(entry["selected_bytes"]),
            size_text(kept) if entry["frozen"] is not None else "nothing",
            size_text(needed_bytes(entry["memory"], batch)),
        )
    return table
