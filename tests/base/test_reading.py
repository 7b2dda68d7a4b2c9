"""Untrusted files: limits, shapes, and one error that names file and field."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ecm_cluster.base import reading
from ecm_cluster.base.reading import Maybe, Number, OneOf, OptionalKey, Text, Unreadable

SHAPE = {"file": Text(r"iter_\d+\.pth", 40, "a checkpoint's name"), "size": Number(0, 1 << 50),
         "cluster": OneOf("slurm", "local"), "digests": {str: str}, "blocks": [int],
         "note": Maybe(str), OptionalKey("loss"): float}
RECORD = {"file": "iter_1.pth", "size": 5, "cluster": "local", "digests": {"a": "b"}, "blocks": [1, 2], "note": None,
          "loss": float("nan")}


def test_a_record_of_the_right_shape_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**RECORD, "unknown": 1}))
    assert {**reading.read_json(path, SHAPE), "loss": 0} == {**RECORD, "unknown": 1, "loss": 0}


@pytest.mark.parametrize(("change", "field"), [
    ({"size": "5"}, "size"), ({"size": -1}, "size"), ({"size": True}, "size"), ({"size": 10**30}, "size"),
    ({"size": 5.0}, "size"), ({"size": None}, "size"), ({"file": "../x"}, "file"), ({"file": "iter_²"}, "file"),
    ({"file": "iter_1.pth\n"}, "file"), ({"cluster": "SLURM"}, "cluster"), ({"digests": []}, "digests"),
    ({"digests": {"x": 1}}, "digests.x"), ({"blocks": [1, None]}, "blocks[1]"), ({"note": 4}, "note"),
    ({"loss": "x"}, "loss")])
def test_a_value_of_another_shape_is_named_with_its_file(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**RECORD, **change}))
    with pytest.raises(Unreadable) as caught:
        reading.read_json(path, SHAPE)
    assert str(caught.value).startswith(f"{path}: {field}: invalid value") and "expected" in str(caught.value)


@pytest.mark.parametrize("content", [
    b"", b"{", b"[" * 100_000, b'{"a": ' * 100_000, b"{} {}", b"\xe4", b'{"a": ' + b"9" * 5000 + b"}", b"\0", b"null x",
    b'"\xff"'])
def test_invalid_json_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(Unreadable) as caught:
        reading.read_json(path)
    assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="here: size: missing; expected a whole number"):
        reading.check({k: v for k, v in RECORD.items() if k != "size"}, SHAPE, "here")


def test_something_that_is_not_a_regular_file_never_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Unreadable, match="not a regular file"):
        reading.read_text(tmp_path / "fifo")
    with pytest.raises(Unreadable, match="not a regular file"):
        reading.read_text("/dev/zero")


def test_a_file_beyond_the_limit_is_not_read_to_its_end(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as handle:
        handle.truncate(1 << 40)
    with pytest.raises(Unreadable, match="larger than 64 MiB"):
        reading.read_json(tmp_path / "sparse")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "a\0b", "x" * 300, 5, None,
                                  "\udcff\ud800", "a/" * 5000 + "b"])
def test_a_path_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises(Unreadable, match="files: invalid value"):
        reading.check_inside(tmp_path, name, "pack.json", "files")


def test_a_path_inside_its_folder_is_joined(tmp_path: Path) -> None:
    assert reading.check_inside(tmp_path, "images/a ä.tar", "pack.json", "files") == tmp_path / "images/a ä.tar"


def test_an_error_of_the_storage_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "memory").symlink_to("/proc/self/mem")  # a regular file, of which no byte can be read at its begin
    with pytest.raises(OSError, match="memory"):
        reading.read_bytes(tmp_path / "memory")
