"""The only module that uses onnxruntime.training (release 1.19.2, the last one), which is imported without torch."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import runtime
from .errors import RuntimeMissingError


class Api:
    """The imported classes of onnxruntime.training."""

    def __init__(self) -> None:
        try:
            with _importable():
                api = [
                    importlib.import_module(f"onnxruntime.training.{name}")
                    for name in ("artifacts", "onnxblock", "api.module", "api.checkpoint_state", "api.optimizer")
                ]
        except ImportError as error:
            raise _missing(f"it cannot be imported: {error}") from error
        self.artifacts, self.onnxblock = api[0], api[1]
        self.Module, self.CheckpointState, self.Optimizer = (
            api[2].Module,
            api[3].CheckpointState,
            api[4].Optimizer,
        )


_api: Api | None = None


def load() -> Api:
    """Import onnxruntime.training, once.

    Raises:
        RuntimeMissingError: it is not installed, or conflicts with another package.
    """
    global _api
    if _api is None:
        ort = runtime.onnxruntime()
        if not _has_training(ort):
            raise _missing("the installed onnxruntime is the inference package")
        _api = Api()
        ort.set_default_logger_severity(4)  # errors also raise an exception
    return _api


def need_runtime(backend: str) -> None:
    """Check that the runtime of a backend is installed.

    Raises:
        RuntimeMissingError: it is not installed.
    """
    if backend == "ort":
        load()
    else:
        runtime.onnxruntime()


def _has_training(ort: Any) -> bool:
    try:
        state = importlib.import_module("onnxruntime.capi._pybind_state")
    except ImportError:
        return False
    return hasattr(state, "CheckpointState") and (Path(ort.__file__).parent / "training").is_dir()


def _missing(reason: str) -> RuntimeMissingError:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    hint = ""
    if sys.version_info >= (3, 13):
        hint = f" It exists for Python 3.10 to 3.12; this is Python {python}."
    inference = " ".join(runtime.installed().inference)
    first = f"pip uninstall -y {inference}, then " if inference else ""
    return RuntimeMissingError(
        f"the ort backend needs onnxruntime-training-cpu 1.19.2, but {reason}. Use the portable backend, or install "
        f"it: {first}{runtime.INSTALL_TRAINING}.{hint}"
    )


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Make parts of ``onnxruntime.training`` importable without torch, which only its __init__ needs.

    An empty package replaces it. The replacement stays if torch is missing (importing the real package would fail) and
    is removed if torch is installed, so that other code can import the real one.
    """
    name = "onnxruntime.training"
    if name in sys.modules:
        yield
        return
    package = types.ModuleType(name)
    package.__path__ = [str(Path(runtime.onnxruntime().__file__).parent / "training")]
    package.__doc__ = "The parts of onnxruntime.training that do not need torch."
    sys.modules[name] = package
    try:
        yield
    finally:
        if importlib.util.find_spec("torch") is not None:
            del sys.modules[name]
