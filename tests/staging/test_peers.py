"""Nodes that pass blocks on to each other: real processes, each with a scratch of its own, over loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
from staging.making import A, B, in_memory, is_exact, make_pack

from ecm_cluster.base import files
from ecm_cluster.pack.manifest import BLOCK, Pack, PackedFile
from ecm_cluster.staging import copying
from ecm_cluster.staging.peers import block_client, block_server, peer_group
from ecm_cluster.staging.peers.block_client import _Connection
from ecm_cluster.staging.peers.block_server import Answer
from ecm_cluster.staging.peers.peer_group import PeerGroup
from ecm_cluster.staging.peers.protocol import HERE, LATER, NEVER, Secret
from ecm_cluster.staging.scratch import Scratch

pytestmark = pytest.mark.slow  # together they wait for some twenty seconds

SIZES = {A: 5 * BLOCK + 12345, B: 3 * BLOCK, "images/c-00000.tar": 77}
LOOPBACK = ["127.0.0.1"]

NODE = """
import sys, threading, time
from pathlib import Path
from ecm_cluster.pack import manifest
from ecm_cluster.staging import copying, scratch, streams
from ecm_cluster.staging.peers import block_client, peer_group
path, base, contacts, node, nodes = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
block_client.PATIENCE, peer_group.MEETING = 4.0, 3.0
read, carry = [], streams.Stream.carry
def counted(self, file, block, source, target=None):
    if str(source).startswith(path):
        read.append(file.span(block)[1])
    return carry(self, file, block, source, target)
streams.Stream.carry = counted
of, place = manifest.read(path), scratch.Scratch(Path(base))
with peer_group.PeerGroup(lambda n: Path(contacts, f"{n}.json"), node, nodes, of.digest, ["127.0.0.1"],
                          place.set_folder(of.digest).path) as peers:
    staged = copying.stage(of, of.files, place, peers=peers, threads=3)
    print(sum(read), staged.folder, flush=True)
    Path(contacts, f"{node}.done").touch()
    end = time.monotonic() + 5
    while time.monotonic() < end and not all(Path(contacts, f"{n}.done").exists() for n in range(nodes)):
        time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    with in_memory(tmp_path_factory.mktemp("pack")) as folder:
        yield make_pack(folder / "pack", SIZES)


@pytest.fixture
def base(tmp_path):
    with in_memory(tmp_path) as folder:
        yield folder


def node(of: Pack, base: Path, number: int, nodes: int, preamble: str = "", **env: str) -> subprocess.Popen:
    """A process that runs as one node; it says how many bytes it read from the pack, and where its copy lies."""
    for folder in (base / "contacts", base / f"scratch{number}"):
        folder.mkdir(exist_ok=True)
    root = str(Path(__file__).resolve().parents[2])
    arguments = [str(of.path), str(base / f"scratch{number}"), str(base / "contacts"), str(number), str(nodes)]
    return subprocess.Popen([sys.executable, "-c", preamble + NODE, *arguments], stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "PYTHONPATH": root, **env})


def ended(process: subprocess.Popen) -> tuple[int, Path]:
    """(bytes read from the pack, folder of the copy) of a node that has done its work."""
    said = process.communicate(timeout=100)[0].split()
    assert process.returncode == 0
    return int(said[0]), Path(said[1])


def total(of: Pack) -> int:
    return sum(f.size for f in of.files)


def contact(base: Path):
    return lambda number: base / f"{number}.json"


def group_of(of: Pack, base: Path, number: int = 0, nodes: int = 2, digest: str = "",
             folder: Path | None = None) -> PeerGroup:
    """A node, whose copy is the pack itself."""
    return PeerGroup(contact(base), number, nodes, digest or of.digest, LOOPBACK, folder or of.path)


def has_all(group: PeerGroup, of: Pack) -> None:
    for file in of.files:
        group.have(file, range(len(file.blocks)))


def met(group: PeerGroup) -> None:
    """Wait until all others have answered."""
    end = time.monotonic() + 10
    while not all(p.met for p in group._peers.values()):
        assert time.monotonic() < end
        time.sleep(0.01)


def block_of(of: Pack, file: PackedFile, block: int) -> bytes:
    offset, length = file.span(block)
    return (of.path / file.name).read_bytes()[offset:offset + length]


def fetched(group: PeerGroup, of: Pack, file: PackedFile, block: int) -> bool:
    """Whether a block can be fetched; then it is right."""
    buffer = memoryview(bytearray(file.span(block)[1]))
    found = group.fetch(file, block, buffer)
    assert not found or bytes(buffer) == block_of(of, file, block)
    return found


def others_share(group: PeerGroup, of: Pack) -> list[tuple[PackedFile, int]]:
    every = [(f, b) for f in of.files for b in range(len(f.blocks))]
    return [task for task in every if group._owner(*task) != group.node]


# -- all of it


def test_the_storage_is_read_once_for_three_nodes(packed, base):
    found = [ended(each) for each in [node(packed, base, n, 3) for n in range(3)]]
    assert all(is_exact(packed, folder) for _, folder in found)
    assert sum(read for read, _ in found) == total(packed)
    assert all(0 < read < total(packed) / 2 for read, _ in found)


def test_a_node_that_has_all_already_is_all_that_is_read(packed, base):
    (base / "scratch0").mkdir()
    copying.stage(packed, packed.files, Scratch(base / "scratch0")).lease.release()
    (first, _), (second, folder) = [ended(each) for each in [node(packed, base, n, 2) for n in range(2)]]
    assert (first, second) == (0, 0) and is_exact(packed, folder)


@pytest.mark.parametrize("point", ["block-written", pytest.param("before-rename:json", marks=pytest.mark.slow)])
def test_where_a_node_is_killed_the_others_finish(packed, base, point):
    victim = node(packed, base, 1, 3, ECM_CLUSTER_KILL_AT=point)
    rest = [node(packed, base, n, 3) for n in (0, 2)]
    found = [ended(each) for each in rest]
    assert victim.wait() == -signal.SIGKILL
    assert all(is_exact(packed, folder) for _, folder in found)
    assert sum(read for read, _ in found) <= 1.5 * total(packed)


@pytest.mark.slow
def test_where_two_of_five_nodes_are_killed_no_two_others_wait_for_each_other(packed, base):
    victims = [node(packed, base, n, 5, ECM_CLUSTER_KILL_AT="block-written") for n in (1, 3)]
    found = [ended(each) for each in [node(packed, base, n, 5) for n in (0, 2, 4)]]
    assert [victim.wait() for victim in victims] == [-signal.SIGKILL] * 2
    assert all(is_exact(packed, folder) for _, folder in found)
    assert sum(read for read, _ in found) <= 2 * total(packed)


@pytest.mark.slow
def test_a_node_that_hangs_in_the_middle_does_not_hold_up_the_others(packed, base):
    victim = node(packed, base, 1, 3, ECM_CLUSTER_STOP_AT="block-written")
    try:
        found = [ended(each) for each in [node(packed, base, n, 3) for n in (0, 2)]]
        assert all(is_exact(packed, folder) for _, folder in found)
    finally:
        victim.kill()
        victim.wait()


def test_a_node_that_never_comes_is_not_waited_for_forever(packed, base, monkeypatch):
    monkeypatch.setattr(block_client, "PATIENCE", 0.3)
    with group_of(packed, base) as group:
        scratch = base / "scratch"
        scratch.mkdir()
        staged = copying.stage(packed, packed.files, Scratch(scratch), peers=group)
    assert is_exact(packed, staged.folder) and staged.copied == total(packed)


# -- one block


def test_a_block_is_waited_for_while_its_owner_is_on_its_way_to_it(packed, base):
    with group_of(packed, base) as asking, group_of(packed, base, 1) as owner:
        met(asking)
        file, block = others_share(asking, packed)[0]
        owner.order([(file, block)])
        later = threading.Timer(0.3, owner.have, (file, (block,)))
        later.start()
        assert fetched(asking, packed, file, block)


def test_a_block_that_its_owner_does_not_want_comes_from_another_node_or_not_at_all(packed, base):
    with group_of(packed, base, 0, 3) as asking, group_of(packed, base, 1, 3) as one, \
            group_of(packed, base, 2, 3) as two:
        file, block = next(t for t in others_share(asking, packed) if asking._owner(*t) == 1)
        one.order([])
        has_all(two, packed)
        two.order([])
        met(asking)
        assert fetched(asking, packed, file, block)
        two.close()
        assert not fetched(asking, packed, file, block)


def test_a_node_takes_its_own_share_from_one_that_has_it(packed, base):
    with group_of(packed, base) as asking, group_of(packed, base, 1) as other:
        has_all(other, packed)
        other.order([])
        met(asking)
        assert all(fetched(asking, packed, f, b) for f in packed.files for b in range(len(f.blocks)))


def test_a_file_that_is_being_copied_is_passed_on_and_also_after_its_renaming(packed, base):
    for suffix in (".tmp", ""):
        folder = base / f"copy{suffix}"
        with group_of(packed, base) as asking, group_of(packed, base, 1, folder=folder) as owner:
            met(asking)
            file, block = others_share(asking, packed)[0]
            (folder / file.name).parent.mkdir(parents=True)
            shutil.copy(packed.path / file.name, folder / f"{file.name}{suffix}")
            owner.have(file, (block,))
            assert fetched(asking, packed, file, block)
        for left in base.glob("*.json"):
            left.unlink()


def test_a_copy_that_was_cut_or_removed_is_not_passed_on(packed, base):
    with group_of(packed, base) as asking, group_of(packed, base, 1, folder=base / "copy") as owner:
        met(asking)
        (file, block), (other, last) = [t for t in others_share(asking, packed) if t[0].name in (A, B)][:2]
        (base / "copy" / "images").mkdir(parents=True)
        (base / "copy" / file.name).write_bytes(b"short")
        owner.have(file, (block,))
        owner.have(other, (last,))
        assert not fetched(asking, packed, file, block) and not fetched(asking, packed, other, last)


def test_the_own_share_comes_first_and_no_two_nodes_begin_with_the_same_one(packed, base, monkeypatch):
    monkeypatch.setattr(peer_group, "MEETING", 0.0)
    every = [(f, b) for f in packed.files for b in range(len(f.blocks))]
    begun = []
    for number in range(3):
        with group_of(packed, base, number, 3) as group:
            ordered = group.order(every)
            owners = [group._owner(*task) for task in ordered]
            assert sorted(ordered, key=every.index) == every
            assert list(dict.fromkeys(owners)) == [(number + step) % 3 for step in range(3)]
            begun.append(next(o for o in owners if o != number))
    assert sorted(begun) == [0, 1, 2]


def test_threads_that_ask_at_once_get_each_its_own_block(packed, base):
    with group_of(packed, base) as asking, group_of(packed, base, 1) as owner:
        has_all(owner, packed)
        met(asking)
        tasks, right = others_share(asking, packed) * 3, []
        crew = [threading.Thread(target=lambda t=t: right.append(fetched(asking, packed, *t))) for t in tasks]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
        assert right == [True] * len(tasks)


# -- those who mean no good, or are broken


def test_a_block_that_is_wrong_at_the_other_node_is_refused_and_the_others_still_come(packed, base):
    with group_of(packed, base) as asking, group_of(packed, base, 1) as owner:
        has_all(owner, packed)
        met(asking)
        (file, block), right = others_share(asking, packed)[0], others_share(asking, packed)[1:]
        copy = base / "copy" / file.name
        copy.parent.mkdir(parents=True)
        data = bytearray((packed.path / file.name).read_bytes())
        data[file.span(block)[0]] ^= 1
        copy.write_bytes(data)
        owner._folder = base / "copy"
        assert not fetched(asking, packed, file, block)
        owner._folder = packed.path
        assert all(fetched(asking, packed, f, b) for f, b in right)


class Rogue:
    """What listens where another node should."""

    def __init__(self, base: Path, answer: bytes | None, pause: float = 0.0) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._answer, self._pause, self._callers = answer, pause, []
        files.write_json(contact(base)(1), {"addresses": LOOPBACK, "port": self._socket.getsockname()[1],
                                            "token": "00" * 32})
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._socket.accept()
                self._callers.append(caller)
                for at in range(len(self._answer or b"")):
                    caller.sendall(self._answer[at:at + 1])
                    time.sleep(self._pause)

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("answer, pause", [(None, 0), (b"HTTP/1.1 200 OK\r\n\r\n" * 100, 0), (os.urandom(4096), 0),
                                           (b"HTTP/1.1 100 Continue\r\n\r\n" * 9, 0.05)],
                         ids=["nothing", "no proof", "noise", "a byte now and then"])
def test_who_answers_nothing_or_garbage_at_a_node_s_address_costs_a_moment(packed, base, answer, pause, monkeypatch):
    monkeypatch.setattr(block_client, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(block_client, "APART", 0.0)
    monkeypatch.setattr(block_client, "LOOK", 0.02)
    began = time.monotonic()
    with contextlib.closing(Rogue(base, answer, pause)), group_of(packed, base) as group:
        file, block = others_share(group, packed)[0]
        assert not fetched(group, packed, file, block)
        assert group._peers[1].gone and not group._peers[1].met
    assert time.monotonic() - began < 5


ZEROS = cast(Any, "a file")


@pytest.mark.parametrize("reply", [
    Answer(299, 1), Answer(HERE, 1), Answer(HERE, cast(Any, "many")),
    Answer(NEVER, 1, ZEROS, 0, 5),
    Answer(HERE, 1, ZEROS, 0, BLOCK + 1),  # more than asked for
    Answer(HERE, 1, ZEROS, 0, 12345),  # less
    Answer(HERE, 1, ZEROS, 0, BLOCK),  # wrong bytes
    Answer(HERE, 1, ZEROS, 100, BLOCK),  # ends in the middle
])
def test_a_node_that_knows_the_secret_and_answers_nonsense_does_no_harm(packed, base, reply, monkeypatch):
    monkeypatch.setattr(block_client, "APART", 0.0)
    with group_of(packed, base) as asking, group_of(packed, base, 1) as owner:
        met(asking)
        (base / "zeros").write_bytes(bytes(BLOCK + (reply.length > BLOCK)))
        owner._server.answer = lambda query: reply._replace(file=reply.file and (base / "zeros").open("rb"))
        file, block = next(t for t in others_share(asking, packed) if t[0].span(t[1])[1] == BLOCK)
        assert not fetched(asking, packed, file, block)


def test_an_answer_without_the_right_proof_is_not_used(packed, base, monkeypatch):
    monkeypatch.setattr(block_client, "APART", 0.0)
    with group_of(packed, base) as asking, group_of(packed, base, 1) as owner:
        has_all(owner, packed)
        met(asking)
        for proof in ("", "0" * 64, "\xe9"):
            monkeypatch.setattr(owner._server.secret, "proof", lambda *_, proof=proof: proof)
            assert not fetched(asking, packed, *others_share(asking, packed)[0])
        assert asking._peers[1].gone


def secret_of(base: Path, digest: str) -> tuple[int, Secret]:
    """(port, secret) of node 1."""
    record = files.read_json(contact(base)(1))
    return record["port"], Secret(record["token"], digest)


def answered(port: int, sent: bytes) -> bytes:
    """All that is answered to a message."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as caller:
        caller.sendall(sent)
        found = b""
        with contextlib.suppress(ConnectionResetError, socket.timeout):
            while piece := caller.recv(1 << 20):
                found += piece
                caller.settimeout(0.2)
        return found


def test_without_the_secret_or_with_another_pack_nothing_is_answered(packed, base):
    with group_of(packed, base, 1) as owner:
        has_all(owner, packed)
        port, secret = secret_of(base, packed.digest)
        nonce, path = secret.request(f"0/0/{A}")
        for line in (f"GET /{A}", f"GET /{nonce}/{'0' * 64}/0/0/{A}", f"GET {path}x", f"POST {path}", "", "\xe9",
                     "GET " + Secret("0" * 64, packed.digest).request("")[1],
                     "GET " + secret_of(base, "0" * 16)[1].request("")[1]):
            assert answered(port, f"{line} HTTP/1.1\r\n\r\n".encode()) == b""
        request = f"GET {path} HTTP/1.1\r\n\r\n".encode()
        assert answered(port, request).endswith(block_of(packed, packed.file(A), 0))
        assert answered(port, request) == b"", "one that was recorded on the way is not answered again"


@pytest.mark.slow
def test_no_number_of_unverified_clients_keeps_a_node_of_the_job_out_and_each_has_two_seconds(packed, base,
                                                                                                 monkeypatch):
    monkeypatch.setattr(block_server, "HELLO_SECONDS", 1.0)
    with group_of(packed, base, 1), contextlib.ExitStack() as clients:
        port, secret = secret_of(base, packed.digest)
        threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
        unverified = [clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
                   for _ in range(300)]
        for client in unverified[-40:-20]:
            client.sendall(b"GET /0123456789abcdef")  # knows the protocol, and not the secret
        began = time.monotonic()
        for _ in range(5):
            with contextlib.closing(_Connection("127.0.0.1", port, secret)) as connection:
                assert connection.ask(5.0)[0].status == LATER
        assert time.monotonic() - began < 0.5
        assert threading.active_count() <= threads + block_server.UNVERIFIED + 5
        for client in unverified[-20:]:  # one that sends single bytes has no longer
            with contextlib.suppress(OSError):
                client.sendall(b"G")
        assert len(os.listdir("/proc/self/fd")) <= descriptors + len(unverified) + block_server.UNVERIFIED + 5
        time.sleep(max(0.0, began + 0.7 - time.monotonic()))
        for client in unverified[-20:]:
            with contextlib.suppress(OSError):
                client.sendall(b"E")
        for client in unverified:
            client.settimeout(5.0)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(100):
                    pass
        assert time.monotonic() - began < 2.5


def test_a_query_that_is_none_ends_the_connection(packed, base):
    with group_of(packed, base, 1) as owner:
        has_all(owner, packed)
        port, secret = secret_of(base, packed.digest)
        for query in ("", "x", f"0/x/{A}", f"0/-1/{A}", f"x/0/{A}", "0/0/%ff"):
            assert answered(port, f"GET {secret.request(query)[1]} HTTP/1.1\r\n\r\n".encode()) == b""


def test_a_name_from_outside_the_pack_is_not_served(packed, base):
    with group_of(packed, base, 1) as owner:
        has_all(owner, packed)
        owner.order([])
        port, secret = secret_of(base, packed.digest)
        for name in ("../pack.json", "/etc/passwd", "pack.json"):
            with contextlib.closing(_Connection("127.0.0.1", port, secret)) as connection:
                assert connection.ask(5.0, 0, 0, name)[0].status == NEVER


def test_the_contact_is_for_its_owner_alone(packed, base):
    old = os.umask(0)
    try:
        with group_of(packed, base):
            assert stat.S_IMODE(contact(base)(0).stat().st_mode) == 0o600
    finally:
        os.umask(old)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"addresses": 1, "port": "x", "token": "zz"}'])
def test_a_contact_that_cannot_be_understood_is_a_node_that_has_gone(packed, base, text, monkeypatch):
    monkeypatch.setattr(block_client, "APART", 0.0)
    monkeypatch.setattr(block_client, "LOOK", 0.02)
    contact(base)(1).write_text(text)
    with group_of(packed, base) as group:
        file, block = others_share(group, packed)[0]
        assert not fetched(group, packed, file, block)


def test_a_node_that_cannot_serve_stages_all_the_same(packed, base):
    scratch = Scratch(base / "scratch")
    folder = scratch.set_folder(packed.digest).path
    with group_of(packed, base, 1) as other, \
            PeerGroup(contact(base / "nowhere"), 0, 2, packed.digest, LOOPBACK, folder) as mute:
        has_all(other, packed)
        assert is_exact(packed, copying.stage(packed, packed.files, scratch, peers=mute).folder)


def test_addresses_are_tried_until_one_leads_to_the_node(packed, base):
    with group_of(packed, base, 1):
        record = files.read_json(contact(base)(1))
        files.write_json(contact(base)(1), {**record, "addresses": ["127.0.0.3", "127.0.0.1"]})
        with group_of(packed, base) as asking:
            met(asking)
            assert asking._peers[1]._server[0] == "127.0.0.1"


# -- the end


def test_who_has_stopped_serving_is_not_waited_for(packed, base):
    asking, owner = group_of(packed, base), group_of(packed, base, 1)
    has_all(owner, packed)
    met(asking)
    file, block = others_share(asking, packed)[0]
    assert fetched(asking, packed, file, block)
    for _ in range(2):  # the second call does nothing
        owner.close()
    assert not fetched(asking, packed, file, block)
    asking.close()
