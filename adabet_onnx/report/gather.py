"""What a folder holds that a report can show: the results of `run`, `compare`, `stability` and `fleet simulate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import AdabetError, RecordError, UsageError
from ..file_names import ARTIFACTS, PLAN, RUN, RUNS, SCORES, SELECTION, final_training, rate_training, scores_of_seed
from ..fleet.record import RECORD as FLEET
from ..fleet.record import read_fleet
from ..records import Entries, finite, read_record
from ..scoring.record import load_scores
from ..selection.record import load_selection
from ..study.plan import FORMAT as PLAN_FORMAT
from ..study.plan import VERSION as PLAN_VERSION
from ..study.plan import Setting
from ..study.results import FILE as RESULTS
from ..study.results import load_results
from ..study.runs import read as read_run
from ..study.stability_record import FORMAT as STABILITY_FORMAT
from ..study.stability_record import Stability, load_stability
from ..trainability.choices import Choices, choose_backend
from ..training.history import METRICS
from ..training.manifest import FILE as MANIFEST
from ..training.manifest import load_manifest
from .classes import read_evaluation
from .material import Compared, Curve, Figures, Material, Run

_MOST_SAMPLES = 10**6  # of a step


def gather(folder: Path) -> Material:
    """Read what a folder, and the folders in it, hold.

    Args:
        folder: written by `run`, `compare` or both (then one in the other, or side by side in it).

    Raises:
        UsageError: there is nothing to show.
        RecordError: a file is damaged.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder} does not exist or is not a folder. Give the folder that `adapt` or `compare` wrote."
        )
    found = Material(folder)
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if found.run is None and _is_run(place):
            found.run = _run(place)
            if (place / SCORES).is_file():
                found.scores = load_scores(place / SCORES)
            if found.run.figures is not None and found.run.figures.command:
                found.commands.append(found.run.figures.command)
        if found.compared is None and (place / RESULTS).is_file():
            found.compared = _compared(place)
            if found.compared.plan.get("command"):
                found.commands.append(str(found.compared.plan["command"]))
            if found.scores is None:
                found.scores = load_scores(scores_of_seed(place, 0))
        if found.stability is None:
            found.stability = _stability(place)
        if found.fleet is None and (place / FLEET).is_file():
            found.fleet = read_fleet(place)
    if found.scores is None and (folder / SCORES).is_file():
        found.scores = load_scores(folder / SCORES)
    if found.scores is None and found.run is None and found.stability is None:
        raise UsageError(
            f"{folder} holds nothing to report: no {SCORES}, no {RESULTS}, and no {RUN} with a "
            f"{SELECTION}. Give the folder that `adapt` or `compare` wrote."
        )
    _check_hashes(found)
    if found.compared is None:
        found.notes.append("No strategies were compared: `compare` says what each costs and gains.")
    if found.stability is None:
        found.notes.append(
            "How firm rankings are between samples was not measured: `stability` does that; save what it finds as "
            "stability.json in the folder."
        )
    return found


def _check_hashes(found: Material) -> None:
    """What stands on one page must be of one model."""
    models = {}
    if found.scores is not None:
        models["the scores"] = found.scores.model_sha256
    if found.run is not None:
        models["the selection"] = found.run.selection.model_sha256
    if found.compared is not None:
        models["the comparison"] = str(found.compared.plan["model_sha256"])
    if len(set(models.values())) > 1:
        what = ", ".join(f"{name} of {value[:12]}..." for name, value in models.items())
        raise RecordError(f"{found.folder} holds results of different models ({what}). Report on each folder alone.")
    if found.stability is not None and models and found.stability.model_sha256 not in models.values():
        # A new head changes the hash, and a stability of the model without it is still of interest.
        found.notes.append("Stability was measured on the model as it was before it got its new head, or on another.")


def _is_run(place: Path) -> bool:
    """Whether `run` wrote a folder; without scores where the selection needs none."""
    return (place / SELECTION).is_file() and any((place / name).is_file() for name in (SCORES, RUN, FLEET))


def _run(place: Path) -> Run:
    figures = None
    if (place / RUN).is_file():
        try:
            content = json.loads((place / RUN).read_text(encoding="utf-8"), parse_constant=finite, parse_float=finite)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{place / RUN} is not valid JSON ({error}). Run again.") from error
        figures = _figures(Entries(content, str(place / RUN), "`adapt`"))
    manifest = None
    if (place / ARTIFACTS / MANIFEST).is_file():
        manifest = load_manifest(place / ARTIFACTS, verify=False)
    return Run(load_selection(place / SELECTION), figures, _metrics(place / METRICS), manifest)


def _measured_frozen(cost: Entries) -> dict[str, tuple[int, float]]:
    """The frozen pass, and the step after it by itself; nothing where nothing was frozen."""
    before, after = (cost.take_if_there(key, 0, int) for key in ("frozen_bytes", "tail_bytes"))
    seconds = float(cost.take_if_there("frozen_seconds", 0.0, float))
    if before == after == seconds == 0:
        return {}
    if min(before, after, seconds) <= 0:
        raise cost.damaged("'frozen_bytes', 'frozen_seconds' and 'tail_bytes' must all be above 0, or all 0")
    return {"frozen": (before, seconds), "selection": (after, float(cost.take("seconds", float)))}


def _figures(record: Entries) -> Figures:
    measured = {}
    for name in record.take("costs", dict):
        cost = record.inside("costs").inside(name)
        measured[str(name)] = int(cost.take("memory_bytes", int)), float(cost.take("seconds", float))
        if min(measured[str(name)]) <= 0:
            raise record.damaged(f"the costs of {name!r} must be above 0")
        if name == "selection":
            measured |= _measured_frozen(cost)
    nothing = type(None)
    batch_size = record.take_if_there("batch_size", 32, int)
    if not 1 <= batch_size <= _MOST_SAMPLES:
        raise record.damaged(f"'batch_size' must be 1 to {_MOST_SAMPLES}, found {batch_size}")
    return Figures(
        before=record.inside("before").take("accuracy", float, nothing),
        after=record.inside("after").take("accuracy", float, nothing),
        evaluated_on=str(record.take("evaluated_on", str)),
        trainable_share=float(record.take("trainable_share", float)),
        measured=measured,
        command=record.take_if_there("command", None, str, nothing),
        batch_size=batch_size,
        model_file=record.take_if_there("model_file", None, str, nothing),
        samples=_count(record, "samples"),
        epochs=_count(record, "epochs"),
        kept_views=_count(record, "kept_views"),
        evaluation=read_evaluation(record),
    )


def _count(record: Entries, name: str) -> int:
    found = record.take_if_there(name, 0, int)
    if not 0 <= found <= _MOST_SAMPLES:
        raise record.damaged(f"{name!r} must be 0 to {_MOST_SAMPLES}, found {found}")
    return int(found)


def _metrics(path: Path) -> Curve | None:
    if not path.is_file():
        return None
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = [json.loads(line, parse_constant=finite, parse_float=finite) for line in lines]
        return _curve("the selection", rows)
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise RecordError(f"{path} is damaged ({error}). Train again.") from error


def _curve(name: str, rows: list[dict[str, Any]], evaluated: list[dict[str, Any]] | None = None) -> Curve:
    """From the rows of a training, and those of another that was evaluated."""

    def column(of: list[dict[str, Any]], key: str) -> tuple[float | None, ...]:
        return tuple(None if row.get(key) is None else float(row[key]) for row in of)

    other = rows if evaluated is None else evaluated
    return Curve(name, column(rows, "train_loss"), column(other, "eval_loss"), column(other, "eval_accuracy"))


def _compared(place: Path) -> Compared:
    plan = read_record(place / PLAN, PLAN_FORMAT, PLAN_VERSION, "`compare`")
    entries = Entries(plan, str(place / PLAN), "`compare`")
    entries.take("model_sha256", str)
    samples = entries.take_if_there("test_samples", 0, int) or 10**9
    results = load_results(place / RESULTS)
    curves: dict[Setting, Curve] = {}
    for row in results:
        if row.setting in curves or row.failed is not None:
            continue
        final = _one(place / RUNS, final_training(row.setting.key, row.seed, "*", row.learning_rate))
        chosen_by = _one(place / RUNS, rate_training(row.setting.key, "*", row.learning_rate))
        if final is not None:
            curves[row.setting] = _curve(str(row.setting), final, chosen_by or [])
    batch_size = entries.take_if_there("batch_size", 32, int)
    backend = entries.take_if_there("backend", "auto", str)
    try:
        choices = Choices(**entries.take_if_there("choices", {}, dict))
        choose_backend(backend, choices)
    except (TypeError, AdabetError) as error:
        raise entries.damaged(f"'choices' or 'backend' cannot be: {error}") from error
    if not 1 <= batch_size <= _MOST_SAMPLES or samples < 1:
        raise entries.damaged("'batch_size' or 'test_samples' is out of range")
    return Compared(plan, samples, results, list(curves.values()), batch_size, backend, choices)


def _one(folder: Path, pattern: str) -> list[dict[str, Any]] | None:
    """The curve of the newest run whose file fits."""
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
