"""The artifacts that a client trains with: their graphs, and which of their tensors are shared."""

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


class ClientArtifacts:
    """An artifact folder with a session that several clients use in turn.

    Args:
        folder: artifact folder of the portable backend.
        personal: shell patterns of layer names, whose parameters stay with the clients.
        threads: threads for ONNX Runtime.

    Attributes:
        manifest: the manifest of the artifacts.
        model: the model that they were made from.

    Raises:
        RecordError: the folder is not an artifact folder.
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
            raise UsageError(f"`personal` {', '.join(personal)} leaves nothing to share. Name fewer layers.")

    @cached_property
    def session(self) -> PortableSession:
        """The session, which starts with the initial values."""
        made = self.manifest.session(self.manifest.initial, threads=self.threads)
        assert isinstance(made, PortableSession)
        return made

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the model that the artifacts were made from."""
        return self.manifest.model_sha256

    @property
    def trained(self) -> list[str]:
        """Names of parameters and statistics, in the order of a delta."""
        return [*self.manifest.parameters, *self.manifest.statistics]

    @property
    def shared(self) -> list[str]:
        """Names of the tensors that are exchanged with the server."""
        return [name for name in self.trained if name not in self._personal]

    @property
    def personal(self) -> list[str]:
        """Names of the tensors that stay with each client."""
        return [name for name in self.trained if name in self._personal]

    def initial(self) -> TrainingState:
        """Return the state of a client that has not trained yet."""
        tensors, _ = self.manifest.read_checkpoint(self.manifest.initial, PROPERTY)
        return TrainingState(tensors)

    def initial_values(self) -> dict[str, np.ndarray]:
        """Return the initial values of the shared tensors."""
        tensors = self.initial().tensors
        return {name: tensors[name] for name in self.shared}

    def put(self, state: TrainingState, tensors: Tensors) -> None:
        """Set the session to the state of a client in a round.

        Args:
            state: state of the client; tensors that it lacks get their initial values.
            tensors: tensors from the server.
        """
        own = self.initial()
        for name, value in own.tensors.items():
            given = tensors.get(name, state.tensors.get(name))
            if given is not None and given.shape == value.shape:
                own.tensors[name] = given
        self.session.put_state(TrainingState(own.tensors, state.step))

    def values(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return copies of the session's values."""
        return {name: self.session.parameter(name) for name in names}

    def _personal_names(self, patterns: Sequence[str]) -> frozenset[str]:
        """Return the names of parameters and statistics of the layers that patterns match."""
        chosen, names = self.manifest.selection.layers, set[str]()
        by_layer = {layer.name: layer for layer in self.model.layers}
        for pattern in patterns:
            layers = [layer for layer in chosen if fnmatch.fnmatchcase(layer, pattern)]
            if not layers:
                some = ", ".join(chosen[-3:])
                raise UsageError(f"`personal` {pattern!r} matches none of the selected layers, such as {some}.")
            for layer in layers:
                names.update(parameter.name for parameter in by_layer[layer].parameters)
                names.update(self._statistics_of(by_layer[layer]))
        return frozenset(names)

    def _statistics_of(self, layer: Layer) -> set[str]:
        """Return the names of the running statistics of a normalisation layer."""
        nodes = (node for node in self.model.graph.graph if node.name in layer.nodes)
        inputs = {value.name for node in nodes for value in node.inputs if value is not None}
        return {name for name in self.manifest.statistics if name in inputs}
