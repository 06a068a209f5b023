"""Choose the few layers of an ONNX model worth retraining on new data, and retrain just those.

    from adabet_onnx import open_model, score, select, make_artifacts, Trainer, export_model

    model = open_model("model.onnx")
    scores = score(model, "new_domain.npz")              # forward passes only, no labels
    selection = select(scores, rho=0.1)                  # a tenth of the layers
    make_artifacts(model, selection, "artifacts")        # only they are trainable
    Trainer("artifacts").fit("new_domain.npz", epochs=10)
    export_model("artifacts", "adapted.onnx")            # for any ONNX runtime

The method is AdaBet (Tenison et al., arXiv 2510.03101).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .deferred_sympy import defer_sympy
from .errors import (
    AdabetError,
    CheckError,
    DataError,
    ModelError,
    OutputError,
    ProviderWarning,
    RecordError,
    RuntimeMissingError,
    TrainingError,
    UsageError,
)
from .version import __version__ as __version__

defer_sympy()

if TYPE_CHECKING:
    from .adapting import Adapting
    from .cost.predict import Predictor
    from .data.data import Data
    from .data.preprocess import Preprocessing
    from .device.delta import load_delta
    from .device.deltas import apply_delta, save_delta
    from .device.menu import make_menu
    from .device.package import make_device
    from .device.packing import DeviceScoring, Packing
    from .fleet.apps import write_fleet_app
    from .fleet.deltas import merge_deltas
    from .fleet.options import Fleet
    from .fleet.simulation import simulate_fleet
    from .model.head import new_head
    from .model.open import Model, open_model
    from .model.saving import save_model
    from .outcome import Outcome
    from .pipeline import adapt
    from .report.page import write_report
    from .runtime import Runtime
    from .scoring.options import Scoring
    from .scoring.record import Scores, load_scores
    from .scoring.score import score
    from .selection.budget import Budget
    from .selection.options import Choosing
    from .selection.record import Selection, load_selection
    from .selection.strategies import select
    from .study.compare import compare
    from .study.plan import Plan
    from .study.repeats import Repeats
    from .study.stability import stability
    from .trainability.choices import Choices
    from .trainability.preflight import check_model
    from .training.artifacts import make_artifacts
    from .training.evaluation import evaluate, predict, write_predictions
    from .training.export import export_model
    from .training.preparing import prepare
    from .training.settings import Settings
    from .training.trainer import Trainer

__all__ = [
    "AdabetError",
    "Adapting",
    "Budget",
    "CheckError",
    "Choices",
    "Choosing",
    "Data",
    "DataError",
    "DeviceScoring",
    "Fleet",
    "Model",
    "ModelError",
    "Outcome",
    "OutputError",
    "Packing",
    "Plan",
    "Predictor",
    "Preprocessing",
    "ProviderWarning",
    "RecordError",
    "Repeats",
    "Runtime",
    "RuntimeMissingError",
    "Scores",
    "Scoring",
    "Selection",
    "Settings",
    "Trainer",
    "TrainingError",
    "UsageError",
    "adapt",
    "apply_delta",
    "check_model",
    "compare",
    "evaluate",
    "export_model",
    "load_delta",
    "load_scores",
    "load_selection",
    "make_artifacts",
    "make_device",
    "make_menu",
    "merge_deltas",
    "new_head",
    "open_model",
    "predict",
    "prepare",
    "save_delta",
    "save_model",
    "score",
    "select",
    "simulate_fleet",
    "stability",
    "write_fleet_app",
    "write_predictions",
    "write_report",
]

# The modules of the names that are imported on first use: their dependencies take a second to import.
_HOMES = {
    "Adapting": ".adapting",
    "Budget": ".selection.budget",
    "Choices": ".trainability.choices",
    "Choosing": ".selection.options",
    "Data": ".data.data",
    "DeviceScoring": ".device.packing",
    "Fleet": ".fleet.options",
    "Model": ".model.open",
    "Outcome": ".outcome",
    "Packing": ".device.packing",
    "Plan": ".study.plan",
    "Predictor": ".cost.predict",
    "Preprocessing": ".data.preprocess",
    "Repeats": ".study.repeats",
    "Runtime": ".runtime",
    "Scores": ".scoring.record",
    "Scoring": ".scoring.options",
    "Selection": ".selection.record",
    "Settings": ".training.settings",
    "Trainer": ".training.trainer",
    "adapt": ".pipeline",
    "apply_delta": ".device.deltas",
    "check_model": ".trainability.preflight",
    "compare": ".study.compare",
    "evaluate": ".training.evaluation",
    "export_model": ".training.export",
    "load_delta": ".device.delta",
    "load_scores": ".scoring.record",
    "load_selection": ".selection.record",
    "make_artifacts": ".training.artifacts",
    "make_device": ".device.package",
    "make_menu": ".device.menu",
    "merge_deltas": ".fleet.deltas",
    "new_head": ".model.head",
    "open_model": ".model.open",
    "predict": ".training.evaluation",
    "prepare": ".training.preparing",
    "save_delta": ".device.deltas",
    "save_model": ".model.saving",
    "score": ".scoring.score",
    "select": ".selection.strategies",
    "simulate_fleet": ".fleet.simulation",
    "stability": ".study.stability",
    "write_fleet_app": ".fleet.apps",
    "write_predictions": ".training.evaluation",
    "write_report": ".report.page",
}


if not TYPE_CHECKING:  # a type checker that saw it would accept any name

    def __getattr__(name: str) -> Any:
        """Import a public name on its first use (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
        return value


def __dir__() -> list[str]:
    """List the names that are loaded and those that are imported on first use."""
    return sorted({*globals(), *__all__})
