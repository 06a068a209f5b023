"""The page of samples/web in Chromium at a phone's width: seconds from the button to the result.

    make test                                          # once, for the requirements
    .venv/bin/python tests/benchmarks/bench_device_web.py

Prints the bytes that the first visit loads, and the seconds until the package is open, until layers are scored, and
from "Train" until more than 85 % of the test pictures are right, for each of three memory limits.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "helpers")]
from web_site import ROOT, build_site, lacking  # noqa: E402

LIMITS = ("", "3", "1.7")  # MiB


def main() -> None:
    """Build, use, print."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if (reason := lacking()) or chromium is None:
        sys.exit(f"not installed: {reason or 'Chromium'}")
    with tempfile.TemporaryDirectory() as folder:
        site = build_site(Path(folder) / "web", "--no-check")
        for limit in LIMITS:
            command = ["node", "app_seconds.mjs", chromium, str(site), limit]
            done = subprocess.run(command, cwd=ROOT / "tests" / "js", capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
            print(
                f"limit {limit or 'none':>4}: {found['entry']:<10} loaded {found['bytes'] / 2**20:.1f} MiB, "
                f"open {found['open']:.1f} s, scored in {found['score']:.1f} s, "
                f"over 85 % in {found['train']:.1f} s ({found['right']} of 400)",
                flush=True,
            )


if __name__ == "__main__":
    main()
