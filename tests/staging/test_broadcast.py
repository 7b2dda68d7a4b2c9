"""Nodes that pass blocks on: shared storage is read once in all, and nobody depends on a peer."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from staging.making import A, B, is_exact, make_pack

from ecm_cluster import files
from ecm_cluster.staging import broadcast
from ecm_cluster.staging.pack import BLOCK, Pack

NODE = """
import sys
from pathlib import Path
from ecm_cluster.staging import bringing, broadcast, copying, pack, scratch

contacts, base, node, nodes, seconds = Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:7])
broadcast.STALL_SECONDS = broadcast.CONTACT_SECONDS = broadcast.ANSWER_SECONDS = seconds
read, from_pack = [0], bringing.Bringing._from_pack

def counted(self, file, block, *rest):
    read[0] += file.span(block)[1]
    return from_pack(self, file, block, *rest)

bringing.Bringing._from_pack = counted
found = pack.read(sys.argv[1])
circle = broadcast.Circle(lambda n: contacts / f"{n}.json", node, nodes, found.digest, ["127.0.0.1"])
staged = copying.stage(found, found.files, scratch.Scratch(base), threads=3, circle=circle)
circle.close(seconds)
print(staged.folder, read[0], flush=True)
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return make_pack(tmp_path_factory.mktemp("shared") / "lvis.pack", {A: 3 * BLOCK + 12345, B: 2 * BLOCK})


@pytest.fixture
def node(packed: Pack, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """``node(number, nodes)`` stages the pack as that node, on a scratch of its own."""
    (tmp_path / "contacts").mkdir()
    root = str(Path(__file__).resolve().parents[2])
    begun = []

    def start(number: int, nodes: int, seconds: int = 20, **env: str) -> subprocess.Popen:
        begun.append(subprocess.Popen(
            [sys.executable, "-c", NODE, str(packed.path), str(tmp_path / "contacts"), str(tmp_path / f"n{number}"),
             str(number), str(nodes), str(seconds)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": root, **env}))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def ended(process: subprocess.Popen) -> tuple[Path, int]:
    """(folder, bytes read from shared storage) of a node that has staged the pack."""
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    folder, read = said.split()
    return Path(folder), int(read)


def size(packed: Pack) -> int:
    return sum(f.size for f in packed.files)


def answering(contact: Path, answer: Callable[[socket.socket], None]) -> socket.socket:
    """A peer that is none: what connects to it gets ``answer``."""
    door = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = door.accept()
                threading.Thread(target=answer, args=(link,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    files.write_json(contact, {"addresses": ["127.0.0.1"], "port": door.getsockname()[1], "token": "0" * 32})
    return door


def test_three_nodes_read_shared_storage_once_in_all(packed, node):
    folders, read = zip(*map(ended, [node(n, 3) for n in range(3)]))
    assert all(is_exact(packed, folder) for folder in folders) and len(set(folders)) == 3
    assert sum(read) == size(packed)


def test_a_node_that_has_everything_serves_the_others(packed, node):
    ended(node(0, 1))
    late, there = node(1, 2), node(0, 2)
    folder, read = ended(late)
    assert is_exact(packed, folder) and ended(there)[1] == 0
    assert read < size(packed), "its own share, at most"


@pytest.mark.slow
def test_a_node_that_is_killed_costs_the_others_nothing_but_reading_its_share(packed, node):
    survivors = [node(n, 3, seconds=2) for n in (0, 1)]
    victim = node(2, 3, **{files.KILL_ENV: "block-written"})
    assert all(is_exact(packed, ended(survivor)[0]) for survivor in survivors)
    victim.wait()
    assert victim.returncode == -9


def test_a_node_that_never_comes_is_not_waited_for_for_long(packed, node):
    folder, read = ended(node(0, 2, seconds=1))
    assert is_exact(packed, folder) and read == size(packed)


def _garbage(link: socket.socket) -> None:
    with contextlib.suppress(OSError), link:
        while link.recv(1 << 16):
            link.sendall(broadcast._ANSWER.pack(1, BLOCK, 1) + secrets.token_bytes(BLOCK))


def _other_lengths(link: socket.socket) -> None:
    with contextlib.suppress(OSError), link:
        while link.recv(1 << 16):
            link.sendall(broadcast._ANSWER.pack(1, 17, 1) + bytes(17))


def _silence(link: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while link.recv(1 << 16):
            pass


@pytest.mark.parametrize("answer", [_garbage, _other_lengths, _silence])
def test_a_peer_that_answers_with_rubbish_or_not_at_all_does_no_harm(packed, node, tmp_path, answer):
    with answering(tmp_path / "contacts" / "1.json", answer):
        folder, read = ended(node(0, 2, seconds=1))
    assert is_exact(packed, folder) and read == size(packed)


def test_who_does_not_know_the_token_or_means_another_pack_gets_nothing(packed, tmp_path):
    with broadcast.Circle(lambda n: tmp_path / f"{n}.json", 0, 2, packed.digest, ["127.0.0.1"]) as circle:
        circle.have(packed.file(A), 0, packed.path / A)
        contact = json.loads((tmp_path / "0.json").read_text())
        assert (tmp_path / "0.json").stat().st_mode & 0o077 == 0, "for its user's eyes alone"

        def asked(token: str, digest: str) -> bytes:
            with socket.create_connection(("127.0.0.1", contact["port"]), timeout=10) as link:
                link.sendall(broadcast._HELLO.pack(token.encode(), digest.encode())
                             + broadcast._ASK.pack(len(A), 0, 0) + A.encode())
                with contextlib.suppress(ConnectionResetError):
                    return link.recv(4)
                return b""

        assert asked("0" * 32, packed.digest) == b""
        assert asked(contact["token"], "0" * 16) == b""
        assert asked(contact["token"], packed.digest)[:1] == b"\1"


def test_every_block_has_one_owner_and_each_node_begins_with_its_own(packed, tmp_path):
    tasks = [(f, b) for f in packed.files for b in range(len(f.blocks))]
    circles = [broadcast.Circle(lambda n: tmp_path / f"{n}.json", node, 3, packed.digest, []) for node in range(3)]
    for number, circle in enumerate(circles):
        owners = [circle.owner(*task) for task in circle.order(tasks)]
        assert sorted(owners, key=lambda owner: (owner - number) % 3) == owners
        assert owners == [circles[0].owner(*task) for task in circle.order(tasks)]
        circle.close(0.0)
    assert {circles[0].owner(*task) for task in tasks} == {0, 1, 2}
