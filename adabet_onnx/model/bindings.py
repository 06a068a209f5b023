"""Values for inputs that are no data: a sampling rate, a mode, an initial state, the weights of an adapter.

A binding is a number, true or false, a nested list of these, an array, or the path of a file that holds one: ``.npy``;
``.npz`` or ``.safetensors``, where it is called like the input or is alone. What was bound is noted in results as JSON:
values as they were given, files as an object with ``file`` and ``sha256``.
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
_MOST_WRITTEN = 64  # numbers of an array that are noted as such


@dataclass(frozen=True)
class Binding:
    """One value.

    Attributes:
        array: the value.
        written: how it is noted.
    """

    array: np.ndarray
    written: Any

    @property
    def digest(self) -> list[Any]:
        """What tells it from others, whatever file it came from.

        A few numbers are noted without the number of their bits, and read back so.
        """
        array = self.array if self.array.size > _MOST_WRITTEN else np.asarray(self.array.tolist())
        return [str(array.dtype), list(array.shape), _sha256(array)]


def read_bindings(bind: Mapping[str, Any] | None) -> dict[str, Binding]:
    """The values of bindings, as they are given or noted in a file of results.

    Raises:
        UsageError: a file is missing, holds no such array, or is not the one that was noted; or a value is none.
    """
    return {name: _read(name, value) for name, value in (bind or {}).items()}


def noted(bind: Mapping[str, Binding]) -> dict[str, Any] | None:
    """Bindings as results note them; None if there are none."""
    return {name: bind[name].written for name in sorted(bind)} or None


def told(written: Any) -> str:
    """A noted binding, for people."""
    return str(written["file"] or "ARRAY") if isinstance(written, Mapping) else json.dumps(written)


def in_python(written: Any) -> str:
    """A noted binding as Python: what ``bind`` takes; an array that is in no file is called ``ARRAY``."""
    if isinstance(written, Mapping):
        return repr(str(written["file"])) if written["file"] else "ARRAY"
    return repr(written)


def _argument(written: Mapping[str, Any] | None) -> str:
    """Noted bindings as the argument ``bind``, in a message."""
    pairs = ", ".join(f"{name!r}: {in_python(value)}" for name, value in (written or {}).items())
    return f"`bind={{{pairs}}}`" if pairs else "no `bind`"


def binding_mismatch(scored: Mapping[str, Any] | None, opened: Mapping[str, Any] | None) -> str | None:
    """In words, a model that was scored with other values of its inputs than it is opened with; None if they agree."""
    if _contents(scored) == _contents(opened):
        return None
    return (
        f"the model was scored with {_argument(scored)} and is opened with {_argument(opened)}. Open it with the "
        "values it was scored with, or score and select again."
    )


def _contents(written: Mapping[str, Any] | None) -> dict[str, Any]:
    """Noted bindings without the paths of files, of which the content counts."""
    return {
        name: value.get("sha256") if isinstance(value, Mapping) else value for name, value in (written or {}).items()
    }


def _read(name: str, value: Any) -> Binding:
    if isinstance(value, Mapping):  # as it was noted
        if not value.get("file"):
            raise UsageError(
                f"input {name!r} was bound to an array that is in no file. Give it again, from a file for instance: "
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
            f"input {name!r}: {value} is an adapter of ONNX Runtime, which is not read here. Save its parameters as "
            ".npz: numpy.savez('adapter.npz', **{name: value.numpy() for name, value in "
            f"onnxruntime.AdapterFormat.read_adapter('{value}').get_parameters().items()}}), and give "
            f"`bind={{{name!r}: 'adapter.npz'}}`."
        )
    return (
        f"the value {value!r} of input {name!r} is no number, true, false, list of these, or file "
        f"({', '.join(SUFFIXES)}). Write `bind={{{name!r}: 16000}}`, or `bind={{{name!r}: 'FILE.npy'}}`."
    )


def _file(name: str, path: Path, sha256: Any) -> Binding:
    if not str(path) or not path.is_file():
        raise UsageError(
            f"the value of input {name!r}, {str(path)!r}, is not a file. Give it again: "
            f"`bind={{{name!r}: 'FILE.npy'}}`."
        )
    array = _array(name, path)
    found = _sha256(array)
    if sha256 is not None and found != sha256:
        raise UsageError(
            f"{path}, the value of input {name!r}, is not what it was when the model was scored (SHA-256 "
            f"{found[:12]}..., then {str(sha256)[:12]}...). Give the file of then, `bind={{{name!r}: 'FILE'}}`, or "
            "score again."
        )
    return Binding(array, {"file": str(path), "sha256": found})


def _array(name: str, path: Path) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            found = np.load(path, allow_pickle=False)
            return np.asarray(found)
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in _wanted(name, path, list(archive.files))}
        else:
            from safetensors import safe_open

            with safe_open(path, "np") as archive:
                arrays = {key: archive.get_tensor(key) for key in _wanted(name, path, list(archive.keys()))}
    except UsageError:
        raise
    except Exception as error:  # of zip, NumPy and safetensors
        reason = str(error).split("\n")[0][:200]
        raise UsageError(f"{path}, the value of input {name!r}, cannot be read: {reason}.") from error
    return np.asarray(next(iter(arrays.values())))


def _wanted(name: str, path: Path, names: list[str]) -> list[str]:
    if name in names or len(names) == 1:
        return [name if name in names else names[0]]
    listed = ", ".join(map(repr, names[:8])) + ", ..." * (len(names) > 8)
    raise UsageError(f"{path} has no array {name!r} for the input of that name. It has: {listed or 'none'}.")


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
