"""The strategy auto: each case of its rule, on scores made by hand."""

from __future__ import annotations

import dataclasses

import pytest

from adabet_onnx import RecordError, UsageError, select
from adabet_onnx.scoring.record import LayerScore, Scores
from adabet_onnx.selection.auto import CLOSE, FEW_DIRECTIONS, SHIFTED, diagnose
from adabet_onnx.selection.budget import Budget
from adabet_onnx.selection.options import Choosing
from adabet_onnx.selection.record import load_selection


@dataclasses.dataclass(frozen=True)
class Fixed:
    memory_bytes: int
    margin_bytes: int = 0
    update_bytes: int = 0
    step_multiply_adds: int = 1
    frozen_bytes: int = 0
    with_fewer_bytes: int = 0

    @property
    def tail_bytes(self) -> int:
        return self.memory_bytes

    with_more_bytes = tail_bytes


class Costs:
    """Inference takes 20 of 100; each parameter that is trained takes 1, each layer in the backward pass 1."""

    batch_size, backend = 32, "portable"

    def __init__(self, forward: float = 20, divisible: bool = False, fixed: float = 0) -> None:
        self._forward, self.divisible, self._fixed = forward, divisible, fixed

    def training(self, parameters, *, accumulate=1):
        first = min(int(name[1:].split(".")[0]) for name in parameters)
        return Fixed(self._fixed + (self._forward + len(parameters) + (18 - first)) / accumulate)

    def everything(self):
        return Fixed(100)

    def inference(self):
        return Fixed(self._forward)

    def dearer(self, layer, other):
        return False


def scores(shift=0.01, dead=0.0, rank=40.0, norms=True) -> Scores:
    """18 layers, Conv and BatchNormalization in turn, and a new head; the signals of late layers are those given."""
    layers = []
    for i in range(18):
        norm = norms and i % 2 == 1
        known = (shift, dead if i > 10 else 0.0) if norm else (None, None)
        names = (f"l{i}.weight", f"l{i}.bias")
        layers.append(
            LayerScore(
                f"l{i}", "BatchNormalization" if norm else "Conv", names, 10, 100, norm, (1,), 1.0, 0.01, 0.0, 0,
                *known, rank if i > 10 else 40.0,
            )
        )  # fmt: skip
    head = LayerScore("l18", "Gemm", ("l18.weight",), 10, 10, False, (0,), 0.0, 0.0, 0.0, 0, None, None, 4.0)
    return Scores("0" * 64, "subsets", 32, ((0,),), (*layers, head), head="l18", new_head=True)


def auto(made, forward=10, divisible=False, fixed=0, seed=0, **options):
    choosing = Choosing(strategy="auto", **options)
    return select(made, costs=Costs(forward, divisible, fixed), choosing=choosing, seed=seed)


def test_few_points_do_not_make_a_network_collapsed():
    few = dataclasses.replace(scores(rank=3.0), points=4)
    assert diagnose(scores(rank=3.0)).name == "collapsed"
    assert diagnose(few).name == "new-task"


def test_a_new_task_gets_the_last_layers():
    selection = auto(scores())
    assert diagnose(scores()).name == "new-task"
    assert selection.layers == ("l16", "l17", "l18")  # a fifth of 19, the head being one of the last
    assert "has not shifted" in selection.why
    assert selection.budget is not None
    assert selection.budget.memory_share <= 1 / 3


def norms(first: int) -> tuple[str, ...]:
    return tuple(f"l{i}" for i in range(first, 18, 2))


def test_a_shifted_input_gets_the_normalisations_as_far_back_as_memory_allows():
    selection = auto(scores(shift=0.2), budget=Budget(max_memory_share=1.0))
    assert selection.layers == (*norms(1), "l18")
    assert set(selection.parameters) >= {"l1.weight", "l1.bias"}
    assert "the input has shifted" in selection.why
    third = auto(scores(shift=0.2))
    assert third.layers == (*norms(9), "l18")  # 10 + 11 + 9; one more would take 34
    assert third.budget is not None
    assert "l7" in third.budget.given_up
    assert third.why.endswith(
        f"; auto's own memory limit (a third of training all layers) limits this to {len(third.layers)} layers"
    )
    assert "(limit 0.333x: a third of training all layers)" in third.budget.sentence()
    assert selection.budget is not None
    assert selection.budget.auto_limit is None


def test_a_batch_is_cut_into_as_few_parts_as_let_everything_fit():
    """All normalisations take 10 + 19 + 17 = 46 at once, 23 in two parts."""
    selection = auto(scores(shift=0.2), divisible=True)
    assert selection.layers == (*norms(1), "l18")
    assert selection.budget is not None
    assert (selection.budget.batch_size, selection.budget.accumulate, selection.budget.part) == (32, 2, 16)
    assert selection.budget.given_up == []
    assert "32, 16 at a time" in selection.budget.sentence()
    assert [selection.parts_of(batch) for batch in (32, 16, 64, 12, 17)] == [2, 1, 4, 1, 17]
    once = auto(scores(shift=0.2), divisible=True, max_accumulate=1)
    assert once.layers == (*norms(9), "l18")
    assert once.parts_of(32) == 1
    with pytest.raises(UsageError, match="at least 1 micro-batch"):
        auto(scores(), max_accumulate=0)


def test_where_parts_do_not_suffice_as_much_as_fits_in_the_smallest():
    selection = auto(scores(shift=0.2), divisible=True, fixed=32.35)
    assert selection.budget is not None
    assert selection.budget.accumulate == 32
    assert selection.layers == (*norms(9), "l18")  # 32.35 + (10 + 11 + 9) / 32; with one more above 33.3


@pytest.mark.parametrize("signs", [{"dead": 0.8}, {"rank": FEW_DIRECTIONS - 1}])
def test_late_layers_that_carry_nothing_are_recognised(signs):
    made = scores(**signs)
    assert diagnose(made).name == "collapsed"
    selection = auto(made, budget=Budget(max_memory_share=1.0))
    assert selection.layers == (*norms(1), "l18")
    without = auto(scores(norms=False, rank=2.0), budget=Budget(max_memory_share=1.0))
    assert without.layers == ("l8", "l9", "l10", "l18")  # the last that have not collapsed, and the new head
    assert "late layers" in without.why


def test_without_stored_statistics_it_says_that_it_does_not_know():
    assert "unknown" in auto(scores(norms=False)).why


def test_where_a_third_is_less_than_inference_it_is_a_third_of_the_rest():
    selection = auto(scores(shift=0.2), forward=40)
    assert selection.budget is not None
    assert selection.budget.limits == {"max_memory_share": pytest.approx(0.6)}
    assert selection.budget.auto_limit == "third-of-rest"
    assert "(limit 0.6x: inference and a third of what training all layers adds to it)" in selection.budget.sentence()
    assert 1 / 3 < selection.budget.memory_share <= 0.6


def test_rho_caps_the_number_of_layers():
    selection = auto(scores(shift=0.2), rho=0.11, budget=Budget(max_memory_share=1.0))
    assert selection.layers == ("l15", "l17", "l18")
    assert selection.rho == 0.11
    assert auto(scores(), rho=0.1).layers == ("l18",)


def test_the_threshold_lies_between_the_measured_values():
    # Medians over ResNet-20's normalisations, 128 samples: clean 0.006, new classes 0.007, noise 0.083, blur 0.13.
    assert 0.007 < SHIFTED < 0.083
    assert diagnose(scores(shift=SHIFTED)).name == "new-task"
    assert diagnose(scores(shift=SHIFTED + 0.001)).name == "shifted"


@pytest.mark.parametrize(
    ("shift", "text"),
    [
        (0.01, "has not shifted (median divergence 0.01; above 0.05 it counts as shifted)"),
        (0.04, "has not shifted (median divergence 0.04; above 0.05 it counts as shifted; close to the limit)"),
        (0.06, "has shifted (median divergence 0.06; above 0.05 it counts as shifted; close to the limit)"),
        (0.2, "has shifted (median divergence 0.2; above 0.05 it counts as shifted)"),
    ],
)
def test_the_reason_names_the_divergence_and_the_limit(shift, text):
    assert diagnose(scores(shift=shift)).why == f"the input {text}"
    assert CLOSE == 1.5


def test_it_is_deterministic_and_needs_costs():
    assert auto(scores(shift=0.2)) == auto(scores(shift=0.2), seed=0)
    with pytest.raises(UsageError, match="Predictor"):
        select(scores(), strategy="auto")


def test_the_papers_rule_is_not_touched():
    made = scores(shift=0.2, dead=0.9)
    selection = select(made, strategy="adabet", choosing=Choosing(head="pool"))
    assert selection.layers == ("l0",)
    assert selection.budget is None


def test_where_the_runtime_takes_most_it_is_the_least_that_training_anything_takes():
    """Inference takes 99 of 100, the head alone as much as everything."""
    selection = auto(scores(shift=0.2), forward=99)
    assert selection.layers == ("l18",)
    assert selection.budget is not None
    assert selection.budget.memory_share == 1.0
    assert selection.budget.auto_limit == "least"
    without = dataclasses.replace(scores(shift=0.2), new_head=False)
    assert auto(without, forward=96).layers == ("l17",)


def test_a_layer_in_which_all_samples_fall_together_has_collapsed():
    made = scores(norms=False, rank=2.0)
    layers = [dataclasses.replace(layer, effective_rank=0.0) if layer.name == "l10" else layer for layer in made.layers]
    selection = auto(dataclasses.replace(made, layers=tuple(layers)), budget=Budget(max_memory_share=1.0))
    assert selection.layers == ("l7", "l8", "l9", "l18")


def test_its_own_limit_survives_the_file(tmp_path):
    path = tmp_path / "selection.json"
    selection = auto(scores(shift=0.2))
    assert selection.budget is not None
    use = dataclasses.replace(selection.budget, memory_bytes=30, update_bytes=0)
    selection = dataclasses.replace(selection, budget=use)
    selection.save(path)
    assert load_selection(path) == selection
    path.write_text(path.read_text().replace('"auto_limit": "third"', '"auto_limit": "half"'))
    with pytest.raises(RecordError, match="auto_limit"):
        load_selection(path)


def test_it_says_how_many_there_are():
    assert auto(scores(shift=0.2), rho=0.11).why.startswith("the last 2 normalisations, because")
    assert auto(scores(shift=0.2)).why.startswith("all normalisations, because")
