"""Preparation: turns a model and a selection, in any form, into the graph that a backend trains."""

from __future__ import annotations

import os

from ..model.error_context import guarded
from ..model.open import Model, ModelSource, open_model
from ..model.prepare import Prepared, trainable_graph
from ..options import typed
from ..selection.record import Selection, load_selection
from ..trainability.choices import Choices
from ..trainability.preflight import pick_backend


@typed
@guarded("preparing")
def prepare(model: ModelSource, selection: Selection | str | os.PathLike[str], *, backend: str = "auto") -> Prepared:
    """Rewrite a model for training the selected layers.

    Args:
        model: an opened model, or anything `open_model` accepts. A file is opened with the input values recorded in the
            selection.
        selection: what to train, or the path of a selection.json; it must have been made for this model.
        backend: ``portable``, ``ort`` (onnxruntime-training, which needs more rewrites), or ``auto``: chosen as in
            `make_artifacts`.

    Returns:
        The trainable graph, whose logits equal the model's.

    Raises:
        RecordError: the selection was made for another model.
        UsageError: nothing is selected, a parameter or channel is not in the model, the backend is unknown, or it is
            ``ort`` and channels are selected.
        ModelError: a node prevents training, or the weights are 2 GB or more.
        CheckError: parameters outside the selected layers would be trained.

    Example:
        >>> from adabet_onnx import prepare, select
        >>> prepared = prepare("model.onnx", select("model.onnx", strategy="head"))
        >>> len(prepared.trainable)
        2
    """
    selection = load_selection(selection)
    model = open_model(model, bind=None if isinstance(model, Model) else selection.inputs)
    return trainable_graph(model, selection, backend=pick_backend(model, selection, backend, Choices()))
