"""Values for inputs that are not data: a sampling rate, a mode, an initial state, the weights of an adapter.

A binding is a number, true or false, a nested list of these, an array, or the path of a file that holds an array:
``.npy``, or ``.npz`` or ``.safetensors`` with one array or one named like the input. Results record bindings as JSON:
values as given, files as an object with ``file`` and ``sha256``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError

SUFFIXES = (".npy", ".npz", ".safetensors")
_MOST_WRITTEN = 64  # most numbers of an array that are recorded one by one


@dataclass(frozen=True)
class Binding:
    """The value of one input.

    Attributes:
        array: the value.
        written: its form in files of results.
    """

    array: np.ndarray
    written: Any

    @property
    def digest(self) -> list[Any]:
        """What identifies the value, independent of the file it was read from.

        Short arrays are recorded without their exact dtype and read back that way.
        """
        array = self.array if self.array.size > _MOST_WRITTEN else np.asarray(self.array.tolist())
        return [str(array.dtype), list(array.shape), _sha256(array)]


def read_bindings(bind: Mapping[str, Any] | None) -> dict[str, Binding]:
    """Read the values of bindings, as given or as recorded in a file of results.

    Raises:
        UsageError: a file is missing, holds no such array, or is not the recorded one; or a value is not an array.
    """
    return {name: _read(name, value) for name, value in (bind or {}).items()}


def recorded_bindings(bind: Mapping[str, Binding]) -> dict[str, Any] | None:
    """Bindings in the form that results record; None if there are none."""
    return {name: bind[name].written for name in sorted(bind)} or None


def binding_text(written: Any) -> str:
    """A recorded binding as text for messages."""
    return str(written["file"] or "ARRAY") if isinstance(written, Mapping) else json.dumps(written)


def binding_expression(written: Any) -> str:
    """A recorded binding as a Python expression for ``bind``; an array without a file is written ``ARRAY``."""
    if isinstance(written, Mapping):
        return repr(str(written["file"])) if written["file"] else "ARRAY"
    return repr(written)


def _argument(written: Mapping[str, Any] | None) -> str:
    """Recorded bindings as the argument ``bind``, for messages."""
    pairs = ", ".join(f"{name!r}: {binding_expression(value)}" for name, value in (written or {}).items())
    return f"`bind={{{pairs}}}`" if pairs else "no `bind`"


def binding_mismatch(scored: Mapping[str, Any] | None, opened: Mapping[str, Any] | None) -> str | None:
    """A message if a model was scored with other input values than it is opened with; None if they agree."""
    if _contents(scored) == _contents(opened):
        return None
    return (
        f"the model was scored with {_argument(scored)} and is opened with {_argument(opened)}. Open it with the "
        "values it was scored with, or score and select again."
    )


def _contents(written: Mapping[str, Any] | None) -> dict[str, Any]:
    """Recorded bindings with files reduced to the hash of their content."""
    return {
        name: value.get("sha256") if isinstance(value, Mapping) else value for name, value in (written or {}).items()
    }


def _read(name: str, value: Any) -> Binding:
    if isinstance(value, Mapping):  # as recorded in results
        if not value.get("file"):
            raise UsageError(
                f"input {name!r} was bound to an array that is not in a file. Give it again, for example from a file: "
                f"`bind={{{name!r}: 'FILE.npy'}}`."
            )
        return _file(name, Path(str(value["file"])), value.get("sha256"))
    if isinstance(value, os.PathLike) or (isinstance(value, str) and value.lower().endswith(SUFFIXES)):
        return _file(name, Path(value), None)
    if isinstance(value, str):
        raise UsageError(_not_a_value(name, value))
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise UsageError(f"the value of input {name!r} is not an array: {error}.") from error
    if array.dtype.kind not in "biuf" or not array.size:
        raise UsageError(f"the value of input {name!r} must be numbers, or true or false, not {value!r}.")
    if array.size > _MOST_WRITTEN:
        return Binding(array, {"file": "", "sha256": _sha256(array)})
    return Binding(array, array.tolist())


def _not_a_value(name: str, value: str) -> str:
    if value.lower().endswith(".onnx_adapter"):
        return (
            f"input {name!r}: {value} is an ONNX Runtime adapter file, which cannot be read. Save its parameters as "
            ".npz: numpy.savez('adapter.npz', **{name: value.numpy() for name, value in "
            f"onnxruntime.AdapterFormat.read_adapter('{value}').get_parameters().items()}}), and give "
            f"`bind={{{name!r}: 'adapter.npz'}}`."
        )
    return (
        f"the value {value!r} of input {name!r} is not a number, true, false, a list of these, or a file "
        f"({', '.join(SUFFIXES)}). Write `bind={{{name!r}: 16000}}`, or `bind={{{name!r}: 'FILE.npy'}}`."
    )


def _file(name: str, path: Path, sha256: Any) -> Binding:
    if not str(path) or not path.is_file():
        raise UsageError(
            f"the value of input {name!r}, {str(path)!r}, is not a file. Give it again: "
            f"`bind={{{name!r}: 'FILE.npy'}}`."
        )
    array = _array(name, path)
    digest = _sha256(array)
    if sha256 is not None and digest != sha256:
        raise UsageError(
            f"{path}, the value of input {name!r}, has changed since the model was scored (SHA-256 {digest[:12]}... "
            f"instead of {str(sha256)[:12]}...). Give the original file, `bind={{{name!r}: 'FILE'}}`, or score again."
        )
    return Binding(array, {"file": str(path), "sha256": digest})


def _array(name: str, path: Path) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in _array_name(name, path, list(archive.files))}
        else:
            from safetensors import safe_open

            with safe_open(path, "np") as archive:
                arrays = {key: archive.get_tensor(key) for key in _array_name(name, path, list(archive.keys()))}
    except UsageError:
        raise
    except Exception as error:  # of zip, NumPy and safetensors
        reason = str(error).split("\n")[0][:200]
        raise UsageError(f"{path}, the value of input {name!r}, cannot be read: {reason}.") from error
    return np.asarray(next(iter(arrays.values())))


def _array_name(name: str, path: Path, names: list[str]) -> list[str]:
    if name in names or len(names) == 1:
        return [name if name in names else names[0]]
    listed = ", ".join(map(repr, names[:8])) + ", ..." * (len(names) > 8)
    raise UsageError(f"{path} has no array {name!r} for the input of that name. Its arrays: {listed or 'none'}.")


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
