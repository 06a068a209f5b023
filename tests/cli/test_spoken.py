"""Errors speak of parameters in Python and of options on the command line; their advice works.

Each case is rejected twice, in Python and on the command line, for the same reason. Then the advice of the command line
is followed literally.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import command_of
from models import earlier, heads, inputs, masks, settings, shared_layers, tiny
from models.settings import two_open_dims

import adabet_onnx
from adabet_onnx import (
    AdabetError,
    Adapting,
    Budget,
    Choices,
    Choosing,
    Data,
    Plan,
    Preprocessing,
    Repeats,
    Scoring,
    Selection,
    Settings,
    Trainer,
    adapt,
    compare,
    evaluate,
    load_scores,
    load_selection,
    make_artifacts,
    new_head,
    open_model,
    score,
    select,
    stability,
    write_report,
)

QUICK = ["--samples", "32", "--subset-size", "16", "--subsets", "2"]
RUN = ["--epochs", "1", "--no-measure", "--no-check", *QUICK]
X, Y = np.random.default_rng(0).random((48, 3, 8, 8), dtype=np.float32), np.arange(48) % 4


@dataclass(frozen=True)
class Case:
    """One rejected call.

    Attributes:
        call: the rejected call in Python.
        command: the rejected command.
        python: part of the message in Python.
        typed: the corresponding part on the command line.
        follow: the command to run next; ``ADVICE`` stands for the words of the advice. None: no command.
        make: creates the files, in addition to those of `good`.
        code: the exit code.
    """

    call: Callable[[], object]
    command: str
    python: str
    typed: str
    follow: str | None = None
    make: Callable[[], object] = lambda: None
    code: int = 1


def saved(proto: onnx.ModelProto, name: str = "m.onnx") -> None:
    onnx.save(proto, name)


def arrays(**found: np.ndarray) -> None:
    np.savez("d.npz", **found)


def with_data(proto: onnx.ModelProto, **found: np.ndarray) -> Callable[[], None]:
    def make() -> None:
        saved(proto)
        arrays(**found)

    return make


def merged() -> None:
    proto = earlier.merged_before_the_head()
    saved(proto)
    arrays(x=tiny.normal(40, earlier.STEPS, earlier.FEATURES), y=np.zeros((40, earlier.STEPS), int))


def of_no_layer() -> Selection:
    chosen = load_selection("selection.json")
    return Selection(chosen.model_sha256, "layers", chosen.layers, (*chosen.parameters, "nothing"))


PIXELS = (X * 255).astype(np.uint8)
SIDES = {"x": np.random.default_rng(0).random((48, 7, 5, 7), dtype=np.float32)}

CASES = {
    "preset": Case(
        lambda: score("model.onnx", "d.npz"),
        "score model.onnx d.npz -o s.json",
        "Give `preset='unit'` (x/255), imagenet or none (unchanged), or `preprocessing=Preprocessing(scale=..., ",
        "Give --preset unit (x/255), imagenet or none (unchanged), or --scale, --mean, --std.",
        "score model.onnx d.npz -o s.json --preset unit",
        lambda: arrays(x=PIXELS),
        2,
    ),
    "16 bits": Case(
        lambda: score("model.onnx", "d.npz", preset="unit"),
        "score model.onnx d.npz -o s.json --preset unit",
        "`preprocessing=Preprocessing(scale=1.52590219e-05)` (with `mean` and `std` if",
        "--scale 1.52590219e-05 (with --mean and --std if",
        "score model.onnx d.npz -o s.json --scale 1.52590219e-05",
        lambda: arrays(x=(X * 65535).astype(np.uint16)),
    ),
    "no colours": Case(
        lambda: score("m.onnx", "d.npz", preprocessing=Preprocessing(preset="none", bgr=True)),
        "score m.onnx d.npz -o s.json --preset none --bgr",
        "Leave out `bgr`.",
        "Leave out --bgr.",
        "score m.onnx d.npz -o s.json --preset none",
        with_data(inputs.flat(12), x=np.ones((40, 12), np.float32)),
        2,
    ),
    "integers": Case(
        lambda: score("m.onnx", "d.npz", preset="unit"),
        "score m.onnx d.npz -o s.json --preset unit",
        "Leave out `scale`, `mean`, `std` and `preset`, or give `preset='none'`.",
        "Leave out --scale, --mean, --std and --preset, or give --preset none.",
        "score m.onnx d.npz -o s.json --preset none",
        with_data(inputs.flat(12, kind="int64"), x=np.ones((40, 12), int)),
        2,
    ),
    "open dimension": Case(
        lambda: open_model("m.onnx", logits="first", bind={"count": 3}),
        "import m.onnx -o a.onnx --logits first --input count=3",
        "`open_model('m.onnx', logits='first', dims={'h': SIZE, 'w': SIZE}, bind={'count': 3})`.",
        "adabet-onnx import m.onnx -o fixed.onnx --logits first --dim h=SIZE --dim w=SIZE --input count=3.",
        "ADVICE SIZE=4",
        lambda: saved(two_open_dims()),
    ),
    "several outputs": Case(
        lambda: open_model("my net.onnx", dims={"h": 2, "w": 3}, bind={"count": 3}),
        "import 'my net.onnx' -o a.onnx --dim h=2 --dim w=3 --input count=3",
        "`open_model('my net.onnx', logits='NAME', dims={'h': 2, 'w': 3}, bind={'count': 3})`.",
        "adabet-onnx import 'my net.onnx' -o fixed.onnx --logits NAME --dim h=2 --dim w=3 --input count=3.",
        "ADVICE NAME=second",
        lambda: saved(two_open_dims(), "my net.onnx"),
    ),
    "a setting": Case(
        lambda: open_model("m.onnx"),
        "inspect m.onnx",
        "(`open_model('m.onnx', bind={'sr': 16000})`).",
        "(adabet-onnx import m.onnx -o fixed.onnx --input sr=16000).",
        "ADVICE",
        lambda: saved(settings.two_rates()),
    ),
    "no value": Case(
        lambda: open_model("m.onnx", bind={"sr": "fast.npy"}),
        "inspect m.onnx --input sr=fast.npy",
        "Give it again: `bind={'sr': 'FILE.npy'}`.",
        "Give it again: --input sr=FILE.npy.",
        "inspect m.onnx --input sr=rate.npy",
        lambda: (saved(settings.two_rates()), np.save("rate.npy", np.array(8000))),
        2,
    ),
    "no batch in the logits": Case(
        lambda: adapt("m.onnx", "d.npz", "a"),
        "run m.onnx d.npz -o a",
        "`new_head(open_model('m.onnx', logits='f'), C, append=True)`",
        "adabet-onnx import m.onnx -o fixed.onnx --logits f && adabet-onnx new-head fixed.onnx -o headed.onnx "
        "--num-classes C --append",
        "ADVICE C=4",
        merged,
    ),
    "an embedding": Case(
        lambda: adapt("m.onnx", "d.npz", "a"),
        "run m.onnx d.npz -o a",
        "`new_head(open_model('m.onnx'), N, append=True)`; without `append=True` it",
        "adabet-onnx new-head m.onnx -o headed.onnx --num-classes N --append; without --append it",
        "ADVICE N=3",
        with_data(heads.embedding("torch"), x=tiny.normal(40, 5), y=np.zeros(40, int)),
    ),
    "axes in several orders": Case(
        lambda: score("m.onnx", "d.npz"),
        "score m.onnx d.npz -o s.json",
        "such as `Data(..., layout='NHWC')`.",
        "such as --layout NHWC.",
        "score m.onnx d.npz -o s.json --layout NHCW",
        with_data(inputs.flat(5, 7, 7), **SIDES),
    ),
    "flat pictures": Case(
        lambda: score("m.onnx", Data("d.npz")),
        "score m.onnx d.npz -o s.json",
        "such as `Data(..., layout='N(HW)')`; the last letter",
        "such as --layout 'N(HW)'; the last letter",
        "score m.onnx d.npz -o s.json --layout 'N(HW)'",
        with_data(inputs.flat(1, 8, 6), x=np.ones((40, 48), np.float32)),
    ),
    "hardly pictures": Case(
        lambda: score("m.onnx", "d.npz"),
        "score m.onnx d.npz -o s.json",
        "or, if it is intended, give `Data(..., allow_resize=True)`.",
        "or, if it is intended, give --allow-resize.",
        "score m.onnx d.npz -o s.json --allow-resize",
        with_data(inputs.flat(3, 32, 32), x=np.zeros((40, 7, 3), np.float32)),
    ),
    "labels of a probability": Case(
        lambda: evaluate("m.onnx", "d.npz"),
        "evaluate m.onnx d.npz",
        "Use `loss='bce-with-logits'` for labels 0 and 1, mse or l1 for numbers, or give the model a head with an "
        "output per class (`new_head`, or `adapt` with `num_classes`).",
        "Use --loss bce-with-logits for labels 0 and 1, mse or l1 for numbers, or give the model a head with an output "
        "per class (adabet-onnx new-head, or adabet-onnx run with --num-classes).",
        "evaluate m.onnx d.npz --loss bce-with-logits",
        with_data(masks.one_number(sigmoid=False), x=np.ones((8, 5), np.float32), y=np.zeros(8, int)),
    ),
    "targets of another loss": Case(
        lambda: evaluate("model.onnx", "data.npz", loss="mse"),
        "evaluate model.onnx data.npz --loss mse",
        "or use `loss='cross-entropy'`.",
        "or use --loss cross-entropy.",
        "evaluate model.onnx data.npz --loss cross-entropy",
    ),
    "too many classes": Case(
        lambda: adapt("model.onnx", "d.npz", "out"),
        "run model.onnx d.npz -o out",
        "(`new_head`, or `adapt` with `num_classes=8`)",
        "(adabet-onnx new-head, or adabet-onnx run with --num-classes 8)",
        f"run model.onnx d.npz -o out --num-classes 8 {' '.join(RUN)}",
        lambda: arrays(x=X, y=np.arange(48) % 8),
    ),
    "labels that do not count": Case(
        lambda: evaluate("m.onnx", "d.npz"),
        "evaluate m.onnx d.npz",
        "give `ignore_label=255`.",
        "give --ignore-label 255.",
        "evaluate m.onnx d.npz --ignore-label 255",
        lambda: with_data(masks.per_pixel(1, turned=False), x=masked()[0], y=masked()[1])(),
    ),
    "a head of no classes": Case(
        lambda: new_head("model.onnx", 0),
        "new-head model.onnx --num-classes 0 -o h.onnx",
        "`num_classes` must be 1 to",
        "--num-classes must be 1 to",
        "new-head model.onnx --num-classes 1 -o h.onnx",
        code=2,
    ),
    "a head in two ways": Case(
        lambda: new_head("model.onnx", 3, keep_tail=True, append=True),
        "new-head model.onnx --num-classes 3 -o h.onnx --keep-tail --append",
        "`append=True` keeps everything before the outputs: omit `keep_tail`.",
        "--append keeps everything before the outputs: omit --keep-tail.",
        "new-head model.onnx --num-classes 3 -o h.onnx --append",
        code=2,
    ),
    "without a new head": Case(
        lambda: adapt("model.onnx", "data.npz", "out", adapting=Adapting(append=True)),
        "run model.onnx data.npz -o out --append",
        "`keep_tail` and `append` apply to a new head: give `num_classes` too.",
        "--keep-tail and --append apply to a new head: give --num-classes too.",
        code=2,
    ),
    "few samples": Case(
        lambda: score("model.onnx", "d.npz"),
        "score model.onnx d.npz -o s.json",
        "or a smaller `subset_size`.",
        "or a smaller --subset-size.",
        "score model.onnx d.npz -o s.json --subset-size 8",
        lambda: arrays(x=X[:20]),
    ),
    "few samples for batches": Case(
        lambda: score("model.onnx", "data.npz", scoring=Scoring(estimator="batches")),
        "score model.onnx data.npz -o s.json --estimator batches",
        "or a smaller `batches` or `Scoring(batch_size=...)`.",
        "or a smaller --batches or --batch-points.",
        "score model.onnx data.npz -o s.json --estimator batches --batches 1",
    ),
    "less than a subset": Case(
        lambda: Scoring(samples=16),
        "score model.onnx data.npz -o s.json --samples 16",
        "raise `samples` or lower `subset_size`.",
        "raise --samples or lower --subset-size.",
        "score model.onnx data.npz -o s.json --samples 16 --subset-size 8",
        code=2,
    ),
    "little memory": Case(
        lambda: score("model.onnx", "data.npz", scoring=Scoring(max_memory="50kB")),
        "score model.onnx data.npz -o s.json --scoring-memory 50kB",
        "one sample at a time needs about 20 MB, over the limit of 50 KB. Raise `Scoring(max_memory=...)`",
        "Raise --scoring-memory",
        "score model.onnx data.npz -o s.json --scoring-memory 1GB",
    ),
    "little memory without sketches": Case(
        lambda: score("model.onnx", "data.npz", scoring=Scoring(max_memory="50kB", sketch="off")),
        "score model.onnx data.npz -o s.json --scoring-memory 50kB --sketch off",
        "Raise `Scoring(max_memory=...)`, or give a smaller `subset_size`",
        "Raise --scoring-memory, or give a smaller --subset-size",
        "score model.onnx data.npz -o s.json --scoring-memory 1GB --sketch off",
    ),
    "no scores": Case(
        lambda: select("model.onnx"),
        "select model.onnx -o s.json",
        "Score it first (`score('model.onnx', data)`) and give the scores instead, or use what needs no scores: "
        "`layers`, or `strategy` head",
        "Score it first (adabet-onnx score model.onnx DATA -o scores.json) and give the scores instead, or use what "
        "needs no scores: --layers, or --strategy head",
        "ADVICE DATA=data.npz",
        code=2,
    ),
    "no scores of channels": Case(
        lambda: select("model.onnx", choosing=Choosing(channel_rho=0.5)),
        "select model.onnx -o s.json --channel-rho 0.5",
        "`score('model.onnx', data, scoring=Scoring(channels=True))`",
        "adabet-onnx score model.onnx DATA -o scores.json --channels",
        "ADVICE DATA=data.npz",
        code=2,
    ),
    "channels that were not scored": Case(
        lambda: select("scores.json", choosing=Choosing(channel_rho=0.5)),
        "select scores.json -o s.json --channel-rho 0.5",
        "score again with `channels=True`.",
        "score again with --channels.",
        "score model.onnx data.npz -o s.json --channels",
        code=2,
    ),
    "an impossible budget": Case(
        lambda: select("scores.json", costs=adabet_onnx.Predictor("model.onnx"), choosing=Choosing(budget=TIGHT)),
        "select scores.json -o s.json --model model.onnx --max-update 1B",
        "`max_update` 1 B: the minimum is ",
        "--max-update 1 B: the minimum is ",
        "select scores.json -o s.json --model model.onnx --max-update 1MB",
        code=2,
    ),
    "not of this backend": Case(
        lambda: make_artifacts(
            "model.onnx", "selection.json", "a", backend="portable", choices=Choices(ort_format=True)
        ),
        "artifacts model.onnx selection.json -o a --backend portable --ort-format",
        "Use `backend='ort'`, or leave it out.",
        "Use --backend ort, or leave it out.",
        "artifacts model.onnx selection.json -o a --backend portable --no-check",
        code=2,
    ),
    "statistics of the batch": Case(
        lambda: make_artifacts("m.onnx", select("m.onnx", strategy="all"), "a", choices=Choices(batch_norm="batch")),
        "artifacts m.onnx s.json -o a --batch-norm batch",
        "Use `batch_norm='frozen'`, or leave it out.",
        "Use --batch-norm frozen, or leave it out.",
        "artifacts m.onnx s.json -o a --batch-norm frozen --no-check",
        lambda: (
            saved(shared_layers.siamese(norm="BatchNormalization")),
            select("m.onnx", strategy="all").save("s.json"),
        ),
    ),
    "a selection of something else": Case(
        lambda: make_artifacts("model.onnx", "s.json", "a"),
        "artifacts model.onnx s.json -o a",
        "Make the selection again with `select`.",
        "Make the selection again with adabet-onnx select.",
        make=lambda: of_no_layer().save("s.json"),
        code=2,
    ),
    "no validation": Case(
        lambda: Trainer("artifacts").fit("data.npz", settings=Settings(patience=2, validation=0.001)),
        "train artifacts data.npz --patience 2 --validation 0.001",
        "Raise `validation`, or leave out `patience`.",
        "Raise --validation, or leave out --patience.",
        "train artifacts data.npz --patience 2 --validation 0.1 --epochs 1",
        code=2,
    ),
    "resumed otherwise": Case(
        lambda: Trainer("artifacts").fit("data.npz", epochs=1, batch_size=5, resume=True),
        "train artifacts data.npz --batch-size 5 --resume",
        "start again without `resume`.",
        "start again without --resume.",
        "train artifacts data.npz --batch-size 5 --epochs 1",
        lambda: Trainer("artifacts").fit("data.npz", epochs=1),
        2,
    ),
    "no artifacts": Case(
        lambda: Trainer("."),
        "train . data.npz",
        "Give artifacts.",
        "Give artifacts.",
        "train artifacts data.npz --epochs 1",
    ),
    "no folder of artifacts": Case(
        lambda: Trainer("empty"),
        "train empty data.npz",
        "`make_artifacts` makes one.",
        "adabet-onnx artifacts makes one.",
        make=lambda: Path("empty").mkdir(),
    ),
    "damaged scores": Case(
        lambda: load_scores("s.json"),
        "select s.json -o selection.json",
        "Make it again with `score`.",
        "Make it again with adabet-onnx score.",
        make=lambda: Path("s.json").write_text("{"),
    ),
    "few samples for rankings": Case(
        lambda: stability("model.onnx", "data.npz", repeats=Repeats(points=32)),
        "stability model.onnx data.npz --subset-size 32",
        "or fewer `points`.",
        "or fewer --subset-size.",
        "stability model.onnx data.npz --subset-size 8 --subsets 2 --seeds 1 --no-fisher",
    ),
    "an old domain": Case(
        lambda: compare("model.onnx", "d.npz", "c", Plan(), num_classes=5, old_domain="d.npz"),
        "compare model.onnx d.npz -o c --num-classes 5 --old-domain d.npz",
        "Leave out `old_domain`, or `num_classes`.",
        "Leave out --old-domain, or --num-classes.",
        make=lambda: arrays(x_train=X, y_train=Y, x_test=X, y_test=Y),
        code=2,
    ),
    "nothing to report": Case(
        lambda: write_report("empty", "r.html"),
        "report empty -o r.html",
        "Give the folder that `adapt` or `compare` wrote.",
        "Give the folder that adabet-onnx run or adabet-onnx compare wrote.",
        make=lambda: Path("empty").mkdir(),
        code=2,
    ),
}
TIGHT, OF_ORT = Budget(max_update=1), Choices(ort_format=True)


def masked() -> tuple[np.ndarray, np.ndarray]:
    """Pictures and a label per pixel; those of the first row are ignored."""
    x = np.random.default_rng(0).standard_normal((8, 3, masks.SIDE, masks.SIDE)).astype(np.float32)
    y = masks.scores(x).argmax(-1)
    y[:, 0] = 255
    return x, y


@pytest.mark.parametrize("name", CASES)
def test_python_hears_of_parameters(name, work):
    case = CASES[name]
    case.make()
    with pytest.raises(AdabetError) as raised:
        case.call()
    said = str(raised.value)
    assert case.python in said
    assert raised.value.exit_code == case.code
    assert re.search(r"--[a-z]", said) is None
    assert "adabet-onnx " not in said


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_command_line_hears_of_options_and_can_follow(name, work, monkeypatch, capfd, checked_here):
    case, command = CASES[name], command_of(monkeypatch, capfd)
    case.make()
    said = command(*shlex.split(case.command), code=case.code).err
    assert case.typed in said
    assert "`" not in said
    if case.follow is None:
        return
    if not case.follow.startswith("ADVICE"):
        command(*shlex.split(case.follow))
        return
    typed = re.search(r"adabet-onnx [^();]+", said)[0].rstrip(".\n")
    for word in case.follow.split()[1:]:
        typed = typed.replace(*word.split("="))
    for one in typed.split(" && "):
        command(*shlex.split(one)[1:])


@pytest.mark.parametrize("name", ["a`check=False`", "`resume`", "it's `", "'`check=False`'", 'a "b"\n`x', "$(ls) `"])
def test_names_that_a_model_gives_are_typed_as_they_are(name, tmp_path, monkeypatch, capfd):
    """A dimension and an output of such a name: the advice opens the model, in Python and on the command line."""
    command = command_of(monkeypatch, capfd)
    monkeypatch.chdir(tmp_path)
    nodes = [
        tiny.node("ReduceMean", ["x"], ["m"], "mean", axes=[1], keepdims=0),
        tiny.node("MatMul", ["m", "w"], [name], name),
        tiny.node("MatMul", ["m", "v"], ["other"], "other"),
    ]
    shapes = {name: ["N", 3], "other": ["N", 4]}
    outputs = [settings.value(key, shape) for key, shape in shapes.items()]
    weights = {"w": tiny.normal(5, 3), "v": tiny.normal(5, 4)}
    saved(tiny.assemble(nodes, weights, [settings.value("x", ["N", name, 5])], outputs))
    with pytest.raises(AdabetError) as raised:
        open_model("m.onnx", logits=name)
    [advice] = re.findall(r"`(open_model\(.*\))`\.$", str(raised.value))
    model = eval(advice, {"open_model": open_model, "SIZE": 6})
    assert (model.logits, model.inputs[0].shape) == (name, ("N", 6, 5))
    said = command("import", "m.onnx", "-o", "a.onnx", "--logits", name, code=1).err
    assert repr(name) in said or f"dimension {name} " in said
    typed = re.search(r"adabet-onnx import m\.onnx -o fixed.*", said, re.DOTALL)[0].rstrip(".\n")
    command(*(word.replace("=SIZE", "=6") for word in shlex.split(typed)[1:]))
    assert open_model("fixed.onnx").logits == name
