"""Two hundred trainings killed at random moments, also while features are written, and resumed.

    python tests/benchmarks/bench_kills.py [COUNT [SEED]]

Prints the output of tests/helpers/kills.py.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

KILLS = Path(__file__).parents[1] / "helpers" / "kills.py"


def main() -> None:
    """Run it."""
    count, seed = [*sys.argv[1:], *("200", "0")[len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(KILLS), count, seed, folder], check=True)


if __name__ == "__main__":
    main()
