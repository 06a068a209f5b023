"""Files are never half-written: atomic writes, and reading our own JSON files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from adabet_onnx import files
from adabet_onnx.errors import OutputError, RecordError
from adabet_onnx.files import (
    check_folder,
    check_output,
    make_folder,
    replacing,
    replacing_folder,
    sha256_of_files,
    write_bytes,
)
from adabet_onnx.records import read_record, write_json

MARKER = "manifest.json"


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_written_file_is_whole_and_alone(tmp_path):
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    write_json(path, {"name": "größe", "values": [1, 2.5, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "größe", "values": [1, 2.5, None]}
    assert "größe".encode() in path.read_bytes()
    assert listing(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), MemoryError()], ids=lambda e: type(e).__name__
)
def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def interrupted():
        with replacing(path) as part:
            part.write_bytes(b"half of the ne")
            assert part.parent == tmp_path, "a rename is only atomic within a folder"
            assert path.read_bytes() == b"old"
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["model.onnx"]


def test_nan_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert listing(tmp_path) == []


def test_a_full_disk_is_an_output_error(tmp_path):
    path = tmp_path / "scores.json"
    path.write_bytes(b"old")

    def full():
        with replacing(path) as part:
            part.write_bytes(b"new")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match=r"scores\.json.*No space left.*free some space"):
        full()
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["scores.json"]


def test_a_block_that_writes_nothing_is_an_output_error(tmp_path):
    with pytest.raises(OutputError), replacing(tmp_path / "a"):
        pass
    assert listing(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of POSIX systems")
def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # instead of /dev/null, which root could replace by mistake
    with pytest.raises(OutputError, match="pipe: it is a device or pipe"):
        write_bytes(tmp_path / "pipe", b"x")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("folder", "it is a folder"),
        ("missing/a.json", "does not exist"),
        ("file/a.json", "does not exist|is not a folder"),
        ("x" * 300, "too long"),
    ],
)
def test_a_path_that_cannot_be_written(tmp_path, output, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    before = listing(tmp_path)
    with pytest.raises(OutputError, match=reason):
        write_bytes(tmp_path / output, b"x")
    assert listing(tmp_path) == before


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "deep" / "artifacts"
    with replacing_folder(target, MARKER) as part:
        (part / MARKER).write_text("1")
        (part / "sub").mkdir()
        (part / "sub" / "a").write_text("a")
        assert not target.exists()
    assert listing(target) == [MARKER, "sub", os.path.join("sub", "a")]
    assert listing(tmp_path / "deep") == ["artifacts", *(os.path.join("artifacts", name) for name in listing(target))]


def test_an_earlier_result_is_replaced_whole(tmp_path):
    target = tmp_path / "artifacts"
    target.mkdir()
    (target / MARKER).write_text("old")
    (target / "stale").write_text("old")
    with replacing_folder(target, MARKER) as part:
        (part / MARKER).write_text("new")
    assert listing(tmp_path) == ["artifacts", os.path.join("artifacts", MARKER)]
    assert (target / MARKER).read_text() == "new"


def test_an_empty_folder_may_be_replaced(tmp_path):
    target = tmp_path / "artifacts"
    target.mkdir()
    with replacing_folder(target, MARKER) as part:
        (part / MARKER).write_text("new")
    assert listing(target) == [MARKER]


def test_a_folder_with_other_files_is_not_touched(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    before = listing(tmp_path)
    with (
        pytest.raises(OutputError, match=r"photos.*contains other files.*Give a new folder"),
        replacing_folder(tmp_path / "photos", MARKER),
    ):
        pytest.fail("the block must not run")
    assert listing(tmp_path) == before


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_link_in_place_of_the_folder_is_not_touched(tmp_path, kind):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "artifacts"
    target.write_text("a") if kind == "file" else target.symlink_to(tmp_path / "elsewhere")
    before = listing(tmp_path)
    with pytest.raises(OutputError, match="not a folder"), replacing_folder(target, MARKER):
        pytest.fail("the block must not run")
    assert listing(tmp_path) == before


def test_a_failing_block_leaves_the_old_folder(tmp_path):
    target = tmp_path / "artifacts"
    target.mkdir()
    (target / MARKER).write_text("old")

    def failing():
        with replacing_folder(target, MARKER) as part:
            (part / MARKER).write_text("new")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        failing()
    assert (target / MARKER).read_text() == "old"
    assert listing(tmp_path) == ["artifacts", os.path.join("artifacts", MARKER)]


def test_a_failing_block_leaves_no_new_parents(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="no"), replacing_folder(tmp_path / "there" / "new" / "b", MARKER):
        raise ValueError("no")
    assert listing(tmp_path) == ["there"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_be_renamed(tmp_path, monkeypatch):
    target = tmp_path / "artifacts"
    target.mkdir()
    (target / MARKER).write_text("old")
    rename = os.replace

    def failing(source, destination):
        if Path(destination) == target and (Path(source) / MARKER).read_text() == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, destination)

    monkeypatch.setattr(files.os, "replace", failing)
    with pytest.raises(OutputError, match="Input/output error"), replacing_folder(target, MARKER) as part:
        (part / MARKER).write_text("new")
    assert (target / MARKER).read_text() == "old"
    assert listing(tmp_path) == ["artifacts", os.path.join("artifacts", MARKER)]


def test_make_folder(tmp_path):
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        make_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="file"):
        make_folder(tmp_path / "file" / "a")


def test_looking_ahead_leaves_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    assert check_output(tmp_path / "file") == tmp_path / "file"
    assert check_output(tmp_path / "new") == tmp_path / "new"
    assert check_folder(tmp_path / "deep" / "er") == tmp_path / "deep" / "er"
    assert check_folder(tmp_path) == tmp_path
    assert listing(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_looking_ahead_finds_a_place_that_takes_no_files(tmp_path, monkeypatch):
    def denied(path, **settings):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "touch", denied)
    with pytest.raises(OutputError, match=r"cannot write \S*/a: Permission denied"):
        check_output(tmp_path / "a")
    with pytest.raises(OutputError, match=r"cannot write \S*/b: Permission denied"):
        check_folder(tmp_path / "b")
    assert listing(tmp_path) == []


def record(**entries: object) -> bytes:
    return json.dumps({"format": "adabet-onnx/x", "version": 1, **entries}).encode()


def test_a_record_is_read_back(tmp_path):
    (tmp_path / "x.json").write_bytes(record(layers=["a"]))
    assert read_record(tmp_path / "x.json", "adabet-onnx/x", 1, "adabet-onnx make-x")["layers"] == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (record()[:-5], "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (record(rho=float("nan")), "not valid JSON.*NaN"),
        (record(rho=float("-inf")), "not valid JSON.*-Infinity"),
        (b'{"format": "adabet-onnx/x", "version": 1, "rho": 1e999}', "not valid JSON.*1e999"),
        (b"[]", "expected a file of format 'adabet-onnx/x', found None"),
        (record(format="adabet-onnx/y"), "expected a file of format 'adabet-onnx/x', found 'adabet-onnx/y'"),
        (record(version=2), "version 2 .*up to version 1.*Update"),
        (record(version=0), "version 0"),
        (record(version="1"), "version '1'"),
        (record(version=True), "version True"),
        (record(version=None), "version None"),
    ],
    ids=[
        "empty", "cut", "binary", "deep", "nan", "infinity", "overflow", "list", "format", "newer", "zero", "text",
        "true", "none",
    ],
)  # fmt: skip
def test_a_damaged_record_is_refused_by_name_with_its_maker(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(RecordError, match=message) as caught:
        read_record(tmp_path / "x.json", "adabet-onnx/x", 1, "adabet-onnx make-x")
    assert "x.json" in str(caught.value)
    assert "adabet-onnx make-x" in str(caught.value)


def test_a_record_that_cannot_be_read(tmp_path):
    with pytest.raises(RecordError, match=r"cannot read .*nothing\.json: No such file"):
        read_record(tmp_path / "nothing.json", "f", 1, "m")
    with pytest.raises(RecordError, match="Is a directory"):
        read_record(tmp_path, "f", 1, "m")


def test_sha256_is_of_the_contents_one_after_another(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two" * 1_000_000)
    expected = hashlib.sha256(b"one" + b"two" * 1_000_000).hexdigest()
    assert sha256_of_files([tmp_path / "a", tmp_path / "b"]) == expected
    assert sha256_of_files([tmp_path / "b", tmp_path / "a"]) != expected
