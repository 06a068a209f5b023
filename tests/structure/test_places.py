"""File names and the keys of a manifest are defined in one place."""

from __future__ import annotations

import pytest
from conftest import ROOT
from source_checks import manifest_contents, written_out

from adabet_onnx import file_names
from adabet_onnx.training.history import METRICS

PACKAGE = ROOT / "adabet_onnx"
NAMES = {
    METRICS,
    *(text for name, text in vars(file_names).items() if name.isupper() and isinstance(text, str) and "." in text),
}
# Exceptions: the constants, the outputs that the command line proposes, and a file that the manifest names.
NAMED_IN = ("file_names.py", "training/history.py", "cli/translate.py", "portable/emit.py", "training/artifacts.py")
MANIFEST = ("training/manifest.py", "training/manifest_content.py")


@pytest.mark.slow
def test_names_of_files_have_one_place():
    assert {"scores.json", "selection.json", "run.json", "plan.json", "metrics.jsonl"} <= NAMES
    results = written_out(PACKAGE, NAMES, NAMED_IN)
    assert not results, "\n".join(results)


def test_a_comparison_and_its_report_name_trainings_alike():
    assert file_names.final_training("adabet", 3, "a1", 1e-5) == "final-adabet-3-a1-1e-05"
    assert file_names.rate_training("adabet", "a1", 0.5) == "rate-adabet-a1-0.5"


@pytest.mark.slow
def test_the_content_of_a_manifest_stays_in_its_class():
    results = manifest_contents(PACKAGE, MANIFEST)
    assert not results, "\n".join(results)


# --- planted ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["path = folder / 'plan.json'", "def f():\n    return ('plan.json', 1)"])
def test_a_planted_name_is_found(source, tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(f'"""Writes plan.json."""\n\n{source}\nother = "plan.json5"\n')
    [line] = written_out(tmp_path, {"plan.json"}, ["b.py"])
    assert line.startswith("a.py:")
    assert line.endswith(": 'plan.json'")


@pytest.mark.parametrize(
    "source",
    [
        "manifest.content",
        "x = manifest.content['files']",
        "self._manifest.content.get('y')",
        "load_manifest(z).content",
    ],
)
def test_a_planted_use_is_found(source, tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(f"message.content\n{source}\n")
    [line] = manifest_contents(tmp_path, ["b.py"])
    assert line.startswith("a.py:2: ")
