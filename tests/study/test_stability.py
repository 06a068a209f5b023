"""Stability: agreement by hand, groups against the score of the same samples, and the command."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import missing
from models import tiny

from adabet_onnx import DataError, RecordError, RuntimeMissingError, UsageError, open_model, score
from adabet_onnx.cli.main import main
from adabet_onnx.data.preprocess import Arithmetic
from adabet_onnx.data.source import open_data
from adabet_onnx.scoring.forward import GramProbed, SketchProbed
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.scoring.passes import plan_passes
from adabet_onnx.scoring.signals import effective_rank, signals
from adabet_onnx.study.agreement import every_pair, overlap, same_order
from adabet_onnx.study.repeats import Repeats
from adabet_onnx.study.stability import group_sizes, stability
from adabet_onnx.study.stability_record import load_stability
from adabet_onnx.trainability.choices import Choices

pytestmark = pytest.mark.slow

QUICK = Repeats(points=16, subsets=8, max_samples=64, seeds=2)


@pytest.fixture(scope="module")
def model():
    return open_model(tiny.conv_net())


@pytest.fixture(scope="module")
def data(model):
    rng = np.random.default_rng(0)
    shape = (200, *model.inputs[0].shape[1:])
    return {"x": rng.standard_normal(shape).astype(np.float32), "y": rng.integers(0, 4, 200)}


def test_tau_by_hand():
    assert same_order([1, 2, 3, 4], [10, 20, 30, 40]) == 1
    assert same_order([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert same_order([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)  # five pairs agree, one does not
    assert same_order([1, 1, 1], [2, 2, 2]) == 1
    assert same_order([1, 1, 1], [1, 2, 3]) == 0


def test_overlap_by_hand():
    assert overlap([5, 4, 1, 0], [5, 0, 1, 4], 2) == 0.5
    assert overlap([1, 1, 1, 1], [1, 1, 1, 1], 2) == 1  # ties in order
    assert [round(tau, 3) for tau, _ in every_pair([[1, 2, 3], [1, 2, 3], [3, 2, 1]], 1)] == [1, -1, -1]


def test_sizes_double_as_long_as_there_are_two_groups():
    assert group_sizes(2000, 32, 512) == [32, 64, 128, 256, 512]
    assert group_sizes(1000, 32, 512) == [32, 64, 128, 256]
    assert group_sizes(64, 32, 512) == [32]
    with pytest.raises(DataError, match="need 64, but the data has 63"):
        group_sizes(63, 32, 512)


def test_groups_are_scored_as_score_does(model, data):
    """The b1_hat of disjoint batches is that of `score` on the same samples."""
    found = stability(
        model,
        data,
        preprocessing=Arithmetic(),
        repeats=replace(QUICK, subsets=1, seeds=1, max_samples=16, fisher=False),
    )
    order = np.random.default_rng(0).permutation(200)
    for group in (0, 3):
        rows = order[group * 16 : group * 16 + 16]
        scores = score(
            model,
            {"x": data["x"][rows]},
            preprocessing=Arithmetic(),
            scoring=Scoring(estimator="batches", batch_size=16, batches=1, order="sequential"),
        )
        assert [values[group] for values in found.example] == pytest.approx([layer.b1_hat for layer in scores.layers])


@pytest.mark.parametrize("sketch", [True, False])
def test_a_part_of_a_block_is_as_if_forwarded_alone(model, data, sketch):
    dataset = open_data({"x": data["x"]}, model).train
    if sketch:
        probed = SketchProbed(model, Arithmetic(), plan_passes(model, 64, 10**9))
    else:
        probed = GramProbed(model, Arithmetic(), group=64)
    rows = np.arange(16, 48)
    part, alone = probed.forward(dataset, np.arange(64)).of(rows), probed.forward(dataset, rows)
    for name in alone.grams:
        np.testing.assert_allclose(part.grams[name], alone.grams[name], rtol=1e-3, atol=1e-3)
        assert effective_rank(part.grams[name]) == pytest.approx(effective_rank(alone.grams[name]), rel=1e-4)
    assert part.sums
    for name, sums in part.sums.items():
        one, other = (signals([found.grams[name]], [found.sums[name]], probed.stored[name]) for found in (part, alone))
        assert one.shift == pytest.approx(other.shift, rel=1e-4)
        assert sums.elements == alone.sums[name].elements


@pytest.mark.parametrize("sketch", ["auto", "off"])
def test_groups_with_given_subsets_are_scored_as_score_does(model, data, sketch):
    """Subsets are whole groups, so that both use the same; with distances from sketches, and exact ones."""
    repeats = replace(QUICK, seeds=1, max_samples=16, fisher=False, sketch=sketch)
    found = stability(model, data, preprocessing=Arithmetic(), repeats=repeats)
    rows = np.random.default_rng(0).permutation(200)[:16]
    how = Scoring(samples=16, subset_size=16, subsets=1, order="sequential", sketch=sketch)
    scores = score(model, {"x": data["x"][rows]}, preprocessing=Arithmetic(), scoring=how)
    assert [values[0] for values in found.example] == pytest.approx([layer.b1_hat for layer in scores.layers])


def test_sketches_and_exact_distances_agree_where_activations_are_small(model, data):
    repeats = replace(QUICK, fisher=False)
    exact = stability(model, data, preprocessing=Arithmetic(), repeats=replace(repeats, sketch="off"))
    assert stability(model, data, preprocessing=Arithmetic(), repeats=repeats).example == exact.example
    with pytest.raises(UsageError, match="sketch"):
        replace(repeats, sketch="some")


def test_what_is_found(model, data):
    found = stability(model, data, preprocessing=Arithmetic(), repeats=QUICK)
    measures = {row.measure for row in found.agreements}
    assert measures == {"b1_hat", "b1_hat batches", "b1", "size", "auto", "fisher"}
    assert {row.samples for row in found.agreements} == {16, 32, 64}
    for row in found.agreements:
        assert -1 <= row.tau_min <= row.tau + 1e-9 <= 1 + 1e-9
        assert 0 <= row.overlap <= 1
        assert row.pairs == 2 * row.groups * (row.groups - 1) // 2
    size = [row for row in found.agreements if row.measure == "size"]
    assert all((row.tau, row.overlap, row.seeds_tau) == pytest.approx((1, 1, 1)) for row in size)
    assert found.enough["size"] == 16
    assert found.top == 1
    enough = found.enough["b1_hat"]
    assert found.sentence().startswith("no firm choice" if enough is None else f"{enough} samples give a firm choice")


def test_the_same_twice(model, data):
    assert stability(model, data, preprocessing=Arithmetic(), repeats=QUICK) == stability(
        model, data, preprocessing=Arithmetic(), repeats=QUICK
    )


def test_blocks_do_not_change_betti_numbers(model, data):
    """With less memory blocks are smaller; groups within a block are the same."""
    from adabet_onnx.study import stability as module

    whole = stability(model, data, preprocessing=Arithmetic(), repeats=replace(QUICK, fisher=False))
    before = module.GROUP
    try:
        module.GROUP = 32
        parts = stability(model, data, preprocessing=Arithmetic(), repeats=replace(QUICK, fisher=False))
    finally:
        module.GROUP = before
    for size in (16, 32):
        one, other = (
            next(row for row in found.agreements if row.samples == size and row.measure == "b1_hat").tau
            for found in (whole, parts)
        )
        assert one == pytest.approx(other, abs=0.05)


def test_without_labels_there_is_no_fisher(model, data):
    found = stability(model, {"x": data["x"]}, preprocessing=Arithmetic(), repeats=QUICK)
    assert "fisher" not in {row.measure for row in found.agreements}


def test_labels_of_a_task_that_the_model_has_no_head_for(model, data, tmp_path):
    """Rankings without labels are reported; the message says why the rival is missing."""
    found = stability(model, {**data, "y": np.arange(200) % 20}, preprocessing=Arithmetic(), repeats=QUICK)
    assert "fisher" not in {row.measure for row in found.agreements}
    assert "labels go from 0 to 19" in found.notes[0]
    found.save(tmp_path / "stability.json")
    assert load_stability(tmp_path / "stability.json") == found
    targets = np.random.default_rng(0).standard_normal((200, 4))
    assert stability(model, {**data, "y": targets}, preprocessing=Arithmetic(), repeats=QUICK).notes
    found = stability(
        model, {**data, "y": targets}, preprocessing=Arithmetic(), repeats=QUICK, choices=Choices(loss="mse")
    )
    assert "fisher" in {row.measure for row in found.agreements}
    assert found.notes == ()


def test_the_file(model, data, tmp_path):
    found = stability(model, data, preprocessing=Arithmetic(), repeats=replace(QUICK, fisher=False))
    path = tmp_path / "stability.json"
    found.save(path)
    assert load_stability(path) == found
    content = json.loads(path.read_text())
    for key, value in (("agreements", []), ("agreements", [3]), ("example", [[1]]), ("top", "x"), ("enough", None)):
        path.write_text(json.dumps({**content, key: value}))
        with pytest.raises(RecordError, match=r"stability\.json"):
            load_stability(path)
    for row in content["agreements"]:
        row["measure"] = "size"
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="agreements"):
        load_stability(path)


@pytest.mark.parametrize(
    "wrong", [{"points": 3}, {"groups": 1}, {"seeds": 0}, {"subsets": 0}, {"rho": 0.0}, {"rho": 2.0}]
)
def test_numbers_out_of_range(model, data, wrong):
    with pytest.raises(UsageError, match=r"must be at least|rho"):
        replace(QUICK, **wrong)


def test_clusters_of_embeddings():
    if importlib.util.find_spec("umap") is None:
        missing("umap-learn is not installed")
    from adabet_onnx.study.clusters import clusters_of

    rng = np.random.default_rng(0)
    centres = np.repeat(100 * rng.standard_normal((3, 8)), 30, axis=0)
    points = {"three": centres + rng.standard_normal((90, 8)), "one": rng.standard_normal((90, 8))}
    layers = {name: (np.linalg.norm(x[:, None] - x[None], axis=2), 5) for name, x in points.items()}
    three, one = clusters_of(layers)
    assert (three.layer, three.clusters, three.noise, three.b1) == ("three", 3, 0, 5)
    assert (one.layer, one.b1) == ("one", 5)
    assert (three, one) == tuple(clusters_of(layers))


def test_embeddings_without_umap(model, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(RuntimeMissingError, match=r"adabet-onnx\[embeddings\]"):
        stability(model, data, preprocessing=Arithmetic(), repeats=replace(QUICK, fisher=False, embeddings=True))


def run(monkeypatch, capfd, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["adabet-onnx", "stability", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    printed = capfd.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


def test_the_command(data, tmp_path, monkeypatch, capfd):
    (tmp_path / "net.onnx").write_bytes(tiny.conv_net().SerializeToString())
    np.savez(tmp_path / "data.npz", **data)
    quick = ["--subset-size", 16, "--subsets", 4, "--samples", 32, "--seeds", 1]
    inputs = [tmp_path / "net.onnx", tmp_path / "data.npz"]
    code, out, err = run(monkeypatch, capfd, *inputs, *quick, "-o", tmp_path / "s.json", "--plot", tmp_path / "s.svg")
    assert (code, err) == (0, "")
    assert "b1_hat batches" in out
    assert load_stability(tmp_path / "s.json").seeds == 1
    assert (tmp_path / "s.svg").stat().st_size > 5000
    for wrong, expected, said in (
        (["--plot", tmp_path / "s.txt"], 2, "must end in"),
        (["--subset-size", 128, "--group-size", 128], 1, "need 256"),
        (["--subset-size", 128], 2, "--group-size must be at least --subset-size, 128, not 32."),
        (["--rho", 2], 2, "rho"),
    ):
        code, out, err = run(monkeypatch, capfd, *inputs, *quick, *wrong)
        assert code == expected, err
        assert said in err
        assert out == ""
