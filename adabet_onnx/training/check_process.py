"""Run the artifact check in a separate process, because a faulty training step can kill its process."""

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
        The largest differences found.

    Raises:
        CheckError: a check failed, or the process died.
    """
    command = [sys.executable, "-m", "adabet_onnx.training.selfcheck", str(folder)]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise CheckError(
            f"the first training step did not finish in {_TIMEOUT} s. Use a smaller model, or leave the check out "
            "(`check=False`)."
        ) from error
    if completed.returncode < 0:
        raise CheckError(
            f"the first training step killed its process (signal {-completed.returncode}) inside the runtime, so "
            "these artifacts were discarded. Select later layers, or report this with the model."
        )
    try:
        result = json.loads(completed.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        detail = completed.stderr.strip().splitlines()[-1:] or completed.returncode
        raise CheckError(f"the check of the artifacts failed to run: {detail}") from error
    if "error" in result:
        raise CheckError(result["error"])
    return dict(result)
