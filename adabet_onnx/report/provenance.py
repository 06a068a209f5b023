"""The last section of a report: models, settings, versions and hashes, for reproducibility."""

from __future__ import annotations

from typing import Any

from .inputs import ReportInputs


def records(inputs: ReportInputs) -> list[tuple[str, str]]:
    """Names and values, as far as known."""
    rows: list[tuple[str, str]] = []
    scores = inputs.scores
    if scores is not None:
        rows.append(("model, SHA-256", scores.model_sha256))
        settings = ", ".join(f"{key} {value}" for key, value in scores.estimator_summary().items())
        if scores.samples:
            rows += [("scores", settings), ("preprocessing", _plain(scores.preprocessing))]
    if inputs.run is not None:
        selection = inputs.run.selection
        if scores is None:
            rows.append(("model, SHA-256", selection.model_sha256))
        if scores is None or not scores.samples:
            made_by = "means over the clients that voted" if inputs.votes else "none"
            rows += [("scores", made_by), ("preprocessing", _plain(selection.preprocessing))]
        rho = "" if selection.rho is None else f", rho {selection.rho:g}"
        rows.append(("selection", f"strategy {selection.strategy}{rho}, head {selection.head}, seed {selection.seed}"))
        manifest = inputs.run.manifest
        if manifest is not None:
            optimizer = manifest.optimizer_entry
            rows.append(("training", f"{manifest.backend} backend, {_plain(optimizer)}"))
            hashes = manifest.hashes
            rows += [(f"{name}, SHA-256", str(value)) for name, value in hashes.items()]
            rows.append(("versions", _plain(manifest.versions)))
    if inputs.compared is not None:
        plan = inputs.compared.plan
        rows.append(("data, SHA-256", str(plan.get("data_sha256"))))
        keys = ("epochs", "seeds", "batch_size", "accumulate", "train_samples", "rates", "head", "budget", "choices")
        entries = [(f"comparison, {key.replace('_', ' ')}", _plain(plan.get(key))) for key in keys]
        rows += [(name, text) for name, text in entries if text not in ("", "-")]
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item is not None) or "-"
    if isinstance(value, list | tuple):
        return " ".join(_plain(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)
