"""Every option that more than one command has, once: its name means the same everywhere."""

from __future__ import annotations

import click

from ..vocabulary import (
    BACKENDS,
    BATCH_NORMS,
    ESTIMATORS,
    FROZEN,
    HEADS,
    LOSSES,
    OPTIMIZERS,
    ORDERS,
    PRESETS,
    PROFILES,
    SCHEDULES,
    STRATEGIES,
)
from .layout import Declared, together
from .parameters import FILE, OUTPUT, SHARE, Bound, Limit, Numbers, Size

_COUNT = click.IntRange(1)

# Output
folder = Declared("-o", "--output", type=OUTPUT, metavar="FOLDER", group="Output", help="The folder to write.")
file = Declared("-o", "--output", type=OUTPUT, metavar="FILE", group="Output", help="The file to write.")
plot = Declared(
    "--plot", type=OUTPUT, metavar="FILE", group="Output", help="Also draw a picture of it (.png, .svg, .pdf)."
)
as_json = Declared("--json", "as_json", is_flag=True, group="Output", help="Print the result as JSON and nothing else.")
quiet = Declared("-q", "--quiet", is_flag=True, group="Output", help="Print errors only (and what --json asks for).")
printed = together(as_json, quiet)

# Model
bind = Declared(
    "--input",
    "bind",
    type=Bound(),
    multiple=True,
    metavar="NAME=VALUE",
    group="Model",
    help="A value for an input that is no data: sr=16000, training=false, lora_A=FILE.npy; repeatable.",
)
num_classes = Declared(
    "--num-classes", type=int, metavar="N", group="Model", help="Give the model a new head with so many outputs."
)
keep_tail = Declared(
    "--keep-tail",
    is_flag=True,
    group="Model",
    help="With a new head: keep what follows the old one (a normalisation, activation, scale).",
)
append = Declared(
    "--append",
    is_flag=True,
    group="Model",
    help="With a new head: keep every layer, and put a linear classifier on the outputs.",
)
new_head = together(num_classes, keep_tail, append)
scored_model = Declared(
    "--model",
    type=FILE,
    metavar="FILE",
    group="Model",
    help="The model that was scored or adapted, if it has moved.",
    show_default="where it was",
)

# Data
reading = together(
    Declared(
        "--layout",
        multiple=True,
        metavar="[INPUT=]LETTERS",
        group="Data",
        help="Axes of arrays as stored, where shapes leave them open: NTC, NHWC, 'N(HW)', NTC:NCT (data:model).",
    ),
    Declared(
        "--allow-resize",
        is_flag=True,
        group="Data",
        help="Resize arrays to the size of the model's images also where that is hardly meant.",
    ),
)
preprocessing = together(
    Declared(
        "--preset",
        type=click.Choice(PRESETS),
        default="auto",
        group="Data",
        help="How images become input: auto (as the model's metadata says), unit (x/255), imagenet, none (as is).",
    ),
    Declared(
        "--scale",
        type=float,
        metavar="X",
        group="Data",
        help="By hand: input = (x * scale - mean) / std.",
        show_default="the preset's, or 1",
    ),
    Declared(
        "--mean",
        type=Numbers(),
        metavar="X,...",
        group="Data",
        help="By hand: one number, or one per channel.",
        show_default="the preset's, or 0",
    ),
    Declared(
        "--std",
        type=Numbers(),
        metavar="X,...",
        group="Data",
        help="By hand: one number, or one per channel.",
        show_default="the preset's, or 1",
    ),
    Declared(
        "--bgr/--rgb",
        default=None,
        group="Data",
        help="Feed colours as blue, green, red (then --mean and --std too).",
        show_default="as stored with the model, or rgb",
    ),
    reading,
)
ignore_label = Declared(
    "--ignore-label",
    type=int,
    metavar="N",
    group="Data",
    help="A label, of a pixel or token, that does not count, such as 255.",
)
class_axis = Declared(
    "--class-axis",
    type=int,
    metavar="N",
    group="Data",
    help="Axis of the classes in the logits, where every pixel or token has a label.",
    show_default="the Softmax's or head's; else 1, or the last of three",
)
labels = together(class_axis, ignore_label)

# Choosing
rho = Declared(
    "--rho",
    type=float,
    metavar="SHARE",
    group="Choosing",
    help="Share of the layers to select.",
    show_default="0.1; auto: no cap",
)
head = Declared(
    "--head",
    type=click.Choice(HEADS),
    default="auto",
    group="Choosing",
    help="The head: always selected, in the pool like any layer, or never; auto: always if it is new.",
)
selection = together(
    Declared(
        "--strategy", type=click.Choice(STRATEGIES), default="adabet", group="Choosing", help="How layers are chosen."
    ),
    rho,
    Declared(
        "--layers",
        multiple=True,
        metavar="GLOB",
        group="Choosing",
        help="Select these layers, in place of a strategy's; repeatable.",
    ),
    head,
    Declared(
        "--channel-rho",
        type=float,
        metavar="SHARE",
        group="Choosing",
        help="Share of output channels to train in each selected layer.",
        show_default="all",
    ),
)

# Scoring
estimator = Declared(
    "--estimator",
    type=click.Choice(ESTIMATORS),
    default="subsets",
    group="Scoring",
    help="Betti numbers of random subsets of a group of samples, or (as in the paper) of disjoint batches.",
)
samples = Declared(
    "--samples", type=int, default=128, metavar="N", group="Scoring", help="Samples in all (estimator subsets)."
)
subset_size = Declared(
    "--subset-size",
    type=int,
    default=32,
    metavar="N",
    group="Scoring",
    help="Points of one Betti number (estimator subsets).",
)
subsets = Declared(
    "--subsets",
    type=int,
    default=64,
    metavar="N",
    group="Scoring",
    help="Subsets per group of 128 samples (estimator subsets).",
)
batches = Declared(
    "--batches", type=int, default=4, metavar="N", group="Scoring", help="Batches in all (estimator batches)."
)
batch_points = Declared(
    "--batch-points",
    type=int,
    default=32,
    metavar="N",
    group="Scoring",
    help="Points of one Betti number (estimator batches).",
)
order = Declared(
    "--order",
    type=click.Choice(ORDERS),
    default="shuffled",
    group="Scoring",
    help="Which samples: drawn at random, or the first ones.",
)
scoring_memory = Declared(
    "--scoring-memory",
    type=Size(),
    metavar="SIZE",
    group="Scoring",
    help="Memory for scoring's forward passes at most, e.g. 2GB.",
    show_default="3/4 of what is free",
)
scoring = together(estimator, samples, subset_size, subsets, batches, batch_points, order, scoring_memory)

# Training
epochs = Declared("--epochs", type=_COUNT, metavar="N", group="Training", help="Passes over the training data.")
batch_size = Declared(
    "--batch-size", type=_COUNT, metavar="N", group="Training", help="Samples per training step.", show_default="32"
)
rate = Declared(
    "--lr",
    "learning_rate",
    type=float,
    metavar="X",
    group="Training",
    help="Learning rate.",
    show_default="0.001; sgd: 0.01",
)
accumulate = Declared(
    "--accumulate",
    type=_COUNT,
    metavar="N",
    group="Training",
    help="Training steps whose gradients are gathered for one update.",
    show_default="1",
)
course = together(
    Declared(
        "--validation",
        type=float,
        metavar="SHARE",
        group="Training",
        help="Share of the training data set aside for eval_loss.",
        show_default="0.1",
    ),
    Declared(
        "--patience",
        type=int,
        metavar="N",
        group="Training",
        help="Stop after so many epochs without a lower eval_loss, and keep the best.",
        show_default="never",
    ),
    Declared(
        "--schedule",
        type=click.Choice(SCHEDULES),
        group="Training",
        help="How the learning rate falls.",
        show_default="cosine",
    ),
    accumulate,
)
loss = Declared(
    "--loss",
    type=click.Choice(LOSSES),
    default="cross-entropy",
    group="Training",
    help="The loss between outputs and labels.",
)
optimizer = Declared(
    "--optimizer",
    type=click.Choice(OPTIMIZERS),
    default="adamw",
    group="Training",
    help="What updates the weights; adamw as in onnxruntime-training, adamw-torch as in torch.",
)
objective = together(
    loss,
    optimizer,
    Declared(
        "--weight-decay",
        type=click.FloatRange(0),
        default=0.0,
        metavar="X",
        group="Training",
        help="Weight decay of the optimizer.",
    ),
    Declared(
        "--momentum",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        metavar="X",
        group="Training",
        help="Momentum of sgd.",
    ),
    Declared(
        "--clip-norm",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        group="Training",
        help="Clip gradients by their global norm.",
        show_default="no clipping",
    ),
    Declared(
        "--label-smoothing",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        metavar="X",
        group="Training",
        help="Label smoothing of cross-entropy.",
    ),
    Declared(
        "--batch-norm",
        type=click.Choice(BATCH_NORMS),
        default="frozen",
        group="Training",
        help="Statistics of selected BatchNormalization layers: as stored, or of the batch.",
    ),
)

# Budget
budget = together(
    Declared(
        "--max-memory",
        type=Limit(),
        metavar="SIZE",
        group="Budget",
        help="Memory of a training step at most: 64MB, or 0.25x of what training all layers takes.",
        show_default="no limit",
    ),
    Declared(
        "--max-step-time",
        type=SHARE,
        metavar="SHARE",
        group="Budget",
        help="Time of a training step at most, e.g. 0.5x of training all layers.",
        show_default="no limit",
    ),
    Declared(
        "--max-update",
        type=Size(),
        metavar="SIZE",
        group="Budget",
        help="Size of the trained parameters at most, e.g. 200KB.",
        show_default="no limit",
    ),
    Declared(
        "--max-accumulate",
        type=_COUNT,
        metavar="N",
        group="Budget",
        help="Cut a batch into up to so many parts to keep to the budget.",
        show_default="1; auto: as many as it takes",
    ),
)

# Artifacts
backend = Declared(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    group="Artifacts",
    help="What trains: portable (plain ONNX, any onnxruntime) or ort (onnxruntime-training); auto: portable if it can.",
)
recompute = Declared(
    "--recompute",
    is_flag=True,
    group="Artifacts",
    help="Compute activations again in the backward pass: less memory, more time.",
)
check = Declared(
    "--check/--no-check", default=True, group="Artifacts", help="Verify what is made before it is handed out."
)
form = together(
    backend,
    recompute,
    Declared(
        "--profile",
        type=click.Choice(PROFILES),
        group="Artifacts",
        help="Use only operators that this target has.",
        show_default="all operators",
    ),
    Declared(
        "--frozen",
        type=click.Choice(FROZEN),
        default="embedded",
        group="Artifacts",
        help="Where frozen weights are: in the graphs, or once in the checkpoint (ort).",
    ),
    Declared("--ort-format", is_flag=True, group="Artifacts", help="Write .ort models instead of .onnx (ort)."),
)

# Runtime
measure = Declared(
    "--measure/--no-measure",
    default=True,
    group="Runtime",
    help="Measure time and memory of training steps, each kind in a fresh process.",
)
resume = Declared("--resume", is_flag=True, group="Runtime", help="Go on where an interrupted run stopped.")
seed = Declared(
    "--seed", type=click.IntRange(0), default=0, metavar="N", group="Runtime", help="Seed of everything that is random."
)
threads = Declared(
    "--threads",
    type=_COUNT,
    metavar="N",
    group="Runtime",
    help="Threads for ONNX Runtime.",
    show_default="as it chooses",
)
