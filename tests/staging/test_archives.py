"""Zip files and folders of images made with malicious intent: one line that names file and member."""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from staging.roots import call, put

from ecm_cluster.pack import zip_archives


def member(name: str, mode: int = 0) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.create_system, made.external_attr = 3, mode << 16
    return made


def write(path: Path, *members: tuple[zipfile.ZipInfo, bytes], how: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in members:
            archive.writestr(info, data, how)


def listed(path: Path, name: str, field: int, form: str, value: int) -> None:
    """Let the archive's list of members say something else of one of them."""
    data = bytearray(path.read_bytes())
    at = data.rfind(name.encode()) - 46
    assert data[at:at + 4] == b"PK\1\2"
    struct.pack_into(form, data, at + field, value)
    path.write_bytes(data)


def refused(root: Path, capsys) -> str:
    assert call("pack", root) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and len(said) < 500
    assert not root.with_name("root.pack").exists()
    return said


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "root", {"a/1.jpg": b"1"})
    return tmp_path / "root"


@pytest.mark.parametrize("info, said", [
    (member("t/x.jpg", stat.S_IFLNK | 0o777), "is a link or another special file"),
    (member("t/x.jpg", stat.S_IFIFO | 0o644), "is a link or another special file"),
    (member("../x.jpg"), "leads out of the data root"), (member("/etc/x.jpg"), "leads out of the data root"),
    (member("t/../../x.json"), "leads out of the data root"),
])
def test_a_member_that_is_not_an_ordinary_file_inside_is_refused(root, capsys, info, said):
    write(root / "t.zip", (info, b"/etc/passwd"))
    assert f"t.zip: member {info.filename} {said}" in refused(root, capsys)


@pytest.mark.parametrize("name", ["t/x.jpg", "x.json"])
def test_a_member_that_expands_to_more_than_any_data_does_is_refused(root, capsys, monkeypatch, name):
    monkeypatch.setattr(zip_archives, "FREE", 1 << 20)
    write(root / "t.zip", (member(name), bytes(2 << 20)))
    assert f"t.zip: member {name} expands to 2.1 MB, over 200 times its size" in refused(root, capsys)


def test_members_that_share_their_bytes_are_counted_together(root, capsys, monkeypatch):
    monkeypatch.setattr(zip_archives, "FREE", 1 << 20)
    write(root / "t.zip", *((member(f"t/{n}.jpg"), bytes(800_000)) for n in range(4)))
    data = (root / "t.zip").read_bytes()
    for n in range(1, 4):  # all of them are the first one
        listed(root / "t.zip", f"t/{n}.jpg", 42, "<I", 0)
    directory = data.index(b"PK\1\2")
    first = data[:data.index(b"PK\3\4", 1)]
    shorter = bytearray(first + (root / "t.zip").read_bytes()[directory:])
    struct.pack_into("<I", shorter, len(shorter) - 6, len(first))
    (root / "t.zip").write_bytes(shorter)
    assert "t.zip: expands to 1.6 MB, over 200 times its size" in refused(root, capsys)


@pytest.mark.parametrize("field, form, value, said", [
    (24, "<I", 10, "t/x.jpg is corrupt"), (24, "<I", 5000, "t/x.jpg is corrupt"), (16, "<I", 1, "t/x.jpg is corrupt"),
    (20, "<I", 2**32 - 2, "t/x.jpg is outside"), (42, "<I", 2**32 - 2, "t/x.jpg is outside"),
    (8, "<H", 1, "t/x.jpg is encrypted"), (10, "<H", 99, "t/x.jpg is encrypted, or not compressed"),
    (24, "<I", 2**32 - 2, "t/x.jpg expands to"),
])
def test_a_member_that_is_not_as_it_is_listed_is_named(root, capsys, field, form, value, said):
    write(root / "t.zip", (member("t/x.jpg"), bytes(range(256)) * 4))
    listed(root / "t.zip", "t/x.jpg", field, form, value)
    assert f"member {said}" in refused(root, capsys)


@pytest.mark.parametrize("field, form, value", [(24, "<I", 10), (16, "<I", 1), (8, "<H", 1), (10, "<H", 99)])
def test_so_is_one_that_holds_annotations(root, capsys, field, form, value):
    write(root / "t.zip", (member("x.json"), json.dumps({"images": []}).encode() * 9))
    listed(root / "t.zip", "x.json", field, form, value)
    assert "t.zip: member x.json" in refused(root, capsys)


def test_a_list_of_members_without_end_is_not_read(root, capsys, monkeypatch):
    monkeypatch.setattr(zip_archives, "LARGEST_LIST", 100)
    write(root / "t.zip", *((member(f"{n}.jpg"), b"") for n in range(9)))
    assert "t.zip: is not a readable zip file (its list of members has " in refused(root, capsys)


@pytest.mark.slow
def test_an_archive_cut_or_flipped_anywhere_is_one_line_or_packed(root, tmp_path, capsys):
    write(root / "t.zip", (member("t/x.jpg"), b"x" * 40), (member("x.json"), b'{"images": []}'))
    whole = (root / "t.zip").read_bytes()
    for at in range(0, len(whole), 4):
        (root / "t.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 0x81]) + whole[at + 1:])
        code = call("pack", root, "--replace")
        said = capsys.readouterr().err
        assert code == 0 or code == 2 and said.splitlines()[-1].startswith(f"error: {root}/t.zip: "), (at, said)


def test_a_pipe_a_device_or_a_file_without_end_in_a_data_root_is_named_and_not_waited_for(root, capsys):
    for name in ("a/pipe.jpg", "annotations/pipe.json", "pipe.zip"):
        (root / name).parent.mkdir(exist_ok=True)
        os.mkfifo(root / name)
        assert f"{root / name}: is not a regular file" in refused(root, capsys)
        (root / name).unlink()
    (root / "a/zero.jpg").symlink_to("/dev/zero")
    assert f"{root}/a/zero.jpg: is not a regular file" in refused(root, capsys)
    (root / "a/zero.jpg").unlink()
    with open(root / "a/large.jpg", "wb") as handle:
        handle.truncate(1 << 40)
    assert f"{root}/a/large.jpg: has 1.1 TB; expected an image of at most 1.1 GB" in refused(root, capsys)
    (root / "a/large.jpg").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("text", [
    "[" * 100_000, '{"images": ' + "[" * 100_000, '{"a":' * 50_000, "1" * 5000, "null", "",
    '{"images": [{"file_name": ' + "[" * 100_000, '{"images": 5}', '{"images": [5, null]}',
    '{"images": [{}], "annotations": [{"image_id": [], "category_id": {}, "bbox": 1}],'
    '"categories": [{"id": [], "name": 1}]}',
    '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, "a", 1e999]}],'
    '"categories": [{"id": 1, "name": "a"}]}',
])
def test_annotations_that_are_none_are_one_line_or_packed_as_they_are(root, capsys, text):
    put(root, {"annotations/x.json": text.encode()})
    code = call("pack", root)
    said = capsys.readouterr().err
    assert code in (0, 2) and "Traceback" not in said and len(said) < 1000
    assert code == 0 or (said.startswith("error: ") and "annotations/x.json" in said and said.count("\n") == 1), said
