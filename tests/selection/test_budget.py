"""Budgets: selections, reports, and errors."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import click
import pytest

from adabet_onnx import RecordError, UsageError, select
from adabet_onnx.cli.parameters import ShareType, Size
from adabet_onnx.scoring.record import LayerScore, Scores
from adabet_onnx.selection.budget import Budget
from adabet_onnx.selection.options import Choosing
from adabet_onnx.selection.record import load_selection
from adabet_onnx.sizes import size_text


@dataclass(frozen=True)
class Fixed:
    memory_bytes: int
    margin_bytes: int
    update_bytes: int
    step_multiply_adds: int
    frozen_bytes: int = 0
    with_fewer_bytes: int = 0

    @property
    def tail_bytes(self) -> int:
        return self.memory_bytes

    with_more_bytes = tail_bytes


class Chain:
    """Six layers of 100 parameters: memory and time go up by a megabyte for each layer in the backward pass."""

    batch_size, backend = 8, "portable"

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    divisible = False

    def training(self, parameters: Sequence[str], *, accumulate: int = 1) -> Fixed:
        self.asked.append(tuple(parameters))
        back = 6 - min(int(name[1]) for name in parameters)
        memory = 10_000_000 + 1_000_000 * (back + len(parameters))
        return Fixed(memory, 500_000, 400 * len(parameters), 100 + 10 * back + len(parameters))

    def everything(self) -> Fixed:
        return self.training([f"l{i}.w" for i in range(6)])

    def dearer(self, layer: str, other: str) -> bool:
        return layer < other


@pytest.fixture
def scores() -> Scores:
    values = (5.0, 9.0, 1.0, 4.0, 2.0, 3.0)
    layers = tuple(
        LayerScore(f"l{i}", "Conv", (f"l{i}.w",), 100, 10, i == 1, (int(value),), value, value, 0.1, 0)
        for i, value in enumerate(values)
    )
    return Scores("0" * 64, "subsets", 32, ((0, 1),), layers, {"seed": 0}, head="l5")


def chosen(scores, **options):
    return select(scores, costs=Chain(), choosing=Choosing(rho=0.5, **options))


def test_a_budget_that_is_not_reached_changes_nothing(scores):
    free = select(scores, rho=0.5)
    bound = chosen(scores, budget=Budget(max_memory=100_000_000))
    assert bound.layers == free.layers == ("l0", "l1", "l3")
    assert bound.firmness == free.firmness
    assert bound.budget is not None
    assert bound.budget.given_up == []
    assert bound.budget.score_share == 1
    assert "no layer had to be left out" in bound.budget.sentence()


def test_the_best_set_that_fits_is_not_a_cut_of_the_ranking(scores):
    # l1 alone takes 10 + 5 + 1 = 16 MB, and a margin of 0.5; l3, l4 and l5 take 10 + 3 + 3.
    selection = chosen(scores, budget=Budget(max_memory=16_500_000))
    assert selection.layers == ("l1",)  # 9 against 4 + 2 + 3, and the earlier one in a tie
    selection = chosen(scores, budget=Budget(max_memory=16_400_000))
    assert selection.layers == ("l3", "l5")
    assert selection.budget is not None
    assert selection.budget.given_up == ["l0", "l1"]
    assert selection.budget.score_share == pytest.approx(7 / 18)
    assert selection.budget.memory_bytes <= 16_400_000
    assert selection.budget.gap == 0
    assert "left out: l0, l1" in selection.budget.sentence()
    assert selection.why.endswith(f"; the budget limits this to {len(selection.layers)} layers")
    assert selection.firmness is None


def test_shares_are_of_training_all_layers(scores):
    everything = Chain().everything()
    selection = chosen(scores, budget=Budget(max_memory_share=0.7))
    assert selection.budget is not None
    assert selection.budget.memory_share <= 0.7
    assert selection.budget.memory_share == pytest.approx(
        Chain().training(selection.parameters).memory_bytes / everything.memory_bytes
    )
    selection = chosen(scores, budget=Budget(max_step_time=0.8))
    assert selection.budget is not None
    assert selection.budget.step_time <= 0.8
    assert "0.8x" in selection.budget.sentence()


def test_update_size(scores):
    selection = chosen(scores, budget=Budget(max_update=800))
    assert selection.layers == ("l0", "l1")
    assert selection.budget is not None
    assert selection.budget.update_bytes == 800


def test_a_new_head_is_kept(scores):
    new = dataclasses.replace(scores, new_head=True)
    selection = chosen(new, budget=Budget(max_memory=16_400_000))
    assert "l5" in selection.layers
    assert selection.layers == ("l3", "l5")
    assert chosen(new, budget=Budget(max_memory=12_500_000)).layers == ("l5",)


@pytest.mark.parametrize(
    ("strategy", "layers"), [("last", ("l4", "l5")), ("first", ("l2",)), ("all", ("l4", "l5")), ("norm-bias", ("l1",))]
)
def test_strategies_without_scores_get_what_fits(scores, strategy, layers):
    limit = 14_500_000 if strategy in ("last", "all") else 16_500_000
    if strategy == "first":
        limit = 15_500_000
    assert chosen(scores, strategy=strategy, budget=Budget(max_memory=limit)).layers == layers


def test_an_impossible_budget_says_the_smallest_possible_one(scores):
    with pytest.raises(UsageError, match=r"`max_memory` 1 MB: the minimum is 12\.5 MB, with l5") as caught:
        chosen(scores, budget=Budget(max_memory=1_000_000))
    assert "batch size 8" in str(caught.value)
    assert chosen(scores, budget=Budget(max_memory=12_500_000)).layers == ("l5",)
    with pytest.raises(UsageError, match=r"`max_update` 10 B: the minimum is 400 B, with l1"):
        chosen(scores, budget=Budget(max_update=10))
    with pytest.raises(UsageError, match=r"`max_step_time` 0\.1x: the minimum is 0\.6\d+x, with l5"):
        chosen(scores, budget=Budget(max_step_time=0.1))
    with pytest.raises(UsageError, match=r"the minimum is 16\.5 MB, with l1"):
        chosen(scores, strategy="norm-bias", budget=Budget(max_memory=1_000_000))


def refused(scores, costs, **options):
    with pytest.raises(UsageError, match="no selection fits the budget") as caught:
        select(scores, costs=costs, choosing=Choosing(budget=Budget(max_memory=1_000_000), **options))
    return str(caught.value)


def test_an_impossible_budget_names_smaller_selections_of_other_layers(scores):
    """norm-bias may only select l1; the last layer takes less."""
    said = refused(scores, Chain(), strategy="norm-bias")
    assert "the minimum is 16.5 MB, with l1 (among all layers it is 12.5 MB, with l5: name them with `layers`)" in said
    assert "among all layers" not in refused(scores, Chain(), strategy="adabet")
    new = dataclasses.replace(scores, new_head=True)
    assert "with l5. " in refused(new, Chain(), strategy="norm-bias"), "the new head is in every selection"


class Halved(Chain):
    """Activations are those of a micro-batch; nothing else takes memory."""

    divisible = True

    def training(self, parameters: Sequence[str], *, accumulate: int = 1) -> Fixed:
        found = super().training(parameters)
        return dataclasses.replace(found, memory_bytes=found.memory_bytes // accumulate)


def test_an_impossible_budget_advises_only_what_helps(scores):
    assert refused(scores, Chain()).endswith("Raise the limit, or lower `batch_size`.")
    one = Chain()
    one.batch_size = 1
    assert refused(scores, one).endswith("Raise the limit.")
    split = ". Raise the limit, or split batches into micro-batches with `max_accumulate`."
    assert refused(scores, Halved(), max_accumulate=2).endswith(split)
    assert refused(scores, Halved(), max_accumulate=8).endswith("with l5, 1 sample at a time. Raise the limit.")
    assert refused(scores, Gathered()).endswith("Raise the limit, or lower `batch_size`."), "parts take more"


@pytest.mark.parametrize("wrong", [{"max_memory": 0}, {"max_memory_share": -1.0}, {"max_update": -3}])
def test_limits_must_be_positive(wrong):
    with pytest.raises(UsageError, match=r"must be above 0|must be a size of at least one byte"):
        Budget(**wrong)


def test_a_budget_needs_costs(scores):
    with pytest.raises(UsageError, match="Predictor"):
        select(scores, choosing=Choosing(budget=Budget(max_update=100)))


def test_what_was_spent_survives_the_file(scores, tmp_path):
    selection = chosen(scores, budget=Budget(max_memory=16_400_000, max_step_time=0.95))
    selection.save(tmp_path / "selection.json")
    assert load_selection(tmp_path / "selection.json") == selection
    content = json.loads((tmp_path / "selection.json").read_text())
    content["budget"]["memory_bytes"] = "much"
    (tmp_path / "selection.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match="memory_bytes"):
        load_selection(tmp_path / "selection.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("accumulate", 0), ("accumulate", -2), ("accumulate", 9), ("batch_size", 10**400), ("memory_share", 10**400),
        ("limits", {"max_magic": 1.0}), ("memory_bytes", 10**400),
    ],
)  # fmt: skip
def test_a_budget_that_cannot_be_is_refused(scores, tmp_path, key, value):
    path = tmp_path / "selection.json"
    chosen(scores, budget=Budget(max_memory=16_400_000)).save(path)
    content = json.loads(path.read_text())
    content["budget"][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="damaged"):
        load_selection(path)


@pytest.mark.parametrize(
    ("count", "text"),
    [(12, "12 B"), (1500, "1.5 KB"), (64_000_000, "64 MB"), (999_600, "1 MB"), (2_500_000_000, "2.5 GB")],
)
def test_sizes_for_people(count, text):
    assert size_text(count) == text


def test_an_impossible_budget_with_a_new_head_says_what_the_head_alone_takes(scores):
    new = dataclasses.replace(scores, new_head=True)
    with pytest.raises(UsageError, match=r"`max_update` 10 B: the minimum is 400 B, with l5\."):
        chosen(new, budget=Budget(max_update=10))
    assert chosen(new, budget=Budget(max_update=400)).layers == ("l5",)


class Slanted(Chain):
    """The earlier a layer, the fewer parameters: the least memory does not mean the fewest updates."""

    def training(self, parameters: Sequence[str], *, accumulate: int = 1) -> Fixed:
        found = super().training(parameters)
        return dataclasses.replace(found, update_bytes=sum(400 * (1 + int(name[1])) for name in parameters))


def test_limits_that_nothing_keeps_to_together_come_with_some_that_something_does(scores):
    budget = Budget(max_memory=13_000_000, max_update=500)
    with pytest.raises(UsageError, match="limits that work together are") as caught:
        select(scores, rho=0.5, costs=Slanted(), choosing=Choosing(budget=budget))
    said = re.search(r"together are `max_memory` (\S+ MB), `max_update` (\S+ B), with (\w+)\.", str(caught.value))
    assert said is not None
    memory, update = (Size().convert(said[i], None, None) for i in (1, 2))
    enough = Budget(max_memory=memory, max_update=update)
    assert select(scores, rho=0.5, costs=Slanted(), choosing=Choosing(budget=enough)).layers == (said[3],)


def test_a_budget_never_selects_more_layers_than_without_one(scores):
    """A new head that is among the k is one of them with a budget too."""
    new = dataclasses.replace(scores, new_head=True, head="l1")
    assert select(new, rho=0.5).layers == ("l0", "l1", "l3")
    selection = chosen(new, budget=Budget(max_step_time=0.95))  # too little for l0
    assert selection.layers == ("l1", "l3", "l5")
    assert selection.budget is not None
    assert selection.budget.score_share == pytest.approx(16 / 18)


class Gathered(Chain):
    """Gradient accumulation takes 5 MB, a micro-batch 1 MB less for each halving."""

    divisible = True

    def training(self, parameters: Sequence[str], *, accumulate: int = 1) -> Fixed:
        found = super().training(parameters)
        more = 0 if accumulate == 1 else 6_000_000 - 1_000_000 * accumulate.bit_length()
        return dataclasses.replace(found, memory_bytes=found.memory_bytes + more)


def test_a_batch_is_not_cut_where_that_takes_more_or_does_not_matter(scores):
    """A batch that fits is not rejected because its micro-batches do not."""
    budget = Budget(max_memory=13_500_000)  # only l5 fits, and only whole
    selection = select(scores, rho=0.5, costs=Gathered(), choosing=Choosing(budget=budget, max_accumulate=8))
    assert selection.layers == ("l5",)
    assert selection.budget is not None
    assert selection.budget.accumulate == 1
    with pytest.raises(UsageError, match=r"the minimum is 12\.5 MB, with l5\."):
        select(
            scores, rho=0.5, costs=Gathered(), choosing=Choosing(budget=Budget(max_memory=1_000_000), max_accumulate=8)
        )
    selection = select(
        scores, rho=0.5, costs=Gathered(), choosing=Choosing(budget=Budget(max_update=800), max_accumulate=8)
    )
    assert selection.budget is not None
    assert selection.budget.accumulate == 1  # an update is as large in parts


@pytest.mark.parametrize(
    ("text", "size"), [("2.01KB", 2010), ("16.1 MB", 16_100_000), ("1KiB", 1024), ("7", 7), ("1e3", 1000)]
)
def test_sizes_that_are_typed(text, size):
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["0.4", "-1", f"{'9' * 305}GB", "MB", "nan"])
def test_sizes_that_are_none(text):
    with pytest.raises(click.BadParameter, match="it must be a size"):
        Size().convert(text, None, None)


@pytest.mark.parametrize("text", [f"{'9' * 400}x", "0x", "1", "-1x"])
def test_shares_that_are_none(text):
    with pytest.raises(click.BadParameter, match="not a multiple"):
        ShareType().convert(text, None, None)
