"""The one door to ONNX Runtime's inference side.

``onnxruntime`` (inference) and ``onnxruntime-training-cpu`` install into the same folder, so neither can be a
hard dependency: which one is there is found out here, and said clearly when it is the wrong one or both.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import importlib
import importlib.metadata
import io
import mmap
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from .errors import ModelError, RuntimeMissingError, UsageError
from .isolation import during
from .options import check_fields
from .placement import Watched, profiled
from .showing import changed

INSTALL_TRAINING = "pip install 'adabet-onnx[training]'   (Python 3.10-3.12)"
INSTALL_INFERENCE = "pip install 'adabet-onnx[inference]'"
_INFERENCE = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-silicon")
GIVEN_BACK = 1 << 17  # bytes; blocks as large are given back at once when they are freed, with `frugal_loading`
_MMAP_THRESHOLD, _LARGE = -3, 1 << 25  # M_MMAP_THRESHOLD of mallopt, and its highest value
MOST_BYTES = 2_000_000_000  # of a serialised model: protobuf ends at 2 GiB
_LARGE_TENSOR = 1 << 20
# How the attributes of If, Loop and Scan that hold a graph begin in a file: field 1, the length of the name, the name.
_SUBGRAPHS = (b"\x0a\x0bthen_branch", b"\x0a\x0belse_branch", b"\x0a\x04body")
_TRAINING = ("onnxruntime-training-cpu", "onnxruntime-training")
_SUFFIX, _CPU = "ExecutionProvider", "CPUExecutionProvider"


@dataclass(frozen=True)
class Runtime:
    """What ONNX Runtime computes on.

    An execution provider (an accelerator, or another library for the processor) does what is inference: scoring, the
    frozen part of a training, prediction and evaluation. What trains runs on the CPU, and so do the ort backend's
    trainings, which are never parted. No artifact and no model says where it runs.

    Attributes:
        threads: for ONNX Runtime; None is its own choice.
        provider: an execution provider of the installed onnxruntime, such as ``OpenVINOExecutionProvider`` (or
            ``openvino``); None: the CPU's.
        provider_options: of the provider, by name: ``{"device_type": "GPU"}``. Texts, as ONNX Runtime takes them.

    Raises:
        UsageError: the installed onnxruntime has no such provider, or there are options of none.
        RuntimeMissingError: there is a provider, and no onnxruntime.

    Example:
        >>> from adabet_onnx import Runtime, predict
        >>> rows = predict("model.onnx", "new_domain.npz", threads=Runtime(threads=1, provider="cpu"))
        >>> len(rows)
        400
    """

    threads: int | None = None
    provider: str | None = None
    provider_options: Mapping[str, str] = field(default_factory=dict)

    __repr__ = changed

    def __post_init__(self) -> None:
        check_fields(self)
        if self.threads is not None and self.threads < 0:
            raise UsageError(f"`threads` must be at least 1, or None for ONNX Runtime's choice, not {self.threads}.")
        if self.provider is None:
            if self.provider_options:
                raise UsageError("`provider_options` are of an execution provider. Give `provider` too.")
            return
        object.__setattr__(self, "provider", available_provider(self.provider))
        texts = {str(key): str(value) for key, value in self.provider_options.items()}
        object.__setattr__(self, "provider_options", texts)

    @property
    def providers(self) -> list[Any]:
        """As ONNX Runtime takes them: the one asked for, and the CPU's for what that declines."""
        if self.provider in (None, _CPU):
            return [(_CPU, dict(self.provider_options))]
        return [(self.provider, dict(self.provider_options)), _CPU]


Threads = int | Runtime | None  # of a parameter ``threads``


def on(threads: Threads) -> Runtime:
    """What ONNX Runtime computes on, where a number of threads or that is given."""
    return threads if isinstance(threads, Runtime) else Runtime(threads)


def available_provider(name: str) -> str:
    """The full name of an execution provider: ``cuda`` is short for ``CUDAExecutionProvider``.

    Raises:
        UsageError: the installed onnxruntime has none of this name.
        RuntimeMissingError: ONNX Runtime is not installed.
    """
    if not isinstance(name, str):
        raise UsageError(f"`provider` must be the name of an execution provider, not {name!r}.")
    ort = onnxruntime()
    there = {_short(known): str(known) for known in ort.get_available_providers()}
    found = there.get(_short(name))
    if found is not None:
        return found
    known = {_short(other): str(other) for other in ort.get_all_providers()}
    has = f"It has {', '.join(there.values())}"
    if _short(name) in known:
        raise UsageError(
            f"{known[_short(name)]} is not in the installed onnxruntime {ort.__version__}. {has}; others come with "
            "other packages, such as onnxruntime-gpu or onnxruntime-openvino."
        )
    near = difflib.get_close_matches(_short(name), known, n=1)
    meant = f" Did you mean {known[near[0]]}?" if near else ""
    raise UsageError(f"onnxruntime {ort.__version__} knows no execution provider {name!r}. {has}.{meant}")


def _short(name: str) -> str:
    return name.strip().lower().removesuffix(_SUFFIX.lower())


@dataclass(frozen=True)
class Installed:
    """Which ONNX Runtime distributions are installed, by name, with their versions."""

    inference: dict[str, str]
    training: dict[str, str]

    @property
    def conflict(self) -> str | None:
        """What to say when two packages overwrite each other, else None."""
        both = {**self.training, **self.inference}
        if len(both) < 2:
            return None
        names = ", ".join(f"{name} {version}" for name, version in both.items())
        return (
            f"{names} are installed together, but they share one folder and overwrite each other. "
            f"Uninstall all of them (pip uninstall -y {' '.join(both)}), then install one: "
            f"{INSTALL_TRAINING}, or {INSTALL_INFERENCE}."
        )


def installed() -> Installed:
    """Look up which ONNX Runtime distributions are installed (nothing is imported)."""

    def versions(names: tuple[str, ...]) -> dict[str, str]:
        found = {}
        for name in names:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return found

    return Installed(versions(_INFERENCE), versions(_TRAINING))


def onnxruntime() -> Any:
    """Import ONNX Runtime, for inference.

    Raises:
        RuntimeMissingError: none is installed, two are in each other's way, or it cannot be imported.
    """
    if "onnxruntime" not in sys.modules:
        conflict = installed().conflict
        if conflict:
            raise RuntimeMissingError(conflict)
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise RuntimeMissingError(
            f"ONNX Runtime cannot be imported ({error}). Install it: {INSTALL_INFERENCE}; or, to train with the ort "
            f"backend too: {INSTALL_TRAINING}."
        ) from error
    if not hasattr(module, "InferenceSession"):
        raise RuntimeMissingError(
            "the onnxruntime folder is damaged (it has no InferenceSession), as happens when one of two packages "
            "that share it is uninstalled. Uninstall onnxruntime and onnxruntime-training-cpu, then: "
            f"{INSTALL_TRAINING}, or {INSTALL_INFERENCE}."
        )
    return module


def session_options(threads: Threads = None) -> Any:
    """Session options that log nothing and use ``threads`` threads (None: ONNX Runtime's choice).

    What goes wrong is an exception as well; its log line would be a second message.
    """
    number = on(threads).threads
    options = onnxruntime().SessionOptions()
    options.log_severity_level = 4
    if number:
        options.intra_op_num_threads = number
        options.inter_op_num_threads = 1
    return options


def plain_options(threads: Threads = None) -> Any:
    """Session options with which a graph is computed node by node, as it is written."""
    options = session_options(threads)
    options.graph_optimization_level = onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def training_options(threads: Threads = None) -> Any:
    """Session options for a training step: memory is asked for when needed and given back at once.

    Off are the memory pattern, one block for a whole run that would lie beside what the first run has allocated, and
    memory reuse, which holds a buffer from the first tensor of a shape to the last. A step of MobileNetV2 in plain ONNX
    needed 446 MB with both and 258 MB with neither, in the same time; steps of onnxruntime-training vary less, but
    whether a second block is taken there is up to chance (89 or 57 MB for early layers of ResNet-20), and not with
    neither (49 MB).
    """
    options = session_options(threads)
    options.enable_mem_pattern = False
    options.enable_mem_reuse = False
    return options


@contextlib.contextmanager
def frugal_loading() -> Iterator[None]:
    """While a model is loaded, have the C library (glibc) give large blocks back as soon as they are freed.

    Otherwise what loading has freed, once or twice the weights, stays with the process.
    """
    library = None
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, GIVEN_BACK)
    try:
        yield
    finally:
        with contextlib.suppress(AttributeError, TypeError):
            if library is not None:
                library.mallopt(_MMAP_THRESHOLD, _LARGE)
                library.malloc_trim(0)


def inference_session(
    model: bytes | str | Path | ir.Model, name: str, options: Any | None = None, threads: Threads = None
) -> Any:
    """Make an inference session, on the CPU unless something else is given.

    Args:
        model: serialised ModelProto, a graph, or the path of a file.
        name: what to call the model in an error message.
        options: ``onnxruntime.SessionOptions``; None for the quiet default.
        threads: whose execution provider is used; a number says nothing here, where options do. A warning tells after
            the first run if the provider has taken little of the model.

    Raises:
        ModelError: ONNX Runtime refuses the model, or does not use the provider.
        RuntimeMissingError: ONNX Runtime is not installed.
    """
    ort, folder = onnxruntime(), None
    options, where = options or session_options(threads), on(threads)
    if isinstance(model, ir.Model):
        model = _serialised(model, options)
    source = model if isinstance(model, bytes) else str(model)
    keep_apart(options, model)
    try:
        with during(f"onnxruntime {ort.__version__} loads {name}"):
            if where.provider in (None, _CPU):
                return ort.InferenceSession(source, options, providers=where.providers)
            with profiled(options) as folder:
                session, said = _accelerated(source, options, where)
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise ModelError(
            f"onnxruntime {ort.__version__} cannot load {name}: {first_line(error)} "
            "If an operator or opset is too new for it, update onnxruntime or export at opset 17."
        ) from error
    if where.provider not in session.get_providers():
        why = f" ({said})" if said else ""
        raise ModelError(
            f"onnxruntime {ort.__version__} would compute {name} on the CPU: {where.provider} could not be started"
            f"{why}. Are its driver and libraries there, and `provider_options` right? Otherwise leave out `provider`."
        )
    return session if folder is None else Watched(session, folder, str(where.provider), name, _operators(model))


def _accelerated(source: bytes | str, options: Any, where: Runtime) -> tuple[Any, str]:
    """A session with a provider, and what ONNX Runtime printed where it could not start it and took the CPU's."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):  # it would stand amid what a command prints for programs
        session = onnxruntime().InferenceSession(source, options, providers=where.providers)
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("EP Error ")]
    return session, first_line(RuntimeError(lines[0].removeprefix("EP Error "))) if lines else ""


def _operators(model: bytes | str | Path) -> list[str]:
    """Of the nodes of a model."""
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model, load_external_data=False)
    return [node.op_type for node in proto.graph.node]


def keep_apart(options: Any, model: bytes | str | Path) -> None:
    """Have a session leave activations after convolutions alone, where a node of the model holds a graph of its own.

    To merge the two, ONNX Runtime asks at which input of the next node a convolution's result stands. What an If
    captures stands at none, and 1.19.2 ends the process over that.
    """
    if isinstance(model, bytes):
        found = any(mark in model for mark in _SUBGRAPHS)
    else:
        try:
            with Path(model).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                found = any(view.find(mark) >= 0 for mark in _SUBGRAPHS)
        except (OSError, ValueError):  # not there, or empty: loading it says so
            return
    if found:
        options.add_session_config_entry("optimization.disable_specified_optimizers", "ConvActivationFusion")


def _serialised(model: ir.Model, options: Any) -> bytes:
    """A graph as bytes; where its weights are too many for that, they are handed over by the options."""
    weights = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes >= _LARGE_TENSOR
    }
    if sum(tensor.nbytes for tensor in weights.values()) < MOST_BYTES:
        return bytes(ir.to_proto(in_memory(model)).SerializeToString())
    light = model.clone()
    for name, tensor in weights.items():
        light.graph.initializers[name].const_value = ir.ExternalTensor(
            "weights", None, None, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
    values = [onnxruntime().OrtValue.ortvalue_from_numpy(tensor.numpy()) for tensor in weights.values()]
    options.add_external_initializers(list(weights), values)
    return bytes(ir.to_proto(light).SerializeToString())


def in_memory(model: ir.Model) -> ir.Model:
    """The graph with its weights in memory: itself, or a clone if some of them lie in files."""
    if not any(isinstance(value.const_value, ir.ExternalTensor) for value in model.graph.initializers.values()):
        return model
    copy = model.clone()
    for value in copy.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    return copy


def run_session(
    session: Any, outputs: list[str] | None, feeds: dict[str, Any], name: str, *, seconds: float | None = None
) -> list[Any]:
    """Run a session; an ONNX Runtime failure becomes a ModelError that names the model.

    Args:
        session: the session.
        outputs: names; None for all.
        feeds: inputs by name.
        name: what to call the model in an error message.
        seconds: stop between two nodes after so long; None: never.

    Raises:
        ModelError: a node failed, for instance for lack of memory or because of a shape, or time is up.
    """
    options = onnxruntime().RunOptions()
    timer = threading.Timer(seconds, setattr, (options, "terminate", True)) if seconds is not None else None
    try:
        if timer is not None:
            timer.daemon = True
            timer.start()
        with during(f"onnxruntime runs {name}"):
            return list(session.run(outputs, feeds, options))
    except Exception as error:  # onnxruntime's exceptions share no public base class
        if options.terminate:
            raise ModelError(f"running {name} was given up after {seconds:.0f} s: does it have a loop?") from error
        shapes = ", ".join(f"{key} {tuple(value.shape)} {value.dtype}" for key, value in feeds.items())
        raise ModelError(f"running {name} on inputs {shapes} failed: {first_line(error)}") from error
    finally:
        if timer is not None:
            timer.cancel()


def first_line(error: BaseException) -> str:
    """The first line of a native error's message, without what leads up to and follows ``[ONNXRuntimeError]``."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.split(" : ")[-1].strip() if "[ONNXRuntimeError]" in text else text
