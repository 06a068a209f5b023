"""No space for temporary files, unwritable folders, links: one line with advice, nothing half-written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bad_inputs import limited_files
from conftest import ROOT, missing

import adabet_onnx
from adabet_onnx import Choices, OutputError, RecordError, Trainer, files, make_artifacts, select
from adabet_onnx.cost.overview import overview
from adabet_onnx.training.manifest import load_manifest

DEMO = Path(adabet_onnx.__file__).parent / "demo"
MODEL, DATA = DEMO / "digits.onnx", DEMO / "digits_shifted.npz"
posix = pytest.mark.skipif(os.name == "nt", reason="not on Windows")


@posix
def test_the_quantiser_without_room_is_one_line(tmp_path):
    made = tmp_path / "a"
    how = {"choices": Choices(frozen_precision="int8"), "calibrate": DATA, "check": False}
    selection = select(MODEL, strategy="last", rho=0.3)
    with limited_files(40_000), pytest.raises(OutputError, match=r"cannot write temporary files in .*: File too large"):
        make_artifacts(MODEL, selection, made, **how)
    with limited_files(125_000), pytest.raises(OutputError, match="File too large"):
        make_artifacts(MODEL, selection, made, **how)
    assert not list(tmp_path.iterdir())


@posix
def test_a_prediction_of_costs_without_room_is_one_line():
    with limited_files(20_000), pytest.raises(OutputError, match=r"set TMPDIR to a folder with enough space\."):
        overview(MODEL, select(MODEL, strategy="head"), batch_size=4)


def failing() -> None:
    """A library that fails over a file."""
    with files.temporary_folder() as folder:
        (folder / "file").write_bytes(b"x")
        raise ValueError("wire format was corrupt")


@posix
def test_a_library_that_fails_over_a_file_cut_short_is_told_from_one_that_fails_of_itself():
    with pytest.raises(ValueError, match="wire format"):
        failing()
    with limited_files(40_000), pytest.raises(OutputError, match=r"temporary files in .*: File too large"):
        failing()


@posix
def test_links_to_weights_elsewhere_are_refused_with_what_to_do(tmp_path):
    made = tmp_path / "made"
    make_artifacts(MODEL, select(MODEL, strategy="head"), made, check=False)
    (tmp_path / "linked").mkdir()
    for path in made.iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    with pytest.raises(RecordError, match=r"linked.weights.bin is a link to .*made, .* Copy the folder .*cp -rL"):
        Trainer(tmp_path / "linked")
    shutil.copytree(tmp_path / "linked", tmp_path / "copied")  # what links point to, as cp -rL
    assert load_manifest(tmp_path / "copied").frozen
    (tmp_path / "whole").symlink_to(made)  # of the folder itself, a link is fine
    assert load_manifest(tmp_path / "whole").frozen


@pytest.mark.slow
@posix
def test_a_folder_that_takes_no_files_is_one_line(tmp_path):
    before = []
    if os.geteuid() == 0:  # may write everywhere, unless it drops that capability
        tool = shutil.which("setpriv")
        if tool is None:
            missing("setpriv, with which root gives up writing everywhere")
        before = [tool, "--bounding-set", "-dac_override,-dac_read_search"]
        if subprocess.run([*before, "true"], check=False, capture_output=True).returncode:
            missing("the right to give up rights")
    selection = tmp_path / "selection.json"
    select(MODEL, strategy="head").save(selection)
    make_artifacts(MODEL, selection, tmp_path / "made", check=False)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0o555)
    (tmp_path / "made").chmod(0o555)
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}

    def refused(*words: object) -> str:
        command = [*before, sys.executable, "-m", "adabet_onnx", *map(str, words), "-q"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=here, timeout=120)
        assert done.returncode == 1, done
        assert done.stdout == ""
        return done.stderr

    try:
        for words, path in (
            (("artifacts", MODEL, selection, "-o", tmp_path / "closed" / "a"), tmp_path / "closed" / "a"),
            (("export", tmp_path / "made", "-o", tmp_path / "closed" / "x.onnx"), tmp_path / "closed" / "x.onnx"),
            (("train", tmp_path / "made", DATA, "--epochs", "1"), tmp_path / "made" / "training"),
        ):
            said = refused(*words)
            assert f"Error: cannot write {path}" in said, said
            assert said.endswith("Permission denied. Choose another output path or free some space.\n")
        assert not list((tmp_path / "closed").iterdir())
        assert not (tmp_path / "made" / "training").exists()
    finally:
        for folder in ("closed", "made"):
            (tmp_path / folder).chmod(0o755)
