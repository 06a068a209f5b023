"""The options that several fleet commands share, each declared once."""

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
        help="Passes of a client over its data per round.",
    ),
    _fleet(
        "--local-steps",
        type=click.IntRange(1),
        metavar="N",
        help="Training steps of a client per round, instead of passes.",
        show_default="none",
    ),
    _fleet(
        "--proximal",
        type=click.FloatRange(0),
        metavar="MU",
        help="Weight of the proximal term that keeps clients near the server's values (FedProx).",
        show_default="0.1 with fedprox, else 0",
    ),
    _fleet(
        "--personal",
        multiple=True,
        metavar="GLOB",
        help="Layers whose parameters stay on each client and are never sent; repeatable.",
    ),
)
rounds = together(
    _fleet("--per-round", type=click.IntRange(1), metavar="N", help="Clients per round.", show_default="all"),
    _fleet("--rounds", type=click.IntRange(0), default=20, metavar="N", help="Number of rounds."),
    _fleet(
        "--aggregation",
        type=click.Choice(AGGREGATIONS),
        default="fedavg",
        help="Aggregation method; all but fedavg and fedprox are Flower's and need adabet-onnx[fleet].",
    ),
    _fleet(
        "--server-rate",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        help="Learning rate of the server.",
        show_default="fedavgm 1, fedadam 0.01",
    ),
    _fleet(
        "--malicious",
        type=click.IntRange(0),
        default=0,
        metavar="N",
        help="Number of malicious clients that krum tolerates.",
    ),
    _fleet(
        "--privacy-clip",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        help="Differential privacy (Flower's): clip updates to this norm.",
        show_default="none",
    ),
    _fleet(
        "--privacy-noise",
        type=click.FloatRange(0),
        metavar="X",
        help="Noise added to the aggregate, as a multiple of --privacy-clip per client.",
        show_default="none",
    ),
    _fleet("--minimum", type=click.IntRange(1), default=1, metavar="N", help="Minimum number of replies per round."),
    _fleet(
        "--retries",
        type=click.IntRange(0),
        default=2,
        metavar="N",
        help="How many times to repeat a round with fewer replies.",
    ),
)
max_norm = _fleet(
    "--max-norm",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Maximum distance of a reply from the values that were sent; others are dropped.",
    show_default="10 times the norm of those values",
)
