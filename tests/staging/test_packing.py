"""Packs hold the bytes of a data root, appear whole or not at all, and are resumed after a killed call."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from staging.roots import call, lvis, put, put_zip, python, small_root

from ecm_cluster.base import files
from ecm_cluster.pack import groups, manifest, shards
from ecm_cluster.pack.manifest import BLOCK
from mmdet_ext.data import json_walk


def images_of(pack: manifest.Pack) -> dict[str, bytes]:
    """All images of a pack, read as the nodes read them."""
    index, numbered = pack.open_index(), pack.image_files()
    found = {}
    for name in index:
        place = index.find(name)
        data = (pack.path / numbered[place.file].name).read_bytes()[place.offset:place.offset + place.length]
        assert manifest.checksum(data) == place.checksum and index.find(name)
        found[name] = data
    return found


def untarred(pack: manifest.Pack) -> dict[str, bytes]:
    """All images of a pack, read by the standard library's tarfile."""
    found = {}
    for packed in pack.image_files():
        with tarfile.open(pack.path / packed.name) as archive:
            found.update({m.name: archive.extractfile(m).read() for m in archive})
    return found


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


CHARACTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0/.")
PART = st.text(CHARACTERS, min_size=1, max_size=20).filter(lambda s: s != "annotations" and s != "__MACOSX")
NAMES = st.builds(lambda folders, base, suffix: "/".join([*folders, base + suffix]), st.lists(PART, max_size=3), PART,
                  st.sampled_from([".jpg", ".PNG", ".x.jpeg"]))
FILES = st.tuples(st.binary(max_size=2000), st.sampled_from(["folder", "stored", "deflated", "both"]))


@pytest.mark.slow
@settings(max_examples=15)
@given(tree=st.dictionaries(NAMES, FILES, min_size=1, max_size=8), named=st.integers(0, 8),
       size=st.sampled_from(["1K", "4K", "1G"]))
@example({"a b\n/é" + "long" * 40 + "/ü.jpg": (b"", "both"), "x.jpg": (b"1" * 512, "deflated")}, 1, "1K")
def test_any_tree_is_packed_byte_for_byte(tree, named, size):
    content = {name: data for name, (data, _) in tree.items()}
    where = {kind: {name: content[name] for name, (_, how) in tree.items() if how in (kind, "both")}
             for kind in ("folder", "stored", "deflated")}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        put(root, {**where["folder"], "annotations/some.json": lvis(sorted(content)[:named], boxes=False)})
        put_zip(root / "a.zip", where["stored"], "stored")
        put_zip(root / "b.zip", where["deflated"], "deflated")
        assert call("pack", root, Path(folder, "out"), "--shard-size", size) == 0
        made = manifest.read(Path(folder, "out"))
        assert images_of(made) == content and untarred(made) == content and made.images == len(content)
        assert call("verify", made.path, "--against", root) == 0


def test_images_of_exactly_one_block_and_around_it_are_packed_byte_for_byte(tmp_path):
    content = {f"a/{size}.npy": os.urandom(8) * (size // 8 + 1) for size in (0, 1, 511, 512, 513)}
    content = {**{name: data[:int(name[2:-4])] for name, data in content.items()},
               **{f"b/{size}.npy": os.urandom(size) for size in (BLOCK - 1024, BLOCK - 512, BLOCK)}}
    put(tmp_path / "root", content)
    assert call("pack", tmp_path / "root") == 0
    made = manifest.read(tmp_path / "root.pack")
    assert images_of(made) == content == untarred(made)
    assert call("verify", made.path, "--against", tmp_path / "root") == 0
    (big,) = made.image_files()
    with open(made.path / big.name, "r+b") as handle:
        handle.seek(2 * BLOCK)
        handle.write(b"\0")
    assert call("verify", made.path) == 1


def test_shards_have_at_most_the_size_that_was_asked_for_and_hold_their_group_in_order(tmp_path):
    small_root(tmp_path / "root")
    assert call("pack", tmp_path / "root", "--shard-size", "2K") == 0
    made = manifest.read(tmp_path / "root.pack")
    groups = [f.group for f in made.image_files()]
    assert groups == ["lvis_v1_train"] * groups.count("lvis_v1_train") + ["lvis_v1_val"] * groups.count("lvis_v1_val")
    names = []
    for packed in made.image_files():
        with tarfile.open(made.path / packed.name) as archive:
            members = archive.getnames()
        assert packed.size <= 2048 or len(members) == 1
        names += members
    assert names == sorted(names) and len(names) == 17


def test_the_same_input_gives_the_same_pack_for_any_threads_times_and_containers(tmp_path):
    content = small_root(tmp_path / "one")
    put(tmp_path / "other", {n: d for n, d in content.items() if not n.startswith("train2017")})
    put_zip(tmp_path / "other/train2017.zip", {n: d for n, d in content.items() if n.startswith("train2017")},
            "deflated")
    for path in (tmp_path / "other/val2017").iterdir():
        os.utime(path, (5, 5))
    assert call("pack", tmp_path / "one", "--shard-size", "2K", "--threads", 1) == 0
    assert call("pack", tmp_path / "other", "--shard-size", "2K", "--threads", 16) == 0
    assert manifest.read(tmp_path / "one.pack").digest == manifest.read(tmp_path / "other.pack").digest
    one, other = bytes_of(tmp_path / "one.pack"), bytes_of(tmp_path / "other.pack")
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} == {"pack.json"}  # which says where it came from


def test_folders_behind_links_are_packed_and_a_link_back_does_no_harm(tmp_path):
    put(tmp_path / "disk", {"train/1.jpg": b"1", "train/deep/2.jpg": b"2"})
    put(tmp_path / "root", {"val/3.jpg": b"3"})
    (tmp_path / "root/train").symlink_to(tmp_path / "disk/train")
    (tmp_path / "disk/train/deep/up").symlink_to(tmp_path / "disk/train")
    assert call("pack", tmp_path / "root") == 0
    assert images_of(manifest.read(tmp_path / "root.pack")) == {"train/1.jpg": b"1", "train/deep/2.jpg": b"2",
                                                             "val/3.jpg": b"3"}


def test_annotations_are_taken_from_lvis_zip_files_and_packed_as_published(tmp_path):
    train, val = lvis(["train2017/1.jpg"]), lvis(["val2017/2.jpg"])
    put(tmp_path / "root", {"train2017/1.jpg": b"1", "val2017/2.jpg": b"2"})
    put_zip(tmp_path / "root/lvis_v1_train.json.zip", {"lvis_v1_train.json": train}, "deflated")
    (tmp_path / "root/annotations").mkdir()
    put_zip(tmp_path / "root/annotations/lvis_v1_val.json.zip", {"__MACOSX/lvis_v1_val.json": b"no",
                                                                "lvis_v1_val.json": val}, "deflated")
    assert call("pack", tmp_path / "root") == 0
    made = manifest.read(tmp_path / "root.pack")
    assert (made.path / "annotations/lvis_v1_train.json").read_bytes() == train
    assert (made.path / "annotations/lvis_v1_val.json").read_bytes() == val
    assert made.annotation("annotations/lvis_v1_val.json").digest == files.digest(
        made.path / "annotations/lvis_v1_val.json")
    assert call("verify", made.path, "--against", tmp_path / "root") == 0


def test_each_image_is_grouped_by_the_first_file_that_names_it_those_of_training_first(tmp_path):
    put(tmp_path / "root", {**{f"train2017/{i}.jpg": b"%d" % i for i in range(6)}, "val2017/9.jpg": b"9",
                            "annotations/a_val.json": lvis(["train2017/1.jpg", "train2017/2.jpg", "val2017/9.jpg"]),
                            "annotations/b_train.json": lvis(["train2017/0.jpg", "train2017/1.jpg"]),
                            "annotations/c_captions.json": lvis(["train2017/5.jpg"], boxes=False)})
    assert call("pack", tmp_path / "root") == 0
    made = manifest.read(tmp_path / "root.pack")
    grouped = {}
    for packed in made.image_files():
        with tarfile.open(made.path / packed.name) as archive:
            grouped[packed.group] = archive.getnames()
    assert grouped == {"b_train": ["train2017/0.jpg", "train2017/1.jpg"], "a_val": ["train2017/2.jpg", "val2017/9.jpg"],
                       "c_captions": ["train2017/5.jpg"], "other": ["train2017/3.jpg", "train2017/4.jpg"]}
    assert {a.name[12:]: a.groups for a in made.annotations} == {
        "a_val.json": ("b_train", "a_val"), "b_train.json": ("b_train",), "c_captions.json": ("c_captions",)}
    assert made.annotation("annotations/c_captions.json").columns is None


def test_files_that_hold_boxes_get_columns_and_others_do_not(tmp_path):
    pytest.importorskip("numpy")
    small_root(tmp_path / "root")
    put(tmp_path / "root", {"annotations/results.json": b"[]", "annotations/captions.json": lvis([], boxes=False)})
    assert call("pack", tmp_path / "root") == 0
    made = manifest.read(tmp_path / "root.pack")
    columns = {a.name[12:-5]: a.columns for a in made.annotations}
    assert columns == {"lvis_v1_train": "annotations/lvis_v1_train.columns", "results": None, "captions": None,
                       "lvis_v1_val": "annotations/lvis_v1_val.columns"}
    packed = made.file("annotations/lvis_v1_val.columns")
    assert (packed.kind, packed.group) == (manifest.ANNOTATIONS, "annotations/lvis_v1_val.json")
    assert manifest.block_checksums(made.path / packed.name) == packed.blocks


NAMED = groups.Names(["train2017/000000000001.jpg", "val2017/000000000001.jpg", "val2017/000000000002.jpg", "3.jpg"])


@pytest.mark.parametrize("record, found", [
    ({"coco_url": "http://images.cocodataset.org/val2017/000000000002.jpg"}, ["val2017/000000000002.jpg"]),
    ({"file_name": "000000000002.jpg"}, ["val2017/000000000002.jpg"]),
    ({"file_name": "COCO_val2014_000000000002.jpg"}, ["val2017/000000000002.jpg"]),
    ({"file_name": "3.jpg", "coco_url": ""}, ["3.jpg"]),
    ({"file_name": "val2017/000000000001.jpg"}, ["val2017/000000000001.jpg"]),
    ({"file_name": "000000000001.jpg"}, ["train2017/000000000001.jpg", "val2017/000000000001.jpg"]),
    ({"file_name": "000000000001.jpg", "coco_url": "http://images.cocodataset.org/val2017/000000000001.jpg"},
     ["val2017/000000000001.jpg"]),
    ({"file_name": "4.jpg"}, []), ({"id": 3}, []), ({"coco_url": "http://[x/3.jpg"}, []),
    ({"coco_url": "http://[x]y/3.jpg", "file_name": "3.jpg"}, ["3.jpg"]),
])
def test_a_record_means_the_image_that_the_datasets_would_open(record, found):
    assert NAMED.match(record) == found


@pytest.mark.parametrize("text", [
    '{"images": [{"file_name": "a\u00e9]\\"}.jpg"}, {"file_name": "b.jpg"}], "annotations": []}',
    '{"info": {"images": []}, "images" : [ {"file_name": "a\u00e9]\\"}.jpg", "x": [{}]} ,{"file_name": "b.jpg"}]}',
    ' {"categories": ["images"],\n"annotations": [],\n"images":\n[{"file_name": "a\u00e9]\\"}.jpg"},'
    '{"file_name": "b.jpg"}\n]\n}\n',
])
@pytest.mark.parametrize("window", [1, 7, 1 << 20])
def test_the_images_of_an_annotation_file_are_found_in_any_layout(tmp_path, monkeypatch, text, window):
    monkeypatch.setattr(json_walk, "WINDOW", window)
    path = tmp_path / "a.json"
    path.write_text(text)
    assert [r["file_name"] for r in groups.image_records(path)] == ['aé]"}.jpg', "b.jpg"]


def test_a_header_is_counted_with_the_bytes_that_it_takes():
    for name in ("a.jpg", "x" * 100, "x" * 101, "é.jpg", "d/" * 150 + "a.jpg"):
        for size in (0, 1, 512, 8 << 30):
            assert shards.room(name, size) == len(shards.header(name, size)) + size + shards.padding(size)


# ------------------------------------------------------------------------------------------------ killed, and resumed


def undisturbed(tmp_path: Path) -> str:
    small_root(tmp_path / "root")
    assert call("pack", tmp_path / "root", tmp_path / "whole", "--shard-size", "2K") == 0
    return manifest.read(tmp_path / "whole").digest


@pytest.mark.slow
@pytest.mark.parametrize("point", [
    "in-shard:lvis_v1_train-00001", "before-rename:lvis_v1_val-00000.tar", "after-rename:lvis_v1_val-00000.tar",
    "before-fsync:index.bin", "before-rename:pack.json", "after-rename:pack.json", "before-pack", "after-pack",
])
def test_a_killed_call_is_resumed_and_makes_the_same_pack(tmp_path, point):
    digest, out = undisturbed(tmp_path), tmp_path / "out"
    killed = python("pack", tmp_path / "root", out, "--shard-size", "2K", ECM_CLUSTER_KILL_AT=point)
    assert killed.returncode == -signal.SIGKILL
    assert out.exists() == (point == "after-pack")  # nobody sees half a pack
    assert call("pack", tmp_path / "root", out, "--shard-size", "2K") == 0
    assert manifest.read(out).digest == digest
    assert call("verify", out, "--against", tmp_path / "root") == 0
    assert not (tmp_path / "out.partial").exists()
    assert not [p for p in out.rglob("*") if files.TMP_MARK in p.name]


@pytest.mark.slow
@pytest.mark.parametrize("point", ["before-pack", "previous-aside", "after-pack"])
def test_a_call_that_is_killed_while_it_replaces_a_pack_ends_with_the_new_one(tmp_path, point):
    small_root(tmp_path / "root")
    assert call("pack", tmp_path / "root", tmp_path / "out") == 0
    put(tmp_path / "root", {"train2017/new.jpg": b"new"})
    killed = python("pack", tmp_path / "root", tmp_path / "out", "--replace", ECM_CLUSTER_KILL_AT=point)
    assert killed.returncode == -signal.SIGKILL
    again = [] if point == "after-pack" else ["--replace"]
    assert call("pack", tmp_path / "root", tmp_path / "out", *again) == 0
    assert manifest.read(tmp_path / "out").open_index().find("train2017/new.jpg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "root"]
    assert call("verify", tmp_path / "out", "--against", tmp_path / "root") == 0


def stands_still(process: subprocess.Popen) -> None:
    """Wait until a process has stopped itself; it must not have ended."""
    while "T (stopped)" not in Path(f"/proc/{process.pid}/status").read_text():
        assert process.poll() is None
        time.sleep(0.001)


@pytest.mark.slow
def test_a_call_that_is_interrupted_ends_at_once_and_can_be_resumed(tmp_path):
    put(tmp_path / "root", {f"a/{i:04}.jpg": bytes(900) for i in range(3000)})
    order = tmp_path / "order"
    order.write_text("in-shard:00020")  # where it stands still, so that it is not done before the signal comes
    process = subprocess.Popen([sys.executable, "-m", "ecm_cluster.stage", "pack", str(tmp_path / "root"),
                                "--shard-size", "64K"], stderr=subprocess.PIPE, text=True,
                               env={**os.environ, files.STOP_ENV: f"@{order}"},
                               # a shell lets what it starts in the background ignore it
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    stands_still(process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    assert process.communicate()[1] == "interrupted\n" and process.returncode == 130
    assert not list(tmp_path.glob("root.pack.partial/images/.*"))
    assert call("pack", tmp_path / "root", "--shard-size", "64K") == 0
    assert call("verify", tmp_path / "root.pack", "--against", tmp_path / "root") == 0


@pytest.mark.slow
def test_a_call_that_is_killed_at_random_moments_is_completed(tmp_path):
    digest, out, chance = undisturbed(tmp_path), tmp_path / "out", random.Random(1)
    killed = 0
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-m", "ecm_cluster.stage", "pack", str(tmp_path / "root"), str(out),
                                    "--shard-size", "2K"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / "out.partial").exists():
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        process.kill()
        killed += process.wait() != 0
        assert out.exists() or process.returncode
    assert killed
    assert call("pack", tmp_path / "root", out, "--shard-size", "2K") == 0
    assert manifest.read(out).digest == digest
    assert call("verify", out, "--against", tmp_path / "root") == 0


def test_what_is_complete_is_not_written_again(tmp_path, capsys):
    digest, out = undisturbed(tmp_path), tmp_path / "out"
    part = tmp_path / "out.partial"
    killed = python("pack", tmp_path / "root", out, "--shard-size", "2K", ECM_CLUSTER_KILL_AT="before-fsync:index.bin")
    assert killed.returncode == -signal.SIGKILL
    before = {p.name: p.stat().st_ino for p in (part / "images").iterdir()}
    assert len(before) > 4
    assert call("pack", tmp_path / "root", out, "--shard-size", "2K") == 0
    assert "resuming from what an earlier call has completed" in capsys.readouterr().err
    assert {p.name: p.stat().st_ino for p in (out / "images").iterdir()} == before
    assert manifest.read(out).digest == digest


@pytest.mark.parametrize("change", ["size", "data"])
def test_other_data_or_another_size_of_shards_starts_over(tmp_path, capsys, change):
    undisturbed(tmp_path)
    killed = python("pack", tmp_path / "root", tmp_path / "out", "--shard-size", "2K",
                    ECM_CLUSTER_KILL_AT="before-fsync:index.bin")
    assert killed.returncode == -signal.SIGKILL
    if change == "data":
        put(tmp_path / "root", {"train2017/000000000003.jpg": b"another"})
    assert call("pack", tmp_path / "root", tmp_path / "out", "--shard-size", "2K" if change == "data" else "3K") == 0
    assert "starting over" in capsys.readouterr().err
    assert call("verify", tmp_path / "out", "--against", tmp_path / "root") == 0


# ----------------------------------------------------------------------------------------------------- what goes wrong


def refused(capsys: pytest.CaptureFixture, *arguments: object, code: int = 2) -> str:
    """The one line that a call ends with."""
    capsys.readouterr()
    assert call("pack", *arguments) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    return last


def test_two_images_of_one_name_with_different_sizes_are_one_clear_error(tmp_path, capsys):
    put(tmp_path / "root", {"train2017/1.jpg": b"1"})
    put_zip(tmp_path / "root/train2017.zip", {"train2017/1.jpg": b"12"})
    said = refused(capsys, tmp_path / "root")
    assert "train2017/1.jpg exists twice with different content" in said and "remove one of them" in said


def test_of_an_image_in_a_folder_and_in_a_zip_file_the_folder_wins(tmp_path):
    put(tmp_path / "root", {"train2017/1.jpg": b"a"})
    put_zip(tmp_path / "root/train2017.zip", {"train2017/1.jpg": b"b", "train2017/2.jpg": b"c"})
    assert call("pack", tmp_path / "root") == 0
    assert images_of(manifest.read(tmp_path / "root.pack")) == {"train2017/1.jpg": b"a", "train2017/2.jpg": b"c"}


@pytest.mark.parametrize("how", ["stored", "deflated"])
def test_a_corrupt_member_of_a_zip_file_is_one_clear_error_and_the_call_can_be_resumed(tmp_path, capsys, how):
    (tmp_path / "root").mkdir()
    path = tmp_path / "root/train2017.zip"
    put_zip(path, {f"train2017/{i}.jpg": b"%d" % i * 200 + b"abc" for i in range(5)}, how)
    whole = path.read_bytes()
    at = whole.index(b"train2017/3.jpg") + 15 + 5
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:])
    said = refused(capsys, tmp_path / "root")
    assert "member train2017/3.jpg is corrupt; fetch the zip file again" in said
    path.write_bytes(whole)
    assert call("pack", tmp_path / "root") == 0
    assert len(images_of(manifest.read(tmp_path / "root.pack"))) == 5


def test_a_zip_file_that_is_cut_off_is_one_clear_error(tmp_path, capsys):
    (tmp_path / "root").mkdir()
    put_zip(tmp_path / "root/val2017.zip", {"val2017/1.jpg": b"1" * 99})
    whole = (tmp_path / "root/val2017.zip").read_bytes()
    (tmp_path / "root/val2017.zip").write_bytes(whole[:-30])
    assert "val2017.zip: is not a readable zip file" in refused(capsys, tmp_path / "root")


def test_a_member_that_leads_out_of_the_data_root_is_refused(tmp_path, capsys):
    (tmp_path / "root").mkdir()
    put_zip(tmp_path / "root/val2017.zip", {"../val2017/1.jpg": b"1"})
    assert "leads out of the data root" in refused(capsys, tmp_path / "root")


def test_a_file_that_changes_while_it_is_packed_is_one_clear_error(tmp_path, capsys, monkeypatch):
    small_root(tmp_path / "root")
    divide = shards.divide

    def divide_late(*arguments):
        put(tmp_path / "root", {"train2017/000000000007.jpg": b"another"})
        return divide(*arguments)

    monkeypatch.setattr(shards, "divide", divide_late)
    said = refused(capsys, tmp_path / "root")
    assert "train2017/000000000007.jpg: changed while it was read" in said


def test_an_annotation_file_that_is_cut_off_is_named_where_it_comes_from(tmp_path, capsys):
    small_root(tmp_path / "root")
    path = tmp_path / "root/annotations/lvis_v1_val.json"
    path.write_bytes(path.read_bytes()[:-40])
    said = refused(capsys, tmp_path / "root")
    assert str(path) in said and "fetch it again" in said


def test_a_link_that_leads_nowhere_is_one_clear_error(tmp_path, capsys):
    small_root(tmp_path / "root")
    (tmp_path / "root/val2017/a.jpg").symlink_to("nowhere")
    assert "val2017/a.jpg: cannot be read (No such file" in refused(capsys, tmp_path / "root")


def test_images_that_are_named_and_not_there_are_a_warning_or_an_error_if_asked(tmp_path, capsys):
    small_root(tmp_path / "root")
    for i in range(4):
        (tmp_path / f"root/val2017/{i:012d}.jpg").unlink()
    said = refused(capsys, tmp_path / "root", "--strict")
    assert "annotations/lvis_v1_val.json names 4 images that do not exist (val2017/000000000000.jpg, " in said
    assert call("pack", tmp_path / "root") == 0
    assert "warning: annotations/lvis_v1_val.json names 4 images" in capsys.readouterr().err


def test_a_disk_that_is_full_is_one_line_and_what_is_complete_is_kept(tmp_path):
    put(tmp_path / "root", {**{f"a/{i}.jpg": bytes(3000) for i in range(8)}, "b/1.jpg": bytes(200_000)})
    command = [sys.executable, "-m", "ecm_cluster.stage", "pack", str(tmp_path / "root"), "--shard-size", "4K"]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files, check=False)
    assert done.returncode == 1 and "cannot be written (File too large); what is complete is kept" in done.stderr
    assert done.stderr.count("\n") == 1
    before = {p.name: p.stat().st_ino for p in (tmp_path / "root.pack.partial/images").iterdir()}
    assert before and call("pack", tmp_path / "root", "--shard-size", "4K") == 0
    after = {p.name: p.stat().st_ino for p in (tmp_path / "root.pack/images").iterdir()}
    assert before.items() <= after.items()


def test_only_one_process_packs_into_a_folder(tmp_path, capsys):
    small_root(tmp_path / "root")
    process = subprocess.Popen([sys.executable, "-m", "ecm_cluster.stage", "pack", str(tmp_path / "root")],
                               env={**os.environ, "ECM_CLUSTER_STOP_AT": "before-fsync:index.bin"})
    try:
        stands_still(process)
        assert "another process is packing into" in refused(capsys, tmp_path / "root")
        process.send_signal(signal.SIGCONT)
        assert process.wait() == 0
    finally:
        process.kill()
    assert call("verify", tmp_path / "root.pack") == 0
