"""The options that several commands share, each declared once, so that a name means the same everywhere."""

from __future__ import annotations

from functools import partial

import click

from ..vocabulary import (
    AUGMENTS,
    BATCH_NORMS,
    FEATURES,
    HEAD_INITS,
    HEADS,
    LOSSES,
    OPTIMIZERS,
    PRESETS,
    SCHEDULES,
    STRATEGIES,
)
from .layout import ARTIFACTS, FLEET, GROUPS, SCORING, Declared, together
from .parameters import (
    ANY,
    FILE,
    OUTPUT,
    SHARE,
    ClassWeights,
    Factor,
    InputValue,
    Limit,
    Numbers,
    ProviderOption,
    Rate,
    Size,
    Words,
)

_COUNT = click.IntRange(1)
_output, _model, _data, _choosing, _training, _budget, _runtime = (
    partial(Declared, group=group) for group in GROUPS if group not in (SCORING, FLEET, ARTIFACTS)
)

# Output
folder = _output("-o", "--output", type=OUTPUT, metavar="FOLDER", help="The folder to write.")
file = _output("-o", "--output", type=OUTPUT, metavar="FILE", help="The file to write.")
plot = _output("--plot", type=OUTPUT, metavar="FILE", help="Also write a plot of the result (.png, .svg, .pdf).")
save_predictions = _output(
    "--save-predictions",
    type=OUTPUT,
    metavar="FILE",
    help="Also write the prediction for each sample (.csv, .jsonl or .npz; per pixel or token: .npz only).",
)
as_json = _output("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")
quiet = _output("-q", "--quiet", is_flag=True, help="Print errors only (and the JSON of --json).")
printed = together(as_json, quiet)

# Model
bind = _model(
    "--input",
    "bind",
    type=InputValue(),
    multiple=True,
    metavar="NAME=VALUE",
    help="Fixed value for an input that is not data: sr=16000, training=false, lora_A=FILE.npy; repeatable.",
)
num_classes = _model("--num-classes", type=int, metavar="N", help="Give the model a new head with this many outputs.")
keep_tail = _model(
    "--keep-tail",
    is_flag=True,
    help="With a new head: keep the operators after the old head (a normalisation, activation, scale).",
)
append = _model(
    "--append", is_flag=True, help="With a new head: keep every layer and add a linear classifier to the outputs."
)
new_head = together(num_classes, keep_tail, append)
scored_model = _model(
    "--model",
    type=FILE,
    metavar="FILE",
    help="The model that was scored or adapted, if it has been moved.",
    show_default="the recorded path",
)

# Data
reading = together(
    _data(
        "--layout",
        multiple=True,
        metavar="[INPUT=]LETTERS",
        help="Axes of stored arrays, if shapes leave them ambiguous: NTC, NHWC, 'N(HW)', NTC:NCT (data:model).",
    ),
    _data(
        "--allow-resize",
        is_flag=True,
        help="Resize arrays to the model's image size even if the sizes suggest a mistake.",
    ),
)
preprocessing = together(
    _data(
        "--preset",
        type=click.Choice(PRESETS),
        default="auto",
        help="How images are scaled: auto (as in the model's metadata), unit (x/255), imagenet, none (unchanged).",
    ),
    _data(
        "--scale",
        type=Factor(),
        metavar="X",
        help="Custom scaling, such as 1/255: input = (x * scale - mean) / std.",
        show_default="the preset's, or 1",
    ),
    _data(
        "--mean",
        type=Numbers(),
        metavar="X,...",
        help="Custom mean, of x * scale: one number, or one per channel.",
        show_default="the preset's, or 0",
    ),
    _data(
        "--std",
        type=Numbers(),
        metavar="X,...",
        help="Custom standard deviation, of x * scale: one number, or one per channel.",
        show_default="the preset's, or 1",
    ),
    _data(
        "--bgr/--rgb",
        default=None,
        help="Channel order of images, also for --mean and --std.",
        show_default="as stored with the model, or rgb",
    ),
    reading,
)
measured_on = _data(
    "--data",
    type=ANY,
    metavar="DATA",
    help="Data of the new domain, to quantise the frozen part to int8 or to balance class weights.",
)
ignore_label = _data("--ignore-label", type=int, metavar="N", help="Label of pixels or tokens to ignore, e.g. 255.")
class_axis = _data(
    "--class-axis",
    type=int,
    metavar="N",
    help="Axis of the classes in the logits, if every pixel or token has a label.",
    show_default="that of the Softmax or head; else 1, or the last of three",
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
    help="Select the head always, like any other layer (pool), or never; auto: always if it is new.",
)
selection = together(
    _choosing("--strategy", type=click.Choice(STRATEGIES), default="adabet", help="How layers are chosen."),
    rho,
    _choosing(
        "--layers", multiple=True, metavar="GLOB", help="Select these layers instead of using a strategy; repeatable."
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

# Training
epochs = _training(
    "--epochs", type=click.IntRange(0), metavar="N", help="Passes over the training data; 0: do not train."
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
    help="Learning rate; auto: chosen by short trial trainings, compared on validation data.",
    show_default="auto",
)
accumulate = _training(
    "--accumulate",
    type=_COUNT,
    metavar="N",
    help="Training steps whose gradients are accumulated for one update.",
    show_default="1",
)
head_init = _training(
    "--head-init",
    type=click.Choice(HEAD_INITS),
    help="Initial values of a new head: fitted to its inputs in one pass, or random.",
    show_default="auto: fitted if everything after the head is linear",
)
validation = _training(
    "--validation",
    type=float,
    metavar="SHARE",
    help="Share of the training data held out for eval_loss.",
    show_default="0.1",
)
schedule = _training(
    "--schedule", type=click.Choice(SCHEDULES), help="How the learning rate decays.", show_default="cosine"
)
course = together(
    validation,
    _training(
        "--patience",
        type=int,
        metavar="N",
        help="Stop after this many epochs without a lower eval_loss, and keep the best state.",
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
    help="Variants of each image to train on, one per epoch; each one's features are stored.",
    show_default="1; 4 with --augment, 2 with flip alone",
)
augmentation = together(
    _training(
        "--augment",
        type=Words(AUGMENTS),
        metavar="NAME,...",
        help="Also train on modified images: flip (left and right), crop, colour.",
        show_default="none",
    ),
    views,
)
loss = _training("--loss", type=click.Choice(LOSSES), default="cross-entropy", help="Loss function.")
optimizer = _training(
    "--optimizer",
    type=click.Choice(OPTIMIZERS),
    default="adamw",
    help="Optimizer; adamw is that of onnxruntime-training, adamw-torch that of PyTorch.",
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
        help="Clip gradients to this global norm.",
        show_default="no clipping",
    ),
    _training(
        "--label-smoothing",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        metavar="X",
        help="Label smoothing for cross-entropy.",
    ),
    _training(
        "--class-weights",
        type=ClassWeights(),
        metavar="W,...",
        help="Class weights for cross-entropy: balanced, one number per class (1,2.5,1), or by name (cat=2,dog=1).",
        show_default="equal",
    ),
    _training(
        "--batch-norm",
        type=click.Choice(BATCH_NORMS),
        default="frozen",
        help="Statistics used by selected BatchNormalization layers: the stored ones (frozen), or those of the batch.",
    ),
)

# Budget
budget = together(
    _budget(
        "--max-memory",
        type=Limit(),
        metavar="SIZE",
        help="Upper limit for the memory of a training step: 64MB, or 0.25x (of training all layers).",
        show_default="no limit",
    ),
    _budget(
        "--max-step-time",
        type=SHARE,
        metavar="SHARE",
        help="Upper limit for the time of a training step, e.g. 0.5x (of training all layers).",
        show_default="no limit",
    ),
    _budget(
        "--max-update",
        type=Size(),
        metavar="SIZE",
        help="Upper limit for the size of the trained parameters, e.g. 200KB.",
        show_default="no limit",
    ),
    _budget(
        "--max-accumulate",
        type=_COUNT,
        metavar="N",
        help="Split a batch into up to this many micro-batches to stay within the budget.",
        show_default="1; auto: as many as needed",
    ),
)

# Runtime
features = together(
    _runtime(
        "--features",
        type=click.Choice(FEATURES),
        help="Where to store the output of the frozen part, computed once; off: compute it in every step.",
        show_default="auto: in memory, else on disk",
    ),
    _runtime(
        "--features-memory",
        type=Size(),
        metavar="SIZE",
        help="Upper limit for the memory of stored features, e.g. 2GB.",
        show_default="1/4 of the free memory",
    ),
    _runtime(
        "--keep-features",
        is_flag=True,
        default=None,
        help="Keep the feature file for later trainings on the same data.",
    ),
)
measure = _runtime(
    "--measure/--no-measure",
    default=True,
    help="Measure time and memory of training steps, each kind in a new process.",
)
resume = _runtime("--resume", is_flag=True, help="Resume an interrupted run.")
seed = _runtime("--seed", type=click.IntRange(0), default=0, metavar="N", help="Random seed.")
threads = _runtime(
    "--threads", type=_COUNT, metavar="N", help="Threads for ONNX Runtime.", show_default="chosen by ONNX Runtime"
)
compute = together(
    threads,
    _runtime(
        "--provider",
        metavar="NAME",
        help="Execution provider for inference: scoring, the frozen part in training, prediction.",
        show_default="CPU",
    ),
    _runtime(
        "--provider-option",
        "provider_options",
        type=ProviderOption(),
        multiple=True,
        metavar="KEY=VALUE",
        help="Option of the execution provider, e.g. device_type=GPU; repeatable.",
    ),
)
