"""Convert graphs to ONNX Runtime's ``.ort`` format, with the operators that a reduced build must have.

The conversion uses the runtime's own converter. Each file contains its weights, so there is no personal model with
external data: the prediction graph takes the trained tensors as inputs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..portable.weights import FILE as WEIGHTS

CONFIG = "required_operators.config"
_GRAPHS = ("frozen", "step", "evaluation", "prediction")
_CONVERTER = "onnxruntime.tools.convert_onnx_models_to_ort"
_DASHES = "--"


def as_ort(folder: Path, content: dict[str, Any]) -> None:
    """Convert the graphs of a package, and the file names in the content of device.json, in place.

    Args:
        folder: folder of the package.
        content: content of device.json.

    Raises:
        ModelError: the converter fails.
    """
    for entry in content["entries"]:
        (folder / entry["model"]).unlink()
        entry["model"] = None
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", _CONVERTER, str(folder), f"{_DASHES}optimization_style", "Fixed"],
        capture_output=True,
        text=True,
        check=False,
    )
    named = [entry[key] for entry in content["entries"] for key in _GRAPHS if entry[key] is not None]
    named += [content["scoring"]["file"]] if content["scoring"] is not None else []
    missing = [name for name in named if not (folder / _converted(name)).is_file()]
    if run.returncode or missing or not (folder / CONFIG).is_file():
        last = (run.stderr.strip() or run.stdout.strip() or "it wrote nothing").splitlines()[-1]
        raise ModelError(
            f"onnxruntime's converter to its .ort format failed{f' at {missing[0]}' if missing else ''}: {last[:300]} "
            "Write the package without `ort_format`, or with another version of onnxruntime."
        )
    config = (folder / CONFIG).read_text(encoding="utf-8")  # contains absolute paths
    (folder / CONFIG).write_text(config.replace(f"{folder.resolve()}{os.sep}", "").replace(f"{folder}{os.sep}", ""))
    for name in named:
        (folder / name).unlink()
    (folder / WEIGHTS).unlink(missing_ok=True)
    for entry in content["entries"]:
        entry.update({key: _converted(entry[key]) for key in _GRAPHS if entry[key] is not None})
    if content["scoring"] is not None:
        content["scoring"]["file"] = _converted(content["scoring"]["file"])


def _converted(name: str) -> str:
    return f"{name.removesuffix('.onnx')}.ort"
