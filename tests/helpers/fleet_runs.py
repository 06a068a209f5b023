"""What is run where Flower is installed: `python tests/helpers/fleet_runs.py NAME FOLDER` prints its results as JSON.

The environment of the tests has no Flower (it needs Python 3.11, and 600 MB with Ray); `make test` makes one that has.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.mod import LocalDpMod
from flwr.supercore.task_identity import TaskIdentity
from models import tiny

from adabet_onnx import (
    Adapting,
    Choices,
    Choosing,
    Fleet,
    Settings,
    TrainingError,
    make_artifacts,
    new_head,
    open_model,
    save_model,
    select,
    simulate_fleet,
)
from adabet_onnx.data.dataset import ArrayRows, Dataset
from adabet_onnx.fleet.client import Client, ClientSetup
from adabet_onnx.fleet.client_artifacts import ClientArtifacts
from adabet_onnx.fleet.flower import FlowerStrategy
from adabet_onnx.fleet.flower_client import client_app
from adabet_onnx.fleet.flower_server import FlowerGrid, run
from adabet_onnx.fleet.grids import InProcess
from adabet_onnx.fleet.messages import Local, Reply, RoundTask
from adabet_onnx.fleet.record import load_checkpoint
from adabet_onnx.fleet.server import Server

CLIENTS, SAMPLES = 3, 40


def pictures(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise in which the first channel's brightness tells the class, of four."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, samples)
    x = rng.standard_normal((samples, 3, 8, 8)).astype(np.float32)
    x[:, 0] += y[:, None, None]
    return x, y


class OwnGrid:
    """Flower's grid in this process: it calls the client app, and can spoil what comes back."""

    def __init__(self, app: Any, folder: Path, spoil: Any = None) -> None:
        self._app, self._folder, self._spoil = app, folder, spoil
        self._contexts: dict[int, Context] = {}
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
        self.sent: list[str] = []

    def get_node_ids(self) -> list[int]:
        return list(range(1, CLIENTS + 1))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        answers = []
        for message in messages:
            node = message.metadata.dst_node_id
            TaskIdentity.node_id = node
            self.sent.append(message.metadata.message_type)
            if node not in self._contexts:
                config = {"data": str(self._folder / f"{node}.npz"), "folder": str(self._folder / f"node{node}")}
                self._contexts[node] = Context(1, node, config, RecordDict(), {"validation": 0.0})
            answer = self._app(message, self._contexts[node])
            answer.metadata._src_node_id = node
            if self._spoil is not None:
                answer = self._spoil(answer, node)
            answers.append(answer)
        return answers


def prepared(folder: Path, *, headed: bool = False) -> Path:
    """Data of the nodes, a model, and its artifacts."""
    for node in range(1, CLIENTS + 1):
        x, y = pictures(SAMPLES, node)
        np.savez(folder / f"{node}.npz", x=x, y=y)
    model = new_head(tiny.conv_net(classes=7), 4) if headed else open_model(tiny.conv_net())
    save_model(model, folder / "model.onnx")
    opened = open_model(folder / "model.onnx")
    make_artifacts(opened, select(opened, strategy="all"), folder / "artifacts", choices=Choices(), check=False)
    return folder / "artifacts"


def plain(folder: Path, bench: ClientArtifacts, rounds: int) -> dict[str, np.ndarray]:
    """The same without Flower."""
    clients = []
    for node in range(1, CLIENTS + 1):
        x, y = pictures(SAMPLES, node)
        data = Dataset(ArrayRows({"": x}), y.astype(np.int64))
        clients.append(Client(ClientSetup(node, data, folder / f"plain{node}", {}), bench))
    server = Server(
        InProcess(clients),
        folder / "plain",
        bench.model_sha256,
        bench.initial_values(),
        Fleet(clients=CLIENTS, rounds=rounds),
        Local(batch_size=16, learning_rate=0.01),
    )
    server.run()
    return server.values


CONFIG = {"rounds": 2, "nodes": CLIENTS, "batch-size": 16, "learning-rate": 0.01, "timeout": 60.0}


def apps(folder: Path) -> dict[str, Any]:
    """Both apps in one process give what the same clients give without Flower."""
    bench = ClientArtifacts(prepared(folder))
    grid = OwnGrid(client_app(), folder)
    config = CONFIG | {"artifacts": str(folder / "artifacts"), "folder": str(folder / "results")}
    rows = run(grid, config)
    expected = plain(folder, bench, 2)
    shapes = {name: array.shape for name, array in expected.items()}
    found = load_checkpoint(folder / "results", bench.model_sha256, shapes)
    more = run(OwnGrid(client_app(), folder), config | {"rounds": 3})
    return {
        "clients": rows[-1]["clients"],
        "difference": max(float(np.abs(found.values[name] - array).max()) for name, array in expected.items()),
        "sent": grid.sent,
        "rounds_after_resuming": [row["round"] for row in more],
        "bytes": [row["bytes_up"] for row in rows],
        "expected_bytes": CLIENTS * 4 * sum(array.size for array in expected.values()),
    }


def votes(folder: Path) -> dict[str, Any]:
    """From a model alone: votes, artifacts made once, a fitted head, two rounds."""
    prepared(folder, headed=True)
    config = CONFIG | {"model": str(folder / "model.onnx"), "folder": str(folder / "results"), "rho": 0.4}
    rows = run(OwnGrid(client_app(), folder), config | {"samples": 32, "subset-size": 16})
    about = json.loads((folder / "results" / "fleet.json").read_text())
    return {
        "agreement": about["poll"]["agreement"],
        "voters": about["poll"]["voters"],
        "head": about["head"]["note"],
        "rows_of_head": about["head"]["rows"],
        "losses": [row["loss"] for row in rows],
        "delta": (folder / "results" / "delta.safetensors").is_file(),
    }


def spoilt(folder: Path) -> dict[str, Any]:
    """Replies that are damaged on the way are dropped, each with a line."""
    bench = ClientArtifacts(prepared(folder))
    found = {}

    def array_of(data: bytes, dtype: str = "float32", shape: tuple[int, ...] = (4, 8)) -> Any:
        return Array(dtype, shape, "numpy.ndarray", data)

    def spoil(what: str, answer: Message) -> Message:
        if "reply" not in answer.content["config"]:
            return answer
        arrays = dict(answer.content["arrays"].items())
        whole = arrays["fc.weight"]
        if what == "truncated":
            arrays["fc.weight"] = array_of(whole.data[:-5])
        elif what == "no bytes":
            arrays["fc.weight"] = array_of(b"")
        elif what == "pickled":
            out = io.BytesIO()
            np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
            arrays["fc.weight"] = array_of(out.getvalue())
        elif what == "float64":
            arrays["fc.weight"] = Array(whole.numpy().astype(np.float64))
        elif what == "settings":
            answer.content["config"] = ConfigRecord({"reply": "[1, 2"})
        elif what == "none":
            del answer.content["config"]
        answer.content["arrays"] = ArrayRecord(arrays)
        return answer

    for what in ("truncated", "no bytes", "pickled", "float64", "settings", "none"):
        grid = OwnGrid(client_app(), folder, lambda answer, node, w=what: spoil(w, answer) if node == 2 else answer)
        config = CONFIG | {"artifacts": str(folder / "artifacts"), "folder": str(folder / what), "rounds": 1}
        row = run(grid, config)[-1]
        found[what] = {"clients": row["clients"], "dropped": row["dropped"]}
    task = RoundTask(1, bench.model_sha256, bench.initial_values(), Local(batch_size=16))
    grid = FlowerGrid(OwnGrid(client_app(), folder), 60)
    found["not installed"] = [reply.error for reply in grid.train([1], replace_key(grid, task))]
    return found


def replace_key(grid: FlowerGrid, task: RoundTask) -> RoundTask:
    """Request artifacts that no node has."""
    grid._key, grid._have = "ab" * 32, {1, 2, 3}
    return task


def strategies(folder: Path) -> dict[str, Any]:
    """Flower's aggregations against their formulas in NumPy, with a resumed one beside."""
    rng = np.random.default_rng(0)
    current = {"w": rng.standard_normal((3, 2)).astype(np.float32), "b": rng.standard_normal(2).astype(np.float32)}

    def replies(seed: int) -> list[Reply]:
        rng = np.random.default_rng(seed)
        made = []
        for client in range(5):
            tensors = {name: a + rng.normal(0, 0.1, a.shape).astype(np.float32) for name, a in current.items()}
            made.append(Reply(client, 1, "", tensors, 10 * (client + 1)))
        return made

    def mean(given: list[Reply], name: str) -> np.ndarray:
        return np.average([reply.tensors[name] for reply in given], axis=0, weights=[r.samples for r in given])

    def apart(one: Any, other: Any) -> float:
        return max(float(np.abs(np.asarray(one[name]) - other[name]).max()) for name in current)

    found: dict[str, Any] = {}
    first, second = replies(1), replies(2)
    made = FlowerStrategy(Fleet(aggregation="fedavgm"))
    values = made.aggregate(1, current, first)
    momentum = {name: current[name] - mean(first, name) for name in current}
    found["fedavgm 1"] = apart(values, {name: current[name] - momentum[name] for name in current})
    resumed = FlowerStrategy(Fleet(aggregation="fedavgm"))
    resumed.restore(made.state())
    momentum = {name: 0.9 * momentum[name] + values[name] - mean(second, name) for name in current}
    expected = {name: values[name] - momentum[name] for name in current}
    found["fedavgm 2"] = apart(made.aggregate(2, values, second), expected)
    found["fedavgm resumed"] = apart(resumed.aggregate(2, values, second), expected)
    adam = FlowerStrategy(Fleet(aggregation="fedadam", server_rate=0.1))
    values = adam.aggregate(1, current, first)
    delta = {name: mean(first, name) - current[name] for name in current}
    rate = 0.1 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
    step = {name: rate * 0.1 * d / (np.sqrt(0.01 * d**2) + 1e-3) for name, d in delta.items()}
    found["fedadam 1"] = apart(values, {name: current[name] + step[name] for name in current})
    resumed = FlowerStrategy(Fleet(aggregation="fedadam", server_rate=0.1))
    resumed.restore(adam.state())
    found["fedadam resumed"] = apart(adam.aggregate(2, values, second), resumed.aggregate(2, values, second))
    found["dtype"] = sorted({str(array.dtype) for array in values.values()})
    median = FlowerStrategy(Fleet(aggregation="fedmedian")).aggregate(1, current, first)
    found["fedmedian"] = apart(
        median, {name: np.median([reply.tensors[name] for reply in first], axis=0) for name in current}
    )
    flat = np.array([np.concatenate([reply.tensors[name].ravel() for name in current]) for reply in first], np.float64)
    distances = ((flat[:, None] - flat) ** 2).sum(-1)
    best = int(np.argmin([np.sort(np.delete(row, at))[:3].sum() for at, row in enumerate(distances)]))
    krum = FlowerStrategy(Fleet(aggregation="krum")).aggregate(1, current, first)
    found["krum"] = apart(krum, first[best].tensors)
    private = FlowerStrategy(Fleet(privacy_clip=0.05, privacy_noise=0.0)).aggregate(1, current, first)
    clipped = []
    for reply in first:
        update = {name: reply.tensors[name] - current[name] for name in current}
        norm = np.sqrt(sum(float((u.astype(np.float64) ** 2).sum()) for u in update.values()))
        clipped.append({name: current[name] + u * min(1, 0.05 / norm) for name, u in update.items()})
    weights = [reply.samples for reply in first]
    found["clipped"] = apart(
        private, {name: np.average([each[name] for each in clipped], axis=0, weights=weights) for name in current}
    )
    noisy = FlowerStrategy(Fleet(privacy_clip=0.05, privacy_noise=1.0)).aggregate(1, current, first)
    found["noise"] = apart(noisy, private)
    try:
        FlowerStrategy(Fleet(aggregation="krum")).aggregate(1, current, [])
        found["nothing"] = "no error"
    except TrainingError as error:
        found["nothing"] = str(error)
    return found


def private(folder: Path) -> dict[str, Any]:
    """Flower's modifier for local differential privacy changes what a client sends, and the round takes it."""
    bench = ClientArtifacts(prepared(folder))
    plainly = plain(folder, bench, 1)
    mod = LocalDpMod(clipping_norm=0.5, sensitivity=0.01, epsilon=100.0, delta=1e-5)
    config = CONFIG | {"artifacts": str(folder / "artifacts"), "folder": str(folder / "results"), "rounds": 1}
    row = run(OwnGrid(client_app([mod]), folder), config)[-1]
    shapes = {name: array.shape for name, array in plainly.items()}
    found = load_checkpoint(folder / "results", bench.model_sha256, shapes).values
    return {
        "clients": row["clients"],
        "dropped": row["dropped"],
        "moved": max(float(np.abs(found[name] - plainly[name]).max()) for name in plainly),
    }


def simulated(folder: Path) -> dict[str, Any]:
    """A simulation with each of Flower's aggregations: in one run, and in two of which the second resumes."""
    x, y = pictures(160, 0)
    data = {"x_train": x[:120], "y_train": y[:120], "x_test": x[120:], "y_test": y[120:]}
    settings = Settings(batch_size=16, learning_rate=0.01, schedule="constant")
    adapting = Adapting(choosing=Choosing(strategy="last", rho=0.4), settings=settings, check=False)
    found = {}
    for name in ("fedavgm", "fedadam", "fedmedian", "krum"):

        def losses(place: str, rounds: int, name: str = name) -> list[float]:
            fleet = Fleet(clients=5, rounds=rounds, aggregation=name)
            how: dict[str, Any] = {"fleet": fleet, "adapting": adapting, "resume": place == "parts" and rounds == 3}
            rows = simulate_fleet(tiny.conv_net(), data, folder / f"{name}-{place}", **how)
            return [row["eval_loss"] for row in rows]

        losses("parts", 1)
        found[name] = {"whole": losses("whole", 3), "parts": losses("parts", 3)}
    return found


def certificates(folder: Path) -> dict[str, str]:
    """A test certificate authority and a certificate for 127.0.0.1."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("tests", "127.0.0.1")]
    now = datetime.datetime.now(datetime.timezone.utc)

    def signed(name: x509.Name, key: Any, *, authority: bool) -> bytes:
        made = x509.CertificateBuilder().subject_name(name).issuer_name(names[0]).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
        made = made.not_valid_after(now + datetime.timedelta(days=2))
        made = made.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        if not authority:
            alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            made = made.add_extension(alternative, critical=False)
        return made.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    private = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = {
        "ca.pem": signed(names[0], keys[0], authority=True),
        "server.pem": signed(names[1], keys[1], authority=False),
        "server.key": private,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: str(folder / name) for name in files}


if __name__ == "__main__":
    import logging

    logging.getLogger("flwr").setLevel(logging.ERROR)
    print(json.dumps(globals()[sys.argv[1]](Path(sys.argv[2]))))
