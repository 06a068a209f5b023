"""Choice of the layers that a fleet trains: by votes of the clients, or by a strategy that needs no scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..cost.predict import Predictor
from ..errors import UsageError
from ..model.open import Model
from ..selection.options import Choosing
from ..selection.record import Selection
from ..selection.strategies import select
from ..selection.unscored import UNSCORED, unscored
from ..trainability.choices import Choices
from .messages import Vote
from .votes import STRATEGY, Poll, count


def needs_votes(choosing: Choosing) -> bool:
    """Return whether clients vote on the layers.

    Raises:
        UsageError: the strategy needs scores that votes do not provide.
    """
    if choosing.channel_rho not in (None, 1):
        raise UsageError("clients do not vote on channels: leave `channel_rho` out.")
    if choosing.patterns or choosing.strategy in UNSCORED:
        return False
    if choosing.strategy != "adabet":
        raise UsageError(
            f"a fleet votes with the strategy adabet, not {choosing.strategy}: use that, `layers`, or one of "
            f"{', '.join(UNSCORED)}."
        )
    return True


def choose(
    model: Model,
    choosing: Choosing,
    votes: Iterable[Vote] | None,
    *,
    choices: Choices,
    batch_size: int,
    about: dict[str, Any],
    seed: int = 0,
) -> tuple[Selection, Poll | None]:
    """Choose the layers.

    Args:
        model: the opened model.
        choosing: how layers are chosen.
        votes: votes of the clients; None if the strategy needs none.
        choices: choices of the training, for a budget.
        batch_size: batch size of a step, for a budget.
        about: ``preprocessing`` and ``classes``, to record with the selection.
        seed: random seed of the strategy ``random``.

    Returns:
        The selection, and the result of the votes.

    Raises:
        DataError: no client voted.
        UsageError: nothing can be selected.
    """
    poll = None if votes is None else count(list(votes), model)
    values = None if poll is None else poll.values
    made = unscored(model, choosing.strategy, layers=choosing.patterns, values=values)
    costs = None
    if choosing.budget:
        costs = Predictor(model, batch_size=batch_size, backend="portable", choices=choices)
    strategy = None if poll is None else STRATEGY
    options: dict[str, Any] = {
        "choosing": choosing,
        "costs": costs,
        "values": values,
        "strategy": strategy,
        "seed": seed,
    }
    return select(replace(made, **about, inputs=model.bound), **options), poll
