"""A node's scratch: who uses what, what goes when room is needed, and what never does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from staging.making import A, B, in_memory, is_exact, make_pack, stage_in_process, start, start_and_pause

from ecm_cluster.base import disk, files
from ecm_cluster.base.errors import UserError
from ecm_cluster.pack.manifest import BLOCK, Pack
from ecm_cluster.staging import copying, scratch
from ecm_cluster.staging.scratch import NoRoom, Scratch
from ecm_cluster.staging.staged_set import SetFolder

KIB = 1 << 10


@pytest.fixture(scope="module")
def packs(tmp_path_factory) -> list[Pack]:
    """Three small ones."""
    return [make_pack(tmp_path_factory.mktemp("shared") / f"{n}.pack", {A: 300 * KIB, B: 100 * KIB}) for n in range(3)]


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> list[Pack]:
    """Two of 24 MiB each."""
    return [make_pack(tmp_path_factory.mktemp("shared") / f"{n}.pack", {A: 2 * BLOCK, B: BLOCK}) for n in range(2)]


@pytest.fixture
def base(tmp_path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 40 MiB of its own."""
    point = tmp_path / "disk"
    point.mkdir()
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", point],
                                          capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield point
    subprocess.run(["umount", "-l", point], check=True)


def stage(of: Pack, base: Path, used: int | None = None, **more) -> copying.Staged:
    """Stage a pack and give the lease back; ``used``: when it was used, in seconds since the epoch."""
    staged = copying.stage(of, of.files, Scratch(base), **more)
    staged.lease.release()
    if used is not None:
        os.utime(SetFolder(staged.folder).lease, (used, used))
    return staged


def digests(base: Path) -> list[str]:
    return [one.digest for one in Scratch(base).sets()]


# -- leases


def test_a_set_that_is_leased_stays_and_goes_when_the_lease_is_given_back(packs, base):
    held = copying.stage(packs[0], packs[0].files, Scratch(base))
    stage(packs[1], base)
    assert [one.digest for one in Scratch(base).collect()] == [packs[1].digest]
    assert is_exact(packs[0], held.folder) and Scratch(base).sets()[0].leased
    held.lease.release()
    assert [one.digest for one in Scratch(base).collect()] == [packs[0].digest]
    assert digests(base) == [] and not held.folder.exists()


def test_a_lease_ends_with_the_process_that_was_killed(packs, base):
    process = start(packs[0], base, hold=True)
    assert process.stdout is not None and process.stdout.readline().startswith("copied")
    assert Scratch(base).collect() == [] and Scratch(base).sets()[0].leased
    process.kill()
    process.communicate()
    assert not Scratch(base).sets()[0].leased and len(Scratch(base).collect()) == 1


FORKING = """
import os, signal, sys
from pathlib import Path
from ecm_cluster.staging import copying, scratch
from ecm_cluster.pack import manifest
found = manifest.read(sys.argv[1])
staged = copying.stage(found, found.files, scratch.Scratch(Path(sys.argv[2])))
child = os.fork()
if not child:
    sys.stdin.read()
    os._exit(0)
print(child, flush=True)
staged.lease.release()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_children_that_were_forked_hold_the_lease_when_their_parent_has_given_it_back_and_died(root, packs, base):
    process = subprocess.Popen([sys.executable, "-c", FORKING, str(packs[0].path), str(base)], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               env={**os.environ, "PYTHONPATH": str(root)})
    assert process.stdout is not None and process.stdin is not None
    process.stdout.readline()
    assert process.wait() == -signal.SIGKILL
    assert Scratch(base).sets()[0].leased and Scratch(base).collect() == []
    process.stdin.close()  # the child ends
    assert process.stdout.read() == ""
    assert len(Scratch(base).collect()) == 1


def test_a_lease_can_be_handed_to_a_program_that_is_executed(packs, base):
    staged = copying.stage(packs[0], packs[0].files, Scratch(base))
    program = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[staged.lease.fileno()])
    other = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    staged.lease.release()
    assert Scratch(base).sets()[0].leased
    program.communicate()
    assert not Scratch(base).sets()[0].leased
    other.communicate()
    with pytest.raises(ValueError, match="released"):
        staged.lease.fileno()


# -- collection


def test_what_was_used_longest_ago_goes_first_and_no_more_than_is_needed(packs, base):
    for of, used in zip(packs, (3000, 1000, 2000)):
        stage(of, base, used)
    assert digests(base) == [packs[1].digest, packs[2].digest, packs[0].digest]
    assert [one.digest for one in Scratch(base).collect(1)] == [packs[1].digest]
    assert [one.digest for one in Scratch(base).collect(1, keep=[packs[2].digest])] == [packs[0].digest]
    stage(packs[1], base)
    assert digests(base) == [packs[2].digest, packs[1].digest]


def test_a_start_that_finds_its_set_there_counts_as_use(packs, base):
    stage(packs[0], base, 1000)
    stage(packs[1], base, 2000)
    assert stage(packs[0], base).source == "there"
    assert digests(base) == [packs[1].digest, packs[0].digest]


def test_a_half_copied_set_without_a_living_copier_can_go(packs, base):
    assert stage_in_process(packs[0], base, **{files.KILL_ENV: f"before-rename:{A}"})[0] == -signal.SIGKILL
    one, = Scratch(base).sets()
    assert one.partial and one.pack == str(packs[0].path) and A not in one.files and one.bytes > 0
    assert [gone.digest for gone in Scratch(base).collect()] == [packs[0].digest]


COLLECT = "import sys; from pathlib import Path; from ecm_cluster.staging.scratch import Scratch; " \
          "Scratch(Path(sys.argv[1])).collect()"


@pytest.mark.parametrize("point", ["before-removal", "removing"])
def test_a_set_that_is_half_removed_is_never_taken_for_one(root, packs, base, point):
    folder = stage(packs[0], base).folder
    done = subprocess.run([sys.executable, "-c", COLLECT, str(base)], check=False,
                          env={**os.environ, "PYTHONPATH": str(root), files.KILL_ENV: point})
    assert done.returncode == -signal.SIGKILL
    trash = Scratch(base).root / "trash"
    if point == "removing":
        assert digests(base) == [] and not folder.exists() and len(list(trash.iterdir())) == 1
    assert is_exact(packs[0], stage(packs[0], base).folder)
    Scratch(base).collect(0)
    assert list(trash.iterdir()) == [] and is_exact(packs[0], folder)


def test_nothing_that_is_not_ours_is_ever_removed(packs, base):
    stage(packs[0], base)
    root = Scratch(base).root
    strange = [base / "data", root / "notes", root / "sets" / "notes", root / "sets" / "0123456789abcdef"]
    for path in strange:
        path.write_text("mine")
    assert len(Scratch(base).collect()) == 1
    assert all(path.read_text() == "mine" for path in strange)


def test_looking_makes_nothing(base):
    found = Scratch(base / "not" / "there")
    assert (found.sets(), found.collect()) == ([], []) and found.filesystem().free > 0
    assert list(base.iterdir()) == []


# -- room


def test_room_is_made_by_what_nobody_uses(large, small_disk):
    stage(large[0], small_disk)
    staged = stage(large[1], small_disk)
    assert is_exact(large[1], staged.folder) and digests(small_disk) == [large[1].digest]


def test_where_all_is_in_use_one_line_says_what_is_needed_and_what_holds_it(large, small_disk):
    held = copying.stage(large[0], large[0].files, Scratch(small_disk))
    with pytest.raises(NoRoom, match=r"25.2 MB needed, .* free, sets in use \(1\) hold 25.2 MB") as error:
        stage(large[1], small_disk)
    assert "\n" not in str(error.value) and str(small_disk) in str(error.value)
    assert is_exact(large[0], held.folder)
    held.lease.release()
    assert is_exact(large[1], stage(large[1], small_disk).folder)


def test_a_disk_that_fills_although_it_looked_free_is_cleared_or_what_was_copied_is_kept(large, small_disk,
                                                                                         monkeypatch):
    stage(large[0], small_disk)
    lying = disk.Filesystem("xfs", 1 << 40, 1 << 40)
    monkeypatch.setattr(scratch, "filesystem", lambda folder: lying)
    assert is_exact(large[1], stage(large[1], small_disk).folder)  # the first set had to go
    Scratch(small_disk).collect()
    (small_disk / "other").write_bytes(bytes(28 << 20))
    with pytest.raises(NoRoom):
        stage(large[0], small_disk, threads=1)
    one, = Scratch(small_disk).sets()
    assert one.partial and not one.leased
    (small_disk / "other").unlink()
    staged = stage(large[0], small_disk)
    assert staged.found >= BLOCK and is_exact(large[0], staged.folder)


def test_a_disk_that_is_full_to_the_last_byte_is_cleared_by_what_nobody_uses(large, small_disk):
    stage(large[0], small_disk)
    with contextlib.suppress(OSError), open(small_disk / "other", "wb") as handle:
        while True:
            handle.write(bytes(64 * KIB))
    staged = copying.stage(large[1], [large[1].file(B)], Scratch(small_disk))
    assert is_exact(large[1], staged.folder, [B]) and digests(small_disk) == [large[1].digest]
    staged.lease.release()


def test_room_that_is_promised_to_one_job_is_not_given_to_another(large, small_disk):
    first = start_and_pause(large[0], small_disk)
    with pytest.raises(NoRoom):
        stage(large[1], small_disk)
    said, _ = first.communicate("continue\n", timeout=60)
    assert said.startswith("copied")
    assert is_exact(large[1], stage(large[1], small_disk).folder)


def test_a_scratch_in_memory_takes_no_more_than_the_job_may(packs, small_disk):
    of = packs[0]
    size = sum(f.size for f in of.files)
    with pytest.raises(NoRoom, match="is in memory .*tmpfs.* ask for more memory"):
        stage(of, small_disk, memory_limit=size - 1)
    stage(of, small_disk, memory_limit=size)
    assert stage(of, small_disk, memory_limit=0).source == "there"  # what is there counts against nobody now


# -- the folder


def test_the_folder_is_for_its_user_alone(packs, base):
    root = Scratch(base).root
    root.mkdir(mode=0o755)
    stage(packs[0], base)
    assert root.stat().st_mode & 0o777 == 0o700
    assert root.name == f"ecm-cluster-{os.getuid()}"


def test_a_folder_that_another_user_put_there_is_not_used(packs, base, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Scratch(base).root.symlink_to(elsewhere)
    with pytest.raises(UserError, match="not your directory"):
        stage(packs[0], base)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("where", ["file", "missing/deeper"])
def test_a_folder_that_cannot_be_used_is_named_in_one_line(packs, base, where):
    (base / "file").write_text("")
    with pytest.raises(UserError, match="could not write to") as error:
        stage(packs[0], base / where)
    assert "\n" not in str(error.value)


def test_the_file_system_follows_from_the_mount_that_is_nearest(tmp_path):
    (tmp_path / "with space").mkdir()
    (tmp_path / "with").mkdir()
    mounts = tmp_path / "mounts"
    escaped = str(tmp_path / "with space").replace(" ", "\\040")
    mounts.write_text(f"a / ext4 rw 0 0\nb {tmp_path} xfs rw 0 0\nc {escaped} nfs rw 0 0\nd {escaped} tmpfs rw 0 0\n")
    kinds = {name: disk.filesystem(tmp_path / name, mounts) for name in ("with space", "with", "with space/deep")}
    assert {name: found.kind for name, found in kinds.items()} == {"with space": "tmpfs", "with": "xfs",
                                                                   "with space/deep": "tmpfs"}
    assert kinds["with space"].in_memory and not kinds["with"].in_memory
    assert disk.filesystem(Path("/"), mounts).kind == "ext4"
    assert disk.filesystem(Path("/"), tmp_path / "none").kind == ""


def test_many_threads_that_stage_and_collect_at_once_always_read_what_is_right(packs, base):
    wrong = []

    def work(seed: int) -> None:
        for turn in range(6):
            of = packs[(seed + turn) % 3]
            staged = copying.stage(of, of.files, Scratch(base), threads=2)
            if not is_exact(of, staged.folder):
                wrong.append((seed, turn))
            staged.lease.release()
            Scratch(base).collect()

    crew = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    assert wrong == [] and all(not one.leased for one in Scratch(base).sets())
