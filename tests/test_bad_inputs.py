"""Bad input through the real command line: the right exit code, one clear message, nothing half-written.

Every case runs in a copy of a folder in which everything is right (`good`), after spoiling one thing. The message
must name the culprit and say what to do; `refused` checks what is common to all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import TRAINING
from models import tiny
from onnx import TensorProto, helper, numpy_helper

from adabet_onnx import make_artifacts, open_model, runtime, score, select
from adabet_onnx.cli.main import main
from adabet_onnx.errors import RuntimeMissingError
from adabet_onnx.training import ort

needs_training = pytest.mark.skipif(not TRAINING, reason="onnxruntime-training exists for Python 3.10 to 3.12 only")
USAGE, FAILURE = 2, 1


@dataclass(frozen=True)
class Result:
    """What a command left on the terminal."""

    code: int
    out: str
    err: str


def listing(folder: Path) -> dict[str, str]:
    """Everything below a folder, hidden files too, with a hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def message(result: Result) -> str:
    """The one message on stderr; click puts the usage before it."""
    text = re.sub(r"\AUsage: .*\nTry '.*' for help\.\n\n", "", result.err)
    assert text.startswith("Error: "), result.err
    assert text.count("\n") == 1, f"one line, not:\n{result.err}"
    return text.removeprefix("Error: ").rstrip("\n")


def check(result: Result, code: int, *words: str) -> None:
    said = message(result)
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert "fault in adabet-onnx" not in result.err, result.err
    assert len(said) < 700, "a message, not a dump"
    for word in words:
        assert word in said, f"{word!r} is not in: {said}"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Model, data, scores, selection, and (where training is possible) artifacts trained for an epoch."""
    folder = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(0)
    onnx.save(tiny.conv_net(), folder / "model.onnx")
    onnx.save(tiny.conv_net(seed=1), folder / "other.onnx")
    x, y = rng.random((48, 3, 8, 8), dtype=np.float32), np.arange(48) % 4
    np.savez(folder / "data.npz", x=x, y=y)
    model = open_model(folder / "model.onnx")
    scores = score(model, folder / "data.npz", samples=32, subsets=2)
    scores.save(folder / "scores.json")
    selection = select(scores, strategy="last", rho=0.4)
    selection.save(folder / "selection.json")
    make_artifacts(model, selection, folder / "artifacts", backend="portable", check=False)
    if TRAINING:
        make_artifacts(model, selection, folder / "ort", backend="ort", check=False)
    return folder


@pytest.fixture
def work(good, tmp_path, monkeypatch) -> Path:
    """A copy of `good`, the working directory."""
    folder = tmp_path / "work"
    shutil.copytree(good, folder)
    monkeypatch.chdir(folder)
    return folder


@contextlib.contextmanager
def limited_files(size: int | None) -> Iterator[None]:
    """Limit the size of files this process may write, no longer than needed: pytest's own output may be a file."""
    if size is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def refused(work, monkeypatch, capfd, tmp_path) -> Callable[..., Result]:
    """Run a command in this process and check everything that a refusal has in common."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def run(
        command: str, code: int, *words: str, leaves: Sequence[str] = (), file_size_limit: int | None = None
    ) -> Result:
        before = listing(work)
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["adabet-onnx", *command.split()])
        with pytest.raises(SystemExit) as left, limited_files(file_size_limit):
            main()
        result = Result(left.value.code, *capfd.readouterr())
        check(result, code, *words)
        after = listing(work)
        for name in leaves:
            del after[name]
        assert after == before
        assert listing(temporary) == {}
        return result

    return run


@dataclass(frozen=True)
class Case:
    """A way to go wrong: what is spoilt, the command, the exit code, and words of the message."""

    name: str
    command: str
    code: int
    words: tuple[str, ...]
    spoil: Callable[[], Any] | None = None


def cases(*given: Case) -> Any:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in given])


# --- models ----------------------------------------------------------------------------------------------------------


def write(name: str, content: bytes) -> Callable[[], Any]:
    return lambda: Path(name).write_bytes(content)


def cut(name: str, share: float = 0.6) -> Callable[[], Any]:
    def spoil() -> None:
        content = Path(name).read_bytes()
        Path(name).write_bytes(content[: int(share * len(content))])

    return spoil


def saved(make: Callable[[], onnx.ModelProto]) -> Callable[[], Any]:
    return lambda: Path("bad.onnx").write_bytes(make().SerializeToString())


def changed(change: Callable[[onnx.ModelProto], Any], **settings: Any) -> Callable[[], Any]:
    """The good model after a change to its proto."""

    def make() -> onnx.ModelProto:
        proto = tiny.conv_net(**settings)
        change(proto)
        return proto

    return saved(make)


def tensors(proto: onnx.ModelProto, **arrays: np.ndarray) -> None:
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())


def quantised_qdq(proto: onnx.ModelProto) -> None:
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "fc.weight")
    array = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array((array * 50).astype(np.int8), "fc.weight_q"))
    tensors(proto, scale=np.float32(0.02), zero=np.int8(0))
    node = helper.make_node("DequantizeLinear", ["fc.weight_q", "scale", "zero"], ["fc.weight"], "/dequantize")
    proto.graph.node.insert(0, node)


def quantised_qlinear(proto: onnx.ModelProto) -> None:
    conv = proto.graph.node[0]
    conv.op_type = "QLinearConv"


def half(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16


def domain(name: str, operator: str) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node[-1].op_type, proto.graph.node[-1].domain = operator, name
        proto.opset_import.append(helper.make_opsetid(name, 1))

    return change


def second_output(proto: onnx.ModelProto) -> None:
    proto.graph.output.append(helper.make_tensor_value_info("r2", TensorProto.FLOAT, ["N", 8, 8, 8]))


def argmax(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("ArgMax", ["logits"], ["answer"], axis=1))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("answer", TensorProto.INT64, ["N", 1]))


def no_layers() -> onnx.ModelProto:
    nodes = [helper.make_node("GlobalAveragePool", ["input"], ["p"]), helper.make_node("Flatten", ["p"], ["logits"])]
    return tiny.build(nodes, {}, output_shape=("N", 3))


def unknown_size(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, "h", "w"]))


def no_shape(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.FLOAT, None))


def dangling(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].input[0] = "nowhere"


def bad_attribute(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].attribute.append(helper.make_attribute("wobble", 3))


def wrong_weight(proto: onnx.ModelProto) -> None:
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "fc.weight")
    weight.CopyFrom(numpy_helper.from_array(np.zeros((4, 9), np.float32), "fc.weight"))


def external(location: str | None = None, spoil: Callable[[], Any] | None = None) -> Callable[[], Any]:
    def make() -> None:
        proto = tiny.conv_net()
        onnx.save(proto, "bad.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
        if location is not None:
            proto = onnx.load("bad.onnx", load_external_data=False)
            for tensor in proto.graph.initializer:
                for entry in tensor.external_data:
                    if entry.key == "location":
                        entry.value = location
            Path("bad.onnx").write_bytes(proto.SerializeToString())
        if spoil is not None:
            spoil()

    return make


def ort_format() -> None:
    Path("bad.onnx").write_bytes(b"\x14\x00\x00\x00ORTM" + bytes(200))


def zip_archive() -> None:
    np.savez("bad", a=np.zeros(3))
    Path("bad.npz").rename("bad.onnx")


RANDOM = np.random.default_rng(0).bytes(4000)
INSPECT = "inspect bad.onnx"


@cases(
    Case("missing", "inspect nothing.onnx", USAGE, ("nothing.onnx", "does not exist")),
    Case("folder", "inspect .", USAGE, ("'.'", "is a directory")),
    Case("empty", INSPECT, FAILURE, ("bad.onnx", "empty", "Export or copy"), write("bad.onnx", b"")),
    Case("truncated", "inspect model.onnx", FAILURE, ("model.onnx", "cut short"), cut("model.onnx")),
    Case("random bytes", INSPECT, FAILURE, ("bad.onnx", "not a readable ONNX file"), write("bad.onnx", RANDOM)),
    Case("text", INSPECT, FAILURE, ("bad.onnx", "not a readable ONNX"), write("bad.onnx", b"Dear reader,\n" * 9)),
    Case("zip", INSPECT, FAILURE, ("bad.onnx", "zip archive", "PyTorch", "Export"), zip_archive),
    Case("pickle", INSPECT, FAILURE, ("bad.onnx", "pickle", "Export"), write("bad.onnx", b"\x80\x02}q\x00.")),
    Case("ort format", INSPECT, FAILURE, ("bad.onnx", "ORT-format", "Export"), ort_format),
    Case("lfs", INSPECT, FAILURE, ("git lfs pull",), write("bad.onnx", b"version https://git-lfs.github.com/spec/v1")),
    Case("no graph", INSPECT, FAILURE, ("bad.onnx", "no ONNX graph"), saved(lambda: onnx.ModelProto(ir_version=8))),
    Case("qdq", INSPECT, FAILURE, ("quantised", "DequantizeLinear", "float32 model"), changed(quantised_qdq)),
    Case("qlinear", INSPECT, FAILURE, ("quantised", "QLinearConv", "float32 model"), changed(quantised_qlinear)),
    Case("fp16", INSPECT, FAILURE, ("float16", "conv1.weight", "float32"), changed(half)),
    Case(
        "fused",
        INSPECT,
        FAILURE,
        ("com.microsoft.FusedGemm", "'/fc'", "optimised", "before optimisation"),
        changed(domain("com.microsoft", "FusedGemm")),
    ),
    Case(
        "custom domain",
        INSPECT,
        FAILURE,
        ("ai.example.Head", "'/fc'", "standard operators"),
        changed(domain("ai.example", "Head")),
    ),
    Case("two outputs", INSPECT, FAILURE, ("'logits', 'r2'", "found 2", "extract_model"), changed(second_output)),
    Case("integer output", INSPECT, FAILURE, ("'answer' is int64", "float32", "ArgMax"), changed(argmax)),
    Case("no layers", INSPECT, FAILURE, ("bad.onnx has no layer",), saved(no_layers)),
    Case("unknown size", INSPECT, FAILURE, ("dimension 2 of input 'input'", "Fix all"), changed(unknown_size)),
    Case("no shape", INSPECT, FAILURE, ("bad.onnx", "shape", "Export"), changed(no_shape)),
    Case("dangling input", INSPECT, FAILURE, ("bad.onnx", "not a valid ONNX", "nowhere"), changed(dangling)),
    Case("unknown attribute", INSPECT, FAILURE, ("not a valid ONNX", "wobble"), changed(bad_attribute)),
    Case("shapes do not fit", INSPECT, FAILURE, ("bad.onnx", "Export"), changed(wrong_weight)),
    Case("no opset", INSPECT, FAILURE, ("bad.onnx", "opset"), changed(lambda proto: proto.ClearField("opset_import"))),
    Case(
        "no external data",
        INSPECT,
        FAILURE,
        ("'weights.bin' is missing", "beside the model"),
        external(spoil=lambda: Path("weights.bin").unlink()),
    ),
    Case(
        "external data outside",
        INSPECT,
        FAILURE,
        ("'../weights.bin' lies (or is a link to) outside",),
        external("../weights.bin"),
    ),
    Case(
        "external data absolute",
        INSPECT,
        FAILURE,
        ("'/etc/passwd' lies (or is a link to) outside",),
        external("/etc/passwd"),
    ),
    Case(
        "external data truncated",
        INSPECT,
        FAILURE,
        ("bad.onnx", "external data", "again"),
        external(spoil=cut("weights.bin")),
    ),
    Case("score", "score bad.onnx data.npz -o out.json", FAILURE, ("bad.onnx", "empty"), write("bad.onnx", b"")),
    Case("surgery", "surgery bad.onnx --outputs gram -o out.onnx", FAILURE, ("empty",), write("bad.onnx", b"")),
    Case("new head", "new-head bad.onnx --num-classes 3 -o out.onnx", FAILURE, ("empty",), write("bad.onnx", b"")),
    Case("evaluate", "evaluate bad.onnx data.npz", FAILURE, ("empty",), write("bad.onnx", b"")),
    Case("predict", "predict bad.onnx data.npz", FAILURE, ("empty",), write("bad.onnx", b"")),
)
def test_models(case, refused):
    if case.spoil is not None:
        case.spoil()
    refused(case.command, case.code, *case.words)


@pytest.mark.parametrize("command", ["artifacts bad.onnx selection.json -o out", "run bad.onnx data.npz -o out"])
def test_models_to_train(command, refused):
    write("bad.onnx", RANDOM)()
    refused(command, FAILURE, "bad.onnx", "not a readable ONNX file")


def test_a_model_cut_anywhere_is_refused_or_read(refused, work):
    """Protocol buffers have no checksum: a cut may fall between fields, but never may it end in a fault of ours."""
    whole = Path("model.onnx").read_bytes()
    for length in range(1, len(whole), len(whole) // 25):
        Path("bad.onnx").write_bytes(whole[:length])
        refused(INSPECT, FAILURE, "bad.onnx")


# --- data ------------------------------------------------------------------------------------------------------------


def npz(**arrays: Any) -> Callable[[], Any]:
    return lambda: np.savez("bad.npz", **arrays)


X, Y = np.random.default_rng(1).random((48, 3, 8, 8), dtype=np.float32), np.arange(48) % 4
SCORE, TRAIN, EVALUATE = (
    "score model.onnx bad.npz -o out.json",
    "train artifacts bad.npz",
    "evaluate model.onnx bad.npz",
)


def with_nan() -> np.ndarray:
    spoilt = X.copy()
    spoilt[::2, 0, 0, 0] = np.nan
    return spoilt


def npy() -> None:
    np.save("bad.npy", X)
    Path("bad.npy").rename("bad.npz")


def empty_folder() -> None:
    Path("photos").mkdir()


def folder_of_broken_images() -> None:
    for name in "ab":
        Path("photos", name).mkdir(parents=True)
        for index in range(20):
            Path("photos", name, f"{index}.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photo")


@cases(
    Case("missing", SCORE, USAGE, ("bad.npz", "does not exist")),
    Case("empty", SCORE, FAILURE, ("bad.npz", "cannot be read"), write("bad.npz", b"")),
    Case("truncated", "score model.onnx data.npz -o out.json", FAILURE, ("data.npz", "cut short"), cut("data.npz")),
    Case("text", SCORE, FAILURE, ("bad.npz", "cannot be read"), write("bad.npz", b"x,y\n1,2\n")),
    Case("pickled", SCORE, FAILURE, ("bad.npz", "pickled"), npz(x=np.array([{}, None], object))),
    Case("npy", SCORE, FAILURE, ("bad.npz", "single .npy"), npy),
    Case("without x", SCORE, FAILURE, ("bad.npz", "neither x nor x_train", "images"), npz(images=X)),
    Case("nothing in it", SCORE, FAILURE, ("bad.npz", "it holds nothing"), npz()),
    Case("other suffix", "score model.onnx scores.json -o out.json", FAILURE, ("scores.json", "neither an .npz")),
    Case("wrong shape", SCORE, FAILURE, ("bad.npz", "(7,)", "(3, 8, 8)"), npz(x=np.zeros((48, 7)))),
    Case("wrong channels", SCORE, FAILURE, ("bad.npz", "(5, 8, 8)", "(3, 8, 8)"), npz(x=np.zeros((48, 5, 8, 8)))),
    Case("no pixels", SCORE, FAILURE, ("bad.npz", "(3, 0, 8)", "empty"), npz(x=np.zeros((48, 3, 0, 8)))),
    Case("scalar", SCORE, FAILURE, ("bad.npz", "shape ()"), npz(x=3.0)),
    Case("text array", SCORE, FAILURE, ("bad.npz", "numbers"), npz(x=np.full((48, 3), "a"))),
    Case("complex", SCORE, FAILURE, ("bad.npz", "complex64"), npz(x=X.astype(np.complex64))),
    Case("nan", SCORE, FAILURE, ("bad.npz", "NaN or infinite", "Remove"), npz(x=with_nan())),
    Case("infinite", SCORE, FAILURE, ("bad.npz", "NaN or infinite"), npz(x=np.full_like(X, np.inf))),
    Case("beyond float32", SCORE, FAILURE, ("bad.npz", "NaN or infinite"), npz(x=X.astype(float) * 1e300)),
    Case("too few", SCORE, FAILURE, ("needs 32", "20", "--subset-size"), npz(x=X[:20])),
    Case("too few batches", f"{SCORE} --estimator batches", FAILURE, ("needs 128", "48", "--batches"), npz(x=X)),
    Case("uint8 without preset", SCORE, USAGE, ("--preset unit", "model.onnx"), npz(x=(X * 255).astype(np.uint8))),
    Case("empty folder", "score model.onnx photos -o out.json", FAILURE, ("photos has no images",), empty_folder),
    Case(
        "broken images",
        "score model.onnx photos -o out.json --preset unit",
        FAILURE,
        (".jpg", "cannot be read as an image", "Remove or replace"),
        folder_of_broken_images,
    ),
    Case("predict text", "predict model.onnx scores.json", FAILURE, ("scores.json", "no image")),
    Case("predict broken image", "predict model.onnx a.png", USAGE, ("--preset",), write("a.png", b"no")),
    Case(
        "predict broken image with preset",
        "predict model.onnx a.png --preset unit",
        FAILURE,
        ("a.png",),
        write("a.png", b"no"),
    ),
    Case("no labels", EVALUATE, FAILURE, ("bad.npz has no labels", "add y"), npz(x=X)),
    Case(
        "labels too large",
        EVALUATE,
        FAILURE,
        ("bad.npz", "0 to 7", "4 outputs", "--num-classes 8"),
        npz(x=X, y=np.arange(48) % 8),
    ),
    Case("labels negative", EVALUATE, FAILURE, ("bad.npz", "-1 to 2", "Fix the labels"), npz(x=X, y=Y - 1)),
    Case("labels float", EVALUATE, FAILURE, ("bad.npz", "float32", "integer class"), npz(x=X, y=Y.astype(np.float32))),
    Case(
        "labels one-hot",
        EVALUATE,
        FAILURE,
        ("bad.npz", "(48, 4)", "integer class"),
        npz(x=X, y=np.eye(4, dtype=int)[Y]),
    ),
    Case("labels text", EVALUATE, FAILURE, ("bad.npz", "integers"), npz(x=X, y=np.full(48, "cat"))),
    Case("labels too few", EVALUATE, FAILURE, ("bad.npz", "47 labels for 48 samples"), npz(x=X, y=Y[:47])),
    Case(
        "targets",
        f"{EVALUATE} --loss mse",
        FAILURE,
        ("bad.npz", "(3,)", "4 outputs"),
        npz(x=X, y=np.zeros((48, 3), np.float32)),
    ),
    Case("targets nan", f"{EVALUATE} --loss l1", FAILURE, ("bad.npz", "NaN"), npz(x=X, y=np.full((48, 4), np.nan))),
)
def test_data(case, refused):
    if case.spoil is not None:
        case.spoil()
    refused(case.command, case.code, *case.words)


@cases(
    Case("no labels", TRAIN, FAILURE, ("bad.npz has no labels", "add y"), npz(x=X)),
    Case("labels too large", TRAIN, FAILURE, ("bad.npz", "4 outputs"), npz(x=X, y=np.arange(48) % 8)),
    Case("labels negative", TRAIN, FAILURE, ("bad.npz", "Fix the labels"), npz(x=X, y=Y - 1)),
    Case("labels float", TRAIN, FAILURE, ("bad.npz", "integer class"), npz(x=X, y=Y.astype(np.float32))),
    Case("wrong shape", TRAIN, FAILURE, ("bad.npz", "(7,)", "(3, 8, 8)"), npz(x=np.zeros((48, 7)), y=Y)),
    Case("wrong shape unvalidated", f"{TRAIN} --validation 0", FAILURE, ("(7,)",), npz(x=np.zeros((48, 7)), y=Y)),
    Case("nan", TRAIN, FAILURE, ("bad.npz", "NaN or infinite"), npz(x=np.full_like(X, np.nan), y=Y)),
    Case("run without labels", "run model.onnx bad.npz -o out", FAILURE, ("bad.npz has no labels",), npz(x=X)),
    Case(
        "run with labels too large",
        "run model.onnx bad.npz -o out",
        FAILURE,
        ("--num-classes 8",),
        npz(x=X, y=np.arange(48) % 8),
    ),
    Case(
        "run with too few samples",
        "run model.onnx bad.npz -o a/b/out --num-classes 9",
        FAILURE,
        ("needs 32",),
        npz(x=X[:9], y=Y[:9]),
    ),
    Case(
        "run with uint8",
        "run model.onnx bad.npz -o out",
        USAGE,
        ("--preset",),
        npz(x=(X * 255).astype(np.uint8), y=Y),
    ),
)
def test_data_to_train_on(case, refused):
    case.spoil()
    refused(case.command, case.code, *case.words)


def test_bad_data_does_not_cost_an_earlier_training(refused, work, monkeypatch):
    trained(work)
    npz(x=np.zeros((48, 7)), y=Y)()
    refused(f"{TRAIN} --validation 0", FAILURE, "(7,)")
    assert Path("artifacts/training/last.ckpt").is_file()


def trained(work: Path) -> None:
    from adabet_onnx import Trainer

    Trainer(work / "artifacts").fit(work / "data.npz", epochs=1)


# --- values of options -----------------------------------------------------------------------------------------------

SELECT = "select scores.json -o out.json"


@cases(
    Case("unknown command", "retrain model.onnx", USAGE, ("retrain",)),
    Case("unknown option", "inspect model.onnx --jsn", USAGE, ("--jsn",)),
    Case("no output", "score model.onnx data.npz", USAGE, ("--output",)),
    Case("unknown layer", f"{SELECT} --layers layer9.*", USAGE, ("'layer9.*'", "fc")),
    Case("rho zero", f"{SELECT} --rho 0", USAGE, ("rho", "above 0", "0.0")),
    Case("rho two", f"{SELECT} --rho 2", USAGE, ("rho", "at most 1", "2.0")),
    Case("rho nan", f"{SELECT} --rho nan", USAGE, ("rho", "nan")),
    Case("rho text", f"{SELECT} --rho a", USAGE, ("--rho", "'a'")),
    Case("unknown strategy", f"{SELECT} --strategy best", USAGE, ("--strategy", "'best'", "adabet")),
    Case("unknown head rule", f"{SELECT} --head maybe", USAGE, ("--head", "'maybe'", "always")),
    Case("no norms", f"{SELECT} --strategy norm-bias --head never", USAGE, ("normalisation",), lambda: plain_scores()),
    Case("unknown estimator", f"{SCORE} --estimator all", USAGE, ("'all'", "batches"), npz(x=X)),
    Case("samples zero", f"{SCORE} --samples 0", USAGE, ("samples", "at least 1"), npz(x=X)),
    Case("samples below subset", f"{SCORE} --samples 16", USAGE, ("16", "--subset-size"), npz(x=X)),
    Case("subset of 3", f"{SCORE} --subset-size 3", USAGE, ("3 points", "at least 4"), npz(x=X)),
    Case("batches negative", f"{SCORE} --batches -1", USAGE, ("batches", "-1"), npz(x=X)),
    Case("threads zero", f"{SCORE} --threads 0", USAGE, ("--threads",), npz(x=X)),
    Case("seed negative", f"{SCORE} --seed -1", USAGE, ("--seed",), npz(x=X)),
    Case("max-memory text", f"{SCORE} --max-memory lots", USAGE, ("'lots'", "500MB"), npz(x=X)),
    Case("max-memory zero", f"{SCORE} --max-memory 0GB", USAGE, ("'0GB'", "500MB"), npz(x=X)),
    Case("max-memory endless", f"{SCORE} --max-memory {'9' * 400}", USAGE, ("--max-memory",), npz(x=X)),
    Case("max-memory too small", f"{SCORE} --max-memory 50kB", FAILURE, ("needs about", "--max-memory"), npz(x=X)),
    Case("plot suffix", f"{SCORE} --plot a.bmp", USAGE, ("a.bmp", ".png, .svg, .pdf"), npz(x=X)),
    Case("std zero", f"{SCORE} --std 0", USAGE, ("standard deviation of 0",), npz(x=X)),
    Case("std per channel", f"{SCORE} --std 1,2", USAGE, ("2 numbers for std", "3 channels"), npz(x=X)),
    Case("mean nan", f"{SCORE} --mean nan", USAGE, ("finite",), npz(x=X)),
    Case("mean text", f"{SCORE} --mean 1;2", USAGE, ("'1;2'", "commas"), npz(x=X)),
    Case("unknown preset", f"{SCORE} --preset zscore", USAGE, ("'zscore'", "imagenet"), npz(x=X)),
    Case("surgery kind", "surgery model.onnx --outputs all -o out.onnx", USAGE, ("'all'", "gram")),
    Case("no classes", "new-head model.onnx --num-classes 0 -o out.onnx", USAGE, ("--num-classes", "0")),
    Case("endless classes", f"new-head model.onnx --num-classes {10**20} -o out.onnx", USAGE, ("--num-classes",)),
    Case("unknown loss", "evaluate model.onnx data.npz --loss hinge", USAGE, ("'hinge'", "mse")),
)
def test_options(case, refused):
    if case.spoil is not None:
        case.spoil()
    refused(case.command, case.code, *case.words)


def plain_scores() -> None:
    model = open_model(tiny.conv_net(norm=False))
    score(model, X, samples=32, subsets=2).save("scores.json")


ARTIFACTS = "artifacts model.onnx selection.json -o out"


@cases(
    Case("momentum", f"{ARTIFACTS} --momentum 0.9", USAGE, ("sgd", "no momentum", "adamw")),
    Case("run with momentum", "run model.onnx data.npz -o out --momentum 0.9", USAGE, ("no momentum",)),
    Case(
        "sgd with decay",
        f"{ARTIFACTS} --backend ort --optimizer sgd --weight-decay 0.1",
        USAGE,
        ("no weight decay in sgd", "--backend portable"),
    ),
    Case("nothing has both", f"{ARTIFACTS} --ort-format --clip-norm 1", USAGE, ("No backend has all",)),
    Case("portable .ort", f"{ARTIFACTS} --backend portable --ort-format", USAGE, ("no .ort files", "--backend ort")),
    Case("unknown backend", f"{ARTIFACTS} --backend tf", USAGE, ("'tf'", "portable")),
    Case("unknown profile", f"{ARTIFACTS} --profile phone", USAGE, ("'phone'", "webgpu")),
    Case("clip at 0", f"{ARTIFACTS} --clip-norm 0", USAGE, ("--clip-norm",)),
    Case("smoothing 1", f"{ARTIFACTS} --label-smoothing 1", USAGE, ("--label-smoothing",)),
    Case("class axis", f"{ARTIFACTS} --class-axis 5", USAGE, ("class axis", "from 1 to 1", "5")),
    Case("accumulate nothing", "train artifacts data.npz --accumulate 0", USAGE, ("--accumulate",)),
    Case("unknown optimizer", f"{ARTIFACTS} --optimizer lion", USAGE, ("'lion'", "adamw")),
    Case("negative decay", f"{ARTIFACTS} --weight-decay -1", USAGE, ("--weight-decay",)),
    Case("no epochs", "train artifacts data.npz --epochs 0", USAGE, ("--epochs",)),
    Case("rate zero", "train artifacts data.npz --lr 0", USAGE, ("learning rate", "above 0")),
    Case("rate nan", "train artifacts data.npz --lr nan", USAGE, ("learning rate", "nan")),
    Case("schedule", "train artifacts data.npz --schedule step", USAGE, ("'step'", "cosine")),
    Case("all for validation", "train artifacts data.npz --validation 1", USAGE, ("validation", "below 1")),
    Case("patience zero", "train artifacts data.npz --patience 0", USAGE, ("patience", "at least 1")),
    Case("patience unvalidated", "train artifacts data.npz --patience 2 --validation 0", USAGE, ("validation",)),
    Case("run with rho two", "run model.onnx data.npz -o out --rho 2", USAGE, ("rho", "2.0")),
    Case("run with no such layer", "run model.onnx data.npz -o out --layers nine", USAGE, ("'nine'",)),
    Case("run with rate zero", "run model.onnx data.npz -o out --lr 0", USAGE, ("learning rate",)),
    Case("run with validation 1", "run model.onnx data.npz -o out --validation 1", USAGE, ("validation",)),
    Case(
        "run on ort with clipping", "run model.onnx data.npz -o out --backend ort --clip-norm 1", USAGE, ("clipping",)
    ),
    Case("run with plot suffix", "run model.onnx data.npz -o out --plot a.bmp", USAGE, ("a.bmp",)),
)
def test_training_options(case, refused):
    refused(case.command, case.code, *case.words)


# --- our own files ---------------------------------------------------------------------------------------------------


def entry(name: str, **changes: Any) -> Callable[[], Any]:
    def spoil() -> None:
        value = json.loads(Path(name).read_text())
        value.update(changes)
        Path(name).write_text(json.dumps(value))

    return spoil


@cases(
    Case("scores cut", SELECT, FAILURE, ("scores.json", "not valid JSON", "adabet-onnx score"), cut("scores.json")),
    Case("scores empty", SELECT, FAILURE, ("scores.json", "not valid JSON"), write("scores.json", b"")),
    Case("scores binary", SELECT, FAILURE, ("scores.json", "not valid JSON"), write("scores.json", RANDOM)),
    Case("scores nan", SELECT, FAILURE, ("scores.json", "NaN"), entry("scores.json", points=float("nan"))),
    Case(
        "selection as scores",
        "select selection.json -o out.json",
        FAILURE,
        ("'adabet-onnx/scores'", "'adabet-onnx/selection'"),
    ),
    Case("scores newer", SELECT, FAILURE, ("version 9", "Update"), entry("scores.json", version=9)),
    Case("scores without layers", SELECT, FAILURE, ("scores.json", "layers"), entry("scores.json", layers=[])),
    Case("a list", SELECT, FAILURE, ("scores.json", "found None"), write("scores.json", b"[1, 2]")),
)
def test_scores_files(case, refused):
    if case.spoil is not None:
        case.spoil()
    refused(case.command, case.code, *case.words)


@cases(
    Case("cut", ARTIFACTS, FAILURE, ("selection.json", "not valid JSON"), cut("selection.json")),
    Case("newer", ARTIFACTS, FAILURE, ("selection.json", "version 2"), entry("selection.json", version=2)),
    Case("other format", "artifacts model.onnx scores.json -o out", FAILURE, ("scores.json", "'adabet-onnx/scores'")),
    Case(
        "other model",
        "artifacts other.onnx selection.json -o out",
        FAILURE,
        ("another model", "other.onnx", "again"),
    ),
    Case("unknown layer", ARTIFACTS, USAGE, ("'nine'", "inspect"), entry("selection.json", layers=["nine"])),
    Case("unknown parameter", ARTIFACTS, USAGE, ("'w'",), entry("selection.json", parameters=["fc.weight", "w"])),
    Case("nothing selected", ARTIFACTS, USAGE, ("empty",), entry("selection.json", layers=[], parameters=[])),
)
def test_selection_files(case, refused):
    if case.spoil is not None:
        case.spoil()
    refused(case.command, case.code, *case.words)


WRONG: tuple[Any, ...] = (None, True, "x", -1.5, [], [3], [{}], {"a": 1})


def spoilt_entries(content: dict[str, Any], values: Sequence[Any] = WRONG) -> list[tuple[str, dict[str, Any]]]:
    """The content with every entry (and every entry of objects in it) missing or of another type."""
    spoilt = []
    for key, value in content.items():
        spoilt.append((f"{key} missing", {k: v for k, v in content.items() if k != key}))
        for wrong in values:
            spoilt.append((f"{key}={wrong!r}", {**content, key: wrong}))
        inner = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
        if isinstance(inner, dict):
            for what, changed_inner in spoilt_entries(inner, WRONG[1:3]):
                put = [changed_inner, *value[1:]] if isinstance(value, list) else changed_inner
                spoilt.append((f"{key}.{what}", {**content, key: put}))
    return spoilt


def assert_no_fault(
    arguments: str, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> int:
    """Run a command for every way to spoil a file of ours: it works or is refused in a sentence; count refusals."""
    original = json.loads(Path(name).read_text())
    refusals = 0
    for what, content in spoilt_entries(original):
        Path(name).write_text(json.dumps(content))
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["adabet-onnx", *arguments.split()])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        if left.value.code != 0:
            said = message(Result(left.value.code, out, err))
            assert "fault in adabet-onnx" not in said, f"{what}: {said}"
            refusals += 1
    Path(name).write_text(json.dumps(original))
    return refusals


def test_scores_with_any_entry_spoilt(work, monkeypatch, capfd):
    assert assert_no_fault(f"{SELECT} -q", "scores.json", monkeypatch, capfd) > 70


def test_selection_with_any_entry_spoilt(work, monkeypatch, capfd):
    command = "artifacts model.onnx selection.json -o out --no-check -q"
    assert assert_no_fault(command, "selection.json", monkeypatch, capfd) > 70


@pytest.mark.parametrize(
    "command",
    [
        "export artifacts -o out.onnx -q",
        "train artifacts data.npz --epochs 1 -q",
        pytest.param("export ort -o out.onnx -q", marks=needs_training),
    ],
)
def test_manifest_with_any_entry_spoilt(command, work, monkeypatch, capfd):
    assert assert_no_fault(command, f"{command.split()[1]}/manifest.json", monkeypatch, capfd) > 120


# --- artifact folders ------------------------------------------------------------------------------------------------


def flip(name: str) -> Callable[[], Any]:
    def spoil() -> None:
        content = bytearray(Path(name).read_bytes())
        content[len(content) // 2] ^= 0x40
        Path(name).write_bytes(bytes(content))

    return spoil


MANIFEST = "artifacts/manifest.json"


@cases(
    Case("missing folder", "train nowhere data.npz", USAGE, ("nowhere", "does not exist")),
    Case("file as folder", "train model.onnx data.npz", USAGE, ("model.onnx", "is a file")),
    Case(
        "no manifest",
        "train photos data.npz",
        FAILURE,
        ("photos", "manifest.json", "artifacts makes one"),
        empty_folder,
    ),
    Case("export without manifest", "export photos -o o.onnx", FAILURE, ("photos", "manifest.json"), empty_folder),
    Case("evaluate without manifest", "evaluate photos data.npz", FAILURE, ("photos", "manifest.json"), empty_folder),
    Case("manifest cut", "export artifacts -o o.onnx", FAILURE, ("manifest.json", "not valid JSON"), cut(MANIFEST)),
    Case(
        "manifest newer",
        "export artifacts -o o.onnx",
        FAILURE,
        ("manifest.json", "version 7"),
        entry(MANIFEST, version=7),
    ),
    Case(
        "other backend",
        "export artifacts -o o.onnx",
        FAILURE,
        ("'tflite'", "ort, portable"),
        entry(MANIFEST, backend="tflite"),
    ),
    Case(
        "model changed",
        "train artifacts data.npz",
        FAILURE,
        ("step.onnx", "changed", "again"),
        flip("artifacts/step.onnx"),
    ),
    Case(
        "checkpoint cut",
        "export artifacts -o o.onnx",
        FAILURE,
        ("state.bin", "cut short", "again"),
        cut("artifacts/state.bin"),
    ),
    Case(
        "file missing",
        "export artifacts -o o.onnx",
        FAILURE,
        ("eval.onnx", "not in the folder"),
        lambda: Path("artifacts/eval.onnx").unlink(),
    ),
    Case(
        "files elsewhere",
        "export artifacts -o o.onnx",
        FAILURE,
        ("as model", "not in the folder"),
        lambda: point_manifest_outside(),
    ),
)
def test_artifact_folders(case, refused):
    if case.spoil is not None:
        case.spoil()
    refused(case.command, case.code, *case.words)


def point_manifest_outside() -> None:
    value = json.loads(Path(MANIFEST).read_text())
    value["files"]["model"] = "../model.onnx"
    Path(MANIFEST).write_text(json.dumps(value))


LAST = "artifacts/training/last.ckpt"


@pytest.mark.parametrize("spoil", [cut(LAST), write(LAST, b""), write(LAST, RANDOM)], ids=["cut", "empty", "random"])
@pytest.mark.parametrize("command", ["train artifacts data.npz --resume", "export artifacts -o o.onnx"])
def test_a_damaged_training_checkpoint(command, spoil, work, refused):
    trained(work)
    spoil()
    refused(command, FAILURE, LAST, "without --resume")


def test_resuming_with_other_settings_or_data(refused, work):
    trained(work)
    np.savez("bad.npz", x=X, y=Y[::-1])
    refused("train artifacts data.npz --resume --batch-size 5", USAGE, "batch_size 32, not 5", "--resume")
    refused(f"{TRAIN} --resume", FAILURE, "bad.npz", "not the data", "--resume")


# --- numbers that run away -------------------------------------------------------------------------------------------


def exploding(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        if tensor.name in ("conv1.weight", "conv2.weight"):
            array = numpy_helper.to_array(tensor) * np.float32(1e30)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("score bad.onnx data.npz -o out.json", ("layer 'conv", "NaN or infinite", "preprocessing")),
        ("evaluate bad.onnx data.npz --json", ("bad.onnx", "NaN or infinite", "preprocessing")),
        ("predict bad.onnx data.npz --json", ("bad.onnx", "NaN or infinite")),
    ],
)
def test_infinite_activations(command, words, refused):
    changed(exploding, norm=False)()
    refused(command, FAILURE, *words)


def test_a_loss_that_is_not_finite_keeps_the_last_good_epoch(work, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["adabet-onnx", "train", "artifacts", "data.npz", "--lr", "1e30", "--epochs", "3"])
    with pytest.raises(SystemExit) as left:
        main()
    check(Result(left.value.code, *capfd.readouterr()), FAILURE, "the loss became", "Lower the learning rate")
    assert Path("artifacts/training/last.ckpt").is_file()
    rows = [json.loads(line) for line in Path("artifacts/metrics.jsonl").read_text().splitlines()]
    assert rows[0]["epoch"] == 0


def test_an_index_out_of_range_inside_the_model_is_one_message(work, refused):
    """ONNX Runtime's own log line must not come on top of ours."""
    values = {"table.weight": np.ones((5, 4), np.float32), "fc.weight": np.ones((4, 2), np.float32)}
    nodes = [
        helper.make_node("Gather", ["table.weight", "input"], ["rows"], "/gather"),
        helper.make_node("MatMul", ["rows", "fc.weight"], ["logits"], "/fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("input", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.INT64, ["N", 3]))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3, 2]))
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    Path("bad.onnx").write_bytes(proto.SerializeToString())
    npz(x=np.full((48, 3), 99))()
    refused("score bad.onnx bad.npz -o out.json", FAILURE, "bad.onnx", "failed", "99")


# --- places to write -------------------------------------------------------------------------------------------------

LONG = "x" * 300
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc, in which not even root can make files, is Linux's")


@pytest.mark.parametrize(
    "command",
    [
        "score model.onnx data.npz --samples 32 --subsets 2 -o OUT",
        "select scores.json -o OUT",
        "surgery model.onnx --outputs gram -o OUT",
        "new-head model.onnx --num-classes 3 -o OUT",
        pytest.param("export artifacts -o OUT", marks=needs_training),
        "score model.onnx data.npz --samples 32 --subsets 2 -o fine.json --plot OUT",
    ],
    ids=["score", "select", "surgery", "new-head", "export", "plot"],
)
@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("missing/out.png", "the folder missing does not exist"),
        ("model.onnx/out.png", "model.onnx is not a folder"),
        ("folder.png", "it is a folder"),
        (f"{LONG}.png", "too long"),
        pytest.param("/proc/out.png", "cannot write", marks=linux),
    ],
    ids=["no folder", "file as folder", "is a folder", "long name", "proc"],
)
def test_a_file_that_cannot_be_written(command, output, reason, refused):
    Path("folder.png").mkdir()
    refused(command.replace("OUT", output), FAILURE, output, reason, "Choose another output path")


@pytest.mark.parametrize("command", ["artifacts model.onnx selection.json", "run model.onnx data.npz"])
@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("data.npz", ("data.npz", "not a folder")),
        ("data.npz/deep/er", ("data.npz", "ot a")),
        (LONG, ("too long",)),
        pytest.param("/proc/out", ("/proc/out",), marks=linux),
    ],
    ids=["file", "below a file", "long name", "proc"],
)
def test_a_folder_that_cannot_be_written(command, output, words, refused):
    refused(f"{command} -o {output}", FAILURE, *words, "Choose another output path")


def test_a_folder_with_other_files_is_not_replaced(refused):
    Path("photos").mkdir()
    Path("photos/cat.jpg").write_bytes(b"meow")
    refused("artifacts model.onnx selection.json -o photos", FAILURE, "photos", "other files", "new folder")


# --- in a process of its own -----------------------------------------------------------------------------------------


def process(work: Path, *arguments: str, limit: int | None = None, **environment: str) -> Result:
    """Run the command line in another process, in `work`, maybe with a limit on the size of files."""

    def limited() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-m", "adabet_onnx", *arguments],
        cwd=work,
        env={**os.environ, "PYTHONWARNINGS": "default", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=limited if limit is not None else None,
    )
    return Result(done.returncode, done.stdout, done.stderr)


posix = pytest.mark.skipif(os.name != "posix", reason="file-size limits are of POSIX systems")


@posix
@pytest.mark.parametrize(
    ("command", "limit"),
    [
        ("score model.onnx data.npz --samples 32 --subsets 2 -o out.json", 500),
        ("select scores.json -o out.json", 300),
        ("surgery model.onnx --outputs gram -o out.onnx", 2_000),
        ("new-head model.onnx --num-classes 3 -o out.onnx", 2_000),
        ("export artifacts -o out.onnx", 2_000),
        ("artifacts model.onnx selection.json -o out --no-check", 400),
        ("artifacts model.onnx selection.json -o out --no-check", 9_000),
        pytest.param("artifacts model.onnx selection.json -o out --no-check --backend ort", 400, marks=needs_training),
        pytest.param(
            "artifacts model.onnx selection.json -o out --no-check --backend ort", 9_000, marks=needs_training
        ),
        pytest.param("artifacts model.onnx selection.json -o a/b/out --frozen checkpoint", 2_400, marks=needs_training),
        pytest.param("artifacts model.onnx selection.json -o out --ort-format", 9_800, marks=needs_training),
        ("run model.onnx data.npz -o out --samples 32 --subsets 2", 500),
    ],
)
def test_file_size_limit(command, limit, refused):
    if command.startswith("run"):
        Path("out").mkdir()  # a folder of the user's, which stays
    said = "cannot write out" if " out" in command else "cannot write"
    refused(command, FAILURE, said, "free some space", file_size_limit=limit)


@posix
def test_file_size_limit_of_a_plot(refused):
    command = "score model.onnx data.npz --samples 32 --subsets 2 -o out.json --plot out.png"
    refused(command, FAILURE, "cannot write out.png", "File too large", leaves=["out.json"], file_size_limit=5_000)
    assert json.loads(Path("out.json").read_text())["layers"], "the scores were complete before: they stay"


@posix
def test_file_size_limit_of_a_checkpoint(work, refused):
    trained(work)
    said = "last.ckpt: File too large"
    refused("train artifacts data.npz", FAILURE, said, "free some space", file_size_limit=1_000)


@posix
def test_a_failed_export_leaves_the_earlier_file(refused):
    Path("out.onnx").write_bytes(b"earlier")
    refused("export artifacts -o out.onnx", FAILURE, "out.onnx", "File too large", file_size_limit=2_000)


@posix
def test_file_size_limit_of_a_real_process(work):
    before = listing(work)
    command = "score model.onnx data.npz --samples 32 --subsets 2 -o out.json"
    check(process(work, *command.split(), limit=500), FAILURE, "cannot write out.json: File too large")
    assert listing(work) == before


def test_real_processes(work):
    """The same through a real interpreter, with its own stdout and stderr."""
    before = listing(work)
    check(process(work, "inspect", "nothing.onnx"), USAGE, "nothing.onnx", "does not exist")
    check(
        process(work, "score", "model.onnx", "model.onnx", "-o", "out.json"), FAILURE, "model.onnx", "neither an .npz"
    )
    assert listing(work) == before


# --- packages that are missing or in each other's way ----------------------------------------------------------------

ABSENT = "raise ModuleNotFoundError(\"No module named 'onnxruntime'\", name='onnxruntime')\n"


def stub(folder: Path, name: str, content: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return str(folder)


def test_no_onnxruntime(work, tmp_path):
    python = stub(tmp_path / "stub", "onnxruntime/__init__.py", ABSENT)
    before = listing(work)
    result = process(work, "score", "model.onnx", "data.npz", "-o", "out.json", PYTHONPATH=python)
    check(result, FAILURE, "ONNX Runtime cannot be imported", "pip install 'adabet-onnx[inference]'", "[training]")
    assert listing(work) == before
    assert process(work, "inspect", "model.onnx", PYTHONPATH=python).code == 0, "what needs no runtime works"
    doctor = process(work, "doctor", PYTHONPATH=python)
    assert (doctor.code, doctor.err) == (1, "")
    assert "pip install 'adabet-onnx[inference]'" in " ".join(doctor.out.split())


def test_a_damaged_onnxruntime_folder(work, tmp_path):
    python = stub(tmp_path / "stub", "onnxruntime/__init__.py", "")
    result = process(work, "score", "model.onnx", "data.npz", "-o", "out.json", PYTHONPATH=python)
    check(result, FAILURE, "damaged", "Uninstall")


def test_both_packages_at_once(work, tmp_path):
    for name in ("onnxruntime", "onnxruntime_training_cpu"):
        metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.19.2\n"
        python = stub(tmp_path / "stub", f"{name}-1.19.2.dist-info/METADATA", metadata)
    before = listing(work)
    result = process(work, "score", "model.onnx", "data.npz", "-o", "out.json", PYTHONPATH=python)
    check(result, FAILURE, "onnxruntime 1.19.2", "onnxruntime-training-cpu 1.19.2", "pip uninstall -y")
    assert listing(work) == before
    doctor = process(work, "doctor", PYTHONPATH=python)
    assert doctor.code == 1
    assert "conflict" in doctor.out


@pytest.mark.parametrize(
    "command",
    [
        "artifacts model.onnx selection.json -o out --backend ort",
        pytest.param("train ort data.npz", marks=needs_training),
        pytest.param("export ort -o out.onnx", marks=needs_training),
        "run model.onnx data.npz -o out --backend ort",
    ],
)
def test_no_training_package(command, refused, monkeypatch):
    monkeypatch.setattr(ort, "_api", None)
    monkeypatch.setattr(ort, "_has_training", lambda module: False)
    monkeypatch.setattr(runtime, "installed", lambda: runtime.Installed({"onnxruntime": "1.22.0"}, {}))
    words = (
        "onnxruntime-training-cpu 1.19.2",
        "portable backend",
        "pip uninstall -y onnxruntime,",
        "pip install 'adabet-onnx[training]'",
    )
    refused(command, FAILURE, *words)


def test_training_that_cannot_be_imported_says_why(monkeypatch):
    monkeypatch.setattr(ort, "_api", None)
    monkeypatch.setattr(ort, "_has_training", lambda module: True)

    def broken() -> None:
        raise ort._missing("it cannot be imported: libfoo.so is missing")

    monkeypatch.setattr(ort, "Api", broken)
    with pytest.raises(RuntimeMissingError, match=r"libfoo\.so"):
        ort.load()
