"""Images out of a pack: the right bytes, regardless of what happens to the copy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ecm_cluster import stage
from ecm_cluster.pack import manifest
from ecm_cluster.pack.manifest import Pack
from ecm_cluster.staging import copying, reader
from ecm_cluster.staging.scratch import Scratch


@pytest.fixture
def packed(tmp_path: Path) -> Pack:
    """Twenty images, of 1 to 96 kB, whose bytes no other one has."""
    for n in range(20):
        path = tmp_path / "root" / "train2017" / f"{n:012d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(1000 + 5000 * n))
    assert stage.main(["pack", str(tmp_path / "root"), str(tmp_path / "root.pack")]) == 0
    return manifest.read(tmp_path / "root.pack")


@pytest.fixture
def staged(packed: Pack, tmp_path: Path) -> copying.Staged:
    return copying.stage(packed, packed.files, Scratch(tmp_path / "scratch"))


def original(packed: Pack, number: int) -> bytes:
    return (packed.path.with_name("root") / "train2017" / f"{number:012d}.jpg").read_bytes()


def name(packed: Pack, number: int) -> str:
    return str(packed.path / "train2017" / f"{number:012d}.jpg")


def test_images_are_those_of_the_data_root_with_a_copy_and_without(packed, staged):
    for images in (reader.PackedImages(packed), reader.PackedImages(packed, staged.folder)):
        assert all(images.get(name(packed, n)) == original(packed, n) for n in range(20))


def test_with_a_copy_shared_storage_is_not_read(packed, staged):
    images = reader.PackedImages(packed, staged.folder)
    (packed.path / packed.image_files()[0].name).unlink()
    assert images.get(name(packed, 3)) == original(packed, 3)


def test_a_flipped_byte_in_the_copy_is_noticed_the_image_still_right_and_the_next_start_repairs_it(packed, staged):
    images, place = reader.PackedImages(packed, staged.folder), packed.open_index().find("train2017/000000000007.jpg")
    shard = staged.folder / packed.image_files()[place.file].name
    stamp = shard.stat()
    with open(shard, "r+b") as handle:
        handle.seek(place.offset + 17)
        byte = handle.read(1)
        handle.seek(place.offset + 17)
        handle.write(bytes([byte[0] ^ 1]))
    os.utime(shard, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as a disk does it that lies
    assert images.get(name(packed, 7)) == original(packed, 7)
    again = copying.stage(packed, packed.files, Scratch(staged.folder.parents[2]))
    assert (again.source, again.repaired > 0) == ("repaired", True)
    assert shard.read_bytes() == (packed.path / packed.image_files()[place.file].name).read_bytes()


def test_a_copy_that_is_gone_or_cut_short_is_read_from_shared_storage(packed, staged):
    shard = staged.folder / packed.image_files()[0].name
    os.truncate(shard, 2000)
    assert reader.PackedImages(packed, staged.folder).get(name(packed, 9)) == original(packed, 9)
    shard.unlink()
    assert reader.PackedImages(packed, staged.folder).get(name(packed, 9)) == original(packed, 9)


def test_damage_on_shared_storage_is_reported_with_the_command_that_shows_it(packed):
    shard = packed.path / packed.image_files()[0].name
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(OSError, match="is damaged; see `python -m ecm_cluster.stage verify"):
        reader.PackedImages(packed).get(name(packed, 1))


def test_an_image_that_the_pack_lacks_is_file_not_found(packed):
    with pytest.raises(FileNotFoundError, match="no such image"):
        reader.PackedImages(packed).get(str(packed.path / "train2017" / "none.jpg"))


@pytest.mark.slow
def test_mmcv_reads_packs_and_everything_else_from_where_it_is(packed, staged, tmp_path):
    from mmcv.fileio import FileClient

    from ecm_cluster.staging import mmcv_backend

    client = FileClient(mmcv_backend.NAME, pack=str(packed.path), folder=str(staged.folder))
    assert client.get(name(packed, 2)) == original(packed, 2)
    assert client.get(f"{packed.path}//train2017/../train2017/000000000002.jpg") == original(packed, 2)
    (tmp_path / "note.txt").write_text("elsewhere")
    assert client.get_text(str(tmp_path / "note.txt")) == "elsewhere"
    with pytest.raises(FileNotFoundError):
        client.get(str(packed.path / "train2017" / "none.jpg"))


def test_processes_forked_from_a_reader_read_side_by_side(packed, staged):
    images = reader.PackedImages(packed, staged.folder)
    images.get(name(packed, 0))
    children = []
    for seed in range(3):
        pid = os.fork()
        if pid == 0:
            right = all(images.get(name(packed, (n * 7 + seed) % 20)) == original(packed, (n * 7 + seed) % 20)
                        for n in range(60))
            os._exit(0 if right else 1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
