"""What a training leaves in its folder.

After every epoch ``training/last.ckpt`` in the artifact folder holds parameters, optimizer state, settings and all
metrics so far; it is written beside and renamed, so an interrupted or killed training loses at most the epoch
it was in. ``training/best.ckpt`` is kept where early stopping is asked for. While a training runs, ``training``
may also hold a file of features (see `store`).

``metrics.jsonl`` has one object per epoch: epoch, train_loss, eval_loss, eval_accuracy, learning_rate, seconds.
Epoch 0 is the state before training (its train_loss is null). eval_* are on the validation data split off
the training data, null where none was.

Where a rate was searched for, ``training/start.ckpt`` holds the state that training began with until it ends: the
search goes back to it, and so does a training that starts again with a lower rate (see `collapse`).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..files import keep_apart, make_folder, replacing, sha256_of_files, write_bytes
from .manifest import FILE, Manifest, TrainingSession
from .settings import Settings

LAST, BEST, METRICS = "training/last.ckpt", "training/best.ckpt", "metrics.jsonl"
START = "training/start.ckpt"
FEATURES = "training"  # the folder of the file that `store` describes, while a training runs
PROPERTY = "adabet_onnx"


@dataclass(frozen=True)
class History:
    """The epochs of a training so far, and what is stored with them.

    Attributes:
        folder: the artifacts.
        metrics: the path of metrics.jsonl.
        settings: of the training.
        about: its data.
        rows: one per epoch, the state before training first.
    """

    folder: Path
    metrics: Path
    settings: Settings
    about: dict[str, Any]
    rows: list[dict[str, Any]]

    def begin(self, session: TrainingSession, row: dict[str, Any]) -> None:
        """Put a training in place of an earlier one; ``last`` is replaced when the new one is complete."""
        self.rows.append(row)
        make_folder((self.folder / LAST).parent)
        (self.folder / BEST).unlink(missing_ok=True)
        self._store(session)

    def again(self, session: TrainingSession) -> None:
        """Begin again from the state before training."""
        row = self.rows[0]
        self.rows.clear()
        self.begin(session, row)

    def add(self, session: TrainingSession, row: dict[str, Any]) -> None:
        """Note an epoch."""
        self.rows.append(row)
        self._store(session)

    def write_metrics(self) -> None:
        """Write metrics.jsonl."""
        write_bytes(self.metrics, "".join(json.dumps(row) + "\n" for row in self.rows).encode())

    @property
    def start(self) -> Path:
        """The file of the state that training began with."""
        return self.folder / START

    def keep_start(self, session: TrainingSession) -> str:
        """Write that state, and give the SHA-256 of the file; what an earlier training has left stays as it is."""
        make_folder(self.start.parent)
        with replacing(self.start) as part:
            session.save(part)
        return sha256_of_files([self.start])

    def start_is(self, digest: Any) -> bool:
        """Whether the file is there and the one with this SHA-256, not that of a training that was begun since."""
        return self.start.is_file() and sha256_of_files([self.start]) == digest

    def forget_start(self) -> None:
        """Remove it."""
        self.start.unlink(missing_ok=True)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return bool(self.rows) and (self.stopped or len(self.rows) > self.settings.epochs)

    @property
    def stopped(self) -> bool:
        """Whether it is time to stop early."""
        patience = self.settings.patience
        return patience is not None and len(self.rows) - 1 - self._best >= patience

    @property
    def _best(self) -> int:
        """Index of the row with the lowest eval_loss, the earliest of equals."""
        losses = [math.inf if row["eval_loss"] is None else row["eval_loss"] for row in self.rows]
        return losses.index(min(losses))

    def _store(self, session: TrainingSession) -> None:
        """Write the checkpoint, then the metrics (which the checkpoint holds too)."""
        state = {"settings": asdict(self.settings), "metrics": self.rows, **self.about}
        session.set_property(PROPERTY, json.dumps(state))
        if self.settings.patience is not None and self._best == len(self.rows) - 1:
            with replacing(self.folder / BEST) as part:
                session.save(part)
        with replacing(self.folder / LAST) as part:
            session.save(part)
        self.write_metrics()


def stored_state(folder: Path, stored: Any) -> dict[str, Any]:
    """What the last checkpoint of a folder says of its training.

    Args:
        folder: the artifacts.
        stored: the checkpoint's property.

    Raises:
        RecordError: it was not written by a trainer.
    """
    try:
        state = json.loads(str(stored))
        _ = state["settings"], state["metrics"], state["data"]
    except (TypeError, ValueError, KeyError) as error:
        raise RecordError(f"{folder / LAST} was not written by this trainer; start again without `resume`.") from error
    return dict(state)


def trained_on(state: str | None) -> dict[str, Any]:
    """What a checkpoint says about the data it was trained on: ``classes`` and ``preprocessing``, where it says so."""
    try:
        content = json.loads(state or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def keep_own_files(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """See that what is written does not take the place of a file of the artifact folder.

    Args:
        manifest: of the folder.
        path: of what is written.

    Raises:
        UsageError: it is the manifest, a file that it names, or what training left.
    """
    names = (FILE, METRICS, *manifest.file_names.values())
    keep_apart(path, [*(manifest.folder / name for name in names), *(manifest.folder / FEATURES).rglob("*")])


def trained_checkpoint(manifest: Manifest) -> tuple[Path, bool]:
    """The checkpoint an export takes, and whether it is a trained one: the best, else the last, else the initial."""
    for name in (BEST, LAST):
        path = manifest.folder / name
        if path.is_file():
            return path, True
    return manifest.initial, False
