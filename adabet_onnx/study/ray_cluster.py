"""Ray: processes on this machine, or on the nodes of a cluster, that run tasks and share what they read.

The only module that knows Ray. Its cluster is trusted: Ray sends functions and their arguments as pickles.

A task whose process or node dies is run again, up to three times. A task that raises an error is not: the error is
raised here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import psutil

from ..errors import CheckError, RuntimeMissingError, UsageError
from ..runtime import installed
from ..version import __version__

LOCAL = "local"
Reference: TypeAlias = Any  # a Ray ObjectRef: what `put` and `submit` return
_RETRIES = 3
_CONNECT_SECONDS = 5
_STARTS = 3  # of Ray on this machine: its processes must be up within 30 s, which a busy machine may miss


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        id: Ray's name for it.
        host: its host name.
        cpus: CPUs that Ray may use on it.
        machine: processor architecture, number of cores and memory; equal for nodes that run at the same speed.
        versions: versions of adabet-onnx and of the installed onnxruntime packages.
    """

    id: str
    host: str
    cpus: float
    machine: str
    versions: str


class Cluster:
    """A connection to Ray; made by `connect`.

    Args:
        nodes: the machines that can run tasks.
        at_once: most tasks to have under way, or None for as many as the nodes have CPUs for.
    """

    def __init__(self, nodes: Sequence[Node], at_once: int | None) -> None:
        self.nodes = tuple(nodes)
        self.at_once = at_once or max(1, int(sum(node.cpus for node in nodes)))

    def alive(self) -> list[Node]:
        """The nodes that are still there."""
        import ray

        present = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return [node for node in self.nodes if node.id in present]

    def put(self, value: Any) -> Reference:
        """Copy a value to the object store, from which each node fetches it once."""
        import ray

        return ray.put(value)

    def submit(self, function: Callable[..., Any], *arguments: Any, cpus: float = 1) -> Reference:
        """Start a task on any node that has CPUs for it.

        Args:
            function: defined at the top level of a module.
            arguments: for the function; references among them are replaced by their values.
            cpus: CPUs that the task occupies.
        """
        import ray

        options = {"num_cpus": cpus, "max_retries": _RETRIES, "scheduling_strategy": "SPREAD"}
        return ray.remote(function).options(**options).remote(*arguments)

    def submit_alone(self, function: Callable[..., Any], *arguments: Any, node: Node) -> Reference:
        """Start a task on a node; it waits until no other task runs there, and keeps others away."""
        return _on_node(function, arguments, node.id, node.cpus)

    def on_every_node(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run a function once on each node, beside other tasks; a node that fails or does not answer is left out."""
        import ray

        pending = [_on_node(function, arguments, node.id, 0) for node in self.nodes]
        with contextlib.suppress(Exception):
            ray.wait(pending, num_returns=len(pending), timeout=30)

    def next_done(self, pending: Sequence[Reference]) -> Reference:
        """Wait until a task has ended, and return it."""
        import ray

        return ray.wait(list(pending), num_returns=1)[0][0]

    def result(self, reference: Reference, what: str) -> Any:
        """What a task returned.

        Args:
            reference: of the task.
            what: the task, for messages: ``a training``.

        Raises:
            CheckError: its processes died, or its node was lost, each time that it was tried.
            Exception: the one that the task raised.
        """
        import ray.exceptions as failures

        try:
            return fetch([reference])[0]
        except failures.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, Exception) else error) from None
        except failures.RayError as error:
            raise CheckError(
                f"{what} was started {_RETRIES + 1} times on the Ray cluster, and each time its process or node was "
                f"lost ({_first_line(error)}). Everything that was finished is kept. Start again, with fewer "
                "`processes`, a smaller `batch_size`, or nodes with more memory."
            ) from error

    def cancel(self, pending: Sequence[Reference]) -> None:
        """Stop tasks that are waiting or running."""
        import ray

        for reference in pending:
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=True)


def fetch(references: Sequence[Reference]) -> list[Any]:
    """Values from the object store; arrays in them are read-only views of shared memory."""
    import ray

    return list(ray.get(list(references)))


@contextlib.contextmanager
def connect(address: str, at_once: int | None = None) -> Iterator[Cluster]:
    """Start Ray on this machine, or connect to a cluster; what was started is stopped at the end.

    Args:
        address: ``"local"``; ``"auto"`` for the cluster that this machine belongs to; ``"HOST:PORT"`` or
            ``"ray://HOST:PORT"``.
        at_once: most tasks to have under way; None for as many as there are CPUs.

    Raises:
        UsageError: the address is not one of these, or a node has other versions than this machine.
        RuntimeMissingError: Ray is not installed.
        CheckError: there is no cluster at the address, or Ray cannot be started.
    """
    ray = _ray()
    check_address(address)
    started = not ray.is_initialized()
    if started:
        _start(ray, address, at_once)
    try:
        yield Cluster(_nodes(ray), at_once)
    finally:
        if started:
            ray.shutdown()


def check_address(address: str) -> None:
    """Check the form of an address.

    Raises:
        UsageError: it is not local, auto, HOST:PORT or ray://HOST:PORT.
    """
    if not isinstance(address, str) or (address not in (LOCAL, "auto") and _host_and_port(address) is None):
        raise UsageError(
            f"`ray` must be 'local', 'auto', 'HOST:PORT' or 'ray://HOST:PORT', not {address!r}. 'local' starts Ray on "
            "this machine; the others connect to a running cluster."
        )


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise RuntimeMissingError(
            f"Ray is not installed ({error}). Install it: pip install 'adabet-onnx[cluster]'."
        ) from error
    return ray


def _host_and_port(address: str) -> tuple[str, int] | None:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    right = colon and host and "/" not in host and not host.isspace() and port.isdecimal() and int(port) < 65536
    return (host.strip("[]"), int(port)) if right else None


def _start(ray: Any, address: str, at_once: int | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        cpus = at_once or os.cpu_count() or 1
        # Without this limit, Ray restarts a task that runs out of memory again and again.
        options |= {"num_cpus": cpus, "include_dashboard": False, "_system_config": {"task_oom_retries": _RETRIES}}
    elif address != "auto":
        _see_a_listener(address)
    for left in reversed(range(_STARTS if address == LOCAL else 1)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(address=address, **options)
            return
        except (Exception, SystemExit) as error:  # Ray raises all kinds, and exits where a cluster does not answer
            ray.shutdown()
            if not left:
                raise _not_connected(address, error) from error


def _not_connected(address: str, error: BaseException) -> CheckError:
    if address == LOCAL:
        return CheckError(
            f"Ray cannot be started on this machine: {_first_line(error)}. Try again when the machine is less busy, or "
            "leave `ray` out."
        )
    return CheckError(
        f"cannot connect to the Ray cluster at {address}: {_first_line(error)}. The cluster must run the same versions "
        "of Ray and Python as this machine."
    )


def _see_a_listener(address: str) -> None:
    """Ray itself tries for two minutes, and then ends the process."""
    place = _host_and_port(address)
    assert place is not None
    try:
        socket.create_connection(place, timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise CheckError(
            f"nothing answers at {address} ({error.strerror or error}). Check the address and port of the Ray "
            "cluster's head node, which Ray prints when it starts there, or use this machine alone: `ray='local'`."
        ) from error


def _nodes(ray: Any) -> list[Node]:
    """The nodes that can run tasks, each asked for its versions.

    Raises:
        UsageError: a node has no adabet-onnx, or other versions.
        CheckError: there is no node.
    """
    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    if not alive:
        raise CheckError("the Ray cluster has no node with CPUs. Add a node that has some.")
    asked = {node["NodeID"]: _on_node(_describe, (), node["NodeID"], 0) for node in alive}
    own, nodes = _describe()[1], []
    for node in alive:
        host = node["NodeManagerHostname"]
        try:
            machine, versions = fetch([asked[node["NodeID"]]])[0]
        except Exception as error:  # an ImportError of the package in the worker, a node that dies
            raise UsageError(
                f"node {host} of the Ray cluster cannot run adabet-onnx: {_first_line(error)}. Install adabet-onnx "
                f"{__version__} there, with the same extras as on this machine."
            ) from error
        if versions != own:
            raise UsageError(
                f"node {host} of the Ray cluster has {versions}, this machine {own}. Results would depend on where a "
                "training runs: install the same versions on every node."
            )
        nodes.append(Node(node["NodeID"], host, node["Resources"]["CPU"], machine, versions))
    return nodes


def _describe() -> tuple[str, str]:
    """Machine and versions of the process that runs this."""
    memory = round(psutil.virtual_memory().total / 2**30)
    machine = f"{_processor()}, {psutil.cpu_count()} cores, {memory} GiB"
    packages = installed().training | installed().inference
    listed = ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
    return machine, f"adabet-onnx {__version__}, {listed or 'no ONNX Runtime'}"


def _processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _on_node(function: Callable[..., Any], arguments: Sequence[Any], node: str, cpus: float) -> Reference:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    options = {"num_cpus": cpus, "max_retries": _RETRIES, "scheduling_strategy": there}
    return ray.remote(function).options(**options).remote(*arguments)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
