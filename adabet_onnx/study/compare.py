"""Compare strategies on the user's model and data: all train for the same epochs, each with its own best learning rate.

For each seed the model is scored anew. For each strategy (and rho) the learning rate is chosen on a validation split of
the training data, with the first seed's selection, from a grid that grows where its best is at an edge (`rates`); then
each seed trains on all training data, and is measured on the test data. Each distinct selection's step is measured in a
fresh process, one at a time, after all trainings.

Finished work is stored in the folder and is not repeated: plan.json, scores/, runs/, costs/, and at the end
results.json, results.csv. (starting-artifacts/ and features/ are recreated if they are missing.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.arithmetic import integer_data
from ..data.dataset import Dataset, Splits
from ..data.feeder import Feeder
from ..data.labels import align_classes
from ..data.preprocess import arithmetic_for
from ..data.source import open_data
from ..drawing import finished
from ..errors import UsageError
from ..file_names import FEATURES, MODEL, PLAN, STARTING_ARTIFACTS
from ..files import check_folder, make_folder, remove_folder, write_bytes
from ..frames import frame
from ..model.head import check_head_options, with_head
from ..model.open import Model, ModelSource, open_model
from ..options import typed
from ..progress import Progress, silent
from ..showing import counted, html_table, named, one_line
from ..sizes import size_text
from ..trainability.choices import choose_backend
from ..trainability.class_weights import resolved
from ..training.evaluation import evaluate
from ..training.learning_check import evaluated_at_chance
from ..training_runtime import need_runtime
from . import runs
from .drawing import draw_comparison
from .measured import results_of
from .plan import Plan, fingerprint, keep_plan
from .ray_cluster import Cluster, connect
from .ray_runner import ClusterRunner
from .results import Result, Summary, ranked, save_results, summarise, ties_sentence
from .runner import LocalRunner, Runner
from .selections import select_all
from .study import Study
from .trainings import Trainings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        folder: the folder with all files.
        results: one per strategy, rho and seed.
        summaries: one per strategy and rho.
        test_samples: number of samples that the accuracies were measured on.
        before: accuracy of the original model (with its new head, if it was given one).
        source_before: the same on the old domain, or None.
        data: how the training data was interpreted, in one line.
        warnings: strategies that ended at chance level, one sentence each.
    """

    folder: Path
    results: list[Result]
    summaries: list[Summary]
    test_samples: int
    before: float | None
    source_before: float | None
    data: str = ""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The attributes except ``folder``, as JSON values."""
        return {
            "data": self.data,
            "test_samples": self.test_samples,
            "before": self.before,
            "source_before": self.source_before,
            "warnings": list(self.warnings),
            "results": [result.to_json() for result in self.results],
            "summaries": [summary.to_json() for summary in self.summaries],
        }

    def to_dataframe(self, of: str = "results", library: str | None = None) -> Any:
        """A data frame with a row for each training, or for each strategy and rho.

        Args:
            of: ``"results"``, whose columns are those of results.json, or ``"summaries"``.
            library: ``"pandas"`` or ``"polars"``; None: pandas where it is installed, else polars.

        Returns:
            A DataFrame of that library.

        Raises:
            UsageError: ``of`` or ``library`` has another value.
            RuntimeMissingError: the library is not installed.
        """
        if of not in ("results", "summaries"):
            raise UsageError(f"of must be 'results' or 'summaries', not {of!r}.")
        rows = [row.to_json() for row in (self.results if of == "results" else self.summaries)]
        return frame(rows, list(rows[0]) if rows else [], library)

    @typed
    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Plot accuracy (or loss, if there is none) against step memory and step time, one point per strategy.

        Args:
            path: also write the plot to this file: ``.png``, ``.svg`` or ``.pdf``.

        Returns:
            The figure, which a notebook displays.

        Raises:
            UsageError: the file has another suffix.
            OutputError: the file cannot be written.
        """
        return finished(draw_comparison(self.summaries), path)

    def __repr__(self) -> str:
        best = next(iter(ranked(self.summaries)), None)
        ties = [str(row.setting) for row in self.summaries if row.ties and not row.best]
        return one_line(
            self,
            f"{counted(len(self.results), 'training')} of {counted(len(self.summaries), 'setting')}",
            counted(self.test_samples, "test sample"),
            f"best: {best.setting} {best.reached()}" if best is not None else None,
            f"ties with it: {named(ties)}" if ties else None,
        )

    def _repr_html_(self) -> str:
        headings = ("strategy", "test", "trained", "step time", "step memory", "update", "against the best")
        rows = [
            (
                str(row.setting),
                row.reached(),
                f"{row.trainable_share:.1%}",
                f"{row.step_seconds * 1000:.3g} ms",
                size_text(row.step_memory_bytes),
                size_text(row.update_bytes),
                row.verdict(),
            )
            for row in ranked(self.summaries)
        ]
        before = [] if self.before is None else [f"accuracy before: {self.before:.1%}"]
        title = f"{counted(len(self.results), 'training')}, measured on {counted(self.test_samples, 'test sample')}"
        lines = [*before, *self.warnings, ties_sentence(self.summaries)]
        return html_table(title, headings, rows, lines=lines)


@typed
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
        model: the trained model, opened or anything that `open_model` accepts.
        data: labelled data with a test part, in any form that `Data` describes.
        folder: where results are written; an interrupted comparison in it is continued.
        plan: what to compare, and how; None for the defaults of `Plan`.
        num_classes: first give the model a new head with this many outputs.
        preset: auto, unit, imagenet or none: how images become input (see `Preprocessing`).
        old_domain: labelled data of the domain the model was trained on, with the same classes, to measure how much
            of it is forgotten.
        progress: called with the current activity, the number of finished steps and the total.

    Returns:
        The comparison.

    Raises:
        UsageError: the folder holds a comparison with other options, or an old domain is given for a model with a new
            head.
        DataError: there are no labels, or no test part.
        AdabetError: see the functions that this one calls.

    Example:
        >>> from adabet_onnx import Plan, compare
        >>> plan = Plan(strategies=("head",), seeds=1, epochs=1, rates=(0.01,))
        >>> comparison = compare("model.onnx", "new_domain.npz", "compared", plan)
        >>> [str(summary.setting) for summary in comparison.summaries]
        ['head']
    """
    plan = plan or Plan()
    with _cluster(plan) as cluster:
        study, task, old_data = _begin(
            model, data, folder, plan, num_classes=num_classes, preset=preset, old=old_domain, progress=progress
        )
        plan, held = study.plan, study.splits.for_evaluation
        options: dict[str, Any] = {"preprocessing": study.used, "choices": plan.choices, "threads": plan.threads}
        before = evaluate(study.model, held, **options)["accuracy"]
        old = None if old_data is None else evaluate(study.model, old_data, **options)["accuracy"]
        with _runner(cluster, study, task, old_data) as runner:
            selections = select_all(study)
            trainings = Trainings(study, runner, selections)
            rates = trainings.rates()
            trainings.finish(rates)
            results = results_of(study, selections, rates, trainings, runner, old)
    save_results(study.folder, results)
    remove_folder(study.folder / STARTING_ARTIFACTS)
    if not plan.keep_features:
        remove_folder(study.features)
    summaries = summarise(results, len(held))
    warnings = tuple(_at_chance(study, summaries))
    taken = Feeder(study.model, study.used).describe(study.splits.train)
    return Comparison(study.folder, results, summaries, len(held), before, old, taken, warnings)


def _cluster(plan: Plan) -> contextlib.AbstractContextManager[Cluster | None]:
    """The cluster of a plan: connected before anything long begins, so that a wrong address costs no time."""
    return contextlib.nullcontext() if plan.ray is None else connect(plan.ray, plan.processes)


@contextlib.contextmanager
def _runner(cluster: Cluster | None, study: Study, task: runs.Task, old: Dataset | None) -> Iterator[Runner]:
    """Where trainings run."""
    runner: Runner = (
        LocalRunner(task, study.plan.processes or 1)
        if cluster is None
        else ClusterRunner(cluster, task, study.splits, old)
    )
    try:
        yield runner
    finally:
        runner.close()


def _begin(
    source: ModelSource,
    data: Any,
    folder: str | os.PathLike[str],
    plan: Plan,
    *,
    num_classes: int | None,
    preset: str,
    old: Any,
    progress: Progress | None,
) -> tuple[Study, runs.Task, Dataset | None]:
    """Check all inputs before anything long starts, and write the plan to the folder.

    Returns the comparison, what its trainings have in common, and the data of the old domain.
    """
    backend = choose_backend(plan.backend, plan.choices)
    need_runtime(backend)
    target = check_folder(folder)
    check_head_options(num_classes, plan.kept)
    model, headed = with_head(open_model(source), num_classes, kept=plan.kept)
    if old is not None and model.new_head:
        raise UsageError(
            "accuracy on the old domain cannot be measured with a new head: its outputs are other classes. Leave out "
            "`old_domain`, or `num_classes`."
        )
    plan = plan.for_model(model)
    splits = _labelled(data, model, plan.choices.ignore_label)
    used = arithmetic_for(model, integer_data(model, splits.train), plan.preprocessing, preset=preset)
    splits = runs.used_data(splits, plan.train_samples)
    plan = dataclasses.replace(plan, choices=resolved(plan.choices, model, splits.train))
    old_data = None if old is None else open_data(old, model).for_evaluation
    facts = {
        "model_sha256": model.sha256,
        "data_sha256": fingerprint((splits.train, splits.test)),
        "source_sha256": None if old_data is None else fingerprint((old_data,)),
        "preprocessing": used.to_json(),
        "data": Feeder(model, used).describe(splits.train),
        "test_samples": len(splits.for_evaluation),
    }
    make_folder(target)
    keep_plan(target / PLAN, plan, facts)
    path = target / MODEL
    if not path.is_file():
        write_bytes(path, headed or model.proto().SerializeToString())
    task = runs.Task(
        model=path,
        data=data,
        source=old,
        preprocessing=used.to_json(),
        train_samples=plan.train_samples,
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        accumulate=plan.accumulate,
        threads=plan.training_threads,
        choices=plan.choices,
        kept=plan.kept_features,
        pictures=target / FEATURES if plan.kept_features.keep_features else None,
    )
    report = progress or silent
    if task.pictures is not None:
        splits, old_data = runs.with_pictures(splits, old_data, task.pictures, report)
    return Study(model, splits, used, plan, backend, target, report), task, old_data


def _at_chance(study: Study, summaries: Sequence[Summary]) -> Iterator[str]:
    """A sentence for each setting that ended at chance level."""
    for summary in summaries:
        mean = summary.mean if summary.accuracies else None
        warning = evaluated_at_chance(study.model, study.splits.for_evaluation, mean, study.plan.choices)
        if warning is not None:
            yield f"{summary.setting}: {warning}"


def _labelled(data: Any, model: Model, ignore: int | None) -> Splits:
    splits = open_data(data, model)
    splits.train.need_labels("comparing")
    if splits.test is None:
        raise UsageError(
            "comparing needs test data that no strategy has trained on: give x_test and y_test, or a folder with test/."
        )
    known = model.metadata("classes")
    return Splits(*(align_classes(part, known, ignore=ignore) for part in (splits.train, splits.test)))
