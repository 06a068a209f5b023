"""Read device.json into dataclasses, checking that every entry has the type and range that the format defines.

docs/schemas/device.schema.json defines the same for other languages. Consistency between entries is checked in
`consistent`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..records import Entries
from ..vocabulary import DEVICE_PROFILES, LOSSES
from .parts import (
    KINDS,
    BoundaryTensor,
    ChannelPart,
    Device,
    EntryNames,
    Labels,
    PackageEntry,
    PackageFile,
    PackageInput,
    PackageOutput,
    PackageTensor,
    Preprocessed,
    ScoredLayer,
    ScoringPlan,
    Shape,
    Start,
)

MADE_BY = "the command that wrote it, or copy the package again"
LARGEST = 2**53 - 1  # the largest integer that every language represents exactly
_UINT32 = 2**32 - 1
_FEWEST_SAMPLES = 8
_ALIGNED = 64
DTYPES = (
    *("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    "bool",
)
_FILE = re.compile(r"(?!\.\.?\Z)[^/\\:\x00-\x1f]{1,255}\Z")
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_VERSION = re.compile(r"[0-9]+\.[0-9]+(\.[0-9]+)?\Z")
_PER_SAMPLE = re.compile(r"([1-9][0-9]*\*)?N\Z")
_Part = TypeVar("_Part")


class DeviceReader(Entries):
    """Reads the entries of an object in device.json one by one."""

    def whole(self, key: str, least: int = 0, most: int = LARGEST) -> int:
        """An integer in a range."""
        value: int = self.take(key, int)
        if not least <= value <= most:
            raise self.damaged(f"{key!r} must be from {least} to {most}, found {value}")
        return value

    def whole_or_none(self, key: str, least: int = 0, most: int = LARGEST) -> int | None:
        """An integer in a range, or None for null."""
        return None if self.take(key, int, type(None)) is None else self.whole(key, least, most)

    def wholes(self, key: str, least: int) -> tuple[int, ...]:
        """A list of integers of at least this."""
        numbers = self.take_list(key, int)
        wrong = [number for number in numbers if not least <= number <= LARGEST]
        if wrong:
            raise self.damaged(f"numbers in {key!r} must be from {least} to {LARGEST}, found {wrong[0]}")
        return tuple(numbers)

    def text(self, key: str) -> str:
        """A non-empty string."""
        value: str = self.take(key, str)
        if not value:
            raise self.damaged(f"{key!r} is empty")
        return value

    def matching(self, key: str, pattern: re.Pattern[str], expected: str) -> str:
        """A string that matches a pattern."""
        value: str = self.take(key, str)
        if pattern.match(value) is None:
            raise self.damaged(f"{key!r} must be {expected}, found {value[:80]!r}")
        return value

    def file(self, key: str) -> str:
        """The name of a file in the package."""
        return self.matching(key, _FILE, "the name of a file in the package, without folders")

    def file_or_none(self, key: str) -> str | None:
        """The name of a file in the package, or None for null."""
        return None if self.take(key, str, type(None)) is None else self.file(key)

    def one_of(self, key: str, known: tuple[str, ...]) -> str:
        """One of these strings."""
        value: str = self.take(key, str)
        if value not in known:
            raise self.damaged(f"{key!r} must be one of {', '.join(known)}, found {value[:80]!r}")
        return value

    def one_of_or_none(self, key: str, known: tuple[str, ...]) -> str | None:
        """One of these strings, or None for null."""
        return None if self.take(key, str, type(None)) is None else self.one_of(key, known)

    def shape(self, key: str, *, samples: bool = False) -> Shape:
        """A shape; with ``samples`` it must begin with "N"."""
        value = self.take(key, list)
        rest = value[1:] if value[:1] == ["N"] else value
        if (samples and value[:1] != ["N"]) or not all(type(n) is int and 1 <= n <= LARGEST for n in rest):
            first = "'N' and then" if samples else "maybe 'N', and then"
            raise self.damaged(f"{key!r} must be {first} whole numbers from 1 on, found {_cut(value)}")
        return tuple(value)

    def output_shape(self, key: str) -> Shape:
        """A shape in which any axis may be a multiple of the number of samples ("2*N")."""
        value = self.take(key, list)
        for extent in value:
            if not (type(extent) is int and 1 <= extent <= LARGEST) and not (
                isinstance(extent, str) and _PER_SAMPLE.match(extent)
            ):
                raise self.damaged(
                    f"{key!r} must be whole numbers from 1 on, 'N', or multiples like '2*N', found {_cut(value)}"
                )
        return tuple(value)

    def objects(self, key: str, part: Callable[[DeviceReader], _Part], least: int = 1) -> tuple[_Part, ...]:
        """A list of objects, each converted by ``part``."""
        items = self.take(key, list)
        if len(items) < least:
            raise self.damaged(f"{key!r} must have at least {least}, found {len(items)}")
        return tuple(part(reader) for reader in self._each(key, items))

    def object(self, key: str, part: Callable[[DeviceReader], _Part]) -> _Part:
        """An object, converted by ``part``."""
        return part(DeviceReader(self.take(key, dict), f"{self._where}, {key!r},", self._made_by))

    def object_or_none(self, key: str, part: Callable[[DeviceReader], _Part]) -> _Part | None:
        """An object, converted by ``part``, or None for null."""
        return None if self.take(key, dict, type(None)) is None else self.object(key, part)

    def _each(self, key: str, items: list[Any]) -> Iterator[DeviceReader]:
        for index, item in enumerate(items):
            yield DeviceReader(item, f"{self._where}, {key!r} {index},", self._made_by)


def read_device(folder: Path, content: Any, path: Path) -> Device:
    """Convert the content of a device.json.

    Args:
        folder: folder of the package.
        content: content of the file.
        path: path of the file, for messages.

    Raises:
        RecordError: an entry is missing or invalid.
    """
    record = DeviceReader(content, str(path), MADE_BY)
    names = record.take("class_names", list, type(None))
    return Device(
        folder=folder,
        model=record.text("model"),
        model_sha256=_hash(record, "model_sha256"),
        opset=record.whole("opset", 1),
        ir_version=record.whole("ir_version", 1),
        oldest_onnxruntime=record.matching("oldest_onnxruntime", _VERSION, "a version such as 1.17"),
        profile=record.one_of_or_none("profile", DEVICE_PROFILES),
        forward_batch=record.whole_or_none("forward_batch", 1, 1),
        loss=record.one_of("loss", LOSSES),
        files=record.objects("files", _file),
        weights=record.file_or_none("weights"),
        inputs=record.objects("inputs", _input),
        outputs=record.objects("outputs", _output),
        labels=record.object("labels", _labels),
        class_names=None if names is None else record.names("class_names"),
        preprocessing=record.object_or_none("preprocessing", _preprocessing),
        training=record.object("training", _start),
        scoring=record.object_or_none("scoring", _scoring),
        entries=record.objects("entries", _entry),
    )


def _hash(record: DeviceReader, key: str) -> str:
    return record.matching(key, _HASH, "64 hexadecimal digits (a-f in lower case)")


def _file(record: DeviceReader) -> PackageFile:
    return PackageFile(record.file("name"), record.whole("bytes"), _hash(record, "sha256"))


def _input(record: DeviceReader) -> PackageInput:
    return PackageInput(record.text("name"), record.one_of("dtype", DTYPES), record.shape("shape"))


def _output(record: DeviceReader) -> PackageOutput:
    role = record.one_of_or_none("role", ("logits", "probabilities"))
    return PackageOutput(record.text("name"), record.one_of("dtype", DTYPES), record.output_shape("shape"), role)


def _labels(record: DeviceReader) -> Labels:
    ignore = record.take("ignore", int, type(None))
    if ignore is not None:
        record.whole("ignore", -LARGEST)
    shape = record.shape("shape")
    return Labels(record.one_of("dtype", DTYPES), shape, record.whole_or_none("classes", 1), ignore)


def _preprocessing(record: DeviceReader) -> Preprocessed:
    mean, std = record.take("mean", list), record.take("std", list)
    for key, values in (("mean", mean), ("std", std)):
        if not values or not all(type(number) in (int, float) for number in values):
            raise record.damaged(f"{key!r} must be a list of numbers, found {_cut(values)}")
    if not all(number > 0 for number in std):
        raise record.damaged(f"numbers in 'std' must be above 0, found {min(std)}")
    if len({len(mean), len(std)} - {1}) > 1:
        raise record.damaged(f"'mean' has {len(mean)} numbers and 'std' {len(std)}, expected 1 or as many")
    return Preprocessed(
        float(record.take("scale", float)),
        tuple(map(float, mean)),
        tuple(map(float, std)),
        record.whole_or_none("channel_axis"),
        record.one_of("data", ("integer", "float")),
        bool(record.take("bgr", bool)),
    )


def _start(record: DeviceReader) -> Start:
    rate = float(record.take("learning_rate", float))
    if not rate > 0:
        raise record.damaged(f"'learning_rate' must be above 0, found {rate}")
    size, epochs = record.whole("batch_size", 1), record.whole("epochs", 1)
    return Start(rate, size, epochs, record.whole("seed", 0, _UINT32))


def _scoring(record: DeviceReader) -> ScoringPlan:
    return ScoringPlan(
        record.file("file"),
        record.whole("samples", _FEWEST_SAMPLES),
        record.whole("points", 1),
        record.whole("subsets", 1),
        record.whole("seed", 0, _UINT32),
        record.objects("layers", _scored),
    )


def _scored(record: DeviceReader) -> ScoredLayer:
    return ScoredLayer(record.text("name"), record.text("output"), record.whole("numbers", 1), record.whole("size", 1))


def _entry(record: DeviceReader) -> PackageEntry:
    adds = record.object("multiply_adds", lambda inner: (inner.whole("frozen"), inner.whole("step")))
    return PackageEntry(
        name=record.text("name"),
        layers=record.names("layers"),
        trained=record.whole("trained", 1),
        frozen=record.file_or_none("frozen"),
        step=record.file("step"),
        evaluation=record.file("evaluation"),
        prediction=record.file("prediction"),
        state=record.file("state"),
        model=record.file_or_none("model"),
        selected=record.file("selected"),
        selected_bytes=record.whole("selected_bytes", 1),
        boundary=record.objects("boundary", _boundary),
        names=record.object("names", _names),
        logits_shape=record.shape("logits_shape", samples=True),
        class_axis=record.whole_or_none("class_axis"),
        tensors=record.objects("tensors", _tensor),
        memory=_memory(record),
        frozen_multiply_adds=adds[0],
        step_multiply_adds=adds[1],
    )


def _names(record: DeviceReader) -> EntryNames:
    return EntryNames(*(record.text(key) for key in ("labels", "learning_rate", "step", "loss", "logits")))


def _boundary(record: DeviceReader) -> BoundaryTensor:
    source = record.take("input", str, type(None))
    name, dtype = record.text("name"), record.one_of("dtype", DTYPES)
    return BoundaryTensor(name, dtype, record.shape("shape", samples=True), record.whole("bytes", 1), source)


def _tensor(record: DeviceReader) -> PackageTensor:
    record.one_of("dtype", ("float32",))
    offset = record.whole("offset")
    if offset % _ALIGNED:
        raise record.damaged(f"'offset' must be a multiple of {_ALIGNED}, found {offset}")
    channels = None
    if "channels" in record:
        channels = record.object_or_none("channels", _channels)
    return PackageTensor(
        record.text("name"),
        record.one_of("kind", KINDS),
        record.text("input"),
        record.text("output"),
        record.wholes("shape", 1),
        offset,
        record.whole("bytes", 1),
        channels,
    )


def _channels(record: DeviceReader) -> ChannelPart:
    indices = record.wholes("indices", 0)
    if not indices:
        raise record.damaged("'indices' is empty")
    return ChannelPart(record.whole("axis"), indices)


def _memory(record: DeviceReader) -> tuple[tuple[int, int], ...]:
    memory = record.take("memory", list)
    pairs = [
        pair
        for pair in memory
        if isinstance(pair, list)
        and len(pair) == 2
        and all(type(number) is int and 0 <= number <= LARGEST for number in pair)
        and pair[0] > 0
    ]
    if not pairs or len(pairs) != len(memory):
        raise record.damaged(f"'memory' must be a list of [batch, bytes], found {_cut(memory)}")
    return tuple((batch, size) for batch, size in pairs)


def _cut(value: object) -> str:
    return str(value)[:80]
