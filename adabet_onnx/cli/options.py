"""Every option that more than one command has, once: its name means the same everywhere."""

from __future__ import annotations

from functools import partial

import click

from ..vocabulary import (
    AUGMENTS,
    BACKENDS,
    BATCH_NORMS,
    ESTIMATORS,
    FEATURES,
    FROZEN,
    FROZEN_PRECISIONS,
    HEAD_INITS,
    HEADS,
    LOSSES,
    OPTIMIZERS,
    ORDERS,
    PRESETS,
    PROFILES,
    SCHEDULES,
    STRATEGIES,
)
from .layout import FLEET, GROUPS, Declared, together
from .parameters import ANY, FILE, OUTPUT, SHARE, Bound, Limit, Numbers, Rate, Setting, Size, SketchSize, Weights, Words

_COUNT = click.IntRange(1)
_output, _model, _data, _choosing, _scoring, _training, _budget, _artifacts, _runtime = (
    partial(Declared, group=group) for group in GROUPS if group != FLEET
)

# Output
folder = _output("-o", "--output", type=OUTPUT, metavar="FOLDER", help="The folder to write.")
file = _output("-o", "--output", type=OUTPUT, metavar="FILE", help="The file to write.")
plot = _output("--plot", type=OUTPUT, metavar="FILE", help="Also draw a picture of it (.png, .svg, .pdf).")
save_predictions = _output(
    "--save-predictions",
    type=OUTPUT,
    metavar="FILE",
    help="Also write what is predicted for each sample (.csv, .jsonl, .npz; per pixel or token: .npz).",
)
as_json = _output("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")
quiet = _output("-q", "--quiet", is_flag=True, help="Print errors only (and what --json asks for).")
printed = together(as_json, quiet)

# Model
bind = _model(
    "--input",
    "bind",
    type=Bound(),
    multiple=True,
    metavar="NAME=VALUE",
    help="A value for an input that is no data: sr=16000, training=false, lora_A=FILE.npy; repeatable.",
)
num_classes = _model("--num-classes", type=int, metavar="N", help="Give the model a new head with so many outputs.")
keep_tail = _model(
    "--keep-tail",
    is_flag=True,
    help="With a new head: keep what follows the old one (a normalisation, activation, scale).",
)
append = _model(
    "--append", is_flag=True, help="With a new head: keep every layer, and put a linear classifier on the outputs."
)
new_head = together(num_classes, keep_tail, append)
scored_model = _model(
    "--model",
    type=FILE,
    metavar="FILE",
    help="The model that was scored or adapted, if it has moved.",
    show_default="where it was",
)

# Data
reading = together(
    _data(
        "--layout",
        multiple=True,
        metavar="[INPUT=]LETTERS",
        help="Axes of arrays as stored, where shapes leave them open: NTC, NHWC, 'N(HW)', NTC:NCT (data:model).",
    ),
    _data(
        "--allow-resize",
        is_flag=True,
        help="Resize arrays to the size of the model's images also where that is hardly meant.",
    ),
)
preprocessing = together(
    _data(
        "--preset",
        type=click.Choice(PRESETS),
        default="auto",
        help="How images become input: auto (as the model's metadata says), unit (x/255), imagenet, none (as is).",
    ),
    _data(
        "--scale",
        type=float,
        metavar="X",
        help="By hand: input = (x * scale - mean) / std.",
        show_default="the preset's, or 1",
    ),
    _data(
        "--mean",
        type=Numbers(),
        metavar="X,...",
        help="By hand: one number, or one per channel.",
        show_default="the preset's, or 0",
    ),
    _data(
        "--std",
        type=Numbers(),
        metavar="X,...",
        help="By hand: one number, or one per channel.",
        show_default="the preset's, or 1",
    ),
    _data(
        "--bgr/--rgb",
        default=None,
        help="Feed colours as blue, green, red (then --mean and --std too).",
        show_default="as stored with the model, or rgb",
    ),
    reading,
)
measured_on = _data(
    "--data",
    type=ANY,
    metavar="DATA",
    help="Data of the new domain, for what is measured on it: a frozen part in int8, balanced class weights.",
)
ignore_label = _data(
    "--ignore-label", type=int, metavar="N", help="A label, of a pixel or token, that does not count, such as 255."
)
class_axis = _data(
    "--class-axis",
    type=int,
    metavar="N",
    help="Axis of the classes in the logits, where every pixel or token has a label.",
    show_default="the Softmax's or head's; else 1, or the last of three",
)
labels = together(class_axis, ignore_label)

# Choosing
rho = _choosing(
    "--rho", type=float, metavar="SHARE", help="Share of the layers to select.", show_default="0.1; auto: no cap"
)
head = _choosing(
    "--head",
    type=click.Choice(HEADS),
    default="auto",
    help="The head: always selected, in the pool like any layer, or never; auto: always if it is new.",
)
selection = together(
    _choosing("--strategy", type=click.Choice(STRATEGIES), default="adabet", help="How layers are chosen."),
    rho,
    _choosing(
        "--layers", multiple=True, metavar="GLOB", help="Select these layers, in place of a strategy's; repeatable."
    ),
    head,
    _choosing(
        "--channel-rho",
        type=float,
        metavar="SHARE",
        help="Share of output channels to train in each selected layer.",
        show_default="all",
    ),
)

# Scoring
estimator = _scoring(
    "--estimator",
    type=click.Choice(ESTIMATORS),
    default="subsets",
    help="Betti numbers of random subsets of a group of samples, or (as in the paper) of disjoint batches.",
)
samples = _scoring("--samples", type=int, default=128, metavar="N", help="Samples in all (estimator subsets).")
subset_size = _scoring(
    "--subset-size", type=int, default=32, metavar="N", help="Points of one Betti number (estimator subsets)."
)
subsets = _scoring(
    "--subsets",
    type=int,
    metavar="N",
    help="Subsets per group of 128 samples (estimator subsets).",
    show_default="as many as settle half of the ranking, 64 to 1024",
)
batches = _scoring("--batches", type=int, default=4, metavar="N", help="Batches in all (estimator batches).")
batch_points = _scoring(
    "--batch-points", type=int, default=32, metavar="N", help="Points of one Betti number (estimator batches)."
)
sketch = _scoring(
    "--sketch",
    type=SketchSize(),
    default="auto",
    metavar="K|off",
    help="Numbers of a sketch, from which distances are taken (estimator subsets), or off: exact distances, which take "
    "more memory.",
    show_default="auto: 8192",
)
order = _scoring(
    "--order", type=click.Choice(ORDERS), default="shuffled", help="Which samples: drawn at random, or the first ones."
)
scoring_memory = _scoring(
    "--scoring-memory",
    type=Size(),
    metavar="SIZE",
    help="Memory that scoring takes at most, e.g. 2GB.",
    show_default="3/4 of what is free",
)
scoring = together(estimator, samples, subset_size, subsets, batches, batch_points, sketch, order, scoring_memory)

# Training
epochs = _training(
    "--epochs", type=click.IntRange(0), metavar="N", help="Passes over the training data; 0: nothing is trained."
)
trained_samples = _training(
    "--training-samples", "samples", type=_COUNT, default=1000, metavar="N", help="Samples to train on."
)
batch_size = _training("--batch-size", type=_COUNT, metavar="N", help="Samples per training step.", show_default="32")
rate = _training(
    "--lr",
    "learning_rate",
    type=Rate(),
    metavar="X",
    help="Learning rate; auto: found by short trainings, judged by validation data.",
    show_default="auto",
)
accumulate = _training(
    "--accumulate",
    type=_COUNT,
    metavar="N",
    help="Training steps whose gradients are gathered for one update.",
    show_default="1",
)
head_init = _training(
    "--head-init",
    type=click.Choice(HEAD_INITS),
    help="How a new head starts: fitted to its inputs in one pass, or as its random numbers are.",
    show_default="auto: fitted where everything after it is linear",
)
validation = _training(
    "--validation",
    type=float,
    metavar="SHARE",
    help="Share of the training data set aside for eval_loss.",
    show_default="0.1",
)
schedule = _training(
    "--schedule", type=click.Choice(SCHEDULES), help="How the learning rate falls.", show_default="cosine"
)
course = together(
    validation,
    _training(
        "--patience",
        type=int,
        metavar="N",
        help="Stop after so many epochs without a lower eval_loss, and keep the best.",
        show_default="never",
    ),
    head_init,
    schedule,
    accumulate,
)
views = _training(
    "--views",
    type=_COUNT,
    metavar="N",
    help="Variants of each picture that are trained on, one in each epoch; so many times more is kept.",
    show_default="4 with --augment, 2 where it is flip alone",
)
augmentation = together(
    _training(
        "--augment",
        type=Words(AUGMENTS),
        metavar="NAME,...",
        help="Also train on changed pictures, of flip (left and right), crop and colour.",
        show_default="as they are",
    ),
    views,
)
loss = _training(
    "--loss", type=click.Choice(LOSSES), default="cross-entropy", help="The loss between outputs and labels."
)
optimizer = _training(
    "--optimizer",
    type=click.Choice(OPTIMIZERS),
    default="adamw",
    help="What updates the weights; adamw as in onnxruntime-training, adamw-torch as in torch.",
)
objective = together(
    loss,
    optimizer,
    _training(
        "--weight-decay", type=click.FloatRange(0), default=0.0, metavar="X", help="Weight decay of the optimizer."
    ),
    _training(
        "--momentum", type=click.FloatRange(0, 1, max_open=True), default=0.0, metavar="X", help="Momentum of sgd."
    ),
    _training(
        "--clip-norm",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        help="Clip gradients by their global norm.",
        show_default="no clipping",
    ),
    _training(
        "--label-smoothing",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        metavar="X",
        help="Label smoothing of cross-entropy.",
    ),
    _training(
        "--class-weights",
        type=Weights(),
        metavar="W,...",
        help="Weights of classes in cross-entropy: balanced, a number for each (1,2.5,1), or by name (cat=2,dog=1).",
        show_default="all alike",
    ),
    _training(
        "--batch-norm",
        type=click.Choice(BATCH_NORMS),
        default="frozen",
        help="Statistics of selected BatchNormalization layers: as stored, or of the batch.",
    ),
)

# Budget
budget = together(
    _budget(
        "--max-memory",
        type=Limit(),
        metavar="SIZE",
        help="Memory of a training step at most: 64MB, or 0.25x of what training all layers takes.",
        show_default="no limit",
    ),
    _budget(
        "--max-step-time",
        type=SHARE,
        metavar="SHARE",
        help="Time of a training step at most, e.g. 0.5x of training all layers.",
        show_default="no limit",
    ),
    _budget(
        "--max-update",
        type=Size(),
        metavar="SIZE",
        help="Size of the trained parameters at most, e.g. 200KB.",
        show_default="no limit",
    ),
    _budget(
        "--max-accumulate",
        type=_COUNT,
        metavar="N",
        help="Cut a batch into up to so many parts to keep to the budget.",
        show_default="1; auto: as many as it takes",
    ),
)

# Artifacts
backend = _artifacts(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    help="What trains: portable (plain ONNX, any onnxruntime) or ort (onnxruntime-training); auto: portable if it can.",
)
recompute = _artifacts(
    "--recompute", is_flag=True, help="Compute activations again in the backward pass: less memory, more time."
)
check = _artifacts("--check/--no-check", default=True, help="Verify what is made before it is handed out.")
profile = _artifacts(
    "--profile",
    type=click.Choice(PROFILES),
    help="Write graphs as this target computes them right, of its operators alone.",
    show_default="all operators",
)
ort_format = _artifacts(
    "--ort-format", is_flag=True, help="Write .ort models instead of .onnx (artifacts: of the backend ort)."
)
form = together(
    backend,
    recompute,
    profile,
    _artifacts(
        "--frozen",
        type=click.Choice(FROZEN),
        default="embedded",
        help="Where frozen weights are: in the graphs, or once in the checkpoint (ort).",
    ),
    _artifacts(
        "--frozen-precision",
        type=click.Choice(FROZEN_PRECISIONS),
        default="auto",
        help="The frozen part's numbers; int8: quantised, ranges measured on training samples; auto: as the file's.",
    ),
    ort_format,
)

# Runtime
features = together(
    _runtime(
        "--features",
        type=click.Choice(FEATURES),
        help="Where to keep what no training changes, which is then computed once; off: computed in every step.",
        show_default="auto: in memory, else on disk",
    ),
    _runtime(
        "--features-memory",
        type=Size(),
        metavar="SIZE",
        help="Memory for it at most, e.g. 2GB.",
        show_default="1/4 of what is free",
    ),
    _runtime(
        "--keep-features", is_flag=True, default=None, help="Leave its file there for trainings with the same data."
    ),
)
measure = _runtime(
    "--measure/--no-measure",
    default=True,
    help="Measure time and memory of training steps, each kind in a fresh process.",
)
resume = _runtime("--resume", is_flag=True, help="Go on where an interrupted run stopped.")
seed = _runtime("--seed", type=click.IntRange(0), default=0, metavar="N", help="Seed of everything that is random.")
threads = _runtime(
    "--threads", type=_COUNT, metavar="N", help="Threads for ONNX Runtime.", show_default="as it chooses"
)
compute = together(
    threads,
    _runtime(
        "--provider",
        metavar="NAME",
        help="Execution provider for all that is inference: scoring, the frozen part of a training, prediction.",
        show_default="the CPU's",
    ),
    _runtime(
        "--provider-option",
        "provider_options",
        type=Setting(),
        multiple=True,
        metavar="KEY=VALUE",
        help="An option of the provider, such as device_type=GPU; repeatable.",
    ),
)
