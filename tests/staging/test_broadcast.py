"""Nodes that pass blocks on to each other: real processes, each with a scratch of its own, over loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from staging.making import A, B, in_memory, is_exact, make_pack

from ecm_cluster.base import files
from ecm_cluster.pack.manifest import BLOCK, Pack, PackedFile
from ecm_cluster.staging import copying
from ecm_cluster.staging.peers import broadcast, door, peer, wire
from ecm_cluster.staging.peers.broadcast import Circle
from ecm_cluster.staging.peers.wire import Kind
from ecm_cluster.staging.scratch import Scratch

pytestmark = pytest.mark.slow  # together they wait for some twenty seconds

SIZES = {A: 5 * BLOCK + 12345, B: 3 * BLOCK, "images/c-00000.tar": 77}
LOOPBACK = ["127.0.0.1"]

NODE = """
import sys, threading, time
from pathlib import Path
from ecm_cluster.staging.peers import broadcast, peer
from ecm_cluster.staging import copying, scratch, streams
from ecm_cluster.pack import manifest
path, base, contacts, node, nodes = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
peer.PATIENCE, broadcast.MEETING = 4.0, 3.0
read, carry = [], streams.Stream.carry
def counted(self, file, block, source, target=None):
    if str(source).startswith(path):
        read.append(file.span(block)[1])
    return carry(self, file, block, source, target)
streams.Stream.carry = counted
of = manifest.read(path)
with broadcast.Circle(lambda n: Path(contacts, f"{n}.json"), node, nodes, of.digest, ["127.0.0.1"]) as circle:
    staged = copying.stage(of, of.files, scratch.Scratch(Path(base)), circle=circle, threads=3)
    print(sum(read), staged.folder, flush=True)
    circle.close(10.0)
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
    """A process that plays one node; it says how many bytes it read from the pack, and where its copy lies."""
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


def circle_of(of: Pack, base: Path, number: int = 0, nodes: int = 2, digest: str = "") -> Circle:
    return Circle(contact(base), number, nodes, digest or of.digest, LOOPBACK)


def pass_all(circle: Circle, of: Pack) -> None:
    for file in of.files:
        for block in range(len(file.blocks)):
            circle.have(file, block, of.path / file.name)


def met(circle: Circle) -> None:
    """Wait until all others have been met, and looked at since: a look that is under way now may have seen less."""
    for _ in range(2):
        seen = {p: p._has for p in circle._peers.values()}
        end = time.monotonic() + 10
        while not all(p.met and p._has is not has for p, has in seen.items()) and time.monotonic() < end:
            time.sleep(0.01)


def block_of(of: Pack, file: PackedFile, block: int) -> bytes:
    offset, length = file.span(block)
    return (of.path / file.name).read_bytes()[offset:offset + length]


def fetched(circle: Circle, of: Pack, file: PackedFile, block: int) -> bool:
    """Whether a block can be fetched; then it is right."""
    buffer = memoryview(bytearray(file.span(block)[1]))
    found = circle.fetch(file, block, buffer)
    assert not found or bytes(buffer) == block_of(of, file, block)
    return found


def others_share(circle: Circle, of: Pack) -> list[tuple[PackedFile, int]]:
    every = [(f, b) for f in of.files for b in range(len(f.blocks))]
    return [task for task in every if circle._owner(*task) != circle.node]


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


def test_a_node_that_never_comes_is_not_waited_for_for_ever(packed, base, monkeypatch):
    monkeypatch.setattr(peer, "PATIENCE", 0.3)
    with circle_of(packed, base) as circle:
        scratch = base / "scratch"
        scratch.mkdir()
        staged = copying.stage(packed, packed.files, Scratch(scratch), circle=circle)
    assert is_exact(packed, staged.folder) and staged.copied == total(packed)


# -- one block


def test_a_block_is_waited_for_while_its_owner_is_on_its_way_to_it(packed, base):
    with circle_of(packed, base) as asking, circle_of(packed, base, 1) as owner:
        met(asking)
        file, block = others_share(asking, packed)[0]
        owner.order([(file, block)])
        later = threading.Timer(0.3, owner.have, (file, block, packed.path / file.name))
        later.start()
        assert fetched(asking, packed, file, block)


def test_a_block_that_its_owner_does_not_want_comes_from_another_node_or_not_at_all(packed, base):
    with circle_of(packed, base, 0, 3) as asking, circle_of(packed, base, 1, 3) as one, \
            circle_of(packed, base, 2, 3) as two:
        file, block = next(t for t in others_share(asking, packed) if asking._owner(*t) == 1)
        one.order([])
        pass_all(two, packed)
        met(asking)
        assert fetched(asking, packed, file, block)
        two.close(0)
        assert not fetched(asking, packed, file, block)


def test_a_node_takes_its_own_share_from_one_that_has_it(packed, base):
    with circle_of(packed, base) as asking, circle_of(packed, base, 1) as other:
        pass_all(other, packed)
        met(asking)
        assert all(fetched(asking, packed, f, b) for f in packed.files for b in range(len(f.blocks)))


def test_a_file_that_is_renamed_is_passed_on_from_its_new_place(packed, base):
    with circle_of(packed, base) as asking, circle_of(packed, base, 1) as owner:
        met(asking)
        file, block = others_share(asking, packed)[0]
        owner.have(file, block, base / "gone.tmp")
        threading.Timer(0.05, owner.moved, (file, packed.path / file.name)).start()
        assert fetched(asking, packed, file, block)


def test_a_copy_that_was_cut_or_taken_away_is_not_passed_on(packed, base):
    with circle_of(packed, base) as asking, circle_of(packed, base, 1) as owner:
        met(asking)
        (file, block), (other, last) = others_share(asking, packed)[:2]
        (base / "cut").write_bytes(b"short")
        owner.have(file, block, base / "cut")
        owner.have(other, last, base / "nowhere")
        assert not fetched(asking, packed, file, block) and not fetched(asking, packed, other, last)


def test_the_own_share_comes_first_and_no_two_nodes_begin_with_the_same_one(packed, base, monkeypatch):
    monkeypatch.setattr(broadcast, "MEETING", 0.0)
    every = [(f, b) for f in packed.files for b in range(len(f.blocks))]
    begun = []
    for number in range(3):
        with circle_of(packed, base, number, 3) as circle:
            ordered = circle.order(every)
            owners = [circle._owner(*task) for task in ordered]
            assert sorted(ordered, key=every.index) == every
            assert list(dict.fromkeys(owners)) == [(number + step) % 3 for step in range(3)]
            begun.append(next(o for o in owners if o != number))
    assert sorted(begun) == [0, 1, 2]


def test_threads_that_ask_at_once_get_each_its_own_block(packed, base):
    with circle_of(packed, base) as asking, circle_of(packed, base, 1) as owner:
        pass_all(owner, packed)
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
    with circle_of(packed, base) as asking, circle_of(packed, base, 1) as owner:
        pass_all(owner, packed)
        met(asking)
        (file, block), right = others_share(asking, packed)[0], others_share(asking, packed)[1:]
        data = bytearray((packed.path / file.name).read_bytes())
        data[file.span(block)[0]] ^= 1
        (base / "flipped").write_bytes(data)
        owner.moved(file, base / "flipped")
        assert not fetched(asking, packed, file, block)
        owner.moved(file, packed.path / file.name)
        assert all(fetched(asking, packed, f, b) for f, b in right)


class Rogue:
    """What listens where another node should."""

    def __init__(self, base: Path, answer: bytes | None) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._answer, self._callers = answer, []
        files.write_json(contact(base)(1), {"addresses": LOOPBACK, "port": self._socket.getsockname()[1],
                                            "token": "00" * 32})
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._socket.accept()
                self._callers.append(caller)
                if self._answer is not None:
                    caller.sendall(self._answer)

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 200 OK\r\n\r\n" * 100, os.urandom(4096)],
                         ids=["nothing", "another protocol", "noise"])
def test_who_answers_nothing_or_garbage_at_a_node_s_address_costs_a_moment(packed, base, answer, monkeypatch):
    monkeypatch.setattr(wire, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(peer, "APART", 0.0)
    monkeypatch.setattr(peer, "LOOK", 0.02)
    with contextlib.closing(Rogue(base, answer)), circle_of(packed, base) as circle:
        file, block = others_share(circle, packed)[0]
        assert not fetched(circle, packed, file, block)
        assert circle._peers[1].gone and not circle._peers[1].met


@pytest.mark.parametrize("reply", [
    b"\xff" * wire.ANSWER.size,  # no known kind
    wire.ANSWER.pack(Kind.HERE, 0, 1, 0xffffffff),  # more than asked for
    wire.ANSWER.pack(Kind.HERE, 0, 1, 12345) + b"\0" * 12345,  # less
    wire.ANSWER.pack(Kind.HERE, 0, 1, BLOCK) + b"\0" * 4096,  # ends in the middle
    wire.ANSWER.pack(Kind.HERE, 0, 1, BLOCK) + b"\0" * BLOCK,  # wrong bytes
    b"",
])
def test_a_node_that_knows_the_secret_and_answers_nonsense_does_no_harm(packed, base, reply, monkeypatch):
    monkeypatch.setattr(peer, "APART", 0.0)
    with circle_of(packed, base) as asking, circle_of(packed, base, 1) as owner:
        met(asking)
        real = door.Door._answer

        def answer(door, caller) -> None:
            if door is not owner._door:
                real(door, caller)
            caller.recv(1000)
            caller.sendall(reply)
            caller.shutdown(socket.SHUT_WR)
            raise ConnectionError

        monkeypatch.setattr(door.Door, "_answer", answer)
        file, block = next(t for t in others_share(asking, packed) if t[0].span(t[1])[1] == BLOCK)
        assert not fetched(asking, packed, file, block)


def test_without_the_secret_or_with_another_pack_a_door_stays_shut(packed, base):
    with circle_of(packed, base, 1) as owner:
        pass_all(owner, packed)
        record = files.read_json(contact(base)(1))
        port, token = record["port"], bytes.fromhex(record["token"])
        wire.Link("127.0.0.1", port, token, packed.digest).close()
        for wrong, digest in ((bytes(32), packed.digest), (token, "0" * 16)):
            with pytest.raises(ConnectionError):
                wire.Link("127.0.0.1", port, wrong, digest)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
            stranger.sendall(wire.MAGIC + bytes(wire.NONCE) + bytes(wire.MAC)
                             + wire.REQUEST.pack(wire.GET, 0, 0, len(A)) + A.encode())
            heard = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := stranger.recv(1 << 20):
                    heard += piece
            assert len(heard) <= wire.NONCE + wire.MAC


@pytest.mark.slow
def test_no_number_of_strangers_keeps_a_node_of_the_job_out_and_each_has_two_seconds_in_all(packed, base, monkeypatch):
    monkeypatch.setattr(door, "HELLO_SECONDS", 1.0)
    with circle_of(packed, base, 1), contextlib.ExitStack() as strangers:
        record = files.read_json(contact(base)(1))
        where, token = ("127.0.0.1", record["port"]), bytes.fromhex(record["token"])
        threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
        callers = [strangers.enter_context(socket.create_connection(where, timeout=5)) for _ in range(300)]
        for caller in callers[-40:-20]:
            caller.sendall(wire.MAGIC + bytes(wire.NONCE))  # knows the protocol, and not the secret
        began = time.monotonic()
        for _ in range(5):
            wire.Link(*where, token, packed.digest).close()
        assert time.monotonic() - began < 0.5 and threading.active_count() <= threads + 5
        for caller in callers[-20:]:  # one that sends single bytes has no longer
            with contextlib.suppress(OSError):
                caller.sendall(wire.MAGIC[:1])
        assert len(os.listdir("/proc/self/fd")) <= descriptors + len(callers) + door.STRANGERS + 5
        time.sleep(max(0.0, began + 0.7 - time.monotonic()))
        for caller in callers[-20:]:
            with contextlib.suppress(OSError):
                caller.sendall(wire.MAGIC[1:2])
        for caller in callers:
            caller.settimeout(5.0)
            with contextlib.suppress(ConnectionResetError):
                while caller.recv(100):
                    pass
        assert time.monotonic() - began < 2.5


def test_what_is_no_request_ends_the_connection(packed, base):
    with circle_of(packed, base, 1) as owner:
        pass_all(owner, packed)
        record = files.read_json(contact(base)(1))
        for request in (wire.REQUEST.pack(9, 0, 0, 0), wire.REQUEST.pack(wire.GET, 0, 0, 60000),
                        wire.REQUEST.pack(wire.GET, 0, 0, 2) + b"\xff\xfe"):
            link = wire.Link("127.0.0.1", record["port"], bytes.fromhex(record["token"]), packed.digest)
            link._socket.sendall(request)
            with contextlib.suppress(ConnectionResetError):
                assert link._socket.recv(1) == b""
            link.close()


def test_a_name_from_outside_the_pack_is_not_served(packed, base):
    with circle_of(packed, base, 1) as owner:
        pass_all(owner, packed)
        owner.order([])
        record = files.read_json(contact(base)(1))
        link = wire.Link("127.0.0.1", record["port"], bytes.fromhex(record["token"]), packed.digest)
        for name in ("../pack.json", "/etc/passwd", "pack.json"):
            assert link.ask(wire.GET, 0.0, name, 0).kind is Kind.NEVER
        link.close()


def test_the_contact_is_for_its_owner_alone(packed, base):
    old = os.umask(0)
    try:
        with circle_of(packed, base):
            assert stat.S_IMODE(contact(base)(0).stat().st_mode) == 0o600
    finally:
        os.umask(old)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"addresses": 1, "port": "x", "token": "zz"}'])
def test_a_contact_that_cannot_be_understood_is_a_node_that_has_gone(packed, base, text, monkeypatch):
    monkeypatch.setattr(peer, "APART", 0.0)
    monkeypatch.setattr(peer, "LOOK", 0.02)
    contact(base)(1).write_text(text)
    with circle_of(packed, base) as circle:
        file, block = others_share(circle, packed)[0]
        assert not fetched(circle, packed, file, block)


def test_a_node_that_cannot_open_its_door_stages_all_the_same(packed, base):
    with circle_of(packed, base, 1) as other, Circle(contact(base / "nowhere"), 0, 2, packed.digest, LOOPBACK) as shut:
        pass_all(other, packed)
        (base / "scratch").mkdir()
        assert is_exact(packed, copying.stage(packed, packed.files, Scratch(base / "scratch"), circle=shut).folder)


def test_addresses_are_tried_until_one_leads_to_the_right_door(packed, base):
    with circle_of(packed, base, 1) as owner, circle_of(packed, base) as asking:
        record = files.read_json(contact(base)(1))
        link, address = wire.reach(["127.0.0.3", "127.0.0.1"], record["port"], bytes.fromhex(record["token"]),
                                   packed.digest)
        link.close()
        assert address == "127.0.0.1"
        pass_all(owner, packed)
        met(asking)
        assert json.loads(owner._overview()) == {f.name: f"{(1 << len(f.blocks)) - 1:x}" for f in packed.files}


# -- the end


def test_a_door_stays_open_until_the_others_have_all(packed, base):
    asking, owner = circle_of(packed, base), circle_of(packed, base, 1)
    pass_all(owner, packed)
    met(asking)
    met(owner)
    tasks = asking.order(others_share(asking, packed))
    closing = threading.Thread(target=owner.close, args=(30.0,))
    closing.start()
    for file, block in tasks:
        assert closing.is_alive() and fetched(asking, packed, file, block)
        asking.have(file, block, packed.path / file.name)
    closing.join(10)
    assert not closing.is_alive()
    assert not fetched(asking, packed, *tasks[0])
    asking.close(0)


@pytest.mark.slow
def test_two_that_close_at_once_do_not_wait_for_each_other(packed, base):
    one, two = circle_of(packed, base), circle_of(packed, base, 1)
    met(one)
    met(two)
    closing = [threading.Thread(target=each.close, args=(60.0,)) for each in (one, two)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join(20)
    assert not any(thread.is_alive() for thread in closing)
    one.close(60.0)  # once more is no harm
