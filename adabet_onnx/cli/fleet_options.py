"""The options that more than one command for fleets has, once: its name means the same everywhere."""

from __future__ import annotations

from functools import partial

import click

from ..vocabulary import AGGREGATIONS
from .layout import FLEET, Declared, together

_fleet = partial(Declared, group=FLEET)

local = together(
    _fleet(
        "--local-epochs",
        type=click.IntRange(1),
        default=1,
        metavar="N",
        help="Passes of a client over its data in a round.",
    ),
    _fleet(
        "--local-steps",
        type=click.IntRange(1),
        metavar="N",
        help="Steps of a client, in place of passes.",
        show_default="no",
    ),
    _fleet(
        "--proximal",
        type=click.FloatRange(0),
        metavar="MU",
        help="How strongly clients are held to what the server sent (FedProx).",
        show_default="0.1 with fedprox, else 0",
    ),
    _fleet(
        "--personal",
        multiple=True,
        metavar="GLOB",
        help="Layers whose parameters stay with each client, never sent; repeatable.",
    ),
)
rounds = together(
    _fleet("--per-round", type=click.IntRange(1), metavar="N", help="Clients asked in a round.", show_default="all"),
    _fleet("--rounds", type=click.IntRange(0), default=20, metavar="N", help="Rounds of asking and aggregating."),
    _fleet(
        "--aggregation",
        type=click.Choice(AGGREGATIONS),
        default="fedavg",
        help="How replies become new values; from fedavgm on Flower's, which needs adabet-onnx[fleet].",
    ),
    _fleet(
        "--server-rate",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        help="Of the server's own steps.",
        show_default="fedavgm 1, fedadam 0.01",
    ),
    _fleet("--malicious", type=click.IntRange(0), default=0, metavar="N", help="Hostile clients that krum expects."),
    _fleet(
        "--privacy-clip",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        help="Differential privacy (Flower's): longer updates are cut to this norm.",
        show_default="none",
    ),
    _fleet(
        "--privacy-noise",
        type=click.FloatRange(0),
        metavar="X",
        help="Noise added to what is aggregated, in multiples of --privacy-clip by client.",
        show_default="none",
    ),
    _fleet("--minimum", type=click.IntRange(1), default=1, metavar="N", help="Replies that a round needs."),
    _fleet(
        "--retries", type=click.IntRange(0), default=2, metavar="N", help="How often a round with fewer is repeated."
    ),
)
max_norm = _fleet(
    "--max-norm",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="How far a reply may be from what was sent; farther ones are dropped.",
    show_default="10 times the norm of that",
)
