"""The words that parameters and options accept.

They are in a module without imports, so that the command line can show them in its help and complete them without
importing the modules that use them.
"""

from __future__ import annotations

PRESETS = ("auto", "unit", "imagenet", "none")  # data.preprocess
ESTIMATORS = ("subsets", "batches")  # scoring.groups
ORDERS = ("shuffled", "sequential")
SKETCHES = ("auto", "off")  # besides a number
LEAST_SKETCH = 64
PROBES = ("activations", "gram", "sketch")  # scoring.probes
STRATEGIES = ("auto", "adabet", "size", "b1", "random", "last", "first", "head", "norm-bias", "all")  # selection
HEADS = ("auto", "always", "pool", "never")
LOSSES = ("cross-entropy", "mse", "bce-with-logits", "l1")  # portable.losses
OPTIMIZERS = ("adamw", "adamw-torch", "sgd")  # portable.optimizers
PROFILES = ("webgpu",)  # portable.profiles
DEVICE_PROFILES = ("webgpu", "mobile")  # device.package
STARTS = ("trained", "initial")
BACKENDS = ("auto", "portable", "ort")  # training.choices
FROZEN = ("embedded", "checkpoint")
FROZEN_PRECISIONS = ("auto", "float32", "int8")
BATCH_NORMS = ("frozen", "batch")
SCHEDULES = ("constant", "linear", "cosine")  # training.schedule
AUTO = "auto"  # a learning rate that is searched for: training.settings
FEATURES = ("auto", "memory", "disk", "off")  # training.features
AUGMENTS = ("flip", "crop", "colour")  # data.augment
HEAD_INITS = ("auto", "fitted", "random")  # training.head_start
FISHER = "fisher"  # study.fisher: the strategy that needs labels and gradients
FIT_HEAD = "fit-head"  # study.trainings: only fit a new head
COMPARED = (*STRATEGIES, FISHER, FIT_HEAD)
COMPARED_UNASKED = ("auto", "adabet", "size", "last", "norm-bias", "fisher", "random", "head", FIT_HEAD, "all")
AGGREGATIONS = ("fedavg", "fedprox", "fedavgm", "fedadam", "fedmedian", "krum")  # fleet.options
