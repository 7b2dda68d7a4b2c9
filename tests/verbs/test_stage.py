"""The verb that packs: what it prints, when it does nothing, and what verify finds."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from staging.roots import call, lvis, put, python, small_root

from ecm_cluster import stage
from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.pack import manifest


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "lvis"
    small_root(root)
    assert call("pack", root, "--shard-size", "4K") == 0
    return root.with_name("lvis.pack")


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    for path in packed.rglob("*"):
        if path.is_file():
            put(tmp_path / "pack", {str(path.relative_to(packed)): path.read_bytes()})
    return tmp_path / "pack"


def test_it_says_what_it_packed_and_what_to_type_next(tmp_path, capsys):
    small_root(tmp_path / "lvis")
    put(tmp_path / "lvis", {"README.md": b"text", ".hidden/1.jpg": b"1"})
    assert call("pack", tmp_path / "lvis") == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path}/lvis.pack: packed: 17 images, 2 annotation files, ") and "; took " in out
    assert out.endswith(f"next: python -m ecm_cluster.submit --data-root {tmp_path}/lvis.pack\n")
    assert err == "skipped: 1 files that are not images (README.md)\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lvis", "lvis.pack"]
    assert sorted(p.name for p in (tmp_path / "lvis.pack").iterdir()) == ["annotations", "images", "index.bin",
                                                                         "pack.json"]


def test_the_same_call_again_touches_nothing_and_says_so(packed, capsys):
    before = {p: p.stat().st_mtime_ns for p in packed.rglob("*")}
    assert call("pack", packed.with_name("lvis"), "--shard-size", "4K") == 0
    assert "nothing to do: 17 images" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in packed.rglob("*")} == before
    assert sorted(p.name for p in packed.parent.iterdir()) == ["lvis", "lvis.pack"]


def test_a_pack_of_other_data_is_replaced_only_if_asked(tmp_path, capsys):
    small_root(tmp_path / "lvis")
    assert call("pack", tmp_path / "lvis") == 0
    put(tmp_path / "lvis", {"train2017/new.jpg": b"new"})
    assert call("pack", tmp_path / "lvis") == 2
    assert "--replace packs again in its place" in capsys.readouterr().err
    assert manifest.read(tmp_path / "lvis.pack").images == 17
    assert call("pack", tmp_path / "lvis", "--replace") == 0
    assert manifest.read(tmp_path / "lvis.pack").open_index().find("train2017/new.jpg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lvis", "lvis.pack"]


def test_a_damaged_pack_is_not_taken_for_whole(tmp_path, capsys):
    small_root(tmp_path / "lvis")
    assert call("pack", tmp_path / "lvis") == 0
    next((tmp_path / "lvis.pack/images").iterdir()).unlink()
    assert call("pack", tmp_path / "lvis") == 2
    assert "does not exist, or has another size" in capsys.readouterr().err
    assert call("pack", tmp_path / "lvis", "--replace") == 0
    assert call("verify", tmp_path / "lvis.pack") == 0


@pytest.mark.parametrize("arguments, said", [
    (["pack", "{d}/absent"], "DATA_ROOT: {d}/absent does not exist"),
    (["pack", "{d}/file"], "DATA_ROOT: {d}/file is a file"),
    (["pack", "{d}/empty"], "DATA_ROOT: {d}/empty has no images and no annotations"),
    (["pack", "{d}/lvis", "{d}/full"], "OUT: {d}/full exists and is not a pack"),
    (["pack", "{d}/lvis", "{d}/file"], "OUT: {d}/file exists and is not a pack"),
    (["pack", "{d}/lvis", "{d}/no/where"], "OUT: {d}/no is not a directory"),
    (["pack", "{d}/lvis", "{d}/lvis"], "OUT: {d}/lvis contains the data root"),
    (["pack", "{d}/lvis", "{d}"], "OUT: {d} contains the data root"),
    (["pack", "{d}/lvis", "--shard-size", "huge"], "invalid --shard-size: 'huge'; expected a size such as 1G"),
    (["pack", "{d}/lvis", "--threads", "0"], "invalid --threads: 0; expected 1 to 1024"),
    (["verify", "{d}/lvis"], "pack: {d}/lvis is not a pack: it has no pack.json"),
])
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, capsys, arguments, said):
    put(tmp_path, {"lvis/a/1.jpg": b"1", "file": b"", "full/a.txt": b""})
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert call(*(a.format(d=tmp_path) for a in arguments)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {said.format(d=tmp_path)}") and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pack_is_not_a_data_root(packed, capsys):
    assert call("pack", packed) == 2
    assert f"use it as it is: --data-root {packed}" in capsys.readouterr().err


def test_a_pack_inside_its_data_root_is_not_packed_again(tmp_path):
    small_root(tmp_path / "lvis")
    for out in ("pack", "second"):
        assert call("pack", tmp_path / "lvis", tmp_path / "lvis" / out) == 0
        assert manifest.read(tmp_path / "lvis" / out).images == 17
    assert call("pack", tmp_path / "lvis", tmp_path / "lvis/pack") == 0


def test_a_link_to_a_pack_stays_a_link_when_the_pack_is_replaced(tmp_path):
    small_root(tmp_path / "lvis")
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/pack")
    assert call("pack", tmp_path / "lvis", tmp_path / "link") == 0
    put(tmp_path / "lvis", {"train2017/new.jpg": b"new"})
    assert call("pack", tmp_path / "lvis", tmp_path / "link", "--replace") == 0
    assert (tmp_path / "link").is_symlink() and manifest.read(tmp_path / "link").images == 18
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["pack"]


def test_annotations_without_images_can_be_packed(tmp_path, capsys):
    put(tmp_path / "lvis", {"annotations/lvis_v1_val.json": lvis(["val2017/1.jpg"])})
    assert call("pack", tmp_path / "lvis") == 0
    assert "names 1 images that do not exist" in capsys.readouterr().err
    assert manifest.read(tmp_path / "lvis.pack").image_files() == []
    assert call("verify", tmp_path / "lvis.pack", "--against", tmp_path / "lvis") == 0


# -------------------------------------------------------------------------------------------------------------- verify


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def wrong_offset(pack: Path) -> None:
    """A complete index with a wrong position of an image."""
    index = pack / "index.bin"
    data = bytearray(index.read_bytes())
    count = struct.unpack_from("<8sQQ", data)[1]
    (offset,) = struct.unpack_from("<Q", data, 24 + 8 * count)
    struct.pack_into("<Q", data, 24 + 8 * count, offset + 512)
    index.write_bytes(data)
    restamp(pack)


def without_an_image(pack: Path) -> None:
    index = manifest.read(pack).open_index()
    rows = [(name, index.find(name)) for name in index]
    with files.replacing(pack / "index.bin") as handle:
        manifest.write_index(handle, rows[1:])
    restamp(pack)


def restamp(pack: Path) -> None:
    """Let pack.json agree with what the files are now."""
    record = json.loads((pack / "pack.json").read_text())
    for entry in record["files"]:
        entry["size"] = (pack / entry["name"]).stat().st_size
        entry["blocks"] = "".join(f"{n:016x}" for n in manifest.block_checksums(pack / entry["name"]))
    described = {key: record[key] for key in ("format", "images", "files", "annotations")}
    record["digest"] = f"{manifest.checksum(json.dumps(described, sort_keys=True).encode()):016x}"
    (pack / "pack.json").write_text(json.dumps(record))


TRAIN = "images/lvis_v1_train-00000.tar"


@pytest.mark.parametrize("damage, said", [
    (lambda p: flip(p / TRAIN, 512 + 512 + 5), [f"{TRAIN}: block 0", f"{TRAIN}: train2017/000000000001.jpg is"]),
    (lambda p: flip(p / TRAIN, 3), [f"{TRAIN}: the header before train2017/000000000000.jpg is another"]),
    (lambda p: cut(p / TRAIN), [f"{TRAIN}: has "]),
    (lambda p: (p / TRAIN).unlink(), [f"{TRAIN}: cannot be read (No such file"]),
    (lambda p: flip(p / "index.bin", 50), ["index.bin: block 0"]),
    (lambda p: flip(p / "index.bin", 3), ["index.bin: cannot be read (", "is not an index of images"]),
    (lambda p: (p / "index.bin").unlink(), ["index.bin: cannot be read (No such file"]),
    (wrong_offset, [": the header before ", " begins at "]),
    (without_an_image, ["index.bin: has 16 images; expected 17, as in pack.json", "index.bin: "]),
    (lambda p: flip(p / "annotations/lvis_v1_val.json", 9), ["annotations/lvis_v1_val.json: is not the file"]),
    (lambda p: (p / "annotations/lvis_v1_val.json").unlink(), ["annotations/lvis_v1_val.json: cannot be read"]),
])
def test_verify_finds_what_is_wrong(copy: Path, capsys, damage: Callable[[Path], None], said: list[str]):
    assert call("verify", copy) == 0
    damage(copy)
    capsys.readouterr()
    assert call("verify", copy, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["right"]
    for text in said:
        assert text in "\n".join(found["problems"])


def test_verify_says_that_all_is_right(packed, capsys):
    capsys.readouterr()
    assert call("verify", packed, "--against", packed.with_name("lvis")) == 0
    assert f"{packed}: intact: 17 images, " in capsys.readouterr().out
    assert call("verify", packed, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["right"] and found["images"] == 17 and found["problems"] == []
    assert found["digest"] == manifest.read(packed).digest


def test_verify_prints_the_first_problems_and_counts_all(tmp_path, capsys):
    put(tmp_path / "lvis", {f"a/{i:02}.jpg": b"%d" % i for i in range(15)})
    assert call("pack", tmp_path / "lvis") == 0
    shard = tmp_path / "lvis.pack/images/other-00000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    capsys.readouterr()
    assert call("verify", tmp_path / "lvis.pack") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and lines[-1].endswith("31 problems, the first 10 above")


def test_missing_originals_are_reported_before_anything_is_read(packed, capsys):
    for missing in ("nowhere", "x" * 5000):
        with pytest.raises(UserError, match="--against: .* does not exist"):
            stage.main(["verify", str(packed), "--against", missing])
    assert capsys.readouterr().err == ""


def test_verify_against_the_originals_works_in_both_directions(tmp_path, capsys):
    small_root(tmp_path / "lvis")
    assert call("pack", tmp_path / "lvis") == 0
    put(tmp_path / "lvis", {"train2017/new.jpg": b"1", "val2017/000000000003.jpg": b"x" * 21,
                            "annotations/new.json": b"{}"})
    (tmp_path / "lvis/val2017/000000000001.jpg").unlink()
    (tmp_path / "lvis/annotations/lvis_v1_val.json").write_bytes(lvis(["val2017/1.jpg"]))
    capsys.readouterr()
    assert call("verify", tmp_path / "lvis.pack", "--against", tmp_path / "lvis", "--json") == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    root = tmp_path / "lvis"
    assert sorted(problems) == sorted([
        f"train2017/new.jpg: is in {root} alone", "val2017/000000000001.jpg: is in the pack alone",
        f"annotations/new.json: is in {root} alone",
        f"val2017/000000000003.jpg: the pack and {root}/val2017/000000000003.jpg differ",
        f"annotations/lvis_v1_val.json: the pack and {root}/annotations/lvis_v1_val.json differ"])


def test_every_command_has_its_help():
    for command in ("pack", "verify"):
        done = python(command, "--help")
        assert done.returncode == 0 and done.stdout.startswith(f"usage: python -m ecm_cluster.stage {command}")


@pytest.mark.slow
def test_without_numpy_the_columns_are_left_to_the_nodes(tmp_path):
    small_root(tmp_path / "lvis")
    put(tmp_path / "blocked", {"numpy.py": b"raise ImportError('no numpy here')"})
    done = python("pack", tmp_path / "lvis", PYTHONPATH=f"{tmp_path}/blocked")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("they need numpy (no numpy here); the nodes will make them") == 2
    assert [a.columns for a in manifest.read(tmp_path / "lvis.pack").annotations] == [None, None]
