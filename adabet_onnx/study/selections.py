"""What each setting of a comparison selects with each seed: the model is scored anew for each of them."""

from __future__ import annotations

from ..errors import RecordError
from ..file_names import fisher_of_seed, scores_of_seed
from ..files import make_folder
from ..records import Entries, read_record, write_json
from ..scoring.record import Scores, load_scores
from ..scoring.score import score
from ..selection.budget import Budget
from ..selection.options import Choosing
from ..selection.record import Selection
from ..selection.strategies import NEEDS_COSTS, select
from ..vocabulary import FISHER, FIT_HEAD
from .fisher import fisher_information
from .plan import Setting
from .study import MADE_BY, Selections, Study

_FISHER, _VERSION = "adabet-onnx/fisher", 1
_FISHER_SAMPLES = 128


def select_all(study: Study) -> Selections:
    """The selection of each setting with each seed."""
    selections: Selections = {}
    seeds = study.plan.seeds
    for seed in range(seeds):
        study.say("scoring", seed, seeds)
        scores = _scores(study, seed)
        for setting in study.plan.settings():
            selections[setting, seed] = _select(study, scores, setting, seed)
    study.say("scoring", seeds, seeds)
    return selections


def _scores(study: Study, seed: int) -> Scores:
    path = scores_of_seed(study.folder, seed)
    if path.is_file():
        scores = load_scores(path)
        if scores.model_sha256 != study.model.sha256:
            raise RecordError(f"{path} holds scores of another model. Use another folder.")
        return scores
    make_folder(path.parent)
    made = score(
        study.model,
        study.splits,
        preprocessing=study.used,
        seed=seed,
        threads=study.plan.training_threads,
        scoring=study.plan.scoring,
    )
    made.save(path)
    return made


def _select(study: Study, scores: Scores, setting: Setting, seed: int) -> Selection:
    plan = study.plan
    values = _fisher(study, seed) if setting.strategy == FISHER else None
    # The strategy `all` is the reference for the others.
    budget = Budget() if setting.strategy == "all" else plan.budget
    return select(
        scores,
        strategy=None if values is None else setting.strategy,
        choosing=Choosing(
            strategy="adabet" if values is not None else "head" if setting.strategy == FIT_HEAD else setting.strategy,
            rho=setting.rho,
            head=plan.head,
            budget=budget,
            max_accumulate=plan.max_accumulate,
        ),
        costs=study.predictor if budget or setting.strategy in NEEDS_COSTS else None,
        values=values,
        seed=seed,
    )


def _fisher(study: Study, seed: int) -> dict[str, float]:
    path = fisher_of_seed(study.folder, seed)
    if path.is_file():
        layers = Entries(read_record(path, _FISHER, _VERSION, MADE_BY), str(path), MADE_BY).inside("layers")
        return {layer.name: float(layers.take(layer.name, float)) for layer in study.model.layers}
    information = fisher_information(
        study.model,
        study.splits,
        samples=min(_FISHER_SAMPLES, len(study.splits.train)),
        seed=seed,
        choices=study.plan.choices,
        preprocessing=study.used,
        threads=study.plan.training_threads,
    )
    write_json(path, {"format": _FISHER, "version": _VERSION, "layers": information})
    return information
