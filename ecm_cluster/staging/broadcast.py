"""Nodes of one job pass blocks of a pack on to each other, so that shared storage is read about once in all.

Every block has an owner among the nodes, which reads it from shared storage; the others ask the owner for it over TCP,
and each serves what lies in its own scratch. Nobody depends on a peer: one that is gone, slow, silent or wrong costs a
short wait, and the block is read from shared storage instead. Who gets a block checks it, so a wrong one does no harm.

Why not Slurm's sbcast: it is the batch script's, copies whole files only, to nodes that lack them and to those that do
not, and cannot go on where a killed copy was.

A node serves those who know its token, which stands in its contact file in the run, for its user's eyes alone. What
passes over the network is not encrypted, as it is not between a node and its network storage.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import files
from .pack import PackedFile

CONTACT_SECONDS = 30.0  # that a node may take to open its door
STALL_SECONDS = 20.0  # in which a peer that is waited for has to come by another block
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 30.0  # of silence within an answer
HOLD_SECONDS = 2.0  # that a server waits for a block that it is about to have
MOST_PEERS = 256  # connections
LONGEST_NAME = 4096

_HELLO = struct.Struct("<32s16s")  # token, digest of the pack
_ASK = struct.Struct("<HIB")  # length of the name, block, whether to wait for it; no name: the node ``block`` is done
_ANSWER = struct.Struct("<BII")  # whether the block follows, its length, how many blocks the peer has in all


@dataclass
class _Peer:
    """What is known of another node."""

    number: int
    contact: Path
    address: tuple[str, int] | None = None
    token: str = ""
    blocks: int = -1  # that it has, as it said last
    progress: float = 0.0  # when that number last grew
    given_up: bool = False  # asked, but no longer waited for


class Circle:
    """One node's part: its door to the others, and its way to them. See :class:`ecm_cluster.staging.copying.Circle`.

    Args:
        contact: Path of the contact file of a node, by its number; on shared storage, one for each attempt and pack.
        node, nodes: This one's number, and how many there are.
        digest: The pack's.
        addresses: Under which other nodes may reach this one, the likeliest first.
    """

    def __init__(self, contact: Callable[[int], Path], node: int, nodes: int, digest: str,
                 addresses: Sequence[str]) -> None:
        self.node, self.nodes, self.digest = node, nodes, digest
        self._began = time.monotonic()
        self._peers = {n: _Peer(n, contact(n), progress=self._began) for n in range(nodes) if n != node}
        self._links = threading.local()  # a connection to each peer, of each thread that copies
        self._changed = threading.Condition()  # of what follows
        self._blocks: dict[str, set[int]] = {}
        self._paths: dict[str, Path] = {}
        self._count, self._done = 0, set[int]()
        self._token = secrets.token_hex(16)
        self._door = socket.create_server(("", 0), backlog=64)
        self._served: set[socket.socket] = set()
        threading.Thread(target=self._welcome, daemon=True).start()
        record = {"addresses": list(addresses), "port": self._door.getsockname()[1], "token": self._token}
        with files.replacing(contact(node)) as handle:
            os.fchmod(handle.fileno(), 0o600)
            handle.write(json.dumps(record).encode())

    def __enter__(self) -> Circle:
        return self

    def __exit__(self, *error: object) -> None:
        self.close(0.0)

    # -- what the copier asks

    def owner(self, file: PackedFile, block: int) -> int:
        """The node that reads a block from shared storage; all nodes agree, without a word."""
        return (zlib.crc32(file.name.encode()) + block) % self.nodes

    def order(self, blocks: list[tuple[PackedFile, int]]) -> list[tuple[PackedFile, int]]:
        """This node's own share first, then the next node's, and so on: not all ask the same one at once."""
        return sorted(blocks, key=lambda task: (self.owner(*task) - self.node) % self.nodes)

    def fetch(self, file: PackedFile, block: int, buffer: memoryview) -> bool:
        """Fill ``buffer`` from the block's owner, or from another peer that has it; False: read it yourself."""
        owner = self.owner(file, block)
        if owner == self.node:
            return False
        first = self._peers[owner]
        others = [self._peers[n] for n in sorted(self._peers, key=lambda n: (n - self.node) % self.nodes) if n != owner]
        if self._ask_patiently(first, file, block, buffer):
            return True
        return any(self._ask(peer, file, block, buffer, wait=False) for peer in others if peer.address is not None)

    def have(self, file: PackedFile, block: int, path: Path) -> None:
        """A block that is right lies in ``path``."""
        with self._changed:
            blocks = self._blocks.setdefault(file.name, set())
            self._count += block not in blocks
            blocks.add(block)
            self._paths.setdefault(file.name, path)
            self._changed.notify_all()

    def moved(self, file: PackedFile, path: Path) -> None:
        """The file lies in ``path`` now."""
        with self._changed:
            self._paths[file.name] = path

    def close(self, grace: float) -> None:
        """Tell the others that this node is done, and serve them until they are, at most ``grace`` seconds."""
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                self._link(peer).sendall(_ASK.pack(0, self.node, 0))
        end = time.monotonic() + grace
        with self._changed:
            while len(self._done) < self.nodes - 1 and time.monotonic() < end:
                self._changed.wait(max(0.0, end - time.monotonic()))
        self._door.close()
        for link in list(self._served):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    # -- asking others

    def _ask_patiently(self, peer: _Peer, file: PackedFile, block: int, buffer: memoryview) -> bool:
        """As long as the peer comes by other blocks meanwhile, it will come by this one."""
        while True:
            if self._ask(peer, file, block, buffer, wait=not peer.given_up):
                return True
            now = time.monotonic()
            patience = STALL_SECONDS if peer.address is not None else CONTACT_SECONDS
            peer.given_up |= now - peer.progress > patience
            if peer.given_up:
                return False
            if peer.address is None or not self._linked(peer):
                time.sleep(0.2)

    def _ask(self, peer: _Peer, file: PackedFile, block: int, buffer: memoryview, wait: bool) -> bool:
        name = file.name.encode()
        try:
            link = self._link(peer)
            link.sendall(_ASK.pack(len(name), block, wait) + name)
            found, length, blocks = _ANSWER.unpack(_exactly(link, memoryview(bytearray(_ANSWER.size))))
            if blocks != peer.blocks:
                peer.blocks, peer.progress = blocks, time.monotonic()
            if not found:
                return False
            if length != len(buffer):
                raise OSError("a block of another length")
            _exactly(link, buffer)
            return True
        except (OSError, struct.error):
            self._drop(peer)
            return False

    def _linked(self, peer: _Peer) -> bool:
        return str(peer.number) in vars(self._links)

    def _link(self, peer: _Peer) -> socket.socket:
        """This thread's connection to a peer, made when it is needed."""
        key, links = str(peer.number), vars(self._links)
        if key not in links:
            links[key] = self._connect(peer)
        return links[key]

    def _drop(self, peer: _Peer) -> None:
        link = vars(self._links).pop(str(peer.number), None)
        if link is not None:
            link.close()

    def _connect(self, peer: _Peer) -> socket.socket:
        if peer.given_up and peer.address is None:
            raise OSError("it never came")
        os.listdir(peer.contact.parent)  # makes an NFS client look for new names
        try:
            record = json.loads(peer.contact.read_text())
            places = [(str(address), int(record["port"])) for address in record["addresses"]]
            token = str(record["token"]).encode()
        except (ValueError, LookupError, TypeError) as error:
            raise OSError(f"{peer.contact}: {error}") from None
        for place in sorted(places, key=lambda place: place != peer.address):
            with contextlib.suppress(OSError):
                link = socket.create_connection(place, timeout=CONNECT_SECONDS)
                peer.address = place
                link.settimeout(ANSWER_SECONDS)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link.sendall(_HELLO.pack(token, self.digest.encode()))
                return link
        raise OSError(f"node {peer.number} cannot be reached")

    # -- serving others

    def _welcome(self) -> None:
        while True:
            try:
                link, _ = self._door.accept()
            except OSError:
                return  # closed
            if len(self._served) >= MOST_PEERS:
                link.close()
                continue
            self._served.add(link)
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        """Answer one connection until it ends; what does not know the token gets nothing."""
        try:
            with link:
                link.settimeout(ANSWER_SECONDS)
                token, digest = _HELLO.unpack(_exactly(link, memoryview(bytearray(_HELLO.size))))
                if not hmac.compare_digest(token, self._token.encode()) or digest != self.digest.encode():
                    return
                link.settimeout(None)  # a peer may read its own share for long before it asks again
                for name, block, wait in self._questions(link):
                    self._answer(link, name, block, wait)
        except (OSError, struct.error, UnicodeDecodeError):
            pass
        finally:
            self._served.discard(link)

    def _questions(self, link: socket.socket) -> Iterator[tuple[str, int, bool]]:
        while True:
            length, block, wait = _ASK.unpack(_exactly(link, memoryview(bytearray(_ASK.size))))
            if length > LONGEST_NAME:
                return
            if length:
                yield bytes(_exactly(link, memoryview(bytearray(length)))).decode(), block, bool(wait)
                continue
            with self._changed:
                self._done.add(block)
                self._changed.notify_all()

    def _answer(self, link: socket.socket, name: str, block: int, wait: bool) -> None:
        end = time.monotonic() + (HOLD_SECONDS if wait else 0.0)
        with self._changed:
            while block not in self._blocks.get(name, ()) and time.monotonic() < end:
                self._changed.wait(max(0.0, end - time.monotonic()))
            there, count = block in self._blocks.get(name, ()), self._count
        for _ in range(3 if there else 0):
            with contextlib.suppress(FileNotFoundError), open(self._paths[name], "rb") as handle:  # renamed just now?
                offset, length = PackedFile(name, os.fstat(handle.fileno()).st_size, "", "", ()).span(block)
                if length > 0:
                    link.sendall(_ANSWER.pack(1, length, count))
                    link.settimeout(ANSWER_SECONDS)
                    sent = link.sendfile(handle, offset, length)
                    link.settimeout(None)
                    if sent != length:
                        raise OSError("cut short")
                    return
        link.sendall(_ANSWER.pack(0, 0, count))


def _exactly(link: socket.socket, buffer: memoryview) -> memoryview:
    """Fill ``buffer`` from a connection.

    Raises:
        OSError: It ended before.
    """
    got = 0
    while got < len(buffer):
        size = link.recv_into(buffer[got:])
        if not size:
            raise OSError("the connection ended")
        got += size
    return buffer
