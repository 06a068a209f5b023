"""The decision about axes, layout notation, and what a graph reveals about its inputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import inputs, tiny
from onnx import TensorProto, helper

from adabet_onnx import DataError, UsageError, open_model
from adabet_onnx.data.axes import AmbiguousAxesError, decide_axes
from adabet_onnx.data.data import Data
from adabet_onnx.data.feeder import Feeder
from adabet_onnx.data.pictures import ImageLayout, picture_input
from adabet_onnx.data.preprocess import NONE, Arithmetic
from adabet_onnx.data.reading import AxisLayout, Reading, parse_layout
from adabet_onnx.data.source import open_data
from adabet_onnx.model.input_axes import channel_axis
from adabet_onnx.model.open import Model
from adabet_onnx.trainability.decisions import decisions


def numbered(*shape: int) -> np.ndarray:
    """An array of different numbers."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def fed(model: Model, data: object, layout: object = None) -> np.ndarray:
    """The array fed to the model's only input."""
    train = open_data(Data(data, layout=layout), model).train
    (array,) = Feeder(model, NONE).feeds(train, np.arange(len(train))).values()
    return array


# --- the decision about axes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("have", "want", "layout", "channels", "axes", "letters"),
    [
        # the same, or axes of size 1
        ((8,), (8,), None, None, (0,), None),
        ((), (1,), None, None, (), None),
        ((1,), (), None, None, (), None),
        ((28, 28), (1, 28, 28), None, None, (0, 1), None),
        ((1, 28, 28), (28, 28, 1), None, None, (0, 1), None),
        ((6, 128, 1), (6, 1, 128), None, None, (0, 1), None),
        ((6, 6), (6, 6), None, 0, (0, 1), None),
        # the only order that fits
        ((128, 6), (6, 128), None, 0, (1, 0), "NTC"),
        ((6, 128), (128, 6), None, 1, (1, 0), "NCT"),
        ((6, 128), (128, 6), None, None, (1, 0), "NCT"),
        ((40, 50, 13), (13, 40, 50), None, 0, (2, 0, 1), "NHWC"),
        ((13, 40, 50), (40, 50, 13), None, 2, (1, 2, 0), "NCHW"),
        ((101, 64), (1, 64, 101), None, 0, (1, 0), "NWH"),
        ((101, 64, 1), (1, 64, 101), None, 0, (1, 0), "NWHC"),
        ((8, 16, 20, 3), (3, 8, 16, 20), None, 0, (3, 0, 1, 2), "NDHWC"),
        ((3, 8, 16, 20), (8, 3, 16, 20), None, 1, (1, 0, 2, 3), "NCDHW"),
        # several orders, one of which moves one axis
        ((28, 28, 3), (3, 28, 28), None, 0, (2, 0, 1), "NHWC"),
        ((3, 28, 28), (28, 28, 3), None, None, (1, 2, 0), "NCHW"),
        ((8, 16, 16, 3), (3, 8, 16, 16), None, None, (3, 0, 1, 2), "NDHWC"),
        ((16, 16, 16, 3), (16, 3, 16, 16), None, None, (0, 3, 1, 2), "NDHWC"),
        # a layout
        ((6, 6), (6, 6), "NTC", 0, (1, 0), "NTC"),
        ((6, 6), (6, 6), "NCT", 0, (0, 1), "NCT"),
        ((6, 6), (6, 6), "NTC:NCT", None, (1, 0), "NTC:NCT"),
        ((6, 6), (6, 6), "NTC:NTC", None, (0, 1), "NTC:NTC"),
        ((128, 6), (6, 128), "NTC", None, (1, 0), "NTC"),
        ((8, 3, 3), (3, 8, 3), "NHWC", 0, (2, 0, 1), "NHWC"),
        ((8, 3, 3), (3, 8, 3), "NHCW", 0, (1, 0, 2), "NHCW"),
        ((8, 6, 3), (3, 6, 8), "NWHC", 0, (2, 1, 0), "NWHC"),
        ((16, 8, 16, 3), (3, 16, 16, 8), "NHTWC:NCHWT", 0, (3, 0, 2, 1), "NHTWC:NCHWT"),
        ((8, 16, 16, 3), (3, 8, 16, 16), "NTHWC", 0, (3, 0, 1, 2), "NTHWC"),
        ((12, 5), (12, 5), "NFT", None, (0, 1), "NFT"),
        ((12, 5), (5, 12), "NFT", None, (1, 0), "NFT"),
        ((784,), (1, 28, 28), "N(HW):NCHW", None, (0, 1), "N(HW):NCHW"),
        ((12,), (2, 6), "N(TC):NCT", None, (1, 0), "N(TC):NCT"),
        ((2, 6), (12,), "NCT:N(TC)", None, (1, 0), "NCT:N(TC)"),
        ((10, 12), (2, 10, 6), "NT(CF):NCTF", None, (1, 0, 2), "NT(CF):NCTF"),
    ],
)
def test_axes_that_are_accepted(have, want, layout, channels, axes, letters):
    found = decide_axes(have, want, None if layout is None else parse_layout(layout)[1], channels)
    assert found is not None
    assert (found.order, found.layout) == (axes, letters)
    array = numbered(3, *have)
    expected = array.reshape(3, *(extent for extent in found.split if extent != 1))
    np.testing.assert_array_equal(
        found.apply(array), np.transpose(expected, (0, *(a + 1 for a in axes))).reshape(3, *want)
    )


@pytest.mark.parametrize(
    ("have", "want", "layout", "channels"),
    [
        ((12,), (2, 6), None, None),  # never reshaped
        ((28, 28), (784,), None, None),
        ((3, 4), (6, 2), None, None),
        ((4, 6), (2, 12), None, 0),
        ((128, 7), (6, 128), None, None),
        ((6,), (6, 2), None, None),
        ((6, 128), (6, 128), "NTC", 0),  # the model reads 6 channels, not 128
        ((480, 640, 3), (3, 640, 480), "NHWC", 0),  # rows are not columns
        ((128, 6), (6, 128), "NTC:NTC", None),
        ((128, 6), (6, 128), "NTC:NCH", None),
    ],
)
def test_axes_that_fit_in_no_order(have, want, layout, channels):
    assert decide_axes(have, want, None if layout is None else parse_layout(layout)[1], channels) is None


@pytest.mark.parametrize(
    ("have", "want", "layout"),
    [
        ((8, 3, 3), (3, 8, 3), None),  # NHWC or NHCW
        ((128, 6, 128), (6, 128, 128), None),  # either 128 may come first
        ((4, 4, 5, 5), (5, 5, 4, 4), None),  # two axes are moved
        ((6, 6), (6, 6), "NTC"),  # nothing tells what the model takes
        ((3, 3, 3), (3, 3, 3), "NHWC"),
    ],
)
def test_axes_that_fit_in_several_orders(have, want, layout):
    with pytest.raises(AmbiguousAxesError):
        decide_axes(have, want, None if layout is None else parse_layout(layout)[1])


def test_every_order_of_different_extents_is_found(rng):
    """For any rank: shuffled axes are restored, also with axes of size 1 among them."""
    for rank in range(1, 6):
        for _ in range(6):
            want = tuple(int(extent) for extent in rng.choice(np.arange(2, 30), rank, replace=False))
            array = rng.random((2, *want), dtype=np.float32)
            order = rng.permutation(rank)
            stored = array.transpose(0, *(order + 1))
            ones = np.expand_dims(stored, int(rng.integers(1, rank + 2)))
            for data in (stored, ones):
                found = decide_axes(data.shape[1:], want)
                assert found is not None
                np.testing.assert_array_equal(found.apply(data), array)
                if found.layout is not None:  # the reported order can be given, with the same result
                    again = decide_axes(data.shape[1:], want, parse_layout(found.layout)[1])
                    assert again is not None
                    np.testing.assert_array_equal(again.apply(data), array)


@pytest.mark.parametrize(
    "text", ["", "TC", "N T C", "TNC", "NTT", "NNT", "N(T)C", "N(TC", "NTC:", "NTC:TC", "N(TT)", "ntc1"]
)
def test_what_is_no_layout(text):
    with pytest.raises(UsageError, match="layout"):
        parse_layout(text)


def test_layouts():
    assert parse_layout("ntc") == ("", AxisLayout(("T", "C")))
    assert parse_layout("a:0=NT(HW):NHWT") == ("a:0", AxisLayout(("T", "HW"), ("H", "W", "T")))
    assert str(parse_layout("N(HW):NCHW")[1]) == "N(HW):NCHW"
    by_name = Reading({"a": "NTC", "b": "NC"})
    assert by_name == Reading(["a=NTC", "b=NC"])
    assert by_name.layout_of("b", ["a", "b"], "m") == AxisLayout(("C",))
    assert Reading("a=NTC").layout_of("b", ["a", "b"], "m") is None
    with pytest.raises(UsageError, match="input 'c', but m has a, b"):
        Reading("c=NTC").layout_of("a", ["a", "b"], "m")
    with pytest.raises(UsageError, match="name the input that a layout is for, such as a=NTC"):
        Reading("NTC").layout_of("a", ["a", "b"], "m")
    with pytest.raises(UsageError, match="two layouts"):
        Reading(["a=NTC", "a=NCT"])


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("NTC", r"names 2 axes besides N, but the data has samples of shape \(12,\)"),
        ("N(TC)", r"give the model's layout after a colon, such as N\(TC\):NTC"),
        ("N(TC):NC", r"the model takes samples of shape \(2, 6\)"),
        ("N(ABC):NCT", r"cannot be split"),
        ("N(TX):NTC", r"does not convert one to the other"),
    ],
)
def test_a_layout_that_does_not_fit(layout, words):
    with pytest.raises((UsageError, DataError), match=words):
        fed(open_model(inputs.flat(2, 6)), numbered(5, 12), layout)


# --- what a graph reveals about its inputs-----------------------------------------------------------------------------


def reading(*nodes: onnx.NodeProto, shape: tuple[int, ...], **values: np.ndarray) -> Model:
    """A model of these nodes on input ``x``, whose value ``y`` is averaged over all axes except the batch."""
    rank = len(shape)
    end = [
        helper.make_node("Flatten", ["y"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["m"], axes=[1], keepdims=1),
        helper.make_node("Gemm", ["m", "fc.weight"], ["logits"], transB=1),
    ]
    assert rank
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])]
    return open_model(tiny.assemble([*nodes, *end], {**values, "fc.weight": np.ones((2, 1), np.float32)}, given, made))


def test_the_axis_of_channels_that_readers_tell():
    assert channel_axis(open_model(inputs.convolution(6, 9)).graph, "x") == 1
    assert channel_axis(open_model(inputs.convolution(6, 9, last=True)).graph, "x") == 2
    assert channel_axis(open_model(inputs.convolution(3, 6, 8, last=True)).graph, "x") == 3
    assert channel_axis(open_model(inputs.tokens(7, 5)).graph, "x") == 2
    assert channel_axis(open_model(tiny.recurrent()).graph, "input") == 2
    scaled = reading(
        helper.make_node("Sub", ["x", "mean"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "conv.weight"], ["y"]),
        shape=(4, 9),
        mean=np.ones((1, 4, 1), np.float32),
        **{"conv.weight": np.ones((2, 4, 1), np.float32)},
    )
    assert channel_axis(scaled.graph, "x") == 1


def test_inputs_of_which_nothing_tells_the_axis_of_channels():
    assert channel_axis(open_model(inputs.flat(6, 9)).graph, "x") is None
    assert channel_axis(open_model(inputs.flat(6, 9)).graph, "y") is None, "no input"
    both = reading(
        helper.make_node("Conv", ["x", "conv.weight"], ["a"]),
        helper.make_node("MatMul", ["x", "in.weight"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
        shape=(4, 4),
        **{"conv.weight": np.ones((4, 4, 1), np.float32), "in.weight": np.ones((4, 4), np.float32)},
    )
    assert channel_axis(both.graph, "x") is None, "readers disagree"


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (inputs.flat(3, 8, 6), ImageLayout((8, 6), 3, True)),
        (inputs.flat(8, 6, 3), ImageLayout((8, 6), 3, False)),
        (inputs.flat(1, 8, 6, kind="uint8"), ImageLayout((8, 6), 1, True)),
        (inputs.flat(8, 6, 4, kind="int8"), ImageLayout((8, 6), 4, False)),
        (inputs.flat(3, 8, 4), ImageLayout((8, 4), 3, True)),
        (inputs.convolution(4, 3, 8, last=True), ImageLayout((3, 8), 4, False)),
        (inputs.flat(13, 8, 6), None),
        (inputs.flat(8, 6), None),
        (inputs.flat(3, 4, 8, 6), None),
        (inputs.flat(3, 8, 6, kind="bool"), None),
    ],
)
def test_inputs_that_take_pictures(proto, expected):
    model = open_model(proto)
    assert picture_input(model, model.inputs[0]) == expected


def test_decisions_about_inputs_are_shown():
    def told(proto: onnx.ModelProto) -> str:
        return next(str(d) for d in decisions(open_model(proto)) if d.about.startswith("input"))

    assert told(inputs.convolution(3, 8, 6)) == (
        "input x: images, NCHW, 3 channels of 8 x 6 "
        "(its shape is that of an image; the next operators use axis 1 as channels)"
    )
    assert told(inputs.tokens(7, 5)).startswith("input x: channels on axis 2 (")
    assert told(inputs.flat(6, 9)) == "input x: channels unknown (no operator shows its layout)"
    assert not any(d.about.startswith("input") for d in decisions(open_model(tiny.mlp())))


# --- the resulting inputs --------------------------------------------------------------------------------------------


def test_square_data_is_fed_as_it_is_unless_a_layout_says_otherwise(rng):
    data = rng.random((5, 6, 6), dtype=np.float32)
    first, last = open_model(inputs.convolution(6, 6)), open_model(inputs.tokens(6, 6))
    for model in (first, last):
        np.testing.assert_array_equal(fed(model, data), data)
    np.testing.assert_array_equal(fed(first, data, "NTC"), data.swapaxes(1, 2))
    np.testing.assert_array_equal(fed(first, data, "NCT"), data)
    np.testing.assert_array_equal(fed(last, data, "NTC"), data)
    np.testing.assert_array_equal(fed(last, data, "NCT"), data.swapaxes(1, 2))
    unknown = open_model(inputs.flat(6, 6))
    with pytest.raises(DataError, match=r"layout NTC fits in several ways: .*`Data\(\.\.\., layout='NTC:N\w+'\)`"):
        fed(unknown, data, "NTC")
    np.testing.assert_array_equal(fed(unknown, data, "NTC:NCT"), data.swapaxes(1, 2))


def test_what_several_orders_fit_is_asked_about():
    model = open_model(inputs.flat(5, 7, 7))
    with pytest.raises(
        DataError, match=r"shape \(7, 5, 7\), input 'x' .* takes \(5, 7, 7\).*several ways.*layout='NHWC'"
    ):
        fed(model, numbered(3, 7, 5, 7))
    np.testing.assert_array_equal(fed(model, numbered(3, 7, 5, 7), "NHCW"), numbered(3, 7, 5, 7).swapaxes(1, 2))


def test_flat_samples_are_taken_apart_where_a_layout_says_how():
    grey, colour = open_model(inputs.flat(1, 8, 6)), open_model(inputs.flat(3, 8, 6))
    with pytest.raises(DataError, match=r"not reshaped automatically.*layout='N\(HW\)'\)`; the last letter"):
        fed(grey, numbered(5, 48))
    with pytest.raises(DataError, match=r"layout='N\(HWC\)'\)` or `Data\(\.\.\., layout='N\(CHW\)'\)`"):
        fed(colour, numbered(5, 144))
    flat = numbered(5, 144)
    np.testing.assert_array_equal(fed(grey, numbered(5, 48), "N(HW)"), numbered(5, 1, 8, 6))
    np.testing.assert_array_equal(fed(colour, flat, "N(CHW)"), flat.reshape(5, 3, 8, 6))
    np.testing.assert_array_equal(fed(colour, flat, "N(HWC)"), flat.reshape(5, 8, 6, 3).transpose(0, 3, 1, 2))


def test_samples_are_flattened_where_a_layout_says_how():
    model = open_model(inputs.flat(48))
    with pytest.raises(DataError, match=r"not reshaped automatically.*layout='NTC:N\(TC\)'"):
        fed(model, numbered(5, 8, 6))
    np.testing.assert_array_equal(fed(model, numbered(5, 8, 6), "NHW:N(HW)"), numbered(5, 48))
    turned = numbered(5, 8, 6).swapaxes(1, 2).reshape(5, 48)
    np.testing.assert_array_equal(fed(model, numbered(5, 8, 6), "NHW:N(WH)"), turned)


def test_inputs_have_layouts_of_their_own():
    model = open_model(inputs.named(audio=(6, 20), table=(5,), frames=(3, 8, 9, 9)))
    data = {"audio": numbered(4, 20, 6), "table": numbered(4, 5), "frames": numbered(4, 8, 9, 9, 3)}
    expected = {"audio": data["audio"].swapaxes(1, 2), "table": data["table"]}
    expected["frames"] = data["frames"].transpose(0, 4, 1, 2, 3)
    for layout in (None, {"audio": "NTC"}, ["audio=NTC", "frames=NTHWC"]):
        train = open_data(Data(data, layout=layout), model).train
        feeder = Feeder(model, NONE)
        found = feeder.feeds(train, np.arange(4))
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
    with pytest.raises(UsageError, match="name the input that a layout is for"):
        feeder.describe(open_data(Data(data, layout="NTC"), model).train)
    assert feeder.describe(open_data(data, model).train) == (
        "4 samples: audio of 20 x 6 -> 6 x 20: axes moved (layout NTC); table of 5; "
        "frames of 8 x 9 x 9 x 3 -> 3 x 8 x 9 x 9: axes moved (layout NDHWC)"
    )


def test_a_number_per_channel_is_for_the_axis_that_the_model_reads_as_channels():
    mean = (1.0, 2.0, 3.0)
    data = np.ones((4, 9, 3), np.float32)
    for proto in (inputs.convolution(3, 9), inputs.tokens(9, 3)):
        model = open_model(proto)
        train = open_data(data, model).train
        (array,) = Feeder(model, Arithmetic(mean=mean)).feeds(train, np.arange(4)).values()
        expected = data - np.array(mean, np.float32)
        np.testing.assert_array_equal(array, expected if model.inputs[0].shape[2] == 3 else expected.swapaxes(1, 2))
