"""The server: rounds of asking, checking and aggregating, with a checkpoint after each.

It asks through a `Grid`, which may be clients in this process or Flower; no other module knows which.
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
from .checks import Dropped, Wanted, accepted
from .grids import Grid
from .messages import Local, Reply, Task
from .options import Fleet
from .record import CHECKPOINT, Checkpoint, load_checkpoint, read_rows, save_checkpoint, write_rows

Values = Mapping[str, np.ndarray]


@dataclass
class Server:
    """Runs the rounds of a fleet.

    Attributes:
        grid: the way to clients.
        folder: for fleet.jsonl and the checkpoint.
        model_sha256: of the model.
        values: of what is shared, to begin with.
        fleet: how.
        local: what clients do in a round.
        aggregation: makes new values of replies.
        judge: gives ``eval_loss`` and ``eval_accuracy`` of values on held-out data; None: nothing is evaluated.
        seed: of which clients are asked.
        schedule: by which the rate of ``local`` falls from round to round.
    """

    grid: Grid
    folder: Path
    model_sha256: str
    values: dict[str, np.ndarray]
    fleet: Fleet
    local: Local
    aggregation: Aggregation = field(default_factory=WeightedMean)
    judge: Callable[[Values], Mapping[str, Any]] | None = None
    seed: int = 0
    schedule: str = "constant"
    rows: list[dict[str, Any]] = field(default_factory=list, init=False)

    def run(self, *, resume: bool = False, progress: Progress | None = None) -> list[dict[str, Any]]:
        """Do the rounds that are left; the rows of fleet.jsonl.

        Args:
            resume: go on from the checkpoint in the folder, if there is one.
            progress: told of the rounds.

        Raises:
            TrainingError: a round got fewer replies than it needs, again and again.
            RecordError: the checkpoint is of another run.
            OutputError: the folder cannot be written to.
        """
        say = progress or silent
        make_folder(self.folder)
        done = 0
        if resume and (self.folder / CHECKPOINT).is_file():
            done = self._resume()
        else:
            began = time.perf_counter()
            self._note({"round": 0, "attempts": 0, "clients": [], "samples": 0, "loss": None}, (), 0, 0, began)
        for number in range(done + 1, self.fleet.rounds + 1):
            say(self._said(), number - 1, self.fleet.rounds)
            self._round(number)
        say(self._said(), self.fleet.rounds, self.fleet.rounds)
        return self.rows

    def _resume(self) -> int:
        shapes = {name: array.shape for name, array in self.values.items()}
        found = load_checkpoint(self.folder, self.model_sha256, shapes)
        self.values = dict(found.values)
        self.aggregation.restore(found.memory)
        self.rows = read_rows(self.folder, found.number)
        return found.number

    def _round(self, number: int) -> None:
        began, dropped = time.perf_counter(), list[Dropped]()
        down = up = 0
        for attempt in range(self.fleet.retries + 1):
            asked = self._drawn(number, attempt)
            rate = self.local.learning_rate * SCHEDULES[self.schedule]((number - 1) / self.fleet.rounds)
            local = replace(self.local, seed=self.seed, learning_rate=rate)
            task = Task(number, self.model_sha256, self.values, local)
            replies = list(self.grid.train(asked, task)) if asked else []
            down, up = down + task.bytes * len(asked), up + sum(reply.bytes for reply in replies)
            partial, most = self.aggregation.partial, self.fleet.max_norm
            wanted = Wanted(number, self.model_sha256, self.values, frozenset(asked), most, partial)
            good, bad = accepted(replies, wanted)
            silent_ones = set(asked) - {reply.client for reply in replies}
            dropped += [*bad, *(Dropped(client, "it did not reply") for client in sorted(silent_ones))]
            if len(good) >= self.fleet.minimum:
                self.values = self.aggregation.aggregate(number, self.values, good)
                self._note(_figures(number, attempt + 1, good), dropped, down, up, began)
                return
        reasons = "; ".join(f"client {each.client}: {each.why}" for each in dropped[-3:]) or "no client is there"
        raise TrainingError(
            f"round {number} got {len(good)} replies that count, fewer than {self.fleet.minimum} (`minimum`), "
            f"{self.fleet.retries + 1} times in a row. The last that did not count: {reasons}. What was reached is "
            "kept: go on with `resume`."
        )

    def _drawn(self, number: int, attempt: int) -> list[int]:
        """Which clients are asked."""
        there = sorted(self.grid.clients())
        if self.fleet.per_round is None or len(there) <= self.fleet.per_round:
            return there
        rng = seeds.participants(self.seed, number, attempt)
        return sorted(int(each) for each in rng.choice(there, self.fleet.per_round, replace=False))

    def _note(self, row: dict[str, Any], dropped: Iterable[Dropped], down: int, up: int, began: float) -> None:
        """Judge the values, write a row and the checkpoint."""
        judged = {} if self.judge is None else self.judge(self.values)
        row |= {key: judged.get(key) for key in ("eval_loss", "eval_accuracy")}
        row.setdefault("client_accuracy", None)
        row |= {"bytes_down": down, "bytes_up": up, "seconds": round(time.perf_counter() - began, 3)}
        row["dropped"] = [each.to_json() for each in dropped]
        self.rows.append(row)
        write_rows(self.folder, self.rows)
        here = Checkpoint(int(row["round"]), self.values, self.aggregation.state())
        save_checkpoint(self.folder, here, self.model_sha256)

    def _said(self) -> str:
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
    """The part of a row that comes from replies."""
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
    """Weighted mean of a figure over the replies that have it."""
    return mean_of(
        (float(reply.figures[name]), weight)
        for reply, weight in zip(replies, weights, strict=True)
        if reply.figures.get(name) is not None
    )
