"""The outcome of an adaptation as terminal text: gain, hints and cost."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..cost.measure import Cost
from ..cost.row import StepCost
from ..cost.words import ratio_text
from ..outcome import NO_TEST_DATA, Outcome
from ..selection.auto import CLOSE, SHIFTED, median_shift, shift_text
from ..showing import counted
from ..sizes import size_text
from .figures import changes_text
from .tables import selection_text


def outcome_text(outcome: Outcome) -> RenderableType:
    """Accuracy before and after, share of trained parameters, and cost."""
    before, after = outcome.before, outcome.after
    lines = [selection_text(outcome.selection), Text("")]
    if before["accuracy"] is not None:
        lines.append(
            Text(f"accuracy  {before['accuracy']:.1%} before, {after['accuracy']:.1%} after ({outcome.evaluated_on})")
        )
    lines.append(Text(f"loss      {before['loss']:.3f} before, {after['loss']:.3f} after"))
    changes = changes_text(before, after)
    lines += [Text(f"figures   {'; '.join(changes)}")] if changes else []
    lines += _in_full_precision(outcome)
    if outcome.head_start is not None:
        lines.append(Text(f"head      {outcome.fitted_alone or outcome.head_start}"))
    lines.append(Text(f"trained   {outcome.trained_text()}"))
    lines += [Text(f"warning   {text}", style="bold") for text in outcome.warnings]
    lines += [Text(f"note      {text}") for text in outcome.notes]
    lines += [Text(f"hint      {text}") for text in _hints(outcome)]
    if outcome.not_measured is not None:
        lines.append(Text(f"not everything was measured: {outcome.not_measured}"))
    return Group(*lines, *_costs(outcome))


def _in_full_precision(outcome: Outcome) -> list[Text]:
    """The accuracy and loss of the same training with the frozen part in float32."""
    plain = outcome.full_precision
    if plain is None:
        return []
    reached = "" if plain["accuracy"] is None else f"accuracy {plain['accuracy']:.1%}, "
    return [Text(f"frozen    in int8; in float32 the same training has {reached}loss {plain['loss']:.3f}")]


def _hints(outcome: Outcome) -> list[str]:
    """Suggestions of what to try next, the most promising first."""
    hints, rate = [] if outcome.is_of_test_data else [NO_TEST_DATA], outcome.learning_rate
    hints += _lowered(outcome)
    if outcome.advice is not None:
        hints.append(outcome.advice)
    elif outcome.after["loss"] > outcome.before["loss"] and rate is not None:
        hints.append(
            "the loss on these samples rose although the training loss fell: try `patience=2`, or a smaller learning "
            f"rate, `learning_rate={rate / 10:g}`"
        )
    elif rate is not None and outcome.rates is not None and outcome.rates.kept is None:
        hints.append(
            f"the learning rate {rate:g} was chosen by short trainings; `compare` chooses one for each strategy by "
            "whole trainings"
        )
    elif rate is not None:
        hints.append(
            f"the learning rate was {rate:g}; another one may do better, e.g. `learning_rate={rate * 3:g}`, "
            f"{rate * 10:g} or {rate / 10:g} (`compare` chooses one for each strategy)"
        )
    return hints + _shifted(outcome)


def _shifted(outcome: Outcome) -> list[str]:
    """A hint at other strategies if the input of a network with normalisations may have shifted."""
    if outcome.selection.strategy != "adabet" or not any(layer.is_norm for layer in outcome.scores.layers):
        return []
    others = "`strategy='auto'`, norm-bias or all may be better"
    median = median_shift(outcome.scores)
    if median is None:
        return [f"if the input itself has shifted (noise, light, another sensor), {others}"]
    if median <= SHIFTED / CLOSE:
        return []
    certainty = "has" if median > SHIFTED else "may have"
    return [f"the input itself {certainty} shifted ({shift_text(median)}): {others}"]


def _lowered(outcome: Outcome) -> list[str]:
    """A hint if training lowered the accuracy on the validation data."""
    accuracies = outcome.validation("eval_accuracy")
    if accuracies is None or not outcome.lowered_accuracy:
        return []
    start = outcome.head_start
    fitted = start is not None and start.how is not None
    alone, alternative = (
        (" with the fitted head alone", ", or `epochs=0`, which only fits the head,") if fitted else ("", "")
    )
    judged = f" of {counted(outcome.validation_samples, 'sample')}" if outcome.validation_samples else ""
    return [
        f"training lowered the accuracy on the validation data{judged} from {accuracies[0]}{alone} to {accuracies[1]}: "
        f"`patience=2`, a smaller learning rate{alternative} may be better"
    ]


def _costs(outcome: Outcome) -> list[RenderableType]:
    """Tables of measured and predicted costs, each with a sentence about ratios."""
    trainable, layers = outcome.trainable_layers, len(outcome.scores.layers)
    everything = "all layers" if trainable == layers else f"the {trainable} of {layers} layers that can be trained"
    whole = {layer.name for layer in outcome.scores.layers if layer.untrainable is None}
    labels = {"inference": "inference", "selection": "training, selected layers", "all": f"training, {everything}"}
    if whole <= set(outcome.selection.layers) and not outcome.selection.channels:
        everything += ", which are the selected ones"
    costs, predicted = outcome.costs, {} if outcome.predicted is None else outcome.predicted.rows()
    parts: list[RenderableType] = []
    if costs:
        table = _cost_table(f"one step, batch {outcome.batch_size}", "time", "memory")
        for name in (name for name in labels if name in costs):
            cost = costs[name]
            if cost.frozen_bytes:
                frozen = f"{_figure(1000 * cost.frozen_seconds)} ms", size_text(cost.frozen_bytes)
                table.add_row(f"{labels[name]}: frozen pass (a batch, once)", *frozen)
            step = f"{_figure(1000 * cost.seconds)} ms", size_text(cost.tail_bytes or cost.memory_bytes)
            table.add_row(labels[name], *step)
        lines = [_measured_sentence(costs, everything), *_above_limit(outcome)] if len(costs) == len(labels) else []
        parts += [*map(Text, lines), table]
    if predicted:
        table = _cost_table(f"one step, batch {outcome.batch_size}, predicted (not measured)", "memory", "at most")
        for name, row in predicted.items():
            memory, margin = row.prediction.memory_bytes, row.prediction.margin_bytes
            table.add_row(labels[name], size_text(memory), size_text(memory + margin))
        parts += [Text(_predicted_sentence(predicted, everything)), table]
    return [*parts, *(Text(line) for line in outcome.kept())]


def _cost_table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        table.add_column(heading, justify="left" if heading == headings[0] else "right")
    return table


def _figure(number: float) -> str:
    """A number with three significant digits, never in scientific notation if it is large."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 1 else ratio_text(ratio)


def _measured_sentence(costs: dict[str, Cost], everything: str) -> str:
    chosen, whole, forward = (costs[name] for name in ("selection", "all", "inference"))
    return (
        f"measured: a step takes {ratio_text(chosen.seconds / whole.seconds)} of the time and "
        f"{ratio_text(chosen.memory_bytes / whole.memory_bytes)} of the memory of training {everything} "
        f"({_times(chosen.seconds / forward.seconds)} and {_times(chosen.memory_bytes / forward.memory_bytes)} times "
        "inference)"
    )


def _above_limit(outcome: Outcome) -> list[str]:
    """A sentence if the measured memory is above a limit that the prediction keeps to."""
    budget, costs = outcome.selection.budget, outcome.costs
    if budget is None:
        return []
    measured = costs["selection"].memory_bytes
    share = measured / costs["all"].memory_bytes
    text = "which holds for the prediction: measurements differ from it, most of all in small networks"
    if share > budget.limits.get("max_memory_share", share):
        limit = budget.limits["max_memory_share"]
        return [f"the measured memory, {share:.3g}x, is above the limit of {limit:.3g}x, {text}"]
    if measured > budget.limits.get("max_memory", measured):
        limit = budget.limits["max_memory"]
        return [f"the measured memory, {size_text(measured)}, is above the limit of {size_text(limit)}, {text}"]
    return []


def _predicted_sentence(rows: dict[str, StepCost], everything: str) -> str:
    chosen, forward = rows["selection"].prediction, rows["inference"].prediction
    times = f"{_times(chosen.memory_bytes / forward.memory_bytes)} times that of inference"
    if "all" not in rows:
        return f"predicted: a step takes memory {times}"
    whole = rows["all"].prediction
    return (
        f"predicted: a step takes {ratio_text(chosen.memory_bytes / whole.memory_bytes)} of the memory and "
        f"{ratio_text(chosen.work_ratio(whole))} of the multiply-adds of training {everything} (memory: {times})"
    )
