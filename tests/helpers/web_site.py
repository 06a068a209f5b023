"""The page of samples/web, built in a separate folder, as its README says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "samples" / "web"
MODULES = ROOT / "tests" / "js" / "node_modules"
NEEDED = ("onnxruntime-web", "vite", "typescript", "axe-core", "playwright-core")


def lacking() -> str | None:
    """The missing tools for building and testing the page."""
    gone = [name for name in NEEDED if not (MODULES / name).is_dir()]
    return f"npm packages {', '.join(gone)}" if gone else None


def build_site(folder: Path, *options: str) -> Path:
    """Copy the sample, make its package, build it.

    Args:
        folder: the folder to create.
        options: of scripts/make_demo.py.

    Returns:
        The built site.
    """
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "packages", "site.json"))
    (folder / "node_modules").symlink_to(MODULES)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    make = [sys.executable, "scripts/make_demo.py", *options]
    subprocess.run(make, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    for command in (["tsc", "--noEmit"], ["vite", "build", "--configLoader", "native", "--logLevel", "warn"]):
        done = subprocess.run(
            [f"node_modules/.bin/{command[0]}", *command[1:]], cwd=folder, capture_output=True, text=True
        )
        if done.returncode:
            raise AssertionError(f"{command[0]}: {done.stdout}{done.stderr}")
    return folder / "dist"
