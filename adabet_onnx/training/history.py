"""The files that a training writes to its folder.

After every epoch ``training/last.ckpt`` in the artifact folder holds parameters, optimizer state, settings and all
metrics so far; it is written under a temporary name and renamed, so an interrupted or killed training loses at most the
current epoch. ``training/best.ckpt`` is kept with early stopping. While a training runs, ``training`` may also hold a
file of features (see `feature_store`).

``metrics.jsonl`` has one object per epoch: epoch, train_loss, eval_loss, eval_accuracy, learning_rate, seconds. Epoch 0
is the state before training (its train_loss is null). eval_* are measured on the validation data split off the training
data; null without validation.

If the learning rate is searched for, ``training/start.ckpt`` holds the initial state of the training until it ends: the
search returns to it, and so does a training that restarts with a lower rate (see `collapse`).
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
FEATURES = "training"  # the folder of the feature file (see `feature_store`) while a training runs
PROPERTY = "adabet_onnx"


@dataclass(frozen=True)
class History:
    """The epochs of a training so far, and the state stored with them.

    Attributes:
        folder: the artifacts.
        metrics: the path of metrics.jsonl.
        settings: the training settings.
        about: stored information about its data.
        rows: one per epoch; the first describes the state before training.
    """

    folder: Path
    metrics: Path
    settings: Settings
    about: dict[str, Any]
    rows: list[dict[str, Any]]

    def begin(self, session: TrainingSession, row: dict[str, Any]) -> None:
        """Replace an earlier training with a new one; ``last`` is replaced once the new checkpoint is complete."""
        self.rows.append(row)
        make_folder((self.folder / LAST).parent)
        (self.folder / BEST).unlink(missing_ok=True)
        self._store(session)

    def restart(self, session: TrainingSession) -> None:
        """Restart from the state before training."""
        row = self.rows[0]
        self.rows.clear()
        self.begin(session, row)

    def add(self, session: TrainingSession, row: dict[str, Any]) -> None:
        """Record an epoch."""
        self.rows.append(row)
        self._store(session)

    def write_metrics(self) -> None:
        """Write metrics.jsonl."""
        write_bytes(self.metrics, "".join(json.dumps(row) + "\n" for row in self.rows).encode())

    @property
    def start(self) -> Path:
        """The file of the initial state of the training."""
        return self.folder / START

    def keep_start(self, session: TrainingSession) -> str:
        """Write that state and return the SHA-256 of the file; files of an earlier training are kept."""
        make_folder(self.start.parent)
        with replacing(self.start) as part:
            session.save(part)
        return sha256_of_files([self.start])

    def start_is(self, digest: Any) -> bool:
        """Whether the file exists and has this SHA-256, so that it does not belong to a later training."""
        return self.start.is_file() and sha256_of_files([self.start]) == digest

    def forget_start(self) -> None:
        """Remove that file."""
        self.start.unlink(missing_ok=True)

    @property
    def finished(self) -> bool:
        """Whether the training is complete."""
        return bool(self.rows) and (self.stopped or len(self.rows) > self.settings.epochs)

    @property
    def stopped(self) -> bool:
        """Whether it is time to stop early."""
        patience = self.settings.patience
        return patience is not None and len(self.rows) - 1 - self._best >= patience

    @property
    def kept(self) -> int:
        """Index of the row of the state that is exported: the best with early stopping, else the last."""
        return len(self.rows) - 1 if self.settings.patience is None else self._best

    @property
    def _best(self) -> int:
        """Index of the row with the lowest eval_loss; the earliest on a tie."""
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
    """Return the state of the training stored in the last checkpoint of a folder.

    Args:
        folder: the artifacts.
        stored: the checkpoint's property.

    Raises:
        RecordError: the checkpoint was not written by a trainer.
    """
    try:
        state = json.loads(str(stored))
        _ = state["settings"], state["metrics"], state["data"]
    except (TypeError, ValueError, KeyError) as error:
        raise RecordError(f"{folder / LAST} was not written by this trainer; start again without `resume`.") from error
    return dict(state)


def trained_on(state: str | None) -> dict[str, Any]:
    """Return what a checkpoint stores about its training data: ``classes`` and ``preprocessing``, if present."""
    try:
        content = json.loads(state or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def keep_own_files(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """Check that an output path would not overwrite a file of the artifact folder.

    Args:
        manifest: the manifest of the folder.
        path: the output path.

    Raises:
        UsageError: it is the manifest, a file named in it, or a file written by training.
    """
    names = (FILE, METRICS, *manifest.file_names.values())
    keep_apart(path, [*(manifest.folder / name for name in names), *(manifest.folder / FEATURES).rglob("*")])


def trained_checkpoint(manifest: Manifest) -> tuple[Path, bool]:
    """Return the checkpoint to export (the best, else the last, else the initial), and whether it was trained."""
    for name in (BEST, LAST):
        path = manifest.folder / name
        if path.is_file():
            return path, True
    return manifest.initial, False
