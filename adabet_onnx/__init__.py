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

from .cost.predict import Predictor
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
from .trainability.preflight import check_model
from .training.artifacts import make_artifacts
from .training.export import export_model
from .training.trainer import Trainer
from .version import __version__ as __version__

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
