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

from .adapting import Adapting
from .cost.predict import Predictor
from .data.data import Data
from .data.preprocess import Preprocessing
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
from .model.head import new_head
from .model.open import Model, open_model
from .model.saving import save_model
from .outcome import Outcome
from .pipeline import adapt
from .report.page import write_report
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
from .training.evaluation import evaluate, predict
from .training.export import export_model
from .training.preparing import prepare
from .training.settings import Settings
from .training.trainer import Trainer
from .version import __version__ as __version__

__all__ = [
    "AdabetError",
    "Adapting",
    "Budget",
    "CheckError",
    "Choices",
    "Choosing",
    "Data",
    "DataError",
    "Model",
    "ModelError",
    "Outcome",
    "OutputError",
    "Plan",
    "Predictor",
    "Preprocessing",
    "RecordError",
    "Repeats",
    "RuntimeMissingError",
    "Scores",
    "Scoring",
    "Selection",
    "Settings",
    "Trainer",
    "TrainingError",
    "UsageError",
    "adapt",
    "check_model",
    "compare",
    "evaluate",
    "export_model",
    "load_scores",
    "load_selection",
    "make_artifacts",
    "new_head",
    "open_model",
    "predict",
    "prepare",
    "save_model",
    "score",
    "select",
    "stability",
    "write_report",
]
