"""What all stages of a comparison share, and the artifacts that its trainings start from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from ..cost.predict import Predictor
from ..data.dataset import Splits
from ..data.preprocess import Arithmetic
from ..file_names import FEATURES, STARTING_ARTIFACTS
from ..files import make_folder
from ..model.open import Model
from ..progress import Progress
from ..selection.record import Selection
from ..training.artifacts import make_artifacts
from ..training.features import frozen_hash
from ..training.manifest import load_manifest
from .plan import Plan, Setting

Selections: TypeAlias = dict[tuple[Setting, int], Selection]  # by setting and seed
MADE_BY = "`compare`"


@dataclass(frozen=True)
class Study:
    """One comparison.

    Attributes:
        model: the model, with its new head if it has one.
        splits: the data.
        used: how data becomes input.
        plan: what is compared, and how.
        backend: the training backend.
        folder: the folder with all files.
        say: called with the progress.
    """

    model: Model
    splits: Splits
    used: Arithmetic
    plan: Plan
    backend: str
    folder: Path
    say: Progress

    @cached_property
    def predictor(self) -> Predictor:
        """Of a step's costs."""
        return Predictor(self.model, batch_size=self.plan.batch_size, backend=self.backend, choices=self.plan.choices)

    def parts(self, selection: Selection) -> int:
        """Into how many parts a batch is cut."""
        return selection.parts_of(self.plan.batch_size)

    def label(self, selection: Selection) -> str:
        """What files of a selection are called; the same where a step is."""
        parts = self.parts(selection)
        return key(selection) + (f"-in-{parts}" if parts > 1 else "")

    def artifacts(self, selection: Selection) -> Path:
        """The folder that trainings of a selection start from; the same for equal parameters."""
        return self.folder / STARTING_ARTIFACTS / key(selection)

    def make_artifacts(self, selection: Selection) -> Path:
        """Make that folder, where it is not there."""
        path = self.artifacts(selection)
        if not path.is_dir():
            make_folder(path.parent)
            make_artifacts(
                self.model,
                selection,
                path,
                choices=self.plan.choices,
                calibrate=self.splits,
                backend=self.backend,
                check=False,
            )
        return path

    @property
    def features(self) -> Path:
        """The folder of what trainings share."""
        return self.folder / FEATURES

    def features_of(self, artifacts: Path) -> Path | None:
        """Where trainings from a folder of artifacts keep their features; None where nothing is frozen."""
        manifest = load_manifest(artifacts, verify=False)
        return self.features / frozen_hash(manifest)[:16] if manifest.frozen else None


def key(selection: Selection) -> str:
    """What the artifacts of a selection are called; the same for equal parameters."""
    return hashlib.sha256("\n".join(selection.parameters).encode()).hexdigest()[:16]
