"""The server: rounds of requests, checks and aggregation, with a checkpoint after each.

It reaches clients through a `ClientGrid`, which may be clients in this process or Flower; no other module knows which.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import seeds
from ..errors import TrainingError
from ..files import make_folder
from ..progress import Progress, silent
from ..training.schedule import SCHEDULES
from .aggregation import Aggregation, WeightedMean, mean_of
from .checks import Dropped, Expectations, accepted
from .grids import ClientGrid
from .messages import Local, Reply, RoundTask
from .options import Fleet
from .record import CHECKPOINT, Checkpoint, load_checkpoint, read_rows, save_checkpoint, write_rows

Values = Mapping[str, np.ndarray]


@dataclass
class Server:
    """The server that runs the rounds of a fleet.

    Attributes:
        grid: access to the clients.
        folder: folder for fleet.jsonl and the checkpoint.
        model_sha256: SHA-256 of the model.
        values: values of the shared tensors, at first the initial ones.
        fleet: options of the fleet.
        local: the clients' training in a round.
        aggregation: method that computes new values from replies.
        evaluator: function that returns ``eval_loss`` and ``eval_accuracy`` of values on held-out data; None: no
            evaluation.
        seed: random seed of the choice of clients.
        schedule: schedule by which the learning rate of ``local`` decays from round to round.
    """

    grid: ClientGrid
    folder: Path
    model_sha256: str
    values: dict[str, np.ndarray]
    fleet: Fleet
    local: Local
    aggregation: Aggregation = field(default_factory=WeightedMean)
    evaluator: Callable[[Values], Mapping[str, Any]] | None = None
    seed: int = 0
    schedule: str = "constant"
    rows: list[dict[str, Any]] = field(default_factory=list, init=False)

    def run(self, *, resume: bool = False, progress: Progress | None = None) -> list[dict[str, Any]]:
        """Do the remaining rounds and return the rows of fleet.jsonl.

        Args:
            resume: continue from the checkpoint in the folder, if there is one.
            progress: progress callback.

        Raises:
            TrainingError: a round repeatedly got fewer replies than it needs.
            RecordError: the checkpoint is of another run.
            OutputError: the folder cannot be written to.
        """
        report = progress or silent
        make_folder(self.folder)
        done = 0
        if resume and (self.folder / CHECKPOINT).is_file():
            done = self._resume()
        else:
            began = time.perf_counter()
            self._note({"round": 0, "attempts": 0, "clients": [], "samples": 0, "loss": None}, (), 0, 0, began)
        for number in range(done + 1, self.fleet.rounds + 1):
            report(self._status(), number - 1, self.fleet.rounds)
            self._round(number)
        report(self._status(), self.fleet.rounds, self.fleet.rounds)
        return self.rows

    def _resume(self) -> int:
        shapes = {name: array.shape for name, array in self.values.items()}
        checkpoint = load_checkpoint(self.folder, self.model_sha256, shapes)
        self.values = dict(checkpoint.values)
        self.aggregation.restore(checkpoint.memory)
        self.rows = read_rows(self.folder, checkpoint.number)
        return checkpoint.number

    def _round(self, number: int) -> None:
        began, dropped = time.perf_counter(), list[Dropped]()
        down = up = 0
        for attempt in range(self.fleet.retries + 1):
            asked = self._drawn(number, attempt)
            rate = self.local.learning_rate * SCHEDULES[self.schedule]((number - 1) / self.fleet.rounds)
            local = replace(self.local, seed=self.seed, learning_rate=rate)
            task = RoundTask(number, self.model_sha256, self.values, local)
            replies = list(self.grid.train(asked, task)) if asked else []
            down, up = down + task.bytes * len(asked), up + sum(reply.bytes for reply in replies)
            partial, most = self.aggregation.partial, self.fleet.max_norm
            expected = Expectations(number, self.model_sha256, self.values, frozenset(asked), most, partial)
            good, bad = accepted(replies, expected)
            missing = set(asked) - {reply.client for reply in replies}
            dropped += [*bad, *(Dropped(client, "it did not reply") for client in sorted(missing))]
            if len(good) >= self.fleet.minimum:
                self.values = self.aggregation.aggregate(number, self.values, good)
                self._note(_figures(number, attempt + 1, good), dropped, down, up, began)
                return
        reasons = "; ".join(f"client {each.client}: {each.why}" for each in dropped[-3:]) or "no client is available"
        raise TrainingError(
            f"round {number} got {len(good)} valid replies, fewer than {self.fleet.minimum} (`minimum`), "
            f"{self.fleet.retries + 1} times in a row. The last rejected replies: {reasons}. The completed rounds are "
            "saved: continue with `resume`."
        )

    def _drawn(self, number: int, attempt: int) -> list[int]:
        """Draw the clients to ask."""
        available = sorted(self.grid.clients())
        if self.fleet.per_round is None or len(available) <= self.fleet.per_round:
            return available
        rng = seeds.participants(self.seed, number, attempt)
        return sorted(int(each) for each in rng.choice(available, self.fleet.per_round, replace=False))

    def _note(self, row: dict[str, Any], dropped: Iterable[Dropped], down: int, up: int, began: float) -> None:
        """Evaluate the values, and write a row and the checkpoint."""
        metrics = {} if self.evaluator is None else self.evaluator(self.values)
        row |= {key: metrics.get(key) for key in ("eval_loss", "eval_accuracy")}
        row.setdefault("client_accuracy", None)
        row |= {"bytes_down": down, "bytes_up": up, "seconds": round(time.perf_counter() - began, 3)}
        row["dropped"] = [each.to_json() for each in dropped]
        self.rows.append(row)
        write_rows(self.folder, self.rows)
        checkpoint = Checkpoint(int(row["round"]), self.values, self.aggregation.state())
        save_checkpoint(self.folder, checkpoint, self.model_sha256)

    def _status(self) -> str:
        row = self.rows[-1]
        parts = [f"round {row['round']}/{self.fleet.rounds}"]
        if row["loss"] is not None:
            parts.append(f"loss {row['loss']:.3f}")
        if row["eval_accuracy"] is not None:
            parts.append(f"eval accuracy {row['eval_accuracy']:.1%}")
        if row["dropped"]:
            parts.append(f"{len(row['dropped'])} dropped")
        return ", ".join(parts)


def _figures(number: int, attempts: int, replies: Sequence[Reply]) -> dict[str, Any]:
    """Return the part of a row that is computed from replies."""
    return {
        "round": number,
        "attempts": attempts,
        "clients": [reply.client for reply in replies],
        "samples": sum(float(reply.samples) for reply in replies),
        "loss": _mean(replies, "loss", [float(reply.samples) for reply in replies]),
        "client_accuracy": _mean(
            replies,
            "eval_accuracy",
            [min(float(reply.samples), float(reply.figures.get("eval_samples") or 0)) for reply in replies],
        ),
    }


def _mean(replies: Sequence[Reply], name: str, weights: Sequence[float]) -> float | None:
    """Return the weighted mean of a figure over the replies that have it."""
    return mean_of(
        (float(reply.figures[name]), weight)
        for reply, weight in zip(replies, weights, strict=True)
        if reply.figures.get(name) is not None
    )
