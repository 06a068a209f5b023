"""Which nodes of a model an execution provider takes, told after the first run.

ONNX Runtime gives a provider the nodes it asks for and computes the others on the CPU, without a word: a model that is
said to run on an accelerator may hardly be there. Where each node ran is in the profile of a run, on any version and
for any provider; providers that compile show a node for each part they have taken, and the CPU one for each of its own.
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
_HEAVY = ("Conv", "MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN", "Attention")  # in names of operators
_ADDED = ("Memcpy", "Reorder")  # what the runtime puts in between, by the beginning of its name

_told: set[tuple[str, tuple[str, ...]]] = set()  # the same of a model's other forms would be no news


@dataclass(frozen=True)
class Placement:
    """Where the nodes of a run were computed.

    Attributes:
        nodes: operators of the model's nodes.
        on_cpu: operators of those that the CPU computed.
    """

    nodes: tuple[str, ...]
    on_cpu: tuple[str, ...]

    def said(self, provider: str, name: str) -> str | None:
        """A line where the provider took fewer than half of the nodes, or of those that take the time.

        Args:
            provider: its name.
            name: what the model is called.
        """
        here, heavy = len(self.on_cpu), sum(map(_is_heavy, self.nodes))
        taken = max(0, len(self.nodes) - here)
        if taken >= here and 2 * sum(map(_is_heavy, self.on_cpu)) <= heavy:
            return None
        operators = named(list(dict.fromkeys(self.on_cpu)))
        return (
            f"{provider} takes {taken or 'none'} of the {max(here, len(self.nodes))} nodes of {clipped(name, 60)}: the "
            f"CPU computes the others ({operators}). Does it pay? Otherwise leave out `provider`."
        )


def placement(profile: Path, nodes: Sequence[str]) -> Placement | None:
    """Read a profile of ONNX Runtime; None where it has no run.

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
    """An inference session that tells after its first run if its provider has taken little of the model.

    Args:
        session: made with the options that `profiled` has changed.
        folder: that `profiled` gave.
        provider: its name.
        name: what the model is called.
        nodes: operators of the model's nodes.
    """

    def __init__(self, session: Any, folder: Any, provider: str, name: str, nodes: Sequence[str]) -> None:
        self._session, self._folder, self._told = session, folder, (provider, name, nodes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *arguments: Any) -> Any:
        """As the session does."""
        found = self._session.run(*arguments)
        self._tell()
        return found

    def run_with_ort_values(self, *arguments: Any) -> Any:
        """As the session does."""
        found = self._session.run_with_ort_values(*arguments)
        self._tell()
        return found

    def _tell(self) -> None:
        if self._folder is None:
            return
        provider, name, nodes = self._told
        profile = Path(self._session.end_profiling())
        found = placement(profile, nodes)
        self._folder.cleanup()
        self._folder = None
        text = None if found is None else found.said(provider, name)
        if found is not None and text is not None and (provider, found.on_cpu) not in _told:
            _told.add((provider, found.on_cpu))
            warnings.warn(text, ProviderWarning, stacklevel=2)


class _Folder:
    """A folder for a profile, which goes when nobody needs it any more."""

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix="adabet-")
        self.cleanup = weakref.finalize(self, shutil.rmtree, self.name, ignore_errors=True)


@contextlib.contextmanager
def profiled(options: Any) -> Iterator[Any]:
    """While a session is made, have it write a profile: gives the folder it is in, or None where there can be none.

    Args:
        options: of the session.
    """
    try:
        folder = _Folder()
    except OSError:  # nothing is told then
        yield None
        return
    options.enable_profiling, options.profile_file_prefix = True, os.path.join(folder.name, "run")
    try:
        yield folder
    finally:
        options.enable_profiling = False
