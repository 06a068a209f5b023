"""Tasks, replies and answers as settings, numbers and tensors, for whatever carries them.

A carrier has flat settings (texts and numbers), numbers by name, and tensors; nothing is pickled. What comes back is a
stranger's: whatever cannot be read is an error of that reply, never of the round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from ..errors import TrainingError
from ..scoring.options import Scoring
from .messages import Local, Reply, Sums, Task, Tensors, Vote

Settings = dict[str, str]
_SUMS = ("inputs", "outputs", "squares", "products")


def task_settings(task: Task) -> Settings:
    """A task but for its tensors."""
    return {"task": json.dumps({"number": task.number, "model_sha256": task.model_sha256, "local": asdict(task.local)})}


def task_of(settings: Mapping[str, Any], tensors: Tensors) -> Task:
    """The task.

    Raises:
        TrainingError: it cannot be read.
    """
    found = _json(settings, "task")
    try:
        return Task(int(found["number"]), str(found["model_sha256"]), tensors, Local(**found["local"]))
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"the server's task cannot be read: {error}") from error


def reply_settings(reply: Reply) -> Settings:
    """A reply but for its tensors."""
    samples = reply.samples
    about = {name: getattr(reply, name) for name in ("number", "model_sha256", "partial", "figures", "error")}
    return {"reply": json.dumps({**about, "samples": samples})}


def reply_of(client: int, settings: Mapping[str, Any], tensors: Tensors) -> Reply:
    """The reply of a client, by the number that the carrier knows it by.

    Raises:
        TrainingError: it cannot be read.
    """
    found = _json(settings, "reply")
    try:
        figures = dict(found["figures"])
        error = None if found["error"] is None else str(found["error"])
        return Reply(
            client,
            int(found["number"]),
            str(found["model_sha256"]),
            tensors,
            found["samples"],
            bool(found["partial"]),
            figures,
            error,
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise TrainingError(f"it cannot be read: {problem}") from problem


def vote_settings(vote: Vote) -> Settings:
    """A vote."""
    return {"vote": json.dumps(asdict(vote))}


def vote_of(client: int, settings: Mapping[str, Any]) -> Vote:
    """The vote of a client.

    Raises:
        TrainingError: it cannot be read.
    """
    found = _json(settings, "vote")
    try:
        ranks, b1_hat, shift = (dict(found[name]) for name in ("ranks", "b1_hat", "shift"))
        note = None if found["note"] is None else str(found["note"])
        return Vote(client, str(found["model_sha256"]), found["samples"], ranks, b1_hat, shift, note)
    except (KeyError, TypeError, ValueError) as problem:
        raise TrainingError(f"its vote cannot be read: {problem}") from problem


def scoring_settings(scoring: Scoring) -> Settings:
    """How layers are scored."""
    return {"scoring": json.dumps(asdict(scoring))}


def scoring_of(settings: Mapping[str, Any]) -> Scoring:
    """How layers are scored.

    Raises:
        TrainingError: it cannot be read.
    """
    known = {field.name for field in fields(Scoring)}
    try:
        return Scoring(**{name: value for name, value in _json(settings, "scoring").items() if name in known})
    except TypeError as error:
        raise TrainingError(f"the server's question cannot be read: {error}") from error


def sums_parts(sums: Sums) -> tuple[Settings, dict[str, np.ndarray]]:
    """Sums as settings and float64 tensors."""
    about = {"rows": sums.rows, "output_squares": sums.output_squares}
    return {"sums": json.dumps(about)}, {name: getattr(sums, name) for name in _SUMS}


def sums_of_parts(settings: Mapping[str, Any], tensors: Tensors) -> Sums:
    """The sums.

    Raises:
        TrainingError: they cannot be read.
    """
    found = _json(settings, "sums")
    try:
        arrays = {name: tensors[name] for name in _SUMS}
        return Sums(found["rows"], output_squares=float(found["output_squares"]), **arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"its sums cannot be read: {error}") from error


def _json(settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    try:
        found = json.loads(str(settings[key]))
    except (KeyError, ValueError, RecursionError) as error:
        raise TrainingError(f"what came has no {key!r} that can be read") from error
    if not isinstance(found, dict):
        raise TrainingError(f"what came has a {key!r} that is no object")
    return found
