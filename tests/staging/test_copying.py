"""A pack comes to a node once, whole and right, whichever process is killed on the way."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from staging.making import EMPTY, A, B, in_memory, is_exact, make_pack, stage_in_process, start, start_and_pause

from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.pack import manifest
from ecm_cluster.pack.manifest import BLOCK, Pack
from ecm_cluster.staging import copying
from ecm_cluster.staging.scratch import Scratch
from ecm_cluster.staging.staged_set import SetFolder


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Pack:
    return make_pack(tmp_path_factory.mktemp("shared") / "lvis.pack")


@pytest.fixture
def own_pack(packed, tmp_path) -> Pack:
    """A copy that a test may damage."""
    shutil.copytree(packed.path, tmp_path / "own.pack")
    return manifest.read(tmp_path / "own.pack")


@pytest.fixture
def base(tmp_path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


def total(of: Pack) -> int:
    return sum(f.size for f in of.files)


def stage(of: Pack, base: Path, *names: str, **more) -> copying.Staged:
    """Stage all or some files, and give the lease back."""
    staged = copying.stage(of, [of.file(n) for n in names] or of.files, Scratch(base), **more)
    staged.lease.release()
    return staged


def until(happened, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


# -- once


def test_what_is_staged_is_byte_exact_and_the_second_start_copies_nothing(packed, base):
    seen = []
    first = stage(packed, base, on_progress=lambda *now: seen.append(now))
    assert is_exact(packed, first.folder)
    assert (first.source, first.copied, first.found, first.repaired) == ("copied", total(packed), 0, 0)
    assert seen[-1] == (total(packed), total(packed), "copying")
    second = stage(packed, base)
    assert (second.source, second.copied, second.found, second.repaired) == ("there", 0, total(packed), 0)


def test_a_start_that_finds_all_there_reads_neither_the_pack_nor_the_copy(own_pack, base):
    first = stage(own_pack, base)
    for file in own_pack.files:
        (own_pack.path / file.name).unlink()
        if file.size:
            os.chmod(first.folder / file.name, 0)
    assert stage(own_pack, base).source == "there"


def test_more_of_a_pack_can_be_brought_while_what_is_there_is_read(packed, base):
    first = copying.stage(packed, [packed.file(A)], Scratch(base))
    with open(first.folder / A, "rb") as reader:
        again = stage(packed, base, B, A)
        assert (again.source, again.copied, again.found) == ("copied", packed.file(B).size, packed.file(A).size)
        assert os.fstat(reader.fileno()).st_ino == os.stat(first.folder / A).st_ino
    assert is_exact(packed, first.folder, [A, B])
    assert sorted(Scratch(base).sets()[0].files) == [A, B]
    first.lease.release()


def test_of_two_jobs_that_start_at_once_one_copies_and_the_other_waits(own_pack, base, tmp_path):
    first = start_and_pause(own_pack, base)
    empty = tmp_path / "elsewhere"  # the one that waits could not read the pack
    empty.mkdir()
    shutil.copy(own_pack.path / manifest.MANIFEST, empty)
    waiting, result = threading.Event(), []

    def second() -> None:
        result.append(stage(manifest.read(empty), base, on_progress=lambda *now: waiting.set() if now[2] == "waiting"
                            else None))

    thread = threading.Thread(target=second)
    thread.start()
    assert waiting.wait(60)
    said, _ = first.communicate("continue\n", timeout=60)
    thread.join(60)
    assert said.split() == ["copied", str(total(own_pack)), "0", "0"]
    assert (result[0].source, result[0].copied, result[0].found) == ("waited", 0, total(own_pack))
    assert result[0].waited > 0 and is_exact(own_pack, result[0].folder)


def test_one_that_waits_resumes_where_the_killed_one_was_and_sees_how_far_it_came(packed, base):
    first = start_and_pause(packed, base, f"{A},{B}")
    seen = []

    def watch(*now) -> None:
        seen.append(now)
        if now[2] == "waiting":
            first.kill()

    staged = stage(packed, base, A, B, on_progress=watch)
    first.communicate()
    wanted = packed.file(A).size + packed.file(B).size
    assert staged.found > 0 and staged.copied + staged.found == wanted
    assert seen[0][2] == "waiting" and is_exact(packed, staged.folder, [A, B])


# -- killed


@pytest.mark.parametrize("point", [f"block-written:{A}", f"before-fsync:{A}", f"before-rename:{A}", "before-manifest",
                                   "before-rename:manifest.json"])
def test_a_copier_that_is_killed_has_lost_only_what_was_in_progress(packed, base, point):
    status, _ = stage_in_process(packed, base, A, **{files.KILL_ENV: point})
    assert status == -signal.SIGKILL
    one, = Scratch(base).sets()
    assert not one.leased and not one.copying
    staged = stage(packed, base)
    assert is_exact(packed, staged.folder)
    if "manifest" not in point:  # that of the beginning comes before the first block
        assert staged.found >= (12345 if point.startswith("block") else packed.file(A).size)


@pytest.mark.slow
def test_a_copier_that_is_killed_again_and_again_comes_to_the_same_end(packed, base):
    rng = random.Random(1)
    for _ in range(15):
        process = start(packed, base, hold=True)
        until(lambda process=process: Path(base, f"ecm-cluster-{os.getuid()}").exists() or process.poll() is not None)
        time.sleep(rng.uniform(0, 0.25))
        process.kill()
        process.communicate()
        for one in Scratch(base).sets():
            assert all((one.folder / name).read_bytes() == (packed.path / name).read_bytes() for name in one.files)
            assert not one.leased
            if rng.random() < 0.4:  # so that there is something to copy the next time
                shutil.rmtree(one.folder)
    assert is_exact(packed, stage(packed, base).folder)


def test_what_is_in_a_half_copied_file_is_believed_by_its_checksum_alone(packed, base):
    status, _ = stage_in_process(packed, base, A, **{files.KILL_ENV: f"before-fsync:{A}"})
    assert status == -signal.SIGKILL
    one, = Scratch(base).sets()
    partial = one.folder / f"{A}.tmp"
    with open(partial, "r+b") as handle:
        handle.seek(BLOCK + 77)
        handle.write(b"wrong")
        handle.truncate(packed.file(A).size + 4096)  # longer than it should be
    staged = stage(packed, base, A)
    assert (staged.copied, staged.found) == (BLOCK, packed.file(A).size - BLOCK)
    assert is_exact(packed, staged.folder, [A])


# -- damaged


def flip(path: Path, keep_stamp: bool = False) -> None:
    before = os.stat(path)
    with open(path, "r+b") as handle:
        handle.seek(BLOCK + 5)
        byte = handle.read(1)
        handle.seek(BLOCK + 5)
        handle.write(bytes([byte[0] ^ 1]))
    if keep_stamp:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def grow(path: Path) -> None:
    with open(path, "ab") as handle:
        handle.write(b"more")


@pytest.mark.parametrize("harm, repaired", [
    (flip, BLOCK), (grow, 0), (lambda path: os.truncate(path, BLOCK + 1), BLOCK + 12345),
    (lambda path: os.truncate(path, 0), 2 * BLOCK + 12345), (lambda path: os.utime(path), 0)])
def test_a_file_that_was_touched_is_checked_and_repaired(packed, base, harm, repaired):
    folder = stage(packed, base).folder
    harm(folder / A)
    staged = stage(packed, base)
    assert (staged.repaired, staged.copied) == (repaired, 0)
    assert is_exact(packed, folder) and stage(packed, base).source == "there"


def test_a_file_that_is_gone_is_copied_again_and_a_link_in_its_place_is_not_written_through(packed, base, tmp_path):
    folder = stage(packed, base).folder
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (folder / A).unlink()
    (folder / A).symlink_to(precious)
    (folder / B).unlink()
    (folder / B).mkdir()
    (folder / EMPTY).unlink()
    staged = stage(packed, base)
    assert staged.copied == packed.file(A).size + BLOCK
    assert is_exact(packed, folder) and precious.read_text() == "mine" and not (folder / A).is_symlink()


def test_damage_that_a_reader_reports_is_repaired_at_the_next_start(packed, base):
    folder = stage(packed, base).folder
    flip(folder / A, keep_stamp=True)
    assert stage(packed, base).source == "there"  # nobody can see it by size and time
    for name in (A, B):
        SetFolder(folder).report_damage(name)
    with pytest.raises(OSError):
        SetFolder(folder).report_damage("images/unknown.tar")
    staged = stage(packed, base)
    assert (staged.source, staged.repaired, staged.copied) == ("repaired", BLOCK, 0)
    assert is_exact(packed, folder) and stage(packed, base).source == "there"


@pytest.mark.parametrize("point", [f"block-written:{A}", f"before-rename:{A}", "before-manifest"])
def test_a_repair_that_is_killed_is_done_by_the_next(packed, base, point):
    folder = stage(packed, base).folder
    flip(folder / A, keep_stamp=True)
    SetFolder(folder).report_damage(A)
    assert stage_in_process(packed, base, **{files.KILL_ENV: point})[0] == -signal.SIGKILL
    stage(packed, base)
    assert is_exact(packed, folder) and stage(packed, base).source == "there"


def test_a_full_check_finds_what_size_and_time_do_not_show_and_repairs_it(packed, base):
    folder = stage(packed, base).folder
    one, = Scratch(base).sets()
    assert (copying.repair(one, packed).found, copying.repair(one, packed).source) == (total(packed), "there")
    flip(folder / A, keep_stamp=True)
    (folder / B).unlink()
    repaired = copying.repair(one, packed)
    assert (repaired.repaired, repaired.copied, repaired.found) == (BLOCK, BLOCK, total(packed) - 2 * BLOCK)
    assert is_exact(packed, folder) and copying.repair(one, packed).source == "there"


def test_a_full_check_asks_for_the_pack_that_was_copied(packed, base, tmp_path):
    stage(packed, base, EMPTY)
    other = make_pack(tmp_path / "other.pack", {A: 10})
    with pytest.raises(UserError, match="expected the pack that it was copied from"):
        copying.repair(Scratch(base).sets()[0], other)


def cut(path: Path) -> None:
    os.truncate(path, BLOCK + 100)


@pytest.mark.parametrize("harm, says", [(flip, "block 1 of .* wrong checksum"), (cut, "block [12] of .* cut short"),
                                        (os.unlink, "block 0 of .* cannot be read")])
def test_a_damaged_pack_is_named_in_one_line_and_what_was_right_is_kept(own_pack, packed, base, harm, says):
    harm(own_pack.path / A)
    with pytest.raises(UserError, match=says) as error:
        stage(own_pack, base, A, threads=1)
    assert "\n" not in str(error.value) and "stage verify" in str(error.value)
    assert not Scratch(base).sets()[0].leased
    shutil.copy(packed.path / A, own_pack.path / A)
    staged = stage(own_pack, base, A)
    assert is_exact(own_pack, staged.folder, [A]) and staged.found == (0 if harm is os.unlink else BLOCK)


def test_a_pack_cannot_write_outside_its_set(packed, base):
    for name in ("../escape", "/etc/escape", "manifest.json", "lease", "images/x.tmp", "damaged/x"):
        evil = manifest.PackedFile(name, 0, "images", "", ())
        with pytest.raises(UserError, match="cannot be staged|inside the directory"):
            copying.stage(packed, [evil], Scratch(base))


# -- several nodes


class Peer:
    """Another node that has the whole pack, and lies about one block."""

    def __init__(self, of: Pack, base: Path) -> None:
        self.of, self.folder = of, Scratch(base).set_folder(of.digest)
        self.asked: list[tuple[str, int]] = []
        self.had: dict[tuple[str, int], bool] = {}

    def order(self, blocks):
        return blocks[::-1]

    def fetch(self, file, block, buffer) -> bool:
        self.asked.append((file.name, block))
        offset, length = file.span(block)
        if (file.name, block) == (A, 2):
            return False
        buffer[:] = (self.of.path / file.name).read_bytes()[offset:offset + length]
        if (file.name, block) == (A, 0):
            buffer[7] ^= 255
        return True

    def have(self, file, blocks) -> None:
        whole, partial = self.folder.file(file.name), self.folder.partial(file.name)
        found = (whole if whole.exists() else partial).read_bytes()
        for block in blocks:
            offset, length = file.span(block)
            right = (self.of.path / file.name).read_bytes()[offset:offset + length]
            self.had[file.name, block] = found[offset:offset + length] == right


def test_blocks_come_from_other_nodes_and_from_shared_storage_where_those_have_none_or_wrong_ones(own_pack, packed,
                                                                                                   base):
    stage(own_pack, base, "index.bin")
    (own_pack.path / B).unlink()  # nobody but a peer has it
    peer = Peer(packed, base)
    staged = stage(own_pack, base, peers=peer, threads=1)
    every = {(f.name, b) for f in packed.files for b in range(len(f.blocks))}
    assert is_exact(packed, staged.folder)
    assert set(peer.asked) == every - {("index.bin", 0)} and peer.asked[-1] == (A, 0)
    assert set(peer.had) == every and all(peer.had.values())


def test_a_node_that_has_all_serves_all(packed, base):
    stage(packed, base)
    peer = Peer(packed, base)
    stage(packed, base, peers=peer)
    assert len(peer.had) == sum(len(f.blocks) for f in packed.files) and not peer.asked
