"""The command report."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .layout import Command, Declared
from .parameters import FOLDER
from .printing import progress_bar, show, show_json


@click.command(cls=Command, epilog="JSON: output, notes.")
@click.argument("folder", metavar="DIR", type=FOLDER)
@options.file.varied(required=True)
@Declared("--costs/--no-costs", default=True, group="Output", help="Include the predicted cost of training each layer.")
@options.printed
@options.scored_model
def report(folder: Path, output: Path, model: Path | None, costs: bool, as_json: bool, quiet: bool) -> None:
    """Write the results in a folder as one HTML page.

    The page opens in any browser, offline, and is a single file. DIR is the output folder of run or compare, or of
    both; a stability.json in it is included.

    \b
    Example:
      adabet-onnx report adapted/ -o report.html
    """
    from ..files import check_output
    from ..report.page import write_report

    check_output(output)
    with progress_bar(quiet) as progress:
        notes = write_report(folder, output, model=model, costs=costs, progress=progress)
    if as_json:
        show_json({"output": str(output), "notes": list(notes)})
        return
    for note in notes:
        show(f"note: {note}", quiet)
    show(f"report: {output}", quiet)
