"""Bad values of options (see bad_inputs.py)."""

from __future__ import annotations

from bad_inputs import ARTIFACTS, FAILURE, SCORE, SELECT, USAGE, Case, X, cases, npz
from models import tiny

from adabet_onnx import open_model, score
from adabet_onnx.scoring.options import Scoring


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
    Case("max-memory endless", f"{SCORE} --max-memory {'9' * 400}", USAGE, ("--scoring-memory",), npz(x=X)),
    Case("max-memory too small", f"{SCORE} --max-memory 50kB", FAILURE, ("needs about", "--scoring-memory"), npz(x=X)),
    Case("plot suffix", f"{SCORE} --plot a.bmp", USAGE, ("a.bmp", ".png, .svg, .pdf"), npz(x=X)),
    Case("std zero", f"{SCORE} --std 0", USAGE, ("standard deviation of 0",), npz(x=X)),
    Case("std per channel", f"{SCORE} --std 1,2", USAGE, ("2 numbers for std", "3 channels"), npz(x=X)),
    Case("mean nan", f"{SCORE} --mean nan", USAGE, ("finite",), npz(x=X)),
    Case("mean text", f"{SCORE} --mean 1;2", USAGE, ("'1;2'", "commas"), npz(x=X)),
    Case(
        "mean of x/255",
        f"{SCORE} --mean 0.5 --std 0.25",
        USAGE,
        ("--preset unit", "--scale 1"),
        npz(x=(255 * X).astype("uint8")),
    ),
    Case("scale by zero", f"{SCORE} --scale 1/0", USAGE, ("'1/0'", "1/255"), npz(x=X)),
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
    score(model, X, scoring=Scoring(samples=32, subsets=2)).save("scores.json")


@cases(
    Case("momentum", f"{ARTIFACTS} --momentum 0.9", USAGE, ("sgd", "no momentum", "adamw")),
    Case("run with momentum", "run model.onnx data.npz -o out --momentum 0.9", USAGE, ("no momentum",)),
    Case(
        "sgd with decay",
        f"{ARTIFACTS} --backend ort --optimizer sgd --weight-decay 0.1",
        USAGE,
        ("no weight decay in sgd", "--backend portable"),
    ),
    Case("nothing has both", f"{ARTIFACTS} --ort-format --clip-norm 1", USAGE, ("No backend supports all",)),
    Case("portable .ort", f"{ARTIFACTS} --backend portable --ort-format", USAGE, ("no .ort files", "--backend ort")),
    Case("unknown backend", f"{ARTIFACTS} --backend tf", USAGE, ("'tf'", "portable")),
    Case("unknown profile", f"{ARTIFACTS} --profile phone", USAGE, ("'phone'", "webgpu")),
    Case("clip at 0", f"{ARTIFACTS} --clip-norm 0", USAGE, ("--clip-norm",)),
    Case("smoothing 1", f"{ARTIFACTS} --label-smoothing 1", USAGE, ("--label-smoothing",)),
    Case("class axis", f"{ARTIFACTS} --class-axis 5", USAGE, ("class axis", "from 1 to 1", "5")),
    Case("accumulate nothing", "train artifacts data.npz --accumulate 0", USAGE, ("--accumulate",)),
    Case("unknown optimizer", f"{ARTIFACTS} --optimizer lion", USAGE, ("'lion'", "adamw")),
    Case("negative decay", f"{ARTIFACTS} --weight-decay -1", USAGE, ("--weight-decay",)),
    Case("no epochs", "train artifacts data.npz --epochs -1", USAGE, ("--epochs",)),
    Case("rate zero", "train artifacts data.npz --lr 0", USAGE, ("learning rate", "above 0")),
    Case("rate nan", "train artifacts data.npz --lr nan", USAGE, ("learning rate", "nan")),
    Case("schedule", "train artifacts data.npz --schedule step", USAGE, ("'step'", "cosine")),
    Case("all for validation", "train artifacts data.npz --validation 1", USAGE, ("validation", "below 1")),
    Case("patience zero", "train artifacts data.npz --patience 0", USAGE, ("patience", "at least 1")),
    Case("features nowhere known", "train artifacts data.npz --features cloud", USAGE, ("--features", "'disk'")),
    Case(
        "no file to keep",
        "train artifacts data.npz --features off --keep-features",
        USAGE,
        ("--features off", "--keep-features"),
    ),
    Case(
        "memory for a file",
        "train artifacts data.npz --features disk --features-memory 1GB",
        USAGE,
        ("--features disk", "--features-memory"),
    ),
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
