"""Running the check of artifacts in a process of its own: a training step can kill the one it runs in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..errors import CheckError

_TIMEOUT = 900  # seconds


def check_in_subprocess(folder: Path) -> dict[str, Any]:
    """Run `selfcheck` on an artifact folder in another process.

    Returns:
        What was found: largest differences.

    Raises:
        CheckError: a check failed, or the process died.
    """
    command = [sys.executable, "-m", "adabet_onnx.training.selfcheck", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise CheckError(
            f"the first training step did not finish in {_TIMEOUT} s. Use a smaller model, or leave the check out "
            "(`check=False`)."
        ) from error
    if done.returncode < 0:
        raise CheckError(
            f"the first training step killed its process (signal {-done.returncode}) inside the runtime, so "
            "these artifacts are not handed out. Select later layers, or report this with the model."
        )
    try:
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise CheckError(
            f"the check of the artifacts failed to run: {done.stderr.strip().splitlines()[-1:] or done.returncode}"
        ) from error
    if "error" in result:
        raise CheckError(result["error"])
    return dict(result)
