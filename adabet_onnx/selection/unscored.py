"""Selection without scores: by strategies that need only a model's layers, or by naming layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import UsageError
from ..model.open import Model
from ..pieces import path_of
from ..scoring.record import LayerScore, Scores
from ..trainability.preflight import untrainable_layers

UNSCORED = ("head", "last", "first", "random", "norm-bias", "all")  # strategies that need no scores
ESTIMATOR = "none"


def unscored(
    model: Model,
    strategy: str,
    *,
    layers: Sequence[str] = (),
    values: Mapping[str, float] | None = None,
    channel_rho: float | None = None,
) -> Scores:
    """The layers of a model without any measurements, as a substitute for scores in `select`.

    Args:
        model: the opened model.
        strategy: the strategy for `select`.
        layers: patterns of layer names, instead of a strategy.
        values: the caller's own numbers, instead of a strategy's.
        channel_rho: a fraction of output channels, which needs scores.

    Raises:
        UsageError: the requested selection needs scores.
    """
    channels = channel_rho is not None and channel_rho < 1
    if channels or not (layers or values is not None or strategy in UNSCORED):
        subject = f"a channel rho of {channel_rho:g}" if channels else f"the strategy {strategy}"
        scoring = f"score({path_of(model.name)}, data{', scoring=Scoring(channels=True)' if channels else ''})"
        raise UsageError(
            f"{subject} needs scores, and {model.name} is a model that was not scored. Score it first (`{scoring}`) "
            "and give the scores instead, or use what needs no scores: `layers`, or `strategy` "
            f"{', '.join(UNSCORED[:-1])} or {UNSCORED[-1]}."
        )
    untrainable, head = untrainable_layers(model), model.head
    return Scores(
        model_sha256=model.sha256,
        estimator=ESTIMATOR,
        points=0,
        samples=(),
        layers=tuple(
            LayerScore(
                name=layer.name,
                op_type=layer.op_type,
                parameters=tuple(dict.fromkeys(parameter.name for parameter in layer.parameters)),
                parameter_count=layer.parameter_count,
                activation_size=layer.activation_size or 1,
                is_norm=layer.is_norm,
                b1=(),
                b1_mean=0.0,
                b1_hat=0.0,
                stderr=0.0,
                rank=0,
                untrainable=untrainable.get(layer.name),
            )
            for layer in model.layers
        ),
        head=None if head is None else head.name,
        new_head=model.new_head,
        model_file=model.file,
    )
