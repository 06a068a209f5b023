"""Serialisation of tasks, replies and answers as settings, numbers and tensors, for any transport.

A transport carries flat settings (texts and numbers), numbers by name, and tensors; nothing is pickled. Received
messages are not trusted: one that cannot be read is an error of that reply, never of the round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from ..errors import TrainingError
from ..scoring.options import Scoring
from .messages import Local, Reply, RidgeSums, RoundTask, Tensors, Vote

Settings = dict[str, str]
_SUMS = ("inputs", "outputs", "squares", "products")


def task_settings(task: RoundTask) -> Settings:
    """Serialise a task without its tensors."""
    return {"task": json.dumps({"number": task.number, "model_sha256": task.model_sha256, "local": asdict(task.local)})}


def task_of(settings: Mapping[str, Any], tensors: Tensors) -> RoundTask:
    """Read a task.

    Raises:
        TrainingError: it cannot be read.
    """
    content = _json(settings, "task")
    try:
        return RoundTask(int(content["number"]), str(content["model_sha256"]), tensors, Local(**content["local"]))
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"the server's task cannot be read: {error}") from error


def reply_settings(reply: Reply) -> Settings:
    """Serialise a reply without its tensors."""
    samples = reply.samples
    about = {name: getattr(reply, name) for name in ("number", "model_sha256", "partial", "figures", "error")}
    return {"reply": json.dumps({**about, "samples": samples})}


def reply_of(client: int, settings: Mapping[str, Any], tensors: Tensors) -> Reply:
    """Read the reply of a client, which has the number that the transport gives.

    Raises:
        TrainingError: it cannot be read.
    """
    content = _json(settings, "reply")
    try:
        figures = dict(content["figures"])
        error = None if content["error"] is None else str(content["error"])
        return Reply(
            client,
            int(content["number"]),
            str(content["model_sha256"]),
            tensors,
            content["samples"],
            bool(content["partial"]),
            figures,
            error,
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise TrainingError(f"it cannot be read: {problem}") from problem


def vote_settings(vote: Vote) -> Settings:
    """Serialise a vote."""
    return {"vote": json.dumps(asdict(vote))}


def vote_of(client: int, settings: Mapping[str, Any]) -> Vote:
    """Read the vote of a client.

    Raises:
        TrainingError: it cannot be read.
    """
    content = _json(settings, "vote")
    try:
        ranks, b1_hat, shift = (dict(content[name]) for name in ("ranks", "b1_hat", "shift"))
        note = None if content["note"] is None else str(content["note"])
        return Vote(client, str(content["model_sha256"]), content["samples"], ranks, b1_hat, shift, note)
    except (KeyError, TypeError, ValueError) as problem:
        raise TrainingError(f"its vote cannot be read: {problem}") from problem


def scoring_settings(scoring: Scoring) -> Settings:
    """Serialise the options of scoring."""
    return {"scoring": json.dumps(asdict(scoring))}


def scoring_of(settings: Mapping[str, Any]) -> Scoring:
    """Read the options of scoring.

    Raises:
        TrainingError: it cannot be read.
    """
    known = {field.name for field in fields(Scoring)}
    try:
        return Scoring(**{name: value for name, value in _json(settings, "scoring").items() if name in known})
    except TypeError as error:
        raise TrainingError(f"the server's request cannot be read: {error}") from error


def sums_parts(sums: RidgeSums) -> tuple[Settings, dict[str, np.ndarray]]:
    """Serialise sums as settings and float64 tensors."""
    about = {"rows": sums.rows, "output_squares": sums.output_squares}
    return {"sums": json.dumps(about)}, {name: getattr(sums, name) for name in _SUMS}


def sums_of_parts(settings: Mapping[str, Any], tensors: Tensors) -> RidgeSums:
    """Read sums.

    Raises:
        TrainingError: they cannot be read.
    """
    content = _json(settings, "sums")
    try:
        arrays = {name: tensors[name] for name in _SUMS}
        return RidgeSums(content["rows"], output_squares=float(content["output_squares"]), **arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"its sums cannot be read: {error}") from error


def _json(settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    try:
        content = json.loads(str(settings[key]))
    except (KeyError, ValueError, RecursionError) as error:
        raise TrainingError(f"the message has no {key!r} that can be read") from error
    if not isinstance(content, dict):
        raise TrainingError(f"{key!r} in the message is not an object")
    return content
