"""No text of the repository contains odd phrases, and names say what they hold."""

from __future__ import annotations

import subprocess

import pytest
from conftest import ROOT, missing
from source_checks import (
    PHRASES,
    forbidden_names,
    forbidden_phrases,
    python_files,
    repeated_classes,
    repeated_modules,
    tracked_texts,
)

from adabet_onnx.cli.main import cli

PACKAGE = ROOT / "adabet_onnx"
LIST = ROOT / "tests" / "helpers" / "source_checks.py"  # the list itself
COMMANDS = {name.replace("-", "_") for name in cli.commands}


def test_no_text_contains_a_forbidden_phrase():
    if not (ROOT / ".git").exists():
        missing("the tests do not lie in a git repository")
    results = forbidden_phrases([path for path in tracked_texts(ROOT) if path != LIST], ROOT)
    assert not results, "\n".join(results)


def test_names_say_what_they_hold():
    results = forbidden_names(python_files(PACKAGE), PACKAGE)
    assert not results, "\n".join(results)


def test_no_two_public_classes_have_the_same_name():
    results = repeated_classes(python_files(PACKAGE), PACKAGE)
    assert not results, "\n".join(results)


def test_no_three_modules_have_the_same_name():
    results = repeated_modules(python_files(PACKAGE), PACKAGE, COMMANDS)
    assert not results, "\n".join(results)


# --- planted ---------------------------------------------------------------------------------------------------------

PHRASE = PHRASES[0]
FIRST, SECOND = PHRASE.split()
PLANTED = {
    "a.py": f'"""There is no {PHRASE}."""\n',
    "b.py": f"# there is no {FIRST}\n# {SECOND} from here\n",
    "c.py": f'text = (\n    "there is no {FIRST} "\n    f"{SECOND}"\n)\n',
    "d.py": f"def no_{FIRST}_{SECOND}():\n    pass\n",
    "e.md": f"There is no {PHRASE.capitalize()}.\n",
    "f.ts": f"// there is no {FIRST}\n    // {SECOND}\n",
    "g.h": f"/* there is no {FIRST}\n * {SECOND} */\n",
    "Makefile": f"# no {PHRASE}\n",
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_phrase_is_found(name, tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / name).write_text("\n" + PLANTED[name])
    (tmp_path / "other.txt").write_text(PHRASE)
    (tmp_path / "untracked.md").write_text(PHRASE)
    subprocess.run(["git", "-C", str(tmp_path), "add", name, "other.txt"], check=True)
    [line] = forbidden_phrases(tracked_texts(tmp_path), tmp_path)
    assert line.startswith(f"{name}:")
    assert line.endswith(f': "{PHRASE}"')


def test_old_entries_of_a_changelog_stay(tmp_path):
    (tmp_path / "CHANGELOG.md").write_text(f"## [Unreleased]\n\n{PHRASE}\n\n## [0.1.0]\n\n{PHRASE}\n")
    assert forbidden_phrases([tmp_path / "CHANGELOG.md"], tmp_path) == [f'CHANGELOG.md:3: "{PHRASE}"']


def test_parts_of_longer_words_are_no_phrase(tmp_path):
    (tmp_path / "a.md").write_text(f"Half{PHRASE}. {PHRASE}s. {FIRST}, {SECOND}.\n")
    assert forbidden_phrases([tmp_path / "a.md"], tmp_path) == []


NAMES = {
    "found = 1": "found",
    "found: int = 1": "found",
    "found += 1": "found",
    "a, found = 1, 2": "found",
    "for found in ():\n    pass": "found",
    "if (found := 1):\n    pass": "found",
    "with open('x') as found:\n    pass": "found",
    "def why_not():\n    pass": "why_not",
    "def f(why_not):\n    pass": "why_not",
    "x.why_not": "why_not",
    "f(why_not=1)": "why_not",
    "take_if_there(1)": "take_if_there",
    "class Look:\n    pass": "Look",
    "class Spent:\n    pass": "Spent",
    "class Material:\n    pass": "Material",
    "class Way:\n    pass": "Way",
}


@pytest.mark.parametrize("source", NAMES)
def test_a_planted_name_is_found(source, tmp_path):
    (tmp_path / "a.py").write_text(f"text = 'found = 1'\nfound_layers = [found]\n{source}\n")
    assert forbidden_names(python_files(tmp_path), tmp_path) == [f"a.py:3: {NAMES[source]}"]


def test_two_classes_of_a_name_are_found(tmp_path):
    (tmp_path / "a.py").write_text("class Row:\n    class Inner:\n        pass\nclass _Own:\n    pass\n")
    (tmp_path / "b.py").write_text("class Row:\n    pass\nclass Inner:\n    pass\nclass _Own:\n    pass\n")
    assert repeated_classes(python_files(tmp_path), tmp_path) == ["Row: a.py, b.py"]


def test_three_modules_of_a_name_are_found(tmp_path):
    for folder in ("cli", "report", "data", "model", "scoring"):
        (tmp_path / folder).mkdir()
        for name in ("__init__", "drawing", "shapes") if folder != "scoring" else ("__init__", "drawing", "cost"):
            (tmp_path / folder / f"{name}.py").touch()
    for folder in ("cli", "report", "data"):
        (tmp_path / folder / "cost.py").touch()
    expected = "shapes: cli/shapes.py, data/shapes.py, model/shapes.py, report/shapes.py"
    assert repeated_modules(python_files(tmp_path), tmp_path, {"cost"}) == [expected]
