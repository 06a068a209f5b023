"""The stability of rankings as a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..study.drawing import clusters_sentence
from ..study.stability_record import Stability


def stability_table(stability: Stability) -> RenderableType:
    """A table with one row per measure and group size."""
    table = Table(
        title=f"rankings of {len(stability.layers)} layers by disjoint groups of samples, {stability.seeds} shuffles"
    )
    for heading in ("ranked by", "samples", "Kendall tau", "worst", f"top {stability.top} in common", "between seeds"):
        table.add_column(heading, justify="left" if heading == "ranked by" else "right")
    before = None
    for row in stability.agreements:
        table.add_row(
            "" if row.measure == before else row.measure,
            f"{row.samples} x {row.groups}",
            f"{row.tau:.2f} ± {row.tau_sd:.2f}",
            f"{row.tau_min:.2f}",
            f"{row.overlap:.0%}",
            "-" if row.seeds_tau is None else f"{row.seeds_tau:.2f}",
            end_section=row.samples == stability.agreements[-1].samples,
        )
        before = row.measure
    lines = [Text(stability.sentence()), *(Text(f"note: {note}") for note in stability.notes)]
    if stability.clusters is not None:
        lines.append(Text(clusters_sentence(stability.clusters)))
    return Group(table, *lines)
