"""The results of the trainings of a comparison, with the measured cost of a step of each distinct selection."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ..cost.measure import Cost
from ..errors import CheckError
from ..file_names import COSTS
from ..files import make_folder
from ..records import Entries, read_record, write_json
from ..runtime import on
from ..selection.record import Selection
from .plan import Setting
from .results import Result
from .runner import Measurement, Runner
from .study import MADE_BY, Selections, Study
from .trainings import Trainings

_COST, _VERSION = "adabet-onnx/measured-cost", 1


def results_of(
    study: Study,
    selections: Selections,
    rates: dict[Setting, float],
    trainings: Trainings,
    runner: Runner,
    source_before: float | None,
) -> list[Result]:
    """The result of each final training.

    Args:
        study: the comparison.
        selections: the selection of each training.
        rates: the learning rate of each setting.
        trainings: the finished trainings.
        runner: measures costs.
        source_before: accuracy of the original model on the old domain, or None.

    Raises:
        CheckError: a step could not be measured.
    """
    sizes = {parameter.name: parameter.size for layer in study.model.layers for parameter in layer.parameters}
    costs = _costs(study, selections, runner)
    results = []
    for (setting, seed), selection in selections.items():
        outcome = trainings.finished(setting, seed, rates[setting])
        cost = costs[study.label(selection)]
        trained = sum(sizes[name] for name in selection.parameters)
        parts, old = study.parts(selection), outcome["source"]
        predicted = study.predictor.training(selection.parameters, accumulate=parts)
        results.append(
            Result(
                strategy=setting.strategy,
                rho=setting.rho,
                seed=seed,
                accuracy=outcome["accuracy"],
                loss=outcome["loss"],
                trainable_share=trained / study.model.weight_count,
                step_seconds=cost.seconds if setting.trains else 0.0,
                step_memory_bytes=cost.memory_bytes,
                update_bytes=4 * trained,
                layers=selection.layers,
                learning_rate=rates[setting],
                predicted_memory_bytes=predicted.memory_bytes,
                accumulate=parts,
                source_accuracy=None if old is None else old.get("accuracy"),
                source_accuracy_before=source_before,
                failed=outcome["failed"],
                frozen_seconds=cost.frozen_seconds,
                stored_bytes=predicted.stored_bytes,
            )
        )
    return results


def _costs(study: Study, selections: Selections, runner: Runner) -> dict[str, Cost]:
    """Costs of an update, and of the frozen pass before it, by label; each distinct step is measured once."""
    distinct = {study.label(selection): selection for selection in selections.values()}
    costs = {label: cost for label in distinct if (cost := _stored(_path(study, label))) is not None}
    steps = [_step(study, label, selection) for label, selection in distinct.items() if label not in costs]
    study.say("measuring", len(costs), len(distinct))
    if steps:
        make_folder(study.folder / COSTS)
    try:
        for step, cost in runner.measure(steps):
            write_json(_path(study, step.label), {"format": _COST, "version": _VERSION, **asdict(cost)})
            costs[step.label] = cost
            study.say("measuring", len(costs), len(distinct))
    except CheckError as error:
        raise CheckError(f"{error} Finished trainings are kept: start again to measure the rest.") from error
    return costs


def _step(study: Study, label: str, selection: Selection) -> Measurement:
    return Measurement(
        label=label,
        artifacts=study.make_artifacts(selection),
        batch_size=study.plan.batch_size,
        accumulate=study.parts(selection),
        threads=on(study.plan.training_threads).threads,
    )


def _path(study: Study, label: str) -> Path:
    return study.folder / COSTS / f"{label}.json"


def _stored(path: Path) -> Cost | None:
    record = read_record(path, _COST, _VERSION, MADE_BY) if path.is_file() else None
    if record is None or "frozen_seconds" not in record:  # earlier releases measured a step with its frozen part
        return None
    entries = Entries(record, str(path), MADE_BY)
    return Cost(
        memory_bytes=entries.take("memory_bytes", int),
        seconds=entries.take("seconds", float),
        frozen_seconds=entries.take("frozen_seconds", float),
    )
