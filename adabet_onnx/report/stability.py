"""How firm rankings are, as a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..study.drawing import clusters_sentence
from ..study.stability_record import Stability


def stability_table(found: Stability) -> RenderableType:
    """A row for each measure and group size."""
    table = Table(title=f"rankings of {len(found.layers)} layers by disjoint groups of samples, {found.seeds} shuffles")
    for heading in ("ranked by", "samples", "Kendall tau", "worst", f"top {found.top} in common", "between seeds"):
        table.add_column(heading, justify="left" if heading == "ranked by" else "right")
    before = None
    for row in found.agreements:
        table.add_row(
            "" if row.measure == before else row.measure,
            f"{row.samples} x {row.groups}",
            f"{row.tau:.2f} ± {row.tau_sd:.2f}",
            f"{row.tau_min:.2f}",
            f"{row.overlap:.0%}",
            "-" if row.seeds_tau is None else f"{row.seeds_tau:.2f}",
            end_section=row.samples == found.agreements[-1].samples,
        )
        before = row.measure
    lines = [Text(found.sentence()), *(Text(f"note: {note}") for note in found.notes)]
    if found.clusters is not None:
        lines.append(Text(clusters_sentence(found.clusters)))
    return Group(table, *lines)
