"""The selection file: which layers are trained, why, and how firm that is.

``selection.json``: format "adabet-onnx/selection", version 1, with
    model_sha256    the model it was made for
    strategy        adabet, size, b1, random, last, first, head, norm-bias, all or layers
    rho             fraction asked for (null for explicit layers, head, norm-bias and all)
    seed            of the random strategy
    head            auto, always, pool or never, as asked for
    layers          names of the selected layers, in model order
    parameters      names of the initializers to train
    scored          each chosen layer's score under the strategy, where it has one
    firmness        null, or: last (name of the last layer chosen by score), next (the first left out), margin
                    (difference of their scores), margin_stderr (in its standard errors; null if unknown), ties
                    (layers with the same score as the last one, chosen or not)
    why             one sentence
    size_tau        Kendall's tau between the scores and 1 / activation size over all layers (null if undefined)
    estimator       how the scores were estimated
    preprocessing   how data becomes model input (see data/preprocess.py); null if unknown
    classes         class names, or null
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import RecordError
from ..files import read_record, write_json

FORMAT, VERSION = "adabet-onnx/selection", 1


@dataclass(frozen=True)
class Firmness:
    """How far the last chosen layer is from the first that was left out; see the module."""

    last: str
    next: str
    margin: float
    margin_stderr: float | None
    ties: list[str]

    def sentence(self) -> str:
        """The same in words."""
        if len(self.ties) > 1:
            return f"{self.last} and {len(self.ties) - 1} more have the same score: the cut is a tie"
        if self.margin_stderr is None:
            return f"{self.last} is ahead of {self.next} by {self.margin:.3g}"
        firm = "firm" if self.margin_stderr >= 2 else "not firm: another sample may choose differently"
        return f"{self.last} is ahead of {self.next} by {self.margin_stderr:.1f} standard errors ({firm})"


@dataclass(frozen=True)
class Selection:
    """The layers to train; the attributes are those of the file."""

    model_sha256: str
    strategy: str
    layers: tuple[str, ...]
    parameters: tuple[str, ...]
    rho: float | None = None
    seed: int = 0
    head: str = "auto"
    scored: dict[str, float] | None = None
    firmness: Firmness | None = None
    why: str = ""
    size_tau: float | None = None
    estimator: dict[str, Any] | None = None
    preprocessing: dict[str, Any] | None = None
    classes: list[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self.to_json())


def load_selection(path: str | os.PathLike[str]) -> Selection:
    """Read a selection file.

    Raises:
        RecordError: it is not one, or is damaged.
    """
    value = read_record(path, FORMAT, VERSION, "adabet-onnx select")
    return selection_from_json(value, str(path))


def selection_from_json(value: dict[str, Any], where: str) -> Selection:
    """Rebuild a selection from the content of its file.

    Raises:
        RecordError: an entry is missing or of the wrong type.
    """

    def names(key: str) -> tuple[str, ...]:
        found = value.get(key)
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise RecordError(f"{where}: {key!r} must be a list of names. Make it again with adabet-onnx select.")
        return tuple(found)

    def typed(key: str, *types: type) -> Any:
        if not isinstance(value.get(key), types):
            wanted = " or ".join(kind.__name__ for kind in types)
            raise RecordError(f"{where}: {key!r} must be {wanted}, found {value.get(key)!r}.")
        return value[key]

    firmness = value.get("firmness")
    try:
        firm = Firmness(**firmness) if firmness is not None else None
    except TypeError as error:
        raise RecordError(f"{where}: 'firmness' is damaged ({error}).") from error
    nothing = type(None)
    known = {
        "seed": (int,),
        "head": (str,),
        "scored": (dict, nothing),
        "why": (str,),
        "size_tau": (float, int, nothing),
        "estimator": (dict, nothing),
        "preprocessing": (dict, nothing),
        "classes": (list, nothing),
    }
    optional = {key: typed(key, *types) for key, types in known.items() if key in value}
    return Selection(
        model_sha256=typed("model_sha256", str),
        strategy=typed("strategy", str),
        rho=typed("rho", float, int, nothing) if "rho" in value else None,
        layers=names("layers"),
        parameters=names("parameters"),
        firmness=firm,
        **optional,
    )
