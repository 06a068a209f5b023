"""Translation of Python in texts to options and commands; other text is unchanged, whatever it contains."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adabet_onnx.cli.translate import translate, translated

SAID = {
    "Give `preset='unit'` (x/255).": "Give --preset unit (x/255).",
    "lower `learning_rate`": "lower --lr",
    "`bind={'sr': 16000, 'train': False, 'a': 'A.npy', 'v': VALUE, 'b': ..., 'c': [1, 2.5]}`": (
        "--input sr=16000 --input train=false --input a=A.npy --input v=VALUE --input b=... --input 'c=[1, 2.5]'"
    ),
    "`dims={'sequence': SIZE, 'x:1': 4}`": "--dim sequence=SIZE --dim x:1=4",
    "`layers=('layer4.*', 'fc')`": "--layers 'layer4.*' --layers fc",
    "`mean=(0.5, 0.25)` `rates=[0.1]`": "--mean 0.5,0.25 --rates 0.1",
    "`class_axis=-1` `ignore_label=255`": "--class-axis -1 --ignore-label 255",
    "`resume=True` `check=False` `bgr=False`": "--resume --no-check --rgb",
    "`Data(..., layout='N(HW)')`, `Data(x, layout={'a': 'NTC'})`": "--layout 'N(HW)', --layout a=NTC",
    "with `Data(..., layout=...)` or `Data(..., allow_resize=True)`": "with --layout or --allow-resize",
    "`preprocessing=Preprocessing(scale=..., mean=..., std=...)`": "--scale, --mean, --std",
    "`Scoring(max_memory='2GB')`, `Budget(max_memory='64MB')`": "--scoring-memory 2GB, --max-memory 64MB",
    "`Budget(max_memory_share=0.25, max_step_time=0.5)`": "--max-memory 0.25x --max-step-time 0.5x",
    "`choices=Choices(ignore_label=255), settings=Settings(learning_rate=1e-05)`": "--ignore-label 255 --lr 1e-05",
    "`adapting=Adapting(choices=Choices(loss='mse'), keep_tail=True)`": "--loss mse --keep-tail",
    "`open_model('m.onnx', logits='NAME')`.": "adabet-onnx import m.onnx -o fixed.onnx --logits NAME.",
    "`open_model(model, logits='y')`": "adabet-onnx import MODEL -o fixed.onnx --logits y",
    "`open_model('my model.onnx', dims={'T': SIZE})`": "adabet-onnx import 'my model.onnx' -o fixed.onnx --dim T=SIZE",
    "`new_head(open_model('m.onnx'), N, append=True)`": (
        "adabet-onnx new-head m.onnx -o headed.onnx --num-classes N --append"
    ),
    "`new_head(open_model('m.onnx', logits='y'), 5)`": (
        "adabet-onnx import m.onnx -o fixed.onnx --logits y && "
        "adabet-onnx new-head fixed.onnx -o headed.onnx --num-classes 5"
    ),
    "`score('m.onnx', d, scoring=Scoring(channels=True))`": "adabet-onnx score m.onnx D -o scores.json --channels",
    "`score(open_model(dims={'T': 4}))`": (
        "adabet-onnx import MODEL -o fixed.onnx --dim T=4 && adabet-onnx score fixed.onnx DATA -o scores.json"
    ),
    "`score(model, Data('d.npz', layout='NTC'))`": "adabet-onnx score MODEL d.npz -o scores.json --layout NTC",
    "`adapt('m.onnx', 'd.npz', 'out', num_classes=5)`": "adabet-onnx run m.onnx d.npz -o out --num-classes 5",
    "`Trainer('a').fit(data, epochs=5)`": "adabet-onnx train a DATA --epochs 5",
    "`export_model('a', 'out.onnx', check=False)`": "adabet-onnx export a -o out.onnx --no-check",
    "`check_model('m.onnx', loss='mse')`": "adabet-onnx check m.onnx --loss mse",
    "(`new_head`, or `adapt` with `num_classes=8`)": "(adabet-onnx new-head, or adabet-onnx run with --num-classes 8)",
    "`model.layers` lists them": "adabet-onnx inspect lists them",
}


@pytest.mark.parametrize("text", SAID)
def test_pieces_are_said_as_options_and_commands(text):
    assert translate(text) == SAID[text]


KEPT = [
    "",
    "no piece, but it's fine",
    "`",
    "``",
    "` `",
    "`unknown`",
    "`unknown=1`",
    "`loss`x`",  # the second piece is none
    "`loss=open('x')`",
    "`loss=(lambda: 1)()`",
    "`os.system('ls')`",
    "`open_model(*models)`",
    "`open_model(**how)`",
    "`**how`",
    "`loss=None`",
    "`keep_tail=False`",
    "`score(evaluate(a, b), c)`",
    "`new_head(model, 1, 2, 3)`",
    "`dims={**sizes}`",
    "`Choices('mse')`",
    "`budget=64`",
    "`)(`",
    "`a)(b`",
    "`1is 2`",
    "`'\\d'`",
    "`loss='a\nb`",
    "`\x00`",
    "`\udcff`",
    "`" + "(" * 3000 + "`",
    "`class_axis=" + "-" * 3000 + "1`",
    "`" + "loss, " * 2000 + "`",
]


@pytest.mark.parametrize("text", KEPT, ids=range(len(KEPT)))
def test_what_is_not_ours_stays(text):
    assert translate(text) in (text, text.replace("`loss`", "--loss"))


HOSTILE = [
    "a`b",
    "`check=False`",
    "`learning_rate`",
    "it's `check=False`",
    "'`check=False`",
    '"`check=False`"',
    "a\n`check=False`\n",
    "\\",
    "\\'`resume`",
    "`'",
    "'`",
    "$(rm -rf x)",
    "`open_model('x')`",
    "',`check=False`,'",
    "a b;c",
    "--append",
    "\x00\x1b[31m",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_a_model_are_neither_pieces_nor_their_end(name):
    text = f"input {name!r} of node {name!r} is none. Give `bind={{{name!r}: 0}}`, `logits={name!r}` or `resume`."
    said = translate(text)
    assert said.startswith(f"input {name!r} of node {name!r} is none. Give --input ")
    assert said.endswith(" or --resume.")
    given = said.removeprefix(f"input {name!r} of node {name!r} is none. Give ").removesuffix(" or --resume.")
    assert shlex.split(given.replace(", --logits", " --logits")) == ["--input", f"{name}=0", "--logits", name]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_path_that_stands_as_it_is_breaks_nothing(name):
    translate(f"{name}: no such file. Give `resume`.")
    if "'" not in name and '"' not in name and "`check" not in name and "`learning" not in name and "`open" not in name:
        assert translate(f"{name}: no such file. Give `resume`.") == f"{name}: no such file. Give --resume."


PARTS = [*SAID, *KEPT, *HOSTILE, "`", "'", '"', "(", ")", ", ", "=", "\\", "...", "open_model(", "Data(", "{", "}"]


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=6), length=st.integers(1, 400))
def test_nothing_that_a_text_holds_raises(parts, length):
    assert isinstance(translate("".join(parts)[:length]), str)


def test_json_is_said_where_people_are_told_something():
    value = {
        "notes": ["`resume`", 1],
        "layers": [{"name": "`resume`"}],
        "refused": {"ort": "`loss='mse'`", "portable": None},
        "decisions": [{"about": "`resume`", "because": "`layers` selects others"}],
    }
    assert translated(value) == {
        "notes": ["--resume", 1],
        "layers": [{"name": "`resume`"}],
        "refused": {"ort": "--loss mse", "portable": None},
        "decisions": [{"about": "`resume`", "because": "--layers selects others"}],
    }
