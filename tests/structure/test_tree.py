"""Tracked files work on any machine: no links, no ignored files, no paths of a machine."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, missing

_LINK = "120000"  # the mode of a symbolic link in git's index
# Folders that are specific to a machine. The pattern is assembled here, so that it does not match itself.
_OWN = "|".join(("tmp", "work", "root", "home", "opt", "farm", "Users", "mnt", "media", "private", "var/folders"))
_PATH = rf"(^|[^A-Za-z0-9._~-])/({_OWN})/[A-Za-z0-9._-]+"


def git(folder: Path, *arguments: str, fails: bool = False) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    assert fails or done.returncode == 0, done.stderr
    return done.stdout


def links(folder: Path) -> list[str]:
    """Tracked symbolic links."""
    rows = git(folder, "ls-files", "-s", "-z").split("\0")
    return [row.split("\t", 1)[1] for row in rows if row.startswith(_LINK)]


def ignored(folder: Path) -> list[str]:
    """Tracked files that .gitignore ignores."""
    return [name for name in git(folder, "ls-files", "-ci", "--exclude-standard", "-z").split("\0") if name]


def machine_paths(folder: Path) -> list[str]:
    """Lines of tracked text with a path of a machine in them."""
    return git(folder, "grep", "-nIE", _PATH, fails=True).splitlines()  # git grep fails if it finds nothing


@pytest.fixture(scope="module")
def tree() -> Path:
    if not (ROOT / ".git").exists():
        missing("the tests do not lie in a git repository")
    return ROOT


def test_nothing_of_a_machine_is_tracked(tree):
    assert links(tree) == []
    assert ignored(tree) == []
    assert machine_paths(tree) == []


@pytest.fixture
def planted(tmp_path):
    """A repository with our .gitignore, and a function that tracks one more thing in it."""
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    git(tmp_path, "add", ".gitignore")
    assert (links(tmp_path), ignored(tmp_path), machine_paths(tmp_path)) == ([], [], [])

    def track(name: str) -> None:
        git(tmp_path, "add", "--force", name)

    return track


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
@pytest.mark.parametrize("name", [".venv-jax", "docs/link"])
def test_a_planted_link_is_found(planted, tmp_path, name):
    target = tmp_path / name
    target.parent.mkdir(exist_ok=True)
    target.symlink_to(tmp_path / "elsewhere")
    planted(name)
    assert links(tmp_path) == [name]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
@pytest.mark.parametrize("name", [".venv", ".venv-jax", "build", "tests/js/node_modules", ".mypy_cache", "__pycache__"])
def test_a_link_in_the_place_of_an_ignored_folder_is_ignored(planted, tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path)
    assert git(tmp_path, "status", "--porcelain", "--untracked-files=all").splitlines() == ["A  .gitignore"]


def test_a_planted_ignored_file_is_found(planted, tmp_path):
    (tmp_path / "build").mkdir()
    (tmp_path / "build/rows.jsonl").write_text("{}\n")
    planted("build/rows.jsonl")
    assert ignored(tmp_path) == ["build/rows.jsonl"]


@pytest.mark.parametrize("folder", ["tmp", "home", "Users"])
def test_a_planted_path_is_found(planted, tmp_path, folder):
    line = f'CACHE = "/{folder}/someone/cache"'
    (tmp_path / "settings.py").write_text(f"# {line.replace('/', ' / ')}\n{line}\n")
    planted("settings.py")
    assert machine_paths(tmp_path) == [f"settings.py:2:{line}"]
    assert re.search(_PATH, "https://example.org/home/page") is None
