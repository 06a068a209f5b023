"""Names of files and folders that one module writes and another reads."""

from __future__ import annotations

from pathlib import Path

# In the folder of an adapted model, and of a fleet: the model with a new head, the result, what led to it.
MODEL, ADAPTED, SCORES, SELECTION, RUN = "model.onnx", "adapted.onnx", "scores.json", "selection.json", "run.json"
ARTIFACTS, FEATURES = "artifacts", "features"
# In the folder of a comparison.
PLAN, RUNS, COSTS, _SCORES_OF_SEEDS = "plan.json", "runs", "costs", "scores"
STARTING_ARTIFACTS = "starting-artifacts"  # not ARTIFACTS: a comparison may be in the folder of an adapted model


def scores_of_seed(folder: Path, seed: int) -> Path:
    """Scores in a comparison's folder."""
    return folder / _SCORES_OF_SEEDS / f"{seed}.json"


def fisher_of_seed(folder: Path, seed: int) -> Path:
    """Fisher information of layers in a comparison's folder."""
    return folder / _SCORES_OF_SEEDS / f"fisher-{seed}.json"


def final_training(setting: str, seed: int, label: str, rate: float) -> str:
    """Name of a training that counts, whose file lies in `RUNS`.

    Args:
        setting: key of the setting that is compared.
        seed: of the training.
        label: of the selection; "*" in a pattern that fits all.
        rate: the learning rate.
    """
    return f"final-{setting}-{seed}-{label}-{rate:g}"


def rate_training(setting: str, label: str, rate: float) -> str:
    """Name of a training that tries a learning rate; parameters as in `final_training`."""
    return f"rate-{setting}-{label}-{rate:g}"
