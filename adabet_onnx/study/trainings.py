"""The trainings of a comparison: those for choosing a learning rate, and the final ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..file_names import RUNS, final_training, rate_training
from ..files import make_folder, remove_folder
from ..selection.record import Selection
from ..training.rates import EXTENSIONS, TrialOutcome, best_rate, next_rate
from . import runs
from .plan import Setting
from .runner import Runner
from .study import Selections, Study, key


class Trainings:
    """Runs the trainings of a comparison that have not finished yet.

    Args:
        study: the comparison.
        runner: runs the trainings.
        selections: the parameters that each training updates.
    """

    def __init__(self, study: Study, runner: Runner, selections: Selections) -> None:
        self._study, self._runner, self._selections = study, runner, selections
        self._folder = study.folder / RUNS

    def rates(self) -> dict[Setting, float]:
        """The rate of each setting, chosen by trainings of the first seed's selection; 0 if nothing is trained."""
        plan = self._study.plan
        settings, grid = [setting for setting in plan.settings() if setting.trains], plan.grid
        untrained = {setting: 0.0 for setting in plan.settings() if not setting.trains}
        if len(grid) == 1:
            return dict.fromkeys(settings, grid[0]) | untrained
        tried = {setting: list(grid) for setting in settings}
        outcomes = self._try(tried)
        for _ in range(EXTENSIONS if not plan.rates else 0):
            more = {setting: next_rate(outcomes[setting]) for setting in settings}
            if not any(more.values()):
                break
            for setting, rate in more.items():
                tried[setting] += [] if rate is None else [rate]
            outcomes = self._try(tried)
        # If all failed, the lowest is tried again on all data, and its failure is the result.
        return {setting: best_rate(outcomes[setting]) or min(tried[setting]) for setting in settings} | untrained

    def finish(self, rates: dict[Setting, float]) -> None:
        """Run the final trainings, each with the rate of its setting."""
        self._train(
            [
                self._job(
                    self._final(setting, seed, rates[setting]),
                    selection,
                    rate=rates[setting],
                    seed=seed,
                    validation=0.0,
                    what=f"{setting}, seed {seed}",
                )
                for (setting, seed), selection in self._selections.items()
            ],
            last=True,
        )

    def finished(self, setting: Setting, seed: int, rate: float) -> dict[str, Any]:
        """The outcome of a final training."""
        return runs.read(self._folder / f"{self._final(setting, seed, rate)}.json")

    def _try(self, tried: dict[Setting, list[float]]) -> dict[Setting, dict[float, TrialOutcome | None]]:
        """Outcomes of trainings by setting and rate."""
        jobs = {(setting, rate): self._trial(setting, rate) for setting, rates in tried.items() for rate in rates}
        self._train(list(jobs.values()))
        outcomes: dict[Setting, dict[float, TrialOutcome | None]] = {setting: {} for setting in tried}
        for (setting, rate), job in jobs.items():
            outcome = runs.read(self._folder / f"{job.name}.json")
            failed = outcome["failed"] is not None or outcome["loss"] is None
            outcomes[setting][rate] = None if failed else TrialOutcome(outcome["accuracy"] or 0.0, outcome["loss"])
        return outcomes

    def _trial(self, setting: Setting, rate: float) -> runs.Job:
        selection = self._selections[setting, 0]
        return self._job(
            rate_training(setting.key, self._study.label(selection), rate),
            selection,
            rate=rate,
            seed=0,
            validation=self._study.plan.rate_validation,
            what=f"choosing a rate: {setting}, {rate:g}",
        )

    def _final(self, setting: Setting, seed: int, rate: float) -> str:
        """The name of a final training."""
        return final_training(setting.key, seed, self._study.label(self._selections[setting, seed]), rate)

    def _job(
        self, name: str, selection: Selection, *, rate: float, seed: int, validation: float, what: str
    ) -> runs.Job:
        return runs.Job(
            name=name,
            artifacts=self._study.artifacts(selection),
            rate=rate,
            seed=seed,
            validation=validation,
            parts=self._study.parts(selection),
            what=what,
        )

    def _train(self, jobs: Sequence[runs.Job], *, last: bool = False) -> None:
        """Run the trainings that have not finished yet.

        Args:
            jobs: the trainings.
            last: whether no further trainings will share their features.
        """
        make_folder(self._folder)
        distinct = {job.name: job for job in jobs}
        left = [job for job in distinct.values() if not (self._folder / f"{job.name}.json").is_file()]
        missing = {job.artifacts.name for job in left}
        for name, selection in {key(selection): selection for selection in self._selections.values()}.items():
            if name in missing:
                self._study.make_artifacts(selection)
        places = {path: self._study.features_of(path) for path in {job.artifacts for job in left}}
        left = [replace(job, features=places[job.artifacts]) for job in left]
        users = Counter(job.features for job in left)
        done = len(distinct) - len(left)
        self._study.say("training", done, len(distinct))
        for job in self._runner.run_all(left, self._folder):
            done += 1
            self._study.say(job.what, done, len(distinct))
            users[job.features] -= 1
            if last and job.features is not None and not users[job.features] and not self._study.plan.keep_features:
                remove_folder(job.features)
