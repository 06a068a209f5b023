"""Detection of which nodes of a model an execution provider runs, after the first run.

ONNX Runtime gives a provider the nodes that it supports and silently computes the others on the CPU, so that an
accelerator may run almost nothing of a model. The profile of a run shows where each node ran, in any version and for
any provider; providers that compile show one node for each part they run, and the CPU one for each of its nodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ProviderWarning
from .showing import clipped, named

_CPU = "CPUExecutionProvider"
_HEAVY = ("Conv", "MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN", "Attention")  # parts of names of costly operators
_ADDED = ("Memcpy", "Reorder")  # beginnings of the names of nodes that the runtime inserts

_warned: set[tuple[str, tuple[str, ...]]] = set()  # warn only once for the graphs of one model


@dataclass(frozen=True)
class Placement:
    """Placement of the nodes of a model in a run.

    Attributes:
        nodes: operators of the model's nodes.
        on_cpu: operators of the nodes that the CPU computed.
    """

    nodes: tuple[str, ...]
    on_cpu: tuple[str, ...]

    def warning(self, provider: str, name: str) -> str | None:
        """Return a warning if the provider ran fewer than half of the nodes, or of the costly ones; else None.

        Args:
            provider: name of the provider.
            name: name of the model in the message.
        """
        here, heavy = len(self.on_cpu), sum(map(_is_heavy, self.nodes))
        taken = max(0, len(self.nodes) - here)
        if taken >= here and 2 * sum(map(_is_heavy, self.on_cpu)) <= heavy:
            return None
        operators = named(list(dict.fromkeys(self.on_cpu)))
        return (
            f"{provider} runs {taken or 'none'} of the {max(here, len(self.nodes))} nodes of {clipped(name, 60)}: the "
            f"CPU computes the others ({operators}). Leave out `provider` unless it is faster."
        )


def placement(profile: Path, nodes: Sequence[str]) -> Placement | None:
    """Read a profile of ONNX Runtime; None if it contains no run.

    Args:
        profile: the file.
        nodes: operators of the model's nodes.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        ran = [event for event in json.loads(profile.read_text()) if event.get("cat") == "Node"]
        known = {event["name"]: event["args"] for event in ran if event["args"].get("provider")}
        own = (str(about["op_name"]) for about in known.values() if about["provider"] == _CPU)
        if known:
            return Placement(tuple(nodes), tuple(name for name in own if not name.startswith(_ADDED)))
    return None


def _is_heavy(operator: str) -> bool:
    return any(part in operator for part in _HEAVY)


class Watched:
    """An inference session that warns after its first run if its provider ran only a small part of the model.

    Args:
        session: a session created with the options that `profiled` changed.
        folder: the folder from `profiled`.
        provider: name of the provider.
        name: name of the model in messages.
        nodes: operators of the model's nodes.
    """

    def __init__(self, session: Any, folder: Any, provider: str, name: str, nodes: Sequence[str]) -> None:
        self._session, self._folder, self._told = session, folder, (provider, name, nodes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *arguments: Any) -> Any:
        """Run the session."""
        results = self._session.run(*arguments)
        self._tell()
        return results

    def run_with_ort_values(self, *arguments: Any) -> Any:
        """Run the session."""
        results = self._session.run_with_ort_values(*arguments)
        self._tell()
        return results

    def _tell(self) -> None:
        if self._folder is None:
            return
        provider, name, nodes = self._told
        profile = Path(self._session.end_profiling())
        placed = placement(profile, nodes)
        self._folder.cleanup()
        self._folder = None
        text = None if placed is None else placed.warning(provider, name)
        if placed is not None and text is not None and (provider, placed.on_cpu) not in _warned:
            _warned.add((provider, placed.on_cpu))
            warnings.warn(text, ProviderWarning, stacklevel=2)


class _Folder:
    """A folder for a profile, deleted when it is no longer referenced."""

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix="adabet-")
        self.cleanup = weakref.finalize(self, shutil.rmtree, self.name, ignore_errors=True)


@contextlib.contextmanager
def profiled(options: Any) -> Iterator[Any]:
    """Enable profiling while a session is created; yield the profile's folder, or None if it cannot be created.

    Args:
        options: options of the session.
    """
    try:
        folder = _Folder()
    except OSError:  # no warning then
        yield None
        return
    options.enable_profiling, options.profile_file_prefix = True, os.path.join(folder.name, "run")
    try:
        yield folder
    finally:
        options.enable_profiling = False
