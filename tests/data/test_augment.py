"""Views of pictures: flip, crop and colour on small arrays; trainings are the same with stored and computed views."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from command_line import command_of
from models import tiny
from PIL import Image

from adabet_onnx import Choices, DataError, Settings, Trainer, UsageError, make_artifacts, new_head, open_model, select
from adabet_onnx.data.augment import Augmentation
from adabet_onnx.data.dataset import ArrayRows, Dataset
from adabet_onnx.data.feeder import Feeder
from adabet_onnx.data.preprocess import Preprocessing, arithmetic_for
from adabet_onnx.runtime import Runtime
from adabet_onnx.training.features import Computed, Place, open_features
from adabet_onnx.training.history import LAST
from adabet_onnx.training.manifest import load_manifest
from adabet_onnx.training.training_data import open_training_data
from adabet_onnx.training.views import Views

pytestmark = pytest.mark.usefixtures("checked_here")
ALL = ("flip", "crop", "colour")


def pictures(rng, count=12, size=8, channels=3):
    return rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def views(images, *kinds, number=1, seed=0, samples=None):
    samples = np.arange(len(images)) if samples is None else samples
    return Augmentation(kinds, seed).views(images, samples, np.full(len(images), number))


def artifacts(folder, layers="head", model=None, **choices):
    opened = open_model(tiny.conv_net() if model is None else model)
    return make_artifacts(opened, select(opened, strategy=layers), folder, check=False, choices=Choices(**choices))


class Unit(Trainer):
    """Feeds pixels as 0 to 1."""

    def fit(self, data, **how):
        return super().fit(data, preprocessing=Preprocessing("unit"), **how)


# What changes.


def test_flip_turns_odd_views_left_to_right():
    image = np.arange(2 * 3 * 1, dtype=np.uint8).reshape(1, 2, 3, 1)
    assert views(image, "flip")[0, ..., 0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert np.array_equal(views(image, "flip", number=2), image)


def test_the_first_view_is_the_picture_itself(rng):
    images = pictures(rng)
    assert np.array_equal(views(images, *ALL, number=0), images)


def test_a_crop_is_a_part_of_the_picture_at_its_size():
    """A picture whose numbers encode positions: slopes and ends reveal the crop."""
    size, count = 64, 300
    ramp = np.broadcast_to(np.arange(size) * 4, (size, size)).astype(np.uint8)
    found = views(np.repeat(np.stack([ramp, ramp.T], -1)[None], count, 0)[..., :1], "crop")[..., 0].astype(float)
    rows = views(np.repeat(ramp.T[None, ..., None], count, 0), "crop")[..., 0].astype(float)
    assert found.shape == (count, size, size)
    widths = (found[:, 0, -8] - found[:, 0, 8]) / ((size - 16) * 4)  # of the whole
    heights = (rows[:, -8, 0] - rows[:, 8, 0]) / ((size - 16) * 4)
    areas, sides = widths * heights, widths / heights
    assert areas.min() > 0.47
    assert areas.max() < 1.03
    assert areas.min() < 0.56
    assert areas.max() > 0.9
    assert 0.78 < sides.min() < 0.9
    assert 1.1 < sides.max() < 1.28
    left, right = found[:, 0, 0] / 4, found[:, 0, -1] / 4
    assert left.min() < 1
    assert right.max() > size - 2
    assert np.abs(left.mean() - (size - 1 - right.mean())) < 2  # at any position


def test_colours_by_hand():
    """Grey stays grey, all pixels of a plain picture get the same, and brightness is within its range."""
    plain = np.full((400, 2, 2, 3), 100, np.uint8)
    found = views(plain, "colour")
    assert (found == found[:, :1, :1, :1]).all()
    assert found.min() in (70, 71)
    assert found.max() in (129, 130)
    assert np.abs(found.mean() - 100) < 2
    grey = np.zeros((400, 1, 2, 1), np.uint8)
    grey[..., 0] = (80, 120)  # mean 100: distances from it grow and shrink by up to 30 %, on top of brightness
    low, high = views(grey, "colour")[:, 0, :, 0].astype(float).T
    contrast = (high - low) / (high + low) / 0.2
    assert 0.68 < contrast.min() < 0.74
    assert 1.26 < contrast.max() < 1.32


def test_colours_equal_pillow():
    """Each operation alone, against Pillow's; its blends round intermediate results, hence within 2 of 255."""
    from PIL import ImageEnhance

    from adabet_onnx.data import augment

    image = np.random.default_rng(0).integers(60, 180, (16, 16, 3), dtype=np.uint8)
    for place, enhance in enumerate((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)):
        for factor in (0.7, 1.0, 1.3):
            factors = np.ones(3)
            factors[place] = factor
            expected = np.asarray(enhance(Image.fromarray(image)).enhance(factor), np.int64)
            assert np.abs(augment._coloured(image, factors) - expected).max() <= 2


def test_what_is_not_a_colour_stays():
    image = np.full((5, 4, 4, 4), 90, np.uint8)
    image[..., 3] = 255
    found = views(image, "colour")
    assert (found[..., 3] == 255).all()
    assert (found[..., :3] != 90).any()


def test_a_view_depends_on_seed_sample_and_number_alone(rng):
    images = pictures(rng, 6)
    together = views(images, *ALL, number=3)
    for i in (0, 4):
        assert np.array_equal(views(images[i : i + 1], *ALL, number=3, samples=np.array([i])), together[i : i + 1])
    assert not np.array_equal(views(images, *ALL, number=3, seed=1), together)
    assert not np.array_equal(views(images, *ALL, number=5), together)
    same = np.repeat(images[:1], 6, 0)
    assert len({found.tobytes() for found in views(same, *ALL, number=3)}) == 6  # by sample


def test_pixels_are_changed_before_the_arithmetic(rng):
    """Channels first or last, in either colour order: the input is the arithmetic on the changed picture."""
    model = open_model(tiny.conv_net())
    images = pictures(rng, 4)
    how = Augmentation(ALL, 7)
    for array in (images, np.moveaxis(images, 3, 1)):
        dataset = Dataset(ArrayRows({"": np.ascontiguousarray(array)}))
        used = arithmetic_for(model, True, Preprocessing(scale=1 / 255, mean=(0.1, 0.2, 0.3), bgr=True))
        feeder, rows, numbers = Feeder(model, used, how), np.array([2, 0, 2]), np.array([1, 0, 3])
        (fed_with,) = feeder.feeds(dataset, rows, numbers).values()
        pixels = how.views(images[rows], rows, numbers)[..., ::-1].astype(np.float32)
        expected = np.moveaxis(pixels / np.float32(255) - np.array([0.1, 0.2, 0.3], np.float32), 3, 1)
        np.testing.assert_allclose(fed_with, expected, atol=1e-6)
        (plain,) = feeder.feeds(dataset, rows).values()
        assert np.array_equal(plain[1], fed_with[1])


# Which views there are.


def test_views_in_the_order_they_are_kept():
    made = Views(4, np.array([0, 2, 3]), 3, Augmentation(("crop",), 0))
    assert made.total == 10
    samples, numbers = made.rows(0, 100)
    assert samples.tolist() == [0, 0, 0, 1, 2, 2, 2, 3, 3, 3]
    assert numbers.tolist() == [0, 1, 2, 0, 0, 1, 2, 0, 1, 2]
    assert made.places(samples, numbers).tolist() == list(range(10))
    assert made.places(np.array([3, 1])).tolist() == [7, 3]
    assert [part.tolist() for part in made.of(np.array([2, 1]))] == [[2, 2, 2, 1], [0, 1, 2, 0]]
    assert [part.tolist() for part in made.rows(2, 5)] == [[0, 1, 2], [2, 0, 0]]
    assert [part.tolist() for part in Views(3, np.arange(3)).rows(0, 9)] == [[0, 1, 2], [0, 0, 0]]


def test_epochs_go_through_all_views_of_each_sample():
    made = Views(50, np.arange(50), 4, Augmentation(("crop",), 3))
    epochs = np.stack([made.of_epoch(epoch) for epoch in range(1, 5)])
    assert (np.sort(epochs, 0) == np.arange(4)[:, None]).all()
    assert set(epochs[0]) == {0, 1, 2, 3}
    assert not np.array_equal(epochs[0], Views(50, np.arange(50), 4, Augmentation(("crop",), 4)).of_epoch(1))
    assert Views(5, np.arange(5)).of_epoch(1) is None


@pytest.mark.parametrize(
    ("given", "views"),
    [
        ({}, 1),
        ({"augment": ("flip",)}, 2),
        ({"augment": ("colour", "flip")}, 4),
        ({"augment": ["crop"], "views": 9}, 9),
        ({"views": 1}, 1),
    ],
)
def test_how_many_views(given, views):
    settings = Settings(**given)
    assert settings.variants == views
    assert settings.settled().views == views


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"views": 4}, "choose the changes with `augment`"),
        ({"augment": ("crop",), "views": 1}, "at least 2 `views`"),
        ({"augment": ("flip",), "views": 3}, "flip alone makes 2 `views`, not 3"),
        ({"augment": ("turn",)}, "unknown augmentation 'turn': choose from flip, crop, colour"),
        ({"augment": "flip"}, "`augment` must be a list of texts"),
        ({"augment": ("flip",), "views": 2.5}, "`views` must be a whole number"),
    ],
)
def test_wrong_settings(given, message):
    with pytest.raises(UsageError, match=message):
        Settings(**given)


# Trainings.


def trained(folder, data, layers="head", **settings):
    manifest = artifacts(folder, layers, optimizer="sgd")
    trainer = Unit(folder)
    rows = trainer.fit(data, settings=Settings(epochs=3, batch_size=5, validation=0.25, **settings))
    values, _ = manifest.read_checkpoint(folder / LAST, "")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows], values, trainer.features


@pytest.mark.parametrize("features", ["memory", "disk", "auto"])
def test_kept_or_computed_a_training_is_the_same_to_the_last_bit(features, tmp_path, rng):
    data = pictures(rng, 23), rng.integers(0, 4, 23)
    how = {"augment": ALL, "views": 3, "seed": 5}
    rows, values, said = trained(tmp_path / "kept", data, features=features, **how)
    others, computed, nothing = trained(tmp_path / "off", data, features="off", **how)
    assert rows == others
    assert all(np.array_equal(values[name], computed[name]) for name in values)
    assert "57 views of 23 samples, each of" in said  # 17 x 3 + 6 for validation
    assert nothing is None
    plain, _, _ = trained(tmp_path / "plain", data, seed=5)
    assert plain[0] == rows[0]  # before training; and validation is of the pictures themselves
    assert plain[1]["train_loss"] != rows[1]["train_loss"]


def test_trials_of_rates_are_the_same_whether_views_are_kept_or_computed(tmp_path, rng):
    """Trials train on some of the samples held out for validation, which have only one view."""
    labels = np.arange(160) % 4
    data = pictures(rng, 160) // 2 + (labels * 40).astype(np.uint8)[:, None, None, None], labels
    found = {}
    for features in ("memory", "off"):
        model = new_head(open_model(tiny.conv_net()), 4, seed=1)
        make_artifacts(model, select(model, strategy="head"), tmp_path / features, check=False)
        trainer = Unit(tmp_path / features)
        how = Settings(epochs=4, batch_size=8, augment=ALL, views=3, validation=0.25, features=features)
        trainer.fit(data, settings=how)
        found[features] = trainer.rates.trials
    assert len(found["off"]) > 3
    assert found["memory"] == found["off"]


def test_what_is_fed_is_what_views_say(tmp_path, rng):
    """Features of every view are those of the frozen graph on the handmade view, and validation has one view."""
    x = pictures(rng, 11)
    manifest = artifacts(tmp_path / "a")
    model, settings = open_model(tiny.conv_net()), Settings(augment=ALL, views=3, seed=2, validation=0.3).settled()
    used = open_training_data(
        manifest, model, (x, np.arange(11) % 4), settings, preprocessing=Preprocessing("unit"), resumed=None
    )
    session = manifest.session(manifest.initial)
    computed = Computed(session, used.feeder, used.data, 4, used.views, Runtime())
    source = open_features(computed, manifest, used, settings, Place(tmp_path / "f", True), None)
    assert source.kept is not None
    rows, numbers = source.views.of(np.arange(11))
    assert len(rows) == 8 * 3 + 3
    assert set(rows[numbers > 0]) == set(used.training)
    kept = source.of(rows, numbers)
    made = Augmentation(ALL, 2).views(x[rows], rows, numbers)
    expected = session.features(
        Feeder(model, used.feeder.preprocessing).feeds(Dataset(ArrayRows({"": made})), np.arange(len(rows)))
    )
    for name, array in expected.items():
        np.testing.assert_allclose(kept[name], array, rtol=1e-5, atol=1e-6)
    held = source.of(used.held_out)
    plain = session.features(used.feeder.feeds(used.data, used.held_out))
    for name, array in plain.items():
        np.testing.assert_allclose(held[name], array, rtol=1e-5, atol=1e-6)


def test_a_file_of_other_views_is_not_taken(tmp_path, rng):
    data = pictures(rng, 12), rng.integers(0, 4, 12)
    artifacts(tmp_path / "a")
    how = {"epochs": 1, "features": "disk", "keep_features": True}
    said = []
    for more in (
        {"augment": ("crop",)},
        {"augment": ("crop",)},
        {"augment": ("crop",), "seed": 1},
        {"augment": ("crop", "flip"), "seed": 1},
        {"augment": ("crop", "flip"), "views": 5, "seed": 1},
        {},
    ):
        trainer = Unit(tmp_path / "a", features=tmp_path / "f")
        trainer.fit(data, settings=Settings(**how, **more))
        said.append("from an earlier training" in trainer.features)
    assert said == [False, True, False, False, False, False]


def test_memory_counts_all_views(tmp_path, rng):
    data = pictures(rng, 12), rng.integers(0, 4, 12)
    artifacts(tmp_path / "a")
    manifest = load_manifest(tmp_path / "a")
    room = 4096 + manifest.stored_bytes * 24  # beside the head of a file
    for views, word in ((2, "in memory"), (8, "every step computes them")):
        trainer = Unit(tmp_path / "a")
        how = Settings(epochs=1, augment=("crop",), views=views, features="memory", features_memory=room)
        trainer.fit(data, settings=how)
        assert word in trainer.features


@pytest.mark.parametrize("layers", ["head", "all"])
def test_an_interrupted_training_goes_on_with_the_same_views(layers, tmp_path, rng):
    data = pictures(rng, 14), rng.integers(0, 4, 14)
    how = Settings(epochs=4, batch_size=4, augment=("colour", "crop"), views=3)
    for name in ("whole", "parts"):
        artifacts(tmp_path / name, layers)
    whole = Unit(tmp_path / "whole").fit(data, settings=how)

    def stop(what, done, total):
        if what.startswith("epoch 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Unit(tmp_path / "parts").fit(data, settings=how, progress=stop)
    with pytest.raises(
        UsageError, match=r"to be resumed has `views` 3, not 5. Leave it out, or start again without `resume`\.$"
    ):
        Unit(tmp_path / "parts").fit(
            data, settings=Settings(epochs=4, batch_size=4, augment=("colour", "crop"), views=5), resume=True
        )
    with pytest.raises(UsageError, match=r"has `augment` crop,colour, not flip"):
        Unit(tmp_path / "parts").fit(data, settings=Settings(epochs=4, batch_size=4, augment=("flip",)), resume=True)
    rows = Unit(tmp_path / "parts").fit(data, resume=True)
    keys = ("epoch", "train_loss", "eval_loss", "eval_accuracy")
    assert [[row[key] for key in keys] for row in rows] == [[row[key] for key in keys] for row in whole]


def test_onnxruntime_training_has_views_too(training, tmp_path, rng):
    data = pictures(rng, 12), rng.integers(0, 4, 12)
    opened = open_model(tiny.conv_net())
    make_artifacts(opened, select(opened, strategy="head"), tmp_path / "a", backend="ort", check=False)
    rows = Unit(tmp_path / "a").fit(data, settings=Settings(epochs=1, augment=ALL))
    make_artifacts(opened, select(opened, strategy="head"), tmp_path / "b", backend="ort", check=False)
    plain = Unit(tmp_path / "b").fit(data, settings=Settings(epochs=1))
    assert rows[0] | {"seconds": 0} == plain[0] | {"seconds": 0}
    assert rows[1]["train_loss"] != plain[1]["train_loss"]


# What is refused.


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_what_is_no_picture_of_uint8_is_refused(dtype, tmp_path, rng):
    artifacts(tmp_path / "a")
    x = rng.integers(0, 255, (8, 3, 8, 8)).astype(dtype)
    with pytest.raises(
        DataError, match=rf"`augment` works on images, which are uint8 .* samples are {np.dtype(dtype)}"
    ):
        Unit(tmp_path / "a").fit((x, np.arange(8) % 4), settings=Settings(augment=("flip",)))
    artifacts(tmp_path / "b", model=tiny.mlp())
    with pytest.raises(DataError, match="leave `augment` out"):
        Unit(tmp_path / "b").fit(
            (rng.integers(0, 9, (8, 10), dtype=np.uint8), np.arange(8) % 3), settings=Settings(augment=("flip",))
        )


def test_labels_of_pixels_are_not_left_behind(tmp_path, rng):
    from portable_trainings import dense_net

    artifacts(tmp_path / "a", "all", model=dense_net(True))
    data = pictures(rng, 8), rng.integers(0, 4, (8, 8, 8))
    with pytest.raises(DataError, match="a label for each pixel, which flip and crop would no longer match"):
        Unit(tmp_path / "a").fit(data, settings=Settings(augment=ALL))
    rows = Unit(tmp_path / "a").fit(data, settings=Settings(epochs=1, augment=("colour",)))
    assert len(rows) == 2


# The command line.


@pytest.mark.slow
def test_the_options(tmp_path, monkeypatch, capfd, rng):
    command = command_of(monkeypatch, capfd)
    monkeypatch.chdir(tmp_path)
    onnx.save(tiny.conv_net(), "m.onnx")
    y = np.arange(40) % 4
    np.savez("d.npz", x_train=pictures(rng, 40), y_train=y, x_test=pictures(rng, 8), y_test=y[:8])
    for label in range(4):
        (tmp_path / "photos" / f"c{label}").mkdir(parents=True)
        for i in range(6):
            Image.fromarray(pictures(rng, 1, 20)[0]).save(tmp_path / "photos" / f"c{label}" / f"{i}.png")
    run = ["run", "m.onnx", "d.npz", "-o", "out", "--epochs", 2, "--strategy", "head", "--no-check"]
    run += ["--preset", "unit"]
    found = command(*run, "--augment", "flip,colour", "--views", 3, "--no-measure", "--save-config", "c.toml")
    assert "112 views of 40 samples, each of" in found.out  # 36 x 3 + 4
    assert "112 views of 40 samples" in found.out
    figures = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (figures["views"], figures["kept_views"]) == (3, 112)
    command("report", "out", "-o", "r.html")
    assert "112 views of 40 samples" in (tmp_path / "r.html").read_text()
    assert "augment = [" in (tmp_path / "c.toml").read_text()
    command("run", "--config", "c.toml", "-o", "again")
    for data in ("d.npz", "photos"):
        assert "views of" in command("train", "out/artifacts", data, "--augment", "crop", "--epochs", 1).out
    refused = command("train", "out/artifacts", "d.npz", "--views", 3, code=2).err
    assert "choose the changes with --augment, or leave --views out" in refused
    refused = command("run", "m.onnx", "d.npz", "-o", "other", "--augment", "turn", code=2).err
    assert "'turn' is not one of flip, crop, colour" in refused
    np.savez("f.npz", x=np.zeros((8, 3, 8, 8), np.float32), y=np.arange(8) % 4)
    refused = command("run", "m.onnx", "f.npz", "-o", "other", "--augment", "flip", "--preset", "none", code=1).err
    assert "--augment works on images" in refused
    assert not (tmp_path / "other").exists()
    once, more = (
        json.loads(command("cost", "m.onnx", "out/selection.json", "--views", number, "--json").out)["selection"]
        for number in (1, 4)
    )
    assert more["training"]["stored_bytes"] == 4 * once["training"]["stored_bytes"] > 0
    assert more["training"]["multiply_adds"] > once["training"]["multiply_adds"]
