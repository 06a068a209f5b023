"""The command that writes a page."""

from __future__ import annotations

from pathlib import Path

import click

from ..files import check_output
from ..report.page import write_report
from .common import quiet_option
from .parameters import FILE, FOLDER, OUTPUT
from .printing import progress_bar, show


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The report.html to write.")
@click.option("--model", type=FILE, help="The model that was scored or adapted.  [default: where it was]")
@click.option("--costs/--no-costs", default=True, show_default=True, help="Predict what training each layer takes.")
@quiet_option
def report(folder: Path, output: Path, model: Path | None, costs: bool, quiet: bool) -> None:
    """Write what DIR holds as one page: a file that opens in any browser, offline, and can be sent to anyone.

    DIR is what run or compare wrote; both may lie in one folder, and a stability.json beside them.

    \b
    Example:
      adabet-onnx report adapted/ -o report.html
    """
    check_output(output)
    with progress_bar(quiet) as progress:
        notes = write_report(folder, output, model=model, costs=costs, progress=progress)
    for note in notes:
        show(f"note: {note}", quiet)
    show(f"report: {output}", quiet)
