"""The site of the documentation: it lists all public names, it builds, and its check finds errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from conftest import INFERENCE_PYTHON, ROOT, missing

import adabet_onnx
from adabet_onnx.cli.commands import ENTRIES
from adabet_onnx.cli.main import cli

SITE = ROOT / "docs" / "site"
DOCS_PYTHON = INFERENCE_PYTHON.parents[2] / ".venv-docs" / INFERENCE_PYTHON.parent.name / "python"
sys.path.append(str(SITE))

from check_built import problems  # noqa: E402 (docs/site is no package)
from commands import command_reference  # noqa: E402


def test_every_public_name_has_a_place_in_the_reference():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    described = re.findall(r"^::: adabet_onnx\.(\w+)$", pages, re.MULTILINE)
    assert sorted(described) == sorted(adabet_onnx.__all__)


def test_every_command_and_option_is_in_the_reference():
    text = command_reference()
    parts = dict(re.findall(r"^### ([a-z -]+) \{ #[a-z-]+ \}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(parts) == list(ENTRIES)
    for name, part in parts.items():
        command: click.Command = cli
        for word in name.split():
            assert isinstance(command, click.Group)
            command = command.commands[word]
        options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
        assert [option.opts for option in options if f"{max(option.opts, key=len)}" not in part] == [], name


def test_every_page_has_a_place_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if f" {page}\n" not in navigation} == set()


@pytest.mark.slow
def test_the_site_builds_and_is_complete(tmp_path):
    """As `make docs` does it: warnings are errors, and nothing is fetched from elsewhere."""
    if not DOCS_PYTHON.exists():
        missing("no environment with MkDocs (make docs makes one)")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": ""}
    for command in (
        ["-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")],
        [str(SITE / "check_built.py"), str(tmp_path / "site")],
    ):
        done = subprocess.run(
            [str(DOCS_PYTHON), *command], capture_output=True, text=True, cwd=ROOT, check=False, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr


GOOD = '<h1 id="top">A</h1><a href="https://example.org/">elsewhere</a><a href="#top">up</a><img src="a.png">'


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("", None),
        ('<script src="https://cdn.example.org/x.js"></script>', "fetches https://cdn.example.org/x.js"),
        ('<script src="//cdn.example.org/x.js"></script>', "fetches //cdn.example.org/x.js"),
        ('<link rel="stylesheet" href="https://example.org/x.css">', "fetches https://example.org/x.css"),
        ('<img src="https://example.org/x.png">', "fetches https://example.org/x.png"),
        ("<style>@import 'https://example.org/x.css';</style>", "fetches https://example.org/x.css"),
        ('<p style="background: url(http://example.org/x.png)">', "fetches http://example.org/x.png"),
        ('<a href="missing.html">x</a>', "links to missing.html, which does not exist"),
        ('<a href="other.html#missing">x</a>', "links to other.html#missing, whose anchor does not exist"),
    ],
)
def test_what_is_wrong_with_a_site_is_found(tmp_path: Path, more, problem):
    (tmp_path / "index.html").write_text(GOOD + more)
    (tmp_path / "other.html").write_text("<h1 id='here'>B</h1>")
    assert problems(tmp_path) == ([] if problem is None else [f"index.html: {problem}"])


def test_a_style_sheet_that_fetches_a_font_is_found(tmp_path):
    (tmp_path / "index.html").write_text(GOOD)
    (tmp_path / "site.css").write_text("@font-face { src: url('https://fonts.example.org/f.woff2') }")
    assert problems(tmp_path) == ["site.css: fetches https://fonts.example.org/f.woff2"]
