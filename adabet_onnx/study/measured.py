"""What the trainings of a comparison came to, and what a step of each costs: measured once for equal steps."""

from __future__ import annotations

from dataclasses import asdict

from ..cost.measure import Cost, measure_training
from ..errors import CheckError
from ..file_names import COSTS
from ..files import make_folder
from ..records import Entries, read_record, write_json
from ..runtime import on
from ..selection.record import Selection
from .plan import Setting
from .results import Result
from .study import MADE_BY, Selections, Study
from .trainings import Trainings

_COST, _VERSION = "adabet-onnx/measured-cost", 1


def results_of(
    study: Study,
    selections: Selections,
    rates: dict[Setting, float],
    trainings: Trainings,
    source_before: float | None,
) -> list[Result]:
    """Everything about each training that counts.

    Args:
        study: the comparison.
        selections: what was trained.
        rates: that each setting was trained with.
        trainings: finished.
        source_before: accuracy on the old domain before, or None.

    Raises:
        CheckError: a step could not be measured.
    """
    sizes = {parameter.name: parameter.size for layer in study.model.layers for parameter in layer.parameters}
    found = []
    for number, ((setting, seed), selection) in enumerate(selections.items()):
        study.say("measuring", number, len(selections))
        outcome = trainings.finished(setting, seed, rates[setting])
        cost = _measured(study, selection)
        trained = sum(sizes[name] for name in selection.parameters)
        parts, old = study.parts(selection), outcome["source"]
        predicted = study.predictor.training(selection.parameters, accumulate=parts)
        found.append(
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
    study.say("measuring", len(selections), len(selections))
    return found


def _measured(study: Study, selection: Selection) -> Cost:
    """Of an update, and of the frozen pass before it."""
    path = study.folder / COSTS / f"{study.label(selection)}.json"
    record = read_record(path, _COST, _VERSION, MADE_BY) if path.is_file() else None
    if record is not None and "frozen_seconds" in record:  # earlier releases measured a step with its frozen part
        entries = Entries(record, str(path), MADE_BY)
        return Cost(
            memory_bytes=entries.take("memory_bytes", int),
            seconds=entries.take("seconds", float),
            frozen_seconds=entries.take("frozen_seconds", float),
        )
    make_folder(path.parent)
    try:
        cost = measure_training(
            study.make_artifacts(selection),
            batch_size=study.plan.batch_size,
            accumulate=study.parts(selection),
            threads=on(study.plan.training_threads).threads,
        )
    except CheckError as error:
        raise CheckError(f"{error} What was trained is kept: start again to measure the rest.") from error
    write_json(path, {"format": _COST, "version": _VERSION, **asdict(cost)})
    return cost
