"""CPU time of starting up: bare Python, Python with click, and user commands.

    python tests/benchmarks/bench_startup.py --rounds 15

User and system time of each process and of those it starts, in milliseconds: median and range, with the target.
Every command runs once before it is counted, so that its bytecode is compiled. All are run in turn, so that other load
on the machine affects all of them.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys

_MAIN = ["-m", "adabet_onnx"]
_COMPLETE = {"_ADABET_ONNX_COMPLETE": "bash_complete"}
CASES: dict[str, tuple[list[str], dict[str, str], float | None]] = {
    "python -c pass": (["-c", "pass"], {}, None),
    "python -c 'import click'": (["-c", "import click"], {}, None),
    "python -c 'import numpy'": (["-c", "import numpy"], {}, None),
    "import adabet_onnx": (["-c", "import adabet_onnx"], {}, 0.1),
    "adabet-onnx --version": ([*_MAIN, "--version"], {}, 0.15),
    "adabet-onnx --help": ([*_MAIN, "--help"], {}, 0.15),
    "adabet-onnx run --help": ([*_MAIN, "run", "--help"], {}, 0.2),
    "adabet-onnx compare --help": ([*_MAIN, "compare", "--help"], {}, 0.2),
    "completing a command": (_MAIN, {**_COMPLETE, "COMP_WORDS": "adabet-onnx s", "COMP_CWORD": "1"}, 0.15),
    "completing an option": (_MAIN, {**_COMPLETE, "COMP_WORDS": "adabet-onnx run --m", "COMP_CWORD": "2"}, 0.2),
}


def cpu_seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """User and system time of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=os.environ | environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    found: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(rounds + 1):
        for name, (arguments, environment, _) in CASES.items():
            seconds = cpu_seconds(arguments, environment)
            if number:
                found[name].append(1000 * seconds)
    for name, (_, _, bar) in CASES.items():
        times = found[name]
        limit = "" if bar is None else f"  bar {1000 * bar:.0f}"
        print(f"{name:28} {statistics.median(times):6.1f} ms ({min(times):.1f}-{max(times):.1f}){limit}")


if __name__ == "__main__":
    main()
