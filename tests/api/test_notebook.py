"""The sample notebook: it runs from the first cell to the last, and shows plots and tables."""

from __future__ import annotations

import base64
import io
import os
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

nbformat = pytest.importorskip("nbformat")
pytestmark = pytest.mark.slow
NOTEBOOK = ROOT / "samples" / "notebooks" / "adapt.ipynb"


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(stored, tmp_path_factory):
    """The notebook, executed by a kernel of this interpreter with a separate temporary folder.

    The kernel has no network: every request goes to a proxy that does not exist.
    """
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    folder = tmp_path_factory.mktemp("notebook")
    kernels = folder / "kernels" / "python3"
    kernels.mkdir(parents=True)
    command = f'["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (kernels / "kernel.json").write_text(f'{{"argv": {command}, "display_name": "Python 3", "language": "python"}}')
    nobody = "http://127.0.0.1:9"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.setenv("TMPDIR", str(folder))
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, nobody)
        notebook = nbformat.from_dict(stored)
        client = nbclient.NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        client.execute()  # raises CellExecutionError at a cell's error
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook, ending, kind):
    """Outputs of one MIME type of the cells whose last line is ``ending``."""
    found = [cell for cell in code_cells(notebook) if cell.source.splitlines()[-1] == ending]
    assert found, f"no cell ends in {ending}"
    return [
        output.data.get(kind) for cell in found for output in cell.outputs if output.output_type == "execute_result"
    ]


def test_it_is_stored_without_outputs(stored):
    assert len(code_cells(stored)) == 10
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(stored))
    assert sum(cell.cell_type == "markdown" for cell in stored.cells) >= 5


def test_it_says_nothing_on_stderr(executed):
    said = [output for cell in code_cells(executed) for output in cell.outputs if output.output_type == "stream"]
    assert [output.text for output in said if output.name == "stderr"] == []


@pytest.mark.parametrize("ending", ["scores.plot()", "outcome.plot()"])
def test_plots_are_pictures(executed, ending):
    """Without %matplotlib; the plots are not empty."""
    (picture,) = outputs(executed, ending, "image/png")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("L"))
    assert min(pixels.shape) > 300
    drawn = [(part < 200).any() for half in np.array_split(pixels, 2) for part in np.array_split(half, 2, axis=1)]
    assert all(drawn)


@pytest.mark.parametrize("ending", ["ab.open_model(path)", "scores", "small", "outcome", "outcome.to_dataframe()"])
def test_tables_are_html(executed, ending):
    (table,) = outputs(executed, ending, "text/html")
    assert "<table" in table
    assert table.count("<tr") > 2


def test_the_model_gets_better(executed):
    (text,) = [
        output.text
        for cell in code_cells(executed)
        if "ab.evaluate" in cell.source
        for output in cell.outputs
        if output.output_type == "stream"
    ]
    before, after = (float(part.split("%")[0].split()[-1]) for part in text.split(","))
    assert after > before + 20
