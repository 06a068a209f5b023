"""Selection: strategies, the head, firmness, and the file."""

from __future__ import annotations

import dataclasses

import pytest
from scipy.stats import kendalltau

from adabet_onnx import RecordError, UsageError, select
from adabet_onnx.scoring.record import LayerScore, Scores
from adabet_onnx.selection.options import Choosing
from adabet_onnx.selection.record import load_selection


def layer(name: str, size: int, b1: float, op: str = "Conv", error: float = 0.0) -> LayerScore:
    hat = b1 / (32 * size)
    parameters = (f"{name}.weight", f"{name}.bias")
    return LayerScore(name, op, parameters, 10, size, "Norm" in op, (int(b1),), b1, hat, error, 0)


@pytest.fixture
def scores() -> Scores:
    layers = (
        layer("conv1", 1000, 8, error=1e-5),
        layer("bn1", 1000, 9, "BatchNormalization", error=1e-5),
        layer("conv2", 100, 2, error=1e-4),
        layer("bn2", 100, 4, "BatchNormalization", error=3e-4),
        layer("fc", 10, 0, "Gemm"),
    )
    return Scores("0" * 64, "subsets", 32, ((0, 1),), layers, {"seed": 0}, head="fc")


def test_adabet_takes_the_highest_scores(scores):
    selection = select(scores, rho=0.4)
    assert selection.layers == ("conv2", "bn2")
    assert selection.parameters == ("conv2.weight", "conv2.bias", "bn2.weight", "bn2.bias")
    assert selection.scored == {"conv2": pytest.approx(2 / 3200), "bn2": pytest.approx(4 / 3200)}
    assert selection.strategy == "adabet"
    assert selection.model_sha256 == scores.model_sha256


@pytest.mark.parametrize(("rho", "count"), [(0.01, 1), (0.2, 1), (0.39, 1), (0.4, 2), (0.6, 3), (0.99, 4), (1, 5)])
def test_k_is_at_least_one_and_floor_of_rho_l(scores, rho, count):
    assert len(select(scores, rho=rho).layers) == count


@pytest.mark.parametrize(
    ("strategy", "chosen"),
    [
        ("size", ("conv2", "fc")),
        ("b1", ("conv1", "bn1")),
        ("last", ("bn2", "fc")),
        ("first", ("conv1", "bn1")),
        ("head", ("fc",)),
        ("norm-bias", ("bn1", "bn2")),
        ("all", ("conv1", "bn1", "conv2", "bn2", "fc")),
    ],
)
def test_strategies(scores, strategy, chosen):
    assert select(scores, strategy=strategy, rho=0.4).layers == chosen


def test_random_is_seeded(scores):
    draws = {select(scores, strategy="random", rho=0.4, seed=seed).layers for seed in range(20)}
    assert len(draws) > 3
    assert all(len(layers) == 2 for layers in draws)
    assert select(scores, strategy="random", seed=3) == select(scores, strategy="random", seed=3)


def test_head_rules(scores):
    assert "fc" not in select(scores, rho=0.4).layers  # auto: in the pool, where it scores 0
    assert select(scores, rho=0.4, choosing=Choosing(head="always")).layers == ("conv2", "bn2", "fc")
    assert select(dataclasses.replace(scores, new_head=True), rho=0.4).layers == ("conv2", "bn2", "fc")
    assert select(scores, strategy="last", rho=0.4, choosing=Choosing(head="never")).layers == ("conv2", "bn2")
    assert select(scores, strategy="last", rho=0.4, choosing=Choosing(head="always")).layers == (
        "bn2",
        "fc",
    )  # not counted twice


def test_explicit_layers(scores):
    assert select(scores, layers=["conv*", "fc"]).layers == ("conv1", "conv2", "fc")
    with pytest.raises(UsageError, match=r"no layer matches 'layer4\.\*'"):
        select(scores, layers=["layer4.*"])


def test_the_head_rule_holds_for_explicit_layers_too(scores):
    assert select(scores, layers=["conv1"], choosing=Choosing(head="always")).layers == ("conv1", "fc")
    assert select(dataclasses.replace(scores, new_head=True), layers=["conv1"]).layers == ("conv1", "fc")
    assert select(scores, layers=["conv1", "fc"], choosing=Choosing(head="never")).layers == ("conv1",)
    for wrong in ({"layers": ["fc"]}, {"strategy": "head"}):
        with pytest.raises(UsageError, match="never"):
            select(scores, **wrong, choosing=Choosing(head="never"))


def test_firmness_counts_standard_errors_and_ties(scores):
    firm = select(scores, rho=0.2).firmness
    assert (firm.last, firm.next) == ("bn2", "conv2")
    margin = 4 / 3200 - 2 / 3200
    assert firm.margin == pytest.approx(margin)
    assert firm.margin_stderr == pytest.approx(margin / (3e-4**2 + 1e-4**2) ** 0.5)
    assert firm.sentence().startswith("not clear: another sample may choose differently; ")
    assert firm.sentence().endswith("bn2 scores 1.98 standard errors higher than conv2")
    tied = select(scores, strategy="size", rho=0.4).firmness
    assert tied.ties == ["conv2", "bn2"]
    assert "tie" in tied.sentence()
    assert select(scores, rho=1).firmness is None


def test_agreement_with_size_alone(scores):
    expected = kendalltau(
        [layer.b1_hat for layer in scores.layers], [1 / layer.activation_size for layer in scores.layers]
    )
    assert select(scores).size_tau == pytest.approx(expected.statistic)


@pytest.mark.parametrize("wrong", [{"rho": 0}, {"rho": 1.1}, {"rho": -0.1}, {"strategy": "best"}, {"head": "maybe"}])
def test_wrong_options(scores, wrong):
    with pytest.raises(UsageError):
        select(scores, choosing=Choosing(**wrong))


def test_norm_bias_without_norms_says_why(scores):
    folded = dataclasses.replace(scores, layers=(scores.layers[0], scores.layers[4]))
    with pytest.raises(UsageError, match="folded"):
        select(folded, strategy="norm-bias")


def test_selection_survives_its_file(scores, tmp_path):
    for selection in (select(scores, rho=0.4), select(scores, strategy="all"), select(scores, layers=["fc"])):
        selection.save(tmp_path / "selection.json")
        assert load_selection(tmp_path / "selection.json") == selection


def test_a_damaged_file_is_refused(scores, tmp_path):
    path = tmp_path / "selection.json"
    select(scores).save(path)
    good = path.read_text()
    for old, new in (('"layers": [', '"layers": [3, '), ('"version": 1', '"version": 9'), ("selection", "scores")):
        path.write_text(good.replace(old, new, 1))
        with pytest.raises(RecordError):
            load_selection(path)
