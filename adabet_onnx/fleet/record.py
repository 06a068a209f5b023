"""The files in a server's folder.

``fleet.json``: format "adabet-onnx/fleet", version 1, with model_sha256, model_file (its path, or null), options, local
(the clients' training in a round), and what precedes the first round: poll (see `votes`), head (how it was fitted, or
why it was not), distribution_bytes (of the artifacts that each client gets once), bytes_down and bytes_up (per client
and round).

``fleet.jsonl``: an object for each round: round (0 is before the first), attempts, clients (with accepted replies),
samples (theirs), loss (of their steps), eval_loss and eval_accuracy (on held-out data of the server), client_accuracy
(on the clients' validation data, with their personal layers), bytes_down and bytes_up (of all clients), seconds,
dropped (a client and the reason). Unknown values are null.

``fleet.safetensors``: the values after the last round and the state of the aggregation, from which a run resumes. It
has the form of a delta, but with format "adabet-onnx/fleet-checkpoint", ``round``, and names that begin with
``memory:``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..device.tensors_file import data_bytes, read_tensors, write_tensors
from ..errors import RecordError
from ..files import write_bytes
from ..records import Entries, read_record

FORMAT, VERSION = "adabet-onnx/fleet", 1
CHECKPOINT_FORMAT = "adabet-onnx/fleet-checkpoint"
RECORD, ROWS, CHECKPOINT = "fleet.json", "fleet.jsonl", "fleet.safetensors"
_MEMORY = "memory:"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run.

    Attributes:
        number: number of completed rounds.
        values: values of the shared tensors.
        memory: state of the aggregation.
    """

    number: int
    values: Mapping[str, np.ndarray]
    memory: Mapping[str, np.ndarray]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, model_sha256: str) -> None:
    """Write a checkpoint atomically.

    Args:
        folder: folder of the server.
        checkpoint: the state of the run.
        model_sha256: SHA-256 of the model.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = {**checkpoint.values, **{_MEMORY + name: array for name, array in checkpoint.memory.items()}}
    data = data_bytes(tensors)
    about = {
        "format": CHECKPOINT_FORMAT,
        "version": "1",
        "model_sha256": model_sha256,
        "round": str(checkpoint.number),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_tensors(folder / CHECKPOINT, tensors, about, data)


def load_checkpoint(folder: Path, model_sha256: str, shapes: Mapping[str, Sequence[int]]) -> Checkpoint:
    """Read the checkpoint, and check that it belongs to this run.

    Args:
        folder: folder of the server.
        model_sha256: SHA-256 of the model.
        shapes: shapes of the shared tensors.

    Raises:
        RecordError: the checkpoint is damaged, or of another run.
    """
    path = folder / CHECKPOINT
    content = read_tensors(path)
    about = content.metadata
    if about.get("format") != CHECKPOINT_FORMAT or about.get("sha256") != content.sha256:
        raise RecordError(f"{path} is not a checkpoint of a fleet, or was altered. Start again without `resume`.")
    values = {name: array for name, array in content.tensors.items() if not name.startswith(_MEMORY)}
    same = {name: array.shape for name, array in values.items()} == {name: tuple(s) for name, s in shapes.items()}
    if about.get("model_sha256") != model_sha256 or not same or not about.get("round", "").isdecimal():
        raise RecordError(f"{path} is of another run. Start again without `resume`, or give another folder.")
    memory = {name.removeprefix(_MEMORY): a for name, a in content.tensors.items() if name.startswith(_MEMORY)}
    return Checkpoint(int(about["round"]), {name: values[name] for name in shapes}, memory)


def write_rows(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write fleet.jsonl atomically."""
    write_bytes(folder / ROWS, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())


def read_rows(folder: Path, number: int | None) -> list[dict[str, Any]]:
    """Read the rows up to a round; None: all rows.

    Raises:
        RecordError: the file is damaged, or rows are missing.
    """
    path = folder / ROWS
    try:
        rows = [dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        number = len(rows) - 1 if number is None else number
        kept = [row for row in rows if int(row["round"]) <= number]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RecordError(f"{path} cannot be read ({error}). Start again without `resume`.") from error
    if [row["round"] for row in kept] != list(range(number + 1)):
        raise RecordError(f"{path} does not have all rounds up to {number}. Start again without `resume`.")
    return kept


def read_fleet(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read fleet.json and the rows of fleet.jsonl, and check the parts that reports use.

    Raises:
        RecordError: a file is damaged.
    """
    about = read_record(folder / RECORD, FORMAT, VERSION, _MADE_BY)
    entries = Entries(about, str(folder / RECORD), _MADE_BY)
    for name in ("distribution_bytes", "bytes_down", "bytes_up"):
        entries.take(name, int)
    entries.get_optional("model_file", None, str, type(None))
    if entries.take("poll", dict, type(None)) is not None:
        poll = entries.inside("poll")
        poll.take("agreement", float, type(None))
        poll.take_list("voters", int)
        poll.take_list("abstained", int)
        for vote in poll.take_list("layers", dict) if "layers" in poll else []:
            layer = Entries(vote, f"{folder / RECORD}, 'poll', 'layers',", _MADE_BY)
            layer.take("name", str)
            layer.take("b1_hat", float)
            layer.take("shift", float, type(None))
    rows = read_rows(folder, None)
    for number, row in enumerate(rows):
        line = Entries(row, f"{folder / ROWS}, line {number + 1}", _MADE_BY)
        for name in ("loss", "eval_loss", "eval_accuracy", "client_accuracy"):
            line.take(name, float, type(None))
        line.take_list("clients", int)
        line.take_list("dropped", dict)
    return about, rows


_MADE_BY = "`simulate_fleet`"
