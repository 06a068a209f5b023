"""The options that describe scoring, declared once for all commands that have them."""

from __future__ import annotations

from functools import partial

import click

from ..vocabulary import ESTIMATORS, ORDERS
from .layout import SCORING, Declared, together
from .parameters import Size, SketchSize

_scoring = partial(Declared, group=SCORING)

estimator = _scoring(
    "--estimator",
    type=click.Choice(ESTIMATORS),
    default="subsets",
    help="Compute Betti numbers of random subsets of --samples samples, or of --batches batches (as in the paper).",
)
samples = _scoring("--samples", type=int, default=128, metavar="N", help="Total number of samples.")
subset_size = _scoring("--subset-size", type=int, default=32, metavar="N", help="Samples per Betti number.")
subsets = _scoring(
    "--subsets",
    type=int,
    metavar="N",
    help="Subsets per group of 128 samples.",
    show_default="64 to 1024, until half of the ranking is settled",
)
batches = _scoring("--batches", type=int, default=4, metavar="N", help="Number of batches (--estimator batches).")
batch_points = _scoring(
    "--batch-points", type=int, default=32, metavar="N", help="Samples per Betti number (--estimator batches)."
)
sketch = _scoring(
    "--sketch",
    type=SketchSize(),
    default="auto",
    metavar="K|off",
    help="Size of the sketches that distances are computed from; off: exact distances, which take more memory.",
    show_default="auto: 8192",
)
order = _scoring(
    "--order", type=click.Choice(ORDERS), default="shuffled", help="Use randomly drawn samples, or the first ones."
)
scoring_memory = _scoring(
    "--scoring-memory",
    type=Size(),
    metavar="SIZE",
    help="Upper limit for the memory used by scoring, e.g. 2GB.",
    show_default="3/4 of the free memory",
)
scoring = together(estimator, samples, subset_size, subsets, batches, batch_points, sketch, order, scoring_memory)
