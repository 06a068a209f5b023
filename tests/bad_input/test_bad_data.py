"""Bad data, and numbers that run away (see bad_inputs.py)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from bad_inputs import (
    EVALUATE,
    FAILURE,
    SCORE,
    TRAIN,
    USAGE,
    Case,
    Result,
    X,
    Y,
    cases,
    changed,
    check,
    cut,
    empty_folder,
    npz,
    trained,
    write,
)
from onnx import TensorProto, helper, numpy_helper

from adabet_onnx.cli.main import main


def with_nan() -> np.ndarray:
    spoilt = X.copy()
    spoilt[::2, 0, 0, 0] = np.nan
    return spoilt


def npy() -> None:
    np.save("bad.npy", X)
    Path("bad.npy").rename("bad.npz")


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
    Case("predict text", "predict model.onnx scores.json", FAILURE, ("scores.json", "not an image")),
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
        ("bad.npz", "(48, 3)", "(N, 4)"),
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


@pytest.mark.parametrize("inside", [False, True])
def test_an_index_out_of_range_is_one_message(work, refused, inside):
    """ONNX Runtime's own log line must not be printed besides ours, even if only it detects the error (``inside``)."""
    values = {"table.weight": np.ones((5, 4), np.float32), "fc.weight": np.ones((4, 2), np.float32)}
    nodes = [
        helper.make_node("Abs" if inside else "Identity", ["input"], ["ids"], "/ids"),
        helper.make_node("Gather", ["table.weight", "ids"], ["rows"], "/gather"),
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
    words = ("bad.onnx", "failed", "99") if inside else ("bad.npz", "the 5 rows of 'table.weight'", "from 99 to 99")
    refused("score bad.onnx bad.npz -o out.json", FAILURE, *words)
