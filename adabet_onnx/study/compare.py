"""Strategies compared on the user's model and data: the same epochs for all, each with its own best learning rate.

For each seed the model is scored anew. For each strategy (and rho) the learning rate is chosen on a validation split of
the training data, with the first seed's selection, from a grid that grows where its best is at an edge (`rates`); then
each seed trains on all training data, and is measured on the test data. Each distinct selection's step is measured in a
fresh process, one at a time, after all trainings.

Everything finished is in the folder, and is not done again: plan.json, scores/, runs/, costs/, and at the end
results.json, results.csv. (artifacts/ is made again where it is missing.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..cost.measure import measure_training
from ..cost.predict import Predictor
from ..data.arithmetic import integer_data
from ..data.dataset import Splits
from ..data.feeder import Feeder
from ..data.labels import align_classes
from ..data.preprocess import Arithmetic, arithmetic_for
from ..data.source import open_data
from ..errors import CheckError, RecordError, UsageError
from ..files import check_folder, make_folder, write_bytes
from ..model.head import check_head_options, new_head
from ..model.open import Model, ModelSource, open_model
from ..progress import Progress, silent
from ..records import Entries, read_record, write_json
from ..scoring.record import Scores, load_scores
from ..scoring.score import score
from ..selection.budget import Budget
from ..selection.options import Choosing
from ..selection.record import Selection
from ..selection.strategies import NEEDS_COSTS, select
from ..training.artifacts import make_artifacts
from ..training.choices import choose_backend, need_runtime
from ..training.evaluation import evaluate
from ..training.learned import evaluated_at_chance
from . import runs
from .fisher import fisher_information
from .plan import FISHER, Plan, Setting, fingerprint, keep_plan
from .rates import EXTENSIONS, Outcome, best_rate, next_rate
from .results import Result, Summary, save_results, summarise

_COST, _VERSION = "adabet-onnx/measured-cost", 1
_MADE_BY = "`compare`"


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        folder: where everything is.
        results: one per strategy, rho and seed.
        summaries: one per strategy and rho.
        test_samples: how many samples the accuracies are of.
        before: accuracy of the model as it was (with its new head, where it got one).
        source_before: the same on the old domain, or None.
        data: what the training data was taken for, in a line.
        warnings: which strategies ended at chance, a sentence each.
    """

    folder: Path
    results: list[Result]
    summaries: list[Summary]
    test_samples: int
    before: float | None
    source_before: float | None
    data: str = ""
    warnings: tuple[str, ...] = ()


def compare(
    model: ModelSource,
    data: Any,
    folder: str | os.PathLike[str],
    plan: Plan | None = None,
    *,
    num_classes: int | None = None,
    preset: str = "auto",
    old_domain: Any = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare strategies.

    Args:
        model: the trained model: opened, or what `open_model` takes.
        data: labelled data with a test part, in any form that `Data` describes.
        folder: where results go; a comparison that was interrupted there goes on.
        plan: what to compare, and how; None: the defaults of `Plan`.
        num_classes: first give the model a new head of so many outputs.
        preset: auto, unit, imagenet or none: how images become input (see `Preprocessing`).
        old_domain: labelled data of the domain the model was trained on, with the same classes: how much of it is
            forgotten.
        progress: called with what is going on, steps done and steps in all.

    Returns:
        The comparison.

    Raises:
        UsageError: a folder begun with other options, or an old domain for a model with a new head.
        DataError: there are no labels, or no test part.
        AdabetError: see the functions this one calls.

    Example:
        >>> from adabet_onnx import Plan, compare
        >>> plan = Plan(strategies=("head",), seeds=1, epochs=1, rates=(0.01,))
        >>> found = compare("model.onnx", "new_domain.npz", "compared", plan)
        >>> [str(summary.setting) for summary in found.summaries]
        ['head']
    """
    plan = plan or Plan()
    backend = choose_backend(plan.backend, plan.choices)
    need_runtime(backend)
    target = check_folder(folder)
    check_head_options(num_classes, plan.kept)
    opened, headed = _with_head(open_model(model), num_classes, plan.kept)
    if old_domain is not None and opened.new_head:
        raise UsageError(
            "accuracy on the old domain cannot be measured with a new head: its outputs are other classes. Leave out "
            "`old_domain`, or `num_classes`."
        )
    plan = dataclasses.replace(plan, choices=plan.choices.for_model(opened))
    splits = _labelled(data, opened, plan.choices.ignore_label)
    used = arithmetic_for(opened, integer_data(opened, splits.train), plan.preprocessing, preset=preset)
    splits = runs.used_data(splits, plan.train_samples)
    taken = Feeder(opened, used).taken(splits.train)
    old_data = None if old_domain is None else open_data(old_domain, opened).for_evaluation
    facts = {
        "model_sha256": opened.sha256,
        "data_sha256": fingerprint((splits.train, splits.test)),
        "source_sha256": None if old_data is None else fingerprint((old_data,)),
        "preprocessing": used.to_json(),
        "data": taken,
        "test_samples": len(splits.for_evaluation),
    }
    make_folder(target)
    keep_plan(target / "plan.json", plan, facts)
    path = target / "model.onnx"
    if not path.is_file():
        write_bytes(path, headed or opened.proto().SerializeToString())
    study = _Study(opened, splits, used, plan, backend, target, progress)
    task = runs.Task(
        model=path,
        data=data,
        source=old_domain,
        preprocessing=used.to_json(),
        train_samples=plan.train_samples,
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        accumulate=plan.accumulate,
        threads=plan.training_threads,
        choices=plan.choices,
    )
    held = splits.for_evaluation
    how: dict[str, Any] = {"preprocessing": used, "choices": plan.choices, "threads": plan.threads}
    before = evaluate(opened, held, **how)["accuracy"]
    old = None if old_data is None else evaluate(opened, old_data, **how)["accuracy"]
    selections = study.selections()
    rates = study.rates(task, selections)
    study.train(task, study.final_jobs(selections, rates))
    results = study.results(selections, rates, old)
    save_results(target, results)
    _remove(target / "artifacts")
    summaries = summarise(results, len(held))
    warnings = []
    for summary in summaries:
        mean = summary.mean if summary.accuracies else None
        said = evaluated_at_chance(opened, held, mean, plan.choices)
        warnings += [] if said is None else [f"{summary.setting}: {said}"]
    return Comparison(target, results, summaries, len(held), before, old, taken, tuple(warnings))


def _remove(folder: Path) -> None:
    """Delete a folder so that half of it is never found in its place."""
    gone = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(gone, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _with_head(model: Model, num_classes: int | None, kept: Mapping[str, bool]) -> tuple[Model, bytes | None]:
    if num_classes is None:
        return model, None
    proto = new_head(model, num_classes, seed=0, **kept).proto()
    return dataclasses.replace(open_model(proto), name=model.name), proto.SerializeToString()


def _labelled(data: Any, model: Model, ignore: int | None) -> Splits:
    splits = open_data(data, model)
    splits.train.need_labels("comparing")
    if splits.test is None:
        raise UsageError(
            "comparing needs test data that no strategy has trained on: give x_test and y_test, or a folder with test/."
        )
    known = model.metadata("classes")
    return Splits(*(align_classes(part, known, ignore=ignore) for part in (splits.train, splits.test)))


class _Study:
    """The steps of one comparison."""

    def __init__(
        self,
        model: Model,
        splits: Splits,
        preprocessing: Arithmetic,
        plan: Plan,
        backend: str,
        folder: Path,
        progress: Progress | None,
    ) -> None:
        self.model, self.splits, self.preprocessing, self.plan = model, splits, preprocessing, plan
        self.backend, self.folder, self.threads = backend, folder, plan.training_threads
        self._say = progress or silent
        self._selected: dict[str, Selection] = {}  # by what its artifacts are called
        self._costs = Predictor(model, batch_size=plan.batch_size, backend=backend, choices=plan.choices)

    def selections(self) -> dict[tuple[Setting, int], Selection]:
        """What each setting selects with each seed."""
        found: dict[tuple[Setting, int], Selection] = {}
        settings = self.plan.settings()
        for seed in range(self.plan.seeds):
            self._say("scoring", seed, self.plan.seeds)
            scores = self._scores(seed)
            for setting in settings:
                selection = found[setting, seed] = self._select(scores, setting, seed)
                self._selected[_key(selection)] = selection
        self._say("scoring", self.plan.seeds, self.plan.seeds)
        return found

    def _scores(self, seed: int) -> Scores:
        path = self.folder / "scores" / f"{seed}.json"
        if path.is_file():
            scores = load_scores(path)
            if scores.model_sha256 != self.model.sha256:
                raise RecordError(f"{path} holds scores of another model. Give another folder.")
            return scores
        make_folder(path.parent)
        made = score(
            self.model,
            self.splits,
            preprocessing=self.preprocessing,
            seed=seed,
            threads=self.threads,
            scoring=self.plan.scoring,
        )
        made.save(path)
        return made

    def _select(self, scores: Scores, setting: Setting, seed: int) -> Selection:
        values = self._fisher(seed) if setting.strategy == FISHER else None
        # All layers are what everything else is compared with.
        budget = Budget() if setting.strategy == "all" else self.plan.budget
        costs = self._costs if budget or setting.strategy in NEEDS_COSTS else None
        return select(
            scores,
            strategy=None if values is None else setting.strategy,
            choosing=Choosing(
                strategy="adabet" if values is not None else setting.strategy,
                rho=setting.rho,
                head=self.plan.head,
                budget=budget,
                max_accumulate=self.plan.max_accumulate,
            ),
            costs=costs,
            values=values,
            seed=seed,
        )

    def _fisher(self, seed: int) -> dict[str, float]:
        path = self.folder / "scores" / f"fisher-{seed}.json"
        kind = "adabet-onnx/fisher"
        if path.is_file():
            inner = Entries(read_record(path, kind, 1, _MADE_BY), str(path), _MADE_BY)
            layers = inner.inside("layers")
            return {layer.name: float(layers.take(layer.name, float)) for layer in self.model.layers}
        found = fisher_information(
            self.model,
            self.splits,
            samples=min(128, len(self.splits.train)),
            seed=seed,
            choices=self.plan.choices,
            preprocessing=self.preprocessing,
            threads=self.threads,
        )
        write_json(path, {"format": kind, "version": 1, "layers": found})
        return found

    def artifacts(self, selection: Selection) -> Path:
        """The folder that trainings of a selection start from; the same for equal parameters."""
        path = self.folder / "artifacts" / _key(selection)
        if not path.is_dir():
            make_folder(path.parent)
            make_artifacts(self.model, selection, path, backend=self.backend, check=False, choices=self.plan.choices)
        return path

    def rates(self, task: runs.Task, selections: dict[tuple[Setting, int], Selection]) -> dict[Setting, float]:
        """The rate of each setting, chosen by trainings with the first seed's selection."""
        settings, grid = self.plan.settings(), self.plan.grid
        if len(grid) == 1:
            return dict.fromkeys(settings, grid[0])
        tried = {setting: list(grid) for setting in settings}
        outcomes = self._try(task, selections, tried)
        for _ in range(EXTENSIONS if not self.plan.rates else 0):
            more = {setting: next_rate(outcomes[setting]) for setting in settings}
            if not any(more.values()):
                break
            for setting, rate in more.items():
                tried[setting] += [] if rate is None else [rate]
            outcomes = self._try(task, selections, tried)
        # Where all failed the lowest is tried again on all data, and its failure is the result.
        return {setting: best_rate(outcomes[setting]) or min(tried[setting]) for setting in settings}

    def _try(
        self,
        task: runs.Task,
        selections: dict[tuple[Setting, int], Selection],
        tried: dict[Setting, list[float]],
    ) -> dict[Setting, dict[float, Outcome | None]]:
        """Outcomes of trainings by setting and rate."""
        jobs = {
            (setting, rate): runs.Job(
                name=_rate_name(setting, selections[setting, 0], rate, self._parts(selections[setting, 0])),
                artifacts=self.folder / "artifacts" / _key(selections[setting, 0]),
                rate=rate,
                seed=0,
                validation=self.plan.rate_validation,
                parts=self._parts(selections[setting, 0]),
                what=f"choosing a rate: {setting}, {rate:g}",
            )
            for setting, rates in tried.items()
            for rate in rates
        }
        self.train(task, list(jobs.values()))
        found: dict[Setting, dict[float, Outcome | None]] = {setting: {} for setting in tried}
        for (setting, rate), job in jobs.items():
            outcome = runs.read(self.folder / "runs" / f"{job.name}.json")
            failed = outcome["failed"] is not None or outcome["loss"] is None
            found[setting][rate] = None if failed else Outcome(outcome["accuracy"] or 0.0, outcome["loss"])
        return found

    def final_jobs(
        self, selections: dict[tuple[Setting, int], Selection], rates: dict[Setting, float]
    ) -> list[runs.Job]:
        """The trainings that count."""
        return [
            runs.Job(
                name=_final_name(setting, seed, selection, rates[setting], self._parts(selection)),
                artifacts=self.folder / "artifacts" / _key(selection),
                rate=rates[setting],
                seed=seed,
                validation=0.0,
                parts=self._parts(selection),
                what=f"{setting}, seed {seed}",
            )
            for (setting, seed), selection in selections.items()
        ]

    def _parts(self, selection: Selection) -> int:
        return selection.parts_of(self.plan.batch_size)

    def train(self, task: runs.Task, jobs: Sequence[runs.Job]) -> None:
        """Do what has not been done."""
        folder = self.folder / "runs"
        make_folder(folder)
        wanted = {job.name: job for job in jobs}
        left = [job for job in wanted.values() if not (folder / f"{job.name}.json").is_file()]
        missing = {job.artifacts.name for job in left}
        for key, selection in self._selected.items():
            if key in missing:
                self.artifacts(selection)
        done = len(wanted) - len(left)
        self._say("training", done, len(wanted))
        for job in runs.run_all(task, left, folder, self.plan.processes):
            done += 1
            self._say(job.what, done, len(wanted))

    def results(
        self,
        selections: dict[tuple[Setting, int], Selection],
        rates: dict[Setting, float],
        source_before: float | None,
    ) -> list[Result]:
        """Everything about each training."""
        sizes = {parameter.name: parameter.size for layer in self.model.layers for parameter in layer.parameters}
        found = []
        for number, ((setting, seed), selection) in enumerate(selections.items()):
            self._say("measuring", number, len(selections))
            name = _final_name(setting, seed, selection, rates[setting], self._parts(selection))
            outcome = runs.read(self.folder / "runs" / f"{name}.json")
            seconds, memory = self._measured(selection)
            trained = sum(sizes[name] for name in selection.parameters)
            old = outcome["source"]
            found.append(
                Result(
                    strategy=setting.strategy,
                    rho=setting.rho,
                    seed=seed,
                    accuracy=outcome["accuracy"],
                    loss=outcome["loss"],
                    trainable_share=trained / self.model.weight_count,
                    step_seconds=seconds,
                    step_memory_bytes=memory,
                    update_bytes=4 * trained,
                    layers=selection.layers,
                    learning_rate=rates[setting],
                    predicted_memory_bytes=self._costs.training(
                        selection.parameters, accumulate=self._parts(selection)
                    ).memory_bytes,
                    accumulate=self._parts(selection),
                    source_accuracy=None if old is None else old.get("accuracy"),
                    source_accuracy_before=source_before,
                    failed=outcome["failed"],
                )
            )
        self._say("measuring", len(selections), len(selections))
        return found

    def _measured(self, selection: Selection) -> tuple[float, int]:
        """Seconds and memory of an update; once for equal parameters."""
        parts = self._parts(selection)
        path = self.folder / "costs" / f"{_key(selection)}{_suffix(parts)}.json"
        if path.is_file():
            entries = Entries(read_record(path, _COST, _VERSION, _MADE_BY), str(path), _MADE_BY)
            return float(entries.take("seconds", float)), int(entries.take("memory_bytes", int))
        make_folder(path.parent)
        try:
            cost = measure_training(
                self.artifacts(selection), batch_size=self.plan.batch_size, accumulate=parts, threads=self.threads
            )
        except CheckError as error:
            raise CheckError(f"{error} What was trained is kept: start again to measure the rest.") from error
        write_json(path, {"format": _COST, "version": _VERSION, **asdict(cost)})
        return cost.seconds, cost.memory_bytes


def _key(selection: Selection) -> str:
    return hashlib.sha256("\n".join(selection.parameters).encode()).hexdigest()[:16]


def _suffix(parts: int) -> str:
    return f"-in-{parts}" if parts > 1 else ""


def _rate_name(setting: Setting, selection: Selection, rate: float, parts: int) -> str:
    return f"rate-{setting.key}-{_key(selection)}{_suffix(parts)}-{rate:g}"


def _final_name(setting: Setting, seed: int, selection: Selection, rate: float, parts: int) -> str:
    return f"final-{setting.key}-{seed}-{_key(selection)}{_suffix(parts)}-{rate:g}"
