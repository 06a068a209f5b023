"""Strategies compared on the user's model and data: the same epochs for all, each with its own best learning rate.

For each seed the model is scored anew. For each strategy (and rho) the learning rate is chosen on a validation split of
the training data, with the first seed's selection, from a grid that grows where its best is at an edge (`rates`); then
each seed trains on all training data, and is measured on the test data. Each distinct selection's step is measured in a
fresh process, one at a time, after all trainings.

Everything finished is in the folder, and is not done again: plan.json, scores/, runs/, costs/, and at the end
results.json, results.csv. (artifacts/ and features/ are made again where they are missing.)
"""

from __future__ import annotations

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
from ..file_names import ARTIFACTS, FEATURES, MODEL, PLAN
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
from ..training.learned import evaluated_at_chance
from ..training_runtime import need_runtime
from . import runs
from .drawing import draw_comparison
from .measured import results_of
from .plan import Plan, fingerprint, keep_plan
from .results import Result, Summary, ranked, save_results, summarise, ties_sentence
from .selections import select_all
from .study import Study
from .trainings import Trainings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    def to_json(self) -> dict[str, Any]:
        """For programs: the attributes but ``folder``."""
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
        """A row for each training; or for each strategy and rho, over its seeds.

        Args:
            of: ``"results"``, whose columns are those of results.json, or ``"summaries"``.
            library: ``"pandas"`` or ``"polars"``; None: pandas where it is installed, else polars.

        Returns:
            A DataFrame of that library.

        Raises:
            UsageError: another library, or something else than results and summaries, is asked for.
            RuntimeMissingError: it, or either, is not installed.
        """
        if of not in ("results", "summaries"):
            raise UsageError(f"of must be 'results' or 'summaries', not {of!r}.")
        rows = [row.to_json() for row in (self.results if of == "results" else self.summaries)]
        return frame(rows, list(rows[0]) if rows else [], library)

    @typed
    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw accuracy (without one, loss) against step memory and step time, a point a strategy.

        Args:
            path: also write the plot: ``.png``, ``.svg`` or ``.pdf``.

        Returns:
            The figure, which a notebook shows by itself.

        Raises:
            UsageError: another suffix.
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
    study, task, old_data = _begin(
        model, data, folder, plan or Plan(), num_classes=num_classes, preset=preset, old=old_domain, progress=progress
    )
    plan, held = study.plan, study.splits.for_evaluation
    how: dict[str, Any] = {"preprocessing": study.used, "choices": plan.choices, "threads": plan.threads}
    before = evaluate(study.model, held, **how)["accuracy"]
    old = None if old_data is None else evaluate(study.model, old_data, **how)["accuracy"]
    selections = select_all(study)
    trainings = Trainings(study, task, selections)
    rates = trainings.rates()
    trainings.finish(rates)
    results = results_of(study, selections, rates, trainings, old)
    save_results(study.folder, results)
    remove_folder(study.folder / ARTIFACTS)
    if not plan.keep_features:
        remove_folder(study.features)
    summaries = summarise(results, len(held))
    warnings = tuple(_at_chance(study, summaries))
    taken = Feeder(study.model, study.used).taken(study.splits.train)
    return Comparison(study.folder, results, summaries, len(held), before, old, taken, warnings)


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
    """Say what is wrong with anything before something long begins, and note the plan in the folder.

    Gives the comparison, what its trainings have in common, and the data of the old domain.
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
        "data": Feeder(model, used).taken(splits.train),
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
    say = progress or silent
    if task.pictures is not None:
        splits, old_data = runs.with_pictures(splits, old_data, task.pictures, say)
    return Study(model, splits, used, plan, backend, target, say), task, old_data


def _at_chance(study: Study, summaries: Sequence[Summary]) -> Iterator[str]:
    """Which settings ended at chance."""
    for summary in summaries:
        mean = summary.mean if summary.accuracies else None
        said = evaluated_at_chance(study.model, study.splits.for_evaluation, mean, study.plan.choices)
        if said is not None:
            yield f"{summary.setting}: {said}"


def _labelled(data: Any, model: Model, ignore: int | None) -> Splits:
    splits = open_data(data, model)
    splits.train.need_labels("comparing")
    if splits.test is None:
        raise UsageError(
            "comparing needs test data that no strategy has trained on: give x_test and y_test, or a folder with test/."
        )
    known = model.metadata("classes")
    return Splits(*(align_classes(part, known, ignore=ignore) for part in (splits.train, splits.test)))
