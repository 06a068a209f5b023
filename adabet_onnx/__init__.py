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

from .errors import (
    AdabetError,
    CheckError,
    DataError,
    ModelError,
    OutputError,
    RecordError,
    RuntimeMissingError,
    TrainingError,
    UsageError,
)

if TYPE_CHECKING:
    from .cost.predict import Predictor
    from .model.open import open_model
    from .model.prepare import prepare
    from .model.saving import save_model
    from .report.page import write_report
    from .scoring.score import score
    from .selection.budget import Budget
    from .selection.strategies import select
    from .study.compare import compare
    from .study.plan import Plan
    from .study.stability import stability
    from .training.artifacts import make_artifacts
    from .training.export import export_model
    from .training.preflight import check_model
    from .training.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "AdabetError",
    "Budget",
    "CheckError",
    "DataError",
    "ModelError",
    "OutputError",
    "Plan",
    "Predictor",
    "RecordError",
    "RuntimeMissingError",
    "Trainer",
    "TrainingError",
    "UsageError",
    "check_model",
    "compare",
    "export_model",
    "make_artifacts",
    "open_model",
    "prepare",
    "save_model",
    "score",
    "select",
    "stability",
    "write_report",
]

# Where the names live that are imported when they are first asked for: what they need takes a second to import.
_HOMES = {
    "Budget": ".selection.budget",
    "Plan": ".study.plan",
    "Predictor": ".cost.predict",
    "Trainer": ".training.trainer",
    "check_model": ".training.preflight",
    "compare": ".study.compare",
    "export_model": ".training.export",
    "make_artifacts": ".training.artifacts",
    "open_model": ".model.open",
    "prepare": ".model.prepare",
    "save_model": ".model.saving",
    "score": ".scoring.score",
    "select": ".selection.strategies",
    "stability": ".study.stability",
    "write_report": ".report.page",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    """What is there, and what is imported when it is asked for."""
    return sorted({*globals(), *__all__})
