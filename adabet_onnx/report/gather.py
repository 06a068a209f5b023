"""Read the results in a folder for a report: those of `run`, `compare`, `stability` and `fleet simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import AdabetError, RecordError, UsageError
from ..file_names import PLAN, RUN, RUNS, SCORES, SELECTION, final_training, rate_training, scores_of_seed
from ..fleet.record import RECORD as FLEET
from ..fleet.record import read_fleet
from ..records import Entries, read_record
from ..scoring.record import load_scores
from ..study.plan import FORMAT as PLAN_FORMAT
from ..study.plan import VERSION as PLAN_VERSION
from ..study.plan import Setting
from ..study.results import FILE as RESULTS
from ..study.results import load_results
from ..study.runs import read as read_run
from ..study.stability_record import FORMAT as STABILITY_FORMAT
from ..study.stability_record import Stability, load_stability
from ..trainability.choices import Choices, choose_backend
from .inputs import Compared, Curve, ReportInputs
from .run_folder import MOST_SAMPLES, curve_of, read_adapted


def gather(folder: Path) -> ReportInputs:
    """Read the results in a folder and its subfolders.

    Args:
        folder: a folder written by `run` or `compare`, or one that contains both.

    Raises:
        UsageError: there is nothing to show.
        RecordError: a file is damaged.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder} does not exist or is not a folder. Give the folder that `adapt` or `compare` wrote."
        )
    inputs = ReportInputs(folder)
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if inputs.run is None and _is_run(place):
            inputs.run = read_adapted(place)
            if (place / SCORES).is_file():
                inputs.scores = load_scores(place / SCORES)
            if inputs.run.figures is not None and inputs.run.figures.command:
                inputs.commands.append(inputs.run.figures.command)
        if inputs.compared is None and (place / RESULTS).is_file():
            inputs.compared = _compared(place)
            if inputs.compared.plan.get("command"):
                inputs.commands.append(str(inputs.compared.plan["command"]))
            if inputs.scores is None:
                inputs.scores = load_scores(scores_of_seed(place, 0))
        if inputs.stability is None:
            inputs.stability = _stability(place)
        if inputs.fleet is None and (place / FLEET).is_file():
            inputs.fleet = read_fleet(place)
    if inputs.scores is None and (folder / SCORES).is_file():
        inputs.scores = load_scores(folder / SCORES)
    if inputs.scores is None and inputs.run is None and inputs.stability is None:
        raise UsageError(
            f"{folder} has nothing to report: no {SCORES}, no {RESULTS}, and no {RUN} with a {SELECTION}. "
            "Give the folder that `adapt` or `compare` wrote."
        )
    _check_hashes(inputs)
    if inputs.compared is None:
        inputs.notes.append("No strategies were compared: `compare` measures the cost and accuracy of each.")
    if inputs.stability is None:
        inputs.notes.append(
            "The stability of rankings between samples was not measured: `stability` does that; save its result as "
            "stability.json in the folder."
        )
    return inputs


def _check_hashes(inputs: ReportInputs) -> None:
    """Check that all results on the page belong to the same model."""
    models = {}
    if inputs.scores is not None:
        models["the scores"] = inputs.scores.model_sha256
    if inputs.run is not None:
        models["the selection"] = inputs.run.selection.model_sha256
    if inputs.compared is not None:
        models["the comparison"] = str(inputs.compared.plan["model_sha256"])
    if len(set(models.values())) > 1:
        listed = ", ".join(f"{name} of {value[:12]}..." for name, value in models.items())
        raise RecordError(
            f"{inputs.folder} has results of different models ({listed}). Report on each folder separately."
        )
    if inputs.stability is not None and models and inputs.stability.model_sha256 not in models.values():
        # A new head changes the hash, and the stability of the model without it is still of interest.
        inputs.notes.append("Stability was measured on the model before it got its new head, or on another model.")


def _is_run(place: Path) -> bool:
    """Whether `run` wrote a folder, with scores unless the selection needs none."""
    return (place / SELECTION).is_file() and any((place / name).is_file() for name in (SCORES, RUN, FLEET))


def _compared(place: Path) -> Compared:
    plan = read_record(place / PLAN, PLAN_FORMAT, PLAN_VERSION, "`compare`")
    entries = Entries(plan, str(place / PLAN), "`compare`")
    entries.take("model_sha256", str)
    samples = entries.get_optional("test_samples", 0, int) or 10**9
    results = load_results(place / RESULTS)
    curves: dict[Setting, Curve] = {}
    for row in results:
        if row.setting in curves or row.failed is not None:
            continue
        final = _one(place / RUNS, final_training(row.setting.key, row.seed, "*", row.learning_rate))
        chosen_by = _one(place / RUNS, rate_training(row.setting.key, "*", row.learning_rate))
        if final is not None:
            curves[row.setting] = curve_of(str(row.setting), final, chosen_by or [])
    batch_size = entries.get_optional("batch_size", 32, int)
    backend = entries.get_optional("backend", "auto", str)
    try:
        choices = Choices(**entries.get_optional("choices", {}, dict))
        choose_backend(backend, choices)
    except (TypeError, AdabetError) as error:
        raise entries.damaged(f"'choices' or 'backend' cannot be: {error}") from error
    if not 1 <= batch_size <= MOST_SAMPLES or samples < 1:
        raise entries.damaged("'batch_size' or 'test_samples' is out of range")
    return Compared(plan, samples, results, list(curves.values()), batch_size, backend, choices)


def _one(folder: Path, pattern: str) -> list[dict[str, Any]] | None:
    """The curve of the newest run whose file name matches."""
    paths = sorted(folder.glob(f"{pattern}.json"), key=lambda path: path.stat().st_mtime)
    return list(read_run(paths[-1])["curve"]) if paths else None


def _stability(place: Path) -> Stability | None:
    for path in sorted(place.glob("*.json")):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            if STABILITY_FORMAT.encode() in file.read(200):
                return load_stability(path)
    return None
