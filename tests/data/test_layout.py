"""The layout of images: NCHW and NHWC, of the data and of the model."""

from __future__ import annotations

import numpy as np
import pytest
from data_models import fed, taking
from PIL import Image

from adabet_onnx.data.preprocess import Arithmetic
from adabet_onnx.errors import DataError


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.float16, np.int32])
def test_channels_last_data_for_a_channels_first_model(photos, dtype):
    result = fed(taking(3, 8, 6), photos.astype(dtype))
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, photos.transpose(0, 3, 1, 2).astype(np.float32))


def test_channels_first_data_for_a_channels_last_model(photos):
    np.testing.assert_array_equal(fed(taking(8, 6, 3), photos.transpose(0, 3, 1, 2)), photos.astype(np.float32))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2)], ids=["NHWC", "NCHW"])
def test_data_laid_out_as_the_model_wants_is_fed_as_it_is(photos, order):
    laid_out = photos.transpose(order)
    np.testing.assert_array_equal(fed(taking(*laid_out.shape[1:]), laid_out), laid_out.astype(np.float32))


def test_images_three_pixels_wide_are_read_as_the_model_takes_them(rng):
    """(N, 3, 4, 3) could be either; since it equals the model's shape, it is used unchanged."""
    photos = rng.integers(0, 256, (5, 3, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fed(taking(3, 4, 3), photos), photos.astype(np.float32))


def test_greyscale_without_a_channel_axis(photos):
    grey = photos[..., 0]
    np.testing.assert_array_equal(fed(taking(1, 8, 6), grey), grey[:, None].astype(np.float32))
    np.testing.assert_array_equal(fed(taking(8, 6, 1), grey), grey[..., None].astype(np.float32))


def test_greyscale_is_repeated_for_a_colour_model(photos):
    grey = photos[..., :1]
    np.testing.assert_array_equal(fed(taking(3, 8, 6), grey), np.repeat(grey, 3, 3).transpose(0, 3, 1, 2))


def test_colour_becomes_luma_for_a_greyscale_model(photos):
    luma = photos.astype(np.float64) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(fed(taking(1, 8, 6), photos)[:, 0], luma, atol=0.51)  # rounded, as Pillow does
    np.testing.assert_allclose(fed(taking(1, 8, 6), photos / 255)[:, 0], luma / 255, atol=1e-6)


def test_alpha_is_dropped_for_a_colour_model(photos):
    with_alpha = np.concatenate([photos, np.full_like(photos[..., :1], 7)], 3)
    np.testing.assert_array_equal(fed(taking(3, 8, 6), with_alpha), photos.transpose(0, 3, 1, 2))


def test_resizing_is_pillows_bilinear(photos):
    result = fed(taking(3, 4, 5), photos)
    expected = [np.asarray(Image.fromarray(image).resize((5, 4), Image.Resampling.BILINEAR)) for image in photos]
    np.testing.assert_array_equal(result, np.stack(expected).transpose(0, 3, 1, 2).astype(np.float32))


def test_floats_are_resized_without_rounding():
    ramp = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 1, 1, 16).repeat(8, 2)
    result = fed(taking(1, 8, 8), ramp, allow_resize=True)
    assert np.ptp(result[0, 0, 0]) > 0.8
    assert len(np.unique(result)) == 8, "eight steps, not rounded to 0 and 1"


def test_flat_samples_are_reshaped_where_their_order_is_given(rng):
    flat = rng.random((5, 12), dtype=np.float32)
    with pytest.raises(DataError, match=r"not reshaped automatically.*layout='N\(.*\):N"):
        fed(taking(2, 6), flat)
    np.testing.assert_array_equal(fed(taking(2, 6), flat, layout="N(CT):NCT"), flat.reshape(5, 2, 6))
    np.testing.assert_array_equal(fed(taking(2, 6), flat, layout="N(TC):NCT"), flat.reshape(5, 6, 2).swapaxes(1, 2))


@pytest.mark.parametrize(
    ("takes", "shape"),
    [((3, 8, 8), (5, 2, 8, 8)), ((3, 8, 8), (5, 192)), ((3, 8, 8), (5, 3, 0, 8)), ((7,), (5, 8)), ((2, 6), (5, 13))],
)
def test_a_shape_that_cannot_be_fed_is_named(takes, shape):
    with pytest.raises(DataError, match=r"shape|takes"):
        fed(taking(*takes), np.zeros(shape, np.float32))


def test_nan_in_the_data_is_refused():
    data = np.zeros((5, 4), np.float32)
    data[3, 1] = np.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        fed(taking(4), data)


def test_numbers_beyond_float32_are_refused_without_a_warning():
    with pytest.raises(DataError, match="NaN or infinite"):
        fed(taking(4), np.full((5, 4), 1e300))
    with pytest.raises(DataError, match="NaN or infinite"):
        fed(taking(4), np.full((5, 4), 255, np.uint8), Arithmetic(scale=1e38))
