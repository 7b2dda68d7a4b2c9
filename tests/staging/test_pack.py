"""What a pack says of itself: checksums of blocks, the index of images, the manifest."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.base.reading import Unreadable
from ecm_cluster.pack import manifest
from ecm_cluster.pack.manifest import BLOCK, AnnotationFile, BlockWriter, Index, Location, PackedFile, checksum

NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=30)
LONG = st.integers(0, 2 ** 63)


@settings(max_examples=30)
@given(entries=st.dictionaries(NAMES, st.builds(Location, st.integers(0, 2 ** 31), LONG, LONG, LONG), max_size=30),
       others=st.lists(NAMES, max_size=5))
def test_an_index_finds_each_image_by_its_name_and_nothing_else(tmp_path_factory, entries, others):
    path = tmp_path_factory.mktemp("index") / "index.bin"
    with files.replacing(path) as handle:
        manifest.write_index(handle, list(entries.items())[::-1])
    index = Index(path)
    assert len(index) == len(entries) and set(index) == set(entries)
    assert {name: index.find(name) for name in entries} == entries
    assert all(index.find(name) is None for name in others if name not in entries)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b"y" + data[1:],
                                    lambda data: data[:10]])
def test_an_index_that_is_not_whole_is_not_read(tmp_path, damage):
    path = tmp_path / "index.bin"
    with open(path, "wb") as handle:
        manifest.write_index(handle, [("a.jpg", Location(0, 512, 3, 7))])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Unreadable, match="is not an index of images, or is truncated"):
        Index(path)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_checksums_taken_while_writing_are_those_of_the_blocks_of_the_file(tmp_path, size):
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    handle = io.BytesIO()
    writer = BlockWriter(handle)
    for at in range(0, size, 3_000_000):
        writer.write(data[at:at + 3_000_000])
    (tmp_path / "file").write_bytes(data)
    assert handle.getvalue() == data and writer.size == size
    assert writer.blocks() == manifest.block_checksums(tmp_path / "file")
    assert writer.blocks() == tuple(checksum(data[at:at + BLOCK]) for at in range(0, size, BLOCK))


def a_pack(folder: Path) -> manifest.Pack:
    packed = [PackedFile("images/train-00000.tar", 10, manifest.IMAGES, "train", (1,)),
              PackedFile("images/other-00000.tar", BLOCK + 1, manifest.IMAGES, "other", (2 ** 64 - 1, 3)),
              PackedFile("index.bin", 5, manifest.INDEX, "", (4,)),
              PackedFile("annotations/train.columns", 7, manifest.ANNOTATIONS, "annotations/train.json", (5,))]
    known = [AnnotationFile("annotations/train.json", f"sha256:{1:064}", "annotations/train.columns", ("train",)),
             AnnotationFile("annotations/captions.json", f"sha256:{2:064}", None, ())]
    files.write_json(folder / "pack.json", manifest.describe(packed, known, 3, source="somewhere"))
    return manifest.read(folder)


def test_a_manifest_says_what_was_described(tmp_path):
    found = a_pack(tmp_path)
    assert [f.blocks for f in found.files] == [(1,), (2 ** 64 - 1, 3), (4,), (5,)]
    assert found.files[1].span(1) == (BLOCK, 1) and found.images == 3
    assert found.annotation("annotations/train.json").columns == "annotations/train.columns"
    assert manifest.is_pack(tmp_path) and not manifest.is_pack(tmp_path.parent)


def test_where_the_data_came_from_is_on_record_and_no_part_of_the_digest(tmp_path):
    one, other = manifest.describe([], [], 0, source="a"), manifest.describe([], [], 0, source="b")
    assert one["source"] == "a" and one["digest"] == other["digest"] != manifest.describe([], [], 1)["digest"]


def test_a_job_needs_the_images_of_its_annotation_files_and_no_others(tmp_path):
    found = a_pack(tmp_path)
    def names(*asked: str, images: bool = True) -> list[str]:
        return [f.name for f in found.needed(asked, images)]
    assert names("annotations/train.json") == ["annotations/train.columns", "index.bin", "images/train-00000.tar"]
    assert names("annotations/train.json", images=False) == ["annotations/train.columns"]
    assert names("annotations/captions.json") == ["index.bin"]
    assert names("annotations/mine.json") == ["index.bin", "images/train-00000.tar", "images/other-00000.tar"]


@pytest.mark.parametrize("text, said", [
    ("{", "cannot be read"), ("[]", "cannot be read"), ('{"format": 99}', "has format 99"),
    ('{"format": 1, "digest": "0"}', "cannot be read"),
])
def test_a_manifest_that_cannot_be_read_is_one_line(tmp_path, text, said):
    (tmp_path / "pack.json").write_text(text)
    with pytest.raises(UserError, match=said) as error:
        manifest.read(tmp_path)
    assert "pack the data again" in str(error.value)


def test_a_folder_without_a_manifest_is_not_a_pack(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="is not a pack: it has no pack.json; make one with"):
            manifest.read(path)


def test_a_pack_may_have_no_images(tmp_path):
    files.write_json(tmp_path / "pack.json", manifest.describe([], [], 0))
    assert manifest.read(tmp_path).image_files() == []
    assert json.loads((tmp_path / "pack.json").read_text())["images"] == 0
