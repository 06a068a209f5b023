"""Results of a comparison: one row per training, and one summary per strategy.

``results.json`` is a list with, for each strategy, rho and seed,
    strategy, rho (null if the strategy has none), seed
    accuracy            on the test data, 0 to 1 (null if the loss has none, or the training failed)
    loss                on the test data
    trainable_share     trained parameters divided by all parameters
    step_seconds, step_memory_bytes    of a training step (an update by one batch, after the frozen pass), measured in a
                        fresh process; memory of the frozen pass if that is more; fit-head takes no step (0 s)
    frozen_seconds      time of the frozen pass over one batch; 0 if nothing is frozen; missing in older files
    stored_bytes        size of the features of a sample; missing in older files
    accumulate          micro-batches that a batch was split into to stay within a budget
    update_bytes        size of the trained parameters
    layers              their names, in model order
    learning_rate       the one chosen on validation data; 0 for fit-head
    predicted_memory_bytes
    source_accuracy, source_accuracy_before    on the old domain, if it was given (else null)
    failed              null, or why the training failed
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..files import replacing, write_bytes
from ..records import Entries, finite
from ..showing import clipped, counted, named, one_line
from ..sizes import size_text
from ..vocabulary import COMPARED
from .plan import Setting
from .ties import Chance

_MADE_BY = "`compare`"
FILE = "results.json"
_MOST = 1e18  # the largest number in a file that can be drawn
_RANGES = {
    **dict.fromkeys(("rho", "accuracy", "trainable_share", "source_accuracy", "source_accuracy_before"), 1.0),
    **dict.fromkeys(("seed", "step_seconds", "step_memory_bytes", "update_bytes", "learning_rate"), _MOST),
    **dict.fromkeys(("predicted_memory_bytes", "frozen_seconds", "stored_bytes"), _MOST),
}


@dataclass(frozen=True)
class Result:
    """One training; the attributes are those of the file."""

    strategy: str
    rho: float | None
    seed: int
    accuracy: float | None
    loss: float | None
    trainable_share: float
    step_seconds: float
    step_memory_bytes: int
    update_bytes: int
    layers: tuple[str, ...]
    learning_rate: float
    predicted_memory_bytes: int
    accumulate: int = 1
    source_accuracy: float | None = None
    source_accuracy_before: float | None = None
    failed: str | None = None
    frozen_seconds: float = 0.0
    stored_bytes: int = 0

    def __repr__(self) -> str:
        layers = f"{counted(len(self.layers), 'layer')}: {named(self.layers)}"
        return one_line(self, f"{self.setting}, seed {self.seed}", self._reached(), layers)

    def _reached(self) -> str:
        if self.failed is not None:
            return f"failed: {clipped(self.failed, 80)}"
        return f"loss {self.loss:.4g}" if self.accuracy is None else f"accuracy {self.accuracy:.1%}"

    def to_json(self) -> dict[str, Any]:
        """The entry of the file."""
        return {**asdict(self), "layers": list(self.layers)}

    @property
    def setting(self) -> Setting:
        """Strategy and rho."""
        return Setting(self.strategy, self.rho)


@dataclass(frozen=True)
class Summary:
    """The results of a setting, over its seeds.

    Attributes:
        setting: strategy and rho.
        accuracies: one per seed that did not fail, 0 to 1.
        failed: number of seeds that failed.
        mean, deviation: mean and standard deviation of the accuracies (deviation 0 for a single seed).
        trainable_share, step_seconds, step_memory_bytes, update_bytes, source_accuracy, frozen_seconds, stored_bytes:
            means over the seeds.
        loss: mean loss on the test data over seeds that did not fail; None if all failed.
        best: whether it has the highest mean.
        ties: whether it ties with the best (see `ties`); the best ties with itself.
        test_samples: number of samples that accuracies were measured on.
        training_chance: how far the mean may differ from the best one by the chance of training alone, 0 to 1; None if
            that is unknown, as with one seed.
        data_chance: how far it may differ because there are only so many test samples. A difference up to the root of
            the sum of both squares is a tie.
    """

    setting: Setting
    accuracies: tuple[float, ...]
    failed: int
    mean: float
    deviation: float
    trainable_share: float
    step_seconds: float
    step_memory_bytes: float
    update_bytes: float
    source_accuracy: float | None
    loss: float | None = None
    best: bool = False
    ties: bool = False
    frozen_seconds: float = 0.0
    stored_bytes: float = 0.0
    test_samples: int = 0
    training_chance: float | None = None
    data_chance: float = 0.0

    def __repr__(self) -> str:
        against = "best" if self.best else "ties with the best" if self.ties else None
        failed = f"{self.failed} failed" if self.failed else None
        time = f"{self.step_seconds * 1000:.3g} ms and {size_text(self.step_memory_bytes)} a step"
        return one_line(self, str(self.setting), self.reached(), against, failed, time)

    def reached(self) -> str:
        """Accuracy, with its deviation if there are several seeds, or the loss, or ``-`` if there is neither."""
        if self.accuracies:
            return f"{self.mean:.1%}" + (f" ± {100 * self.deviation:.1f}" if len(self.accuracies) > 1 else "")
        return "-" if self.loss is None else f"loss {self.loss:.4g}"

    def verdict(self) -> str:
        """How it compares to the best: best, tie, behind or failed."""
        if self.best:
            return "best"
        if not self.accuracies and self.loss is None:
            return "failed"
        if not self.accuracies:
            return "-" if not self.failed else f"{self.failed} failed"
        failed = f" ({self.failed} failed)" if self.failed else ""
        return ("tie" if self.ties else "behind") + failed

    def to_json(self) -> dict[str, Any]:
        """The attributes by name; strategy and rho in place of the setting."""
        entries = asdict(self)
        return {**entries.pop("setting"), **entries, "accuracies": list(self.accuracies)}


def ranked(summaries: Sequence[Summary]) -> list[Summary]:
    """Sorted by mean accuracy, highest first; without accuracies, by loss, lowest first."""
    return sorted(summaries, key=lambda summary: (-summary.mean, math.inf if summary.loss is None else summary.loss))


def ties_sentence(summaries: Sequence[Summary]) -> str:
    """A sentence on which differences may be chance."""
    best = next((summary for summary in summaries if summary.best), None)
    losses = [summary for summary in ranked(summaries) if summary.loss is not None]
    if best is None and losses:
        return (
            f"{losses[0].setting} has the lowest test loss, {losses[0].loss:.4g} (this loss has no accuracy, "
            "so differences are not tested)"
        )
    if best is None:
        return "no training succeeded: try lower learning rates"
    others = [summary for summary in ranked(summaries) if summary.accuracies and not summary.best]
    if not others:
        failed = len(summaries) - 1
        more = f"; {counted(failed, 'other')} failed" if failed else ""
        return f"{best.setting} reached {best.reached()}; there is no other strategy to compare it with{more}"
    ties = [summary for summary in others if summary.ties]
    if not ties:
        return f"{best.setting} is best, and no other ties with it: {_chance_text(others[0])}"
    leads = ", ".join(f"{summary.setting} ({100 * (best.mean - summary.mean):.1f} points)" for summary in ties)
    return f"{best.setting} has the highest mean, but its lead over {leads} is within chance: {_chance_text(ties[-1])}"


def _chance_text(summary: Summary) -> str:
    """How large a difference from the best may be chance, and why."""
    points = 100 * math.hypot(summary.training_chance or 0.0, summary.data_chance)
    samples = f"{100 * summary.data_chance:.1f} as there are {counted(summary.test_samples, 'test sample')}"
    seeds = "the chance of training is unknown with one seed"
    if summary.training_chance is not None:
        seeds = f"{100 * summary.training_chance:.1f} between seeds"
    return f"differences up to {points:.1f} points may be chance ({samples}, {seeds})"


def summarise(results: Sequence[Result], test_samples: int) -> list[Summary]:
    """A summary for each setting, in order of appearance; the mean is 0 without accuracies."""
    groups: dict[Setting, list[Result]] = {}
    for result in results:
        groups.setdefault(result.setting, []).append(result)
    summaries = []
    for setting, rows in groups.items():
        accuracies = tuple(row.accuracy for row in rows if row.accuracy is not None)
        losses = [row.loss for row in rows if row.loss is not None]
        old = [row.source_accuracy for row in rows if row.source_accuracy is not None]
        summaries.append(
            Summary(
                setting=setting,
                accuracies=accuracies,
                failed=sum(row.failed is not None for row in rows),
                mean=statistics.fmean(accuracies) if accuracies else 0.0,
                deviation=statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
                trainable_share=statistics.fmean(row.trainable_share for row in rows),
                step_seconds=statistics.fmean(row.step_seconds for row in rows),
                step_memory_bytes=statistics.fmean(row.step_memory_bytes for row in rows),
                update_bytes=statistics.fmean(row.update_bytes for row in rows),
                source_accuracy=statistics.fmean(old) if old else None,
                loss=statistics.fmean(losses) if losses else None,
                frozen_seconds=statistics.fmean(row.frozen_seconds for row in rows),
                stored_bytes=statistics.fmean(row.stored_bytes for row in rows),
            )
        )
    ranked = [summary for summary in summaries if summary.accuracies]
    if not ranked:
        return summaries
    chance = Chance.of([summary.accuracies for summary in ranked], test_samples)
    best = max(ranked, key=lambda summary: summary.mean)
    return [
        Summary(
            **{
                **{entry.name: getattr(summary, entry.name) for entry in fields(summary)},
                "best": summary is best,
                "ties": bool(summary.accuracies) and chance.tied(summary.accuracies, best.accuracies),
                "test_samples": test_samples,
                **_chances(chance, summary, best),
            }
        )
        for summary in summaries
    ]


def _chances(chance: Chance, summary: Summary, best: Summary) -> dict[str, float | None]:
    """How far a setting may differ from the best by chance."""
    if not summary.accuracies:
        return {}
    pair = summary.accuracies, best.accuracies
    return {"training_chance": chance.of_training(*pair), "data_chance": chance.of_data(*pair)}


def save_results(folder: Path, results: Sequence[Result]) -> None:
    """Write results.json and results.csv, each whole or not at all."""
    rows = [result.to_json() for result in results]
    write_bytes(folder / FILE, (json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    text = io.StringIO()
    writer = csv.DictWriter(text, [entry.name for entry in fields(Result)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "layers": " ".join(row["layers"])})
    with replacing(folder / "results.csv") as part:
        Path(part).write_text(text.getvalue(), encoding="utf-8")


def load_results(path: str | os.PathLike[str]) -> list[Result]:
    """Read results.json.

    Raises:
        RecordError: the file is not a results.json, or is damaged.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=finite, parse_float=finite)
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read as JSON ({error}). Make it again with {_MADE_BY}.") from error
    if not isinstance(content, list):
        raise RecordError(f"{path} is damaged: expected a list. Make it again with {_MADE_BY}.")
    return [_result(Entries(entry, f"{path}, entry {i},", _MADE_BY)) for i, entry in enumerate(content)]


def _result(entry: Entries) -> Result:
    nothing = type(None)
    for key, most in _RANGES.items():
        value = entry.get_optional(key, None, float, nothing)
        if value is not None and not 0 <= value <= most:
            raise entry.damaged(f"{key!r} must be 0 to {most:g}, found {value}")
    for key in ("step_seconds", "step_memory_bytes"):
        if entry.take(key, float) == 0:
            raise entry.damaged(f"{key!r} must be above 0")
    if (strategy := entry.take("strategy", str)) not in COMPARED:
        raise entry.damaged(f"'strategy' {strategy!r} is not known")
    return Result(
        strategy=entry.take("strategy", str),
        rho=entry.take("rho", float, nothing),
        seed=entry.take("seed", int),
        accuracy=entry.take("accuracy", float, nothing),
        loss=entry.get_optional("loss", None, float, nothing),
        trainable_share=entry.take("trainable_share", float),
        step_seconds=entry.take("step_seconds", float),
        step_memory_bytes=entry.take("step_memory_bytes", int),
        update_bytes=entry.take("update_bytes", int),
        layers=entry.names("layers"),
        learning_rate=entry.take("learning_rate", float),
        predicted_memory_bytes=entry.take("predicted_memory_bytes", int),
        accumulate=entry.get_optional("accumulate", 1, int),
        source_accuracy=entry.get_optional("source_accuracy", None, float, nothing),
        source_accuracy_before=entry.get_optional("source_accuracy_before", None, float, nothing),
        failed=entry.get_optional("failed", None, str, nothing),
        frozen_seconds=entry.get_optional("frozen_seconds", 0.0, float),
        stored_bytes=entry.get_optional("stored_bytes", 0, int),
    )
