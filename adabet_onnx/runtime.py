"""The only module that uses ONNX Runtime for inference.

``onnxruntime`` (inference) and ``onnxruntime-training-cpu`` install into the same folder, so neither can be a hard
dependency. This module detects which one is installed, and reports clearly if it is the wrong one or both are.
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
LARGE_BLOCK = (
    1 << 17
)  # bytes; with `frugal_loading`, freed blocks of this size or more go back to the system immediately
_MMAP_THRESHOLD, _LARGE = -3, 1 << 25  # M_MMAP_THRESHOLD of mallopt, and its highest value
MOST_BYTES = 2_000_000_000  # largest size of a serialised model: protobuf is limited to 2 GiB
_LARGE_TENSOR = 1 << 20
# The first bytes of graph attributes of If, Loop and Scan in a file: field 1, the length of the name, the name.
_SUBGRAPHS = (b"\x0a\x0bthen_branch", b"\x0a\x0belse_branch", b"\x0a\x04body")
_TRAINING = ("onnxruntime-training-cpu", "onnxruntime-training")
_SUFFIX, _CPU = "ExecutionProvider", "CPUExecutionProvider"


@dataclass(frozen=True)
class Runtime:
    """The hardware and threads that ONNX Runtime uses.

    An execution provider (an accelerator, or another library for the processor) is used for inference: scoring, the
    frozen part in training, prediction and evaluation. Training steps run on the CPU, and so does all training with the
    ort backend, which has no separate frozen part. Artifacts and models do not record where they run.

    Attributes:
        threads: number of threads; None: ONNX Runtime's choice.
        provider: an execution provider of the installed onnxruntime, such as ``OpenVINOExecutionProvider`` (or
            ``openvino``); None: the CPU's.
        provider_options: options of the provider by name, as strings: ``{"device_type": "GPU"}``.

    Raises:
        UsageError: the installed onnxruntime has no such provider, or there are options without a provider.
        RuntimeMissingError: a provider is given, but onnxruntime is not installed.

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
                raise UsageError("`provider_options` belong to an execution provider. Give `provider` too.")
            return
        object.__setattr__(self, "provider", available_provider(self.provider))
        texts = {str(key): str(value) for key, value in self.provider_options.items()}
        object.__setattr__(self, "provider_options", texts)

    @property
    def providers(self) -> list[Any]:
        """The providers for ONNX Runtime: the chosen one, and the CPU's for nodes that it does not support."""
        if self.provider in (None, _CPU):
            return [(_CPU, dict(self.provider_options))]
        return [(self.provider, dict(self.provider_options)), _CPU]


Threads = int | Runtime | None  # the type of parameters called ``threads``


def on(threads: Threads) -> Runtime:
    """Return the `Runtime` for a parameter ``threads``."""
    return threads if isinstance(threads, Runtime) else Runtime(threads)


def available_provider(name: str) -> str:
    """Return the full name of an execution provider: ``cuda`` is short for ``CUDAExecutionProvider``.

    Raises:
        UsageError: the installed onnxruntime has no provider of this name.
        RuntimeMissingError: ONNX Runtime is not installed.
    """
    if not isinstance(name, str):
        raise UsageError(f"`provider` must be the name of an execution provider, not {name!r}.")
    ort = onnxruntime()
    available = {_short(known): str(known) for known in ort.get_available_providers()}
    match = available.get(_short(name))
    if match is not None:
        return match
    known = {_short(other): str(other) for other in ort.get_all_providers()}
    choice = f"It has {', '.join(available.values())}"
    if _short(name) in known:
        raise UsageError(
            f"{known[_short(name)]} is not in the installed onnxruntime {ort.__version__}. {choice}; other packages, "
            "such as onnxruntime-gpu or onnxruntime-openvino, have others."
        )
    near = difflib.get_close_matches(_short(name), known, n=1)
    hint = f" Did you mean {known[near[0]]}?" if near else ""
    raise UsageError(f"onnxruntime {ort.__version__} knows no execution provider {name!r}. {choice}.{hint}")


def _short(name: str) -> str:
    return name.strip().lower().removesuffix(_SUFFIX.lower())


@dataclass(frozen=True)
class Installed:
    """Which ONNX Runtime distributions are installed, by name, with their versions."""

    inference: dict[str, str]
    training: dict[str, str]

    @property
    def conflict(self) -> str | None:
        """A message if two packages overwrite each other, else None."""
        both = {**self.training, **self.inference}
        if len(both) < 2:
            return None
        names = ", ".join(f"{name} {version}" for name, version in both.items())
        return (
            f"{names} are installed together, but they share one folder and overwrite each other. Uninstall all of "
            f"them (pip uninstall -y {' '.join(both)}), then install one: {INSTALL_TRAINING}, or {INSTALL_INFERENCE}."
        )


def installed() -> Installed:
    """Look up which ONNX Runtime distributions are installed, without importing them."""

    def versions(names: tuple[str, ...]) -> dict[str, str]:
        installed = {}
        for name in names:
            try:
                installed[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return installed

    return Installed(versions(_INFERENCE), versions(_TRAINING))


def onnxruntime() -> Any:
    """Import ONNX Runtime for inference.

    Raises:
        RuntimeMissingError: it is not installed, two packages conflict, or it cannot be imported.
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
            "the onnxruntime folder is damaged (it has no InferenceSession), as happens when one of two packages that "
            f"share it is uninstalled. Uninstall onnxruntime and onnxruntime-training-cpu, then: {INSTALL_TRAINING}, "
            f"or {INSTALL_INFERENCE}."
        )
    return module


def session_options(threads: Threads = None) -> Any:
    """Return session options that log nothing and use ``threads`` threads (None: ONNX Runtime's choice).

    Errors also raise an exception, so a log line would only repeat the message.
    """
    number = on(threads).threads
    options = onnxruntime().SessionOptions()
    options.log_severity_level = 4
    if number:
        options.intra_op_num_threads = number
        options.inter_op_num_threads = 1
    return options


def plain_options(threads: Threads = None) -> Any:
    """Return session options without graph optimisation: the graph runs node by node, as written."""
    options = session_options(threads)
    options.graph_optimization_level = onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def training_options(threads: Threads = None) -> Any:
    """Return session options for a training step: memory is allocated when needed and freed immediately.

    Two features are disabled: the memory pattern, one block for a whole run in addition to the allocations of the first
    run, and memory reuse, which keeps a buffer from the first tensor of a shape to the last. A step of MobileNetV2 in
    plain ONNX needed 446 MB with both and 258 MB with neither, in the same time. Steps of onnxruntime-training vary
    less, but there a second block is allocated by chance (89 or 57 MB for early layers of ResNet-20), and never with
    both disabled (49 MB).
    """
    options = session_options(threads)
    options.enable_mem_pattern = False
    options.enable_mem_reuse = False
    return options


@contextlib.contextmanager
def frugal_loading() -> Iterator[None]:
    """While a model is loaded, have the C library (glibc) return large blocks to the system when they are freed.

    Otherwise the memory that loading frees, once or twice the size of the weights, stays with the process.
    """
    library = None
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, LARGE_BLOCK)
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
    """Create an inference session, on the CPU unless a provider is given.

    Args:
        model: serialised ModelProto, a graph, or the path of a file.
        name: name of the model in error messages.
        options: ``onnxruntime.SessionOptions``; None for the quiet default.
        threads: its execution provider is used; a number is ignored if there are options. A warning is issued after the
            first run if the provider ran only a small part of the model.

    Raises:
        ModelError: ONNX Runtime rejects the model, or does not use the provider.
        RuntimeMissingError: ONNX Runtime is not installed.
    """
    ort, folder = onnxruntime(), None
    options, target = options or session_options(threads), on(threads)
    if isinstance(model, ir.Model):
        model = _serialised(model, options)
    source = model if isinstance(model, bytes) else str(model)
    keep_apart(options, model)
    try:
        with during(f"onnxruntime {ort.__version__} loads {name}"):
            if target.provider in (None, _CPU):
                return ort.InferenceSession(source, options, providers=target.providers)
            with profiled(options) as folder:
                session, printed = _accelerated(source, options, target)
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise ModelError(
            f"onnxruntime {ort.__version__} cannot load {name}: {first_line(error)} If an operator or opset is too new "
            "for it, update onnxruntime or export at opset 17."
        ) from error
    if target.provider not in session.get_providers():
        why = f" ({printed})" if printed else ""
        raise ModelError(
            f"onnxruntime {ort.__version__} would compute {name} on the CPU: {target.provider} could not be "
            f"started{why}. Check its driver and libraries and `provider_options`, or leave out `provider`."
        )
    return session if folder is None else Watched(session, folder, str(target.provider), name, _operators(model))


def _accelerated(source: bytes | str, options: Any, target: Runtime) -> tuple[Any, str]:
    """Create a session with a provider; also return ONNX Runtime's message if it fell back to the CPU."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):  # otherwise it would be mixed into the JSON output of a command
        session = onnxruntime().InferenceSession(source, options, providers=target.providers)
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("EP Error ")]
    return session, first_line(RuntimeError(lines[0].removeprefix("EP Error "))) if lines else ""


def _operators(model: bytes | str | Path) -> list[str]:
    """Return the operators of the nodes of a model."""
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model, load_external_data=False)
    return [node.op_type for node in proto.graph.node]


def keep_apart(options: Any, model: bytes | str | Path) -> None:
    """Disable the fusion of convolutions and activations if a node of the model contains a subgraph.

    For the fusion, ONNX Runtime looks up which input of the next node is the convolution's result. A value that an If
    captures is no input, and 1.19.2 terminates the process then.
    """
    if isinstance(model, bytes):
        subgraphs = any(mark in model for mark in _SUBGRAPHS)
    else:
        try:
            with Path(model).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                subgraphs = any(view.find(mark) >= 0 for mark in _SUBGRAPHS)
        except (OSError, ValueError):  # missing or empty: loading it will report that
            return
    if subgraphs:
        options.add_session_config_entry("optimization.disable_specified_optimizers", "ConvActivationFusion")


def _serialised(model: ir.Model, options: Any) -> bytes:
    """Serialise a graph; weights that are too large for that are passed through the session options."""
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
    """Return the graph with its weights in memory: the same one, or a clone if some weights are in files."""
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
        outputs: names of the outputs; None for all.
        feeds: inputs by name.
        name: name of the model in error messages.
        seconds: time limit, checked between nodes; None: no limit.

    Raises:
        ModelError: a node failed, for instance for lack of memory or because of a shape, or the time limit was reached.
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
            raise ModelError(f"running {name} was stopped after {seconds:.0f} s. Does it have a loop?") from error
        shapes = ", ".join(f"{key} {tuple(value.shape)} {value.dtype}" for key, value in feeds.items())
        raise ModelError(f"running {name} on inputs {shapes} failed: {first_line(error)}") from error
    finally:
        if timer is not None:
            timer.cancel()


def first_line(error: BaseException) -> str:
    """Return the first line of a native error's message, without what precedes and follows ``[ONNXRuntimeError]``."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.split(" : ")[-1].strip() if "[ONNXRuntimeError]" in text else text
