"""The Flower app of a client, which works on the data of its node."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..data.labels import align_classes
from ..data.source import open_data
from ..errors import AdabetError, UsageError
from ..file_names import MODEL
from ..model.open import Model, open_model
from ..portable.checkpoint import TrainingState
from ..portable.linear_head import NotLinearError
from . import wire
from .client import Client, ClientSetup
from .client_artifacts import ClientArtifacts
from .flower import ARRAYS, METRICS, SAMPLES, from_arrays, need_flower, to_arrays
from .installing import install, installed, verified
from .messages import Reply
from .partitions import parse_partition
from .votes import cast_vote

CONFIG = "config"  # the name of the record of settings
_CLIENTS: dict[tuple[str, ...], tuple[Client, Any]] = {}  # the clients in this process


def client_app(mods: Sequence[Any] = ()) -> Any:
    """Create Flower's ClientApp.

    The ``--node-config`` of a node gives the path of its data (``data``) and a folder for the files that it receives
    once (``folder``). In a simulation the run's ``data`` is distributed by ``partition`` among the ``num-partitions``
    nodes.

    Args:
        mods: Flower's mods for training, such as ``LocalDpMod`` for local differential privacy.

    Raises:
        RuntimeMissingError: Flower is not installed.
    """
    need_flower()
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train(mods=list(mods))  # type: ignore[untyped-decorator]
    def train(message: Any, context: Any) -> Any:
        return _answer(message, *_trained(message.content, context))

    @app.query()  # type: ignore[untyped-decorator]
    def query(message: Any, context: Any) -> Any:
        return _answer(message, *_asked(message.content, context))

    return app


def _answer(message: Any, settings: wire.Settings, tensors: dict[str, np.ndarray], samples: Any = 0) -> Any:
    from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

    metrics = MetricRecord({SAMPLES: float(samples)})
    content = {ARRAYS: to_arrays(tensors), CONFIG: ConfigRecord(settings), METRICS: metrics}
    return Message(RecordDict(content), reply_to=message)


def _trained(content: Any, context: Any) -> tuple[wire.Settings, dict[str, np.ndarray], Any]:
    settings, tensors = content[CONFIG], from_arrays(content[ARRAYS])
    try:
        task = wire.task_of(settings, tensors)
        reply = _client(settings, context).train(task)
    except AdabetError as error:
        reply = Reply(0, 0, "", {}, 0, error=str(error))
    # Mods need all tensors that were received; those that were not trained are unchanged and do not count.
    sent = dict(reply.tensors) if reply.error is None else tensors
    return wire.reply_settings(reply), sent, reply.samples


def _asked(content: Any, context: Any) -> tuple[wire.Settings, dict[str, np.ndarray]]:
    settings = content[CONFIG]
    try:
        tensors = from_arrays(content[ARRAYS])
        kind = str(settings["what"])
        if kind == "install":
            install(_folder(context), str(settings["key"]), tensors)
            return {"done": "installed"}, {}
        if kind == "vote":
            model, data = _model(settings, context)
            return wire.vote_settings(cast_vote(0, model, data, wire.scoring_of(settings))), {}
        client, task = _client(settings, context), wire.task_of(settings, tensors)
        if kind == "sums":
            return wire.sums_parts(client.sums(task))
        scales = np.array([float(each) for each in str(settings["scales"]).split(",")])
        return {}, {"losses": client.losses(task, scales)}
    except (AdabetError, NotLinearError, KeyError, ValueError) as error:
        return {"error": str(error)}, {}


# --- resources of a node ---------------------------------------------------------------------------------------------


def _folder(context: Any) -> Path:
    """Return the folder in which a node keeps the files that it receives once."""
    given = context.node_config.get("folder")
    return Path(str(given)) if given else Path(tempfile.gettempdir()) / f"adabet-onnx-fleet-{context.node_id}"


def _data(model: Model, context: Any) -> Dataset:
    """Return the node's own data, or its part of the run's data."""
    node, run = context.node_config, context.run_config
    own, shared = str(node.get("data", "")), str(run.get("data", ""))
    if not own and not shared:
        raise UsageError("the node has no data: start its supernode with a node config that has data.")
    train = align_classes(open_data(own or shared, model).train, model.metadata("classes"))
    if own:
        return train
    scheme, count = parse_partition(str(run.get("partition") or "iid")), int(node.get("num-partitions", 1))
    parts = scheme.rows(train.labels, len(train), count, int(run.get("seed", 0)))
    return train.subset(parts[int(node.get("partition-id", 0))])


def _model(settings: Any, context: Any) -> tuple[Model, Dataset]:
    """Open the model that is voted on."""
    model = open_model(verified(_folder(context), str(settings["key"])) / MODEL)
    return model, _data(model, context)


def _client(settings: Any, context: Any) -> Client:
    """Return the client of a node, created once per process."""
    folder, node = installed(_folder(context), str(settings["key"])), context.node_config
    run = {key: str(context.run_config.get(key, "")) for key in ("data", "partition", "personal", "validation", "seed")}
    key = (str(folder), str(context.node_id), *run.values(), *(str(node.get(each, "")) for each in _OF_NODES))
    if key not in _CLIENTS:
        personal = [each for each in run["personal"].split(",") if each]
        artifacts = ClientArtifacts(verified(_folder(context), str(settings["key"])), personal)
        states = ContextStates()
        memory = node.get("memory")
        own = ClientSetup(
            int(context.node_id),
            _data(artifacts.model, context),
            folder.parent / "features",
            states,
            float(run["validation"] or 0),
            None if memory is None else int(memory),
            int(run["seed"] or 0),
            keep_features=True,
        )
        _CLIENTS[key] = Client(own, artifacts), states
    client, states = _CLIENTS[key]
    states.now = context.state
    return client


_OF_NODES = ("data", "partition-id", "num-partitions", "memory")


class ContextStates(MutableMapping[int, TrainingState]):
    """States by round in Flower's context, which persists on a node during a run.

    Attributes:
        now: the context's state.
    """

    now: Any = None

    def __getitem__(self, number: int) -> TrainingState:
        record = self.now.get(_name(number))
        if record is None:
            raise KeyError(number)
        steps = int(self.now[f"{_name(number)}/step"]["step"])
        return TrainingState(from_arrays(record), steps)

    def __setitem__(self, number: int, state: TrainingState) -> None:
        from flwr.app import MetricRecord

        self.now[_name(number)] = to_arrays(state.tensors)
        self.now[f"{_name(number)}/step"] = MetricRecord({"step": state.step})

    def __delitem__(self, number: int) -> None:
        del self.now[_name(number)]
        del self.now[f"{_name(number)}/step"]

    def __iter__(self) -> Iterator[int]:
        ends = [str(name).removeprefix(_PREFIX) for name in self.now if str(name).startswith(_PREFIX)]
        return iter(sorted(int(end) for end in ends if end.isdecimal()))

    def __len__(self) -> int:
        return sum(1 for _ in self)


_PREFIX = "adabet-onnx/"


def _name(number: int) -> str:
    return f"{_PREFIX}{number}"
