"""What a client trains with: the graphs of an artifact folder, and which of its tensors travel."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..model.layers import Layer
from ..model.open import Model, open_model
from ..portable.checkpoint import TrainingState
from ..portable.session import PortableSession
from ..runtime import Threads
from ..training.history import PROPERTY
from ..training.manifest import Manifest, load_manifest
from .messages import Tensors


class Bench:
    """A session of one artifact folder, for one client after another.

    Args:
        folder: of the artifacts, of the portable backend.
        personal: shell patterns of layer names, whose parameters stay with the clients.
        threads: for ONNX Runtime.

    Attributes:
        manifest: of the artifacts.
        model: that they were made from.

    Raises:
        RecordError: it is no artifact folder.
        UsageError: the backend is another one, a pattern matches no selected layer, or nothing would be shared.
    """

    def __init__(self, folder: Path, personal: Sequence[str] = (), threads: Threads = None) -> None:
        self.manifest: Manifest = load_manifest(folder)
        if self.manifest.backend != "portable":
            raise UsageError("a fleet trains with the portable backend. Make the artifacts with `backend='portable'`.")
        self.threads = threads
        self.model: Model = open_model(self.manifest.float_file or self.manifest.file("model"))
        self._personal = self._personal_names(personal)
        if not self.shared:
            raise UsageError(f"`personal` {', '.join(personal)} leaves nothing that is shared. Name fewer layers.")

    @cached_property
    def session(self) -> PortableSession:
        """With the initial values to begin with."""
        made = self.manifest.session(self.manifest.initial, threads=self.threads)
        assert isinstance(made, PortableSession)
        return made

    @property
    def model_sha256(self) -> str:
        """Of the model that the artifacts were made from."""
        return self.manifest.model_sha256

    @property
    def trained(self) -> list[str]:
        """Names of parameters and statistics, in the order of a delta."""
        return [*self.manifest.parameters, *self.manifest.statistics]

    @property
    def shared(self) -> list[str]:
        """Those that travel."""
        return [name for name in self.trained if name not in self._personal]

    @property
    def personal(self) -> list[str]:
        """Those that stay."""
        return [name for name in self.trained if name in self._personal]

    def initial(self) -> TrainingState:
        """What a client begins with that has not trained yet."""
        tensors, _ = self.manifest.read_checkpoint(self.manifest.initial, PROPERTY)
        return TrainingState(tensors)

    def initial_values(self) -> dict[str, np.ndarray]:
        """Of what travels."""
        tensors = self.initial().tensors
        return {name: tensors[name] for name in self.shared}

    def put(self, state: TrainingState, tensors: Tensors) -> None:
        """Let the session be that of a client in a round.

        Args:
            state: of the client; what it lacks has its initial value.
            tensors: from the server.
        """
        own = self.initial()
        for name, value in own.tensors.items():
            given = tensors.get(name, state.tensors.get(name))
            if given is not None and given.shape == value.shape:
                own.tensors[name] = given
        self.session.put_state(TrainingState(own.tensors, state.step))

    def values(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Copies of the session's values."""
        return {name: self.session.parameter(name) for name in names}

    def _personal_names(self, patterns: Sequence[str]) -> frozenset[str]:
        """Names of parameters (and statistics) of the layers that patterns name."""
        chosen, found = self.manifest.selection.layers, set[str]()
        by_layer = {layer.name: layer for layer in self.model.layers}
        for pattern in patterns:
            layers = [name for name in chosen if fnmatch.fnmatchcase(name, pattern)]
            if not layers:
                some = ", ".join(chosen[-3:])
                raise UsageError(f"`personal` {pattern!r} names none of the selected layers, such as {some}.")
            for name in layers:
                found.update(parameter.name for parameter in by_layer[name].parameters)
                found.update(self._statistics_of(by_layer[name]))
        return frozenset(found)

    def _statistics_of(self, layer: Layer) -> set[str]:
        """Running statistics of a normalisation."""
        nodes = (node for node in self.model.graph.graph if node.name in layer.nodes)
        found = {value.name for node in nodes for value in node.inputs if value is not None}
        return {name for name in self.manifest.statistics if name in found}
