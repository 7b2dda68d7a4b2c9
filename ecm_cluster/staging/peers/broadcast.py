"""Nodes of one job pass blocks on to each other, so that shared storage is read about once, not once for each node.

Every node reads its share of the blocks from shared storage (with N nodes, every N-th block of each file), and gets the
others from the nodes whose share they are. Where a node has gone, one of the others takes over its share. A node that
has blocks already, from an attempt before, passes them on at once, and then they are not read from shared storage at
all.

Nodes find each other through a file on shared storage for each of them. It holds a secret that only its owner can
read, and without it a door stays shut (:mod:`.door`). A node that is dead, hung, out of reach, late, or that sends
wrong bytes (:mod:`.peer`) costs time, within limits, and nothing else: what cannot be fetched is read from shared
storage by the caller, who also checks every block.

Why not Slurm's ``sbcast``: it sends whole files to all nodes alike, from the batch script alone; it does not go on
where it was, and it does not know what a node has already.

Not covered: networks between nodes that are slower than the shared storage (then do without), and secrecy of the data.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Tuple

from ...base import files
from ...pack.manifest import PackedFile
from .door import Door
from .peer import Peer
from .wire import Kind, Part

LONGEST = 120.0  # seconds that one block is waited for
MEETING = 1.0  # seconds to meet the others before anything is read from shared storage
WAIT = 1.0  # seconds that another node may put off an answer
PAUSE = 0.05  # seconds between two requests for the same block
TRIES = 2  # of a node that fails to answer, for one block
THREADS = 16  # connections that one node may have to another

Task = Tuple[PackedFile, int]  # a block


class Circle:
    """This node among those that bring the same pack; its methods are called from several threads at once.

    It serves others from the moment it is made until it is closed.

    Args:
        contact: Where each node says how to reach it, on shared storage; the file is named for one start of one job.
        node: The number of this one, of ``nodes``.
        digest: Of the pack; nodes with another one are not talked to.
        addresses: Under which other nodes may reach this one, the likeliest first.
    """

    def __init__(self, contact: Callable[[int], Path], node: int, nodes: int, digest: str,
                 addresses: Sequence[str]) -> None:
        self.node, self.nodes = node, nodes
        self._changed = threading.Condition()  # guards all of this
        self._places: dict[str, Path] = {}
        self._held: dict[str, dict[int, tuple[int, int]]] = {}  # file -> block -> (offset, length)
        self._count = 0  # of blocks that were said to be here
        self._missing: set[tuple[str, int]] | None = None  # None: not known yet
        self._closing = False
        self._door: Door | None = None
        with contextlib.suppress(OSError):  # then the others do without this node's blocks
            self._door = self._open(contact(node), digest, addresses)
        self._peers = {n: Peer(contact(n), digest) for n in range(nodes) if n != node}

    def _open(self, contact: Path, digest: str, addresses: Sequence[str]) -> Door:
        token = secrets.token_hex(32)
        door = Door(addresses, bytes.fromhex(token), digest, THREADS * self.nodes, self._find, self._overview,
                         self._stand)
        try:
            with files.replacing(contact) as handle:
                os.fchmod(handle.fileno(), 0o600)  # before the secret is in it
                handle.write(json.dumps({"addresses": list(addresses), "port": door.port, "token": token}).encode())
        except OSError:
            door.close()
            raise
        return door

    def __enter__(self) -> Circle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(0.0)

    # ------------------------------------------------------------------------------------------ for the copier

    def order(self, blocks: list[Task]) -> list[Task]:
        """Which of the blocks that are missing here to bring first: this node's share, then the next node's, and so on.

        So no two nodes begin by asking the same one.
        """
        end = time.monotonic() + MEETING
        while time.monotonic() < end and not all(p.met or p.gone for p in self._peers.values()):
            time.sleep(0.02)
        with self._changed:
            self._missing = {(file.name, block) for file, block in blocks}
            self._changed.notify_all()
        # a sort keeps the order within each share, and that is the order in which its owner reads it
        return sorted(blocks, key=lambda task: (self._owner(task[0], task[1]) - self.node) % self.nodes)

    def fetch(self, file: PackedFile, block: int, buffer: memoryview) -> bool:
        """Fill the buffer, as long as the block, from another node; False: read it from shared storage.

        Waits for a node that is on its way to the block, as long as that makes progress. What comes has the block's
        checksum.
        """
        end = time.monotonic() + LONGEST
        # Where the owner has gone, the lowest number that is left reads its share. An owner waits for nobody, and all
        # else is waited for from lower numbers only: so nodes never wait for each other in a ring.
        for number in dict.fromkeys((self._owner(file, block), *range(self.nodes))):
            if number == self.node:
                break
            if self._wait_for(self._peers[number], file, block, buffer, end):
                return True
        return self._from_whoever_has_it(file, block, buffer)

    def have(self, file: PackedFile, block: int, path: Path) -> None:
        """A block that is right lies in ``path``, at its offset in ``file``, and may be passed on."""
        with self._changed:
            self._places[file.name] = path
            self._held.setdefault(file.name, {})[block] = file.span(block)
            self._count += 1
            if self._missing is not None:
                self._missing.discard((file.name, block))
            self._changed.notify_all()

    def moved(self, file: PackedFile, path: Path) -> None:
        """What was said to lie elsewhere lies in ``path`` now."""
        with self._changed:
            self._places[file.name] = path

    def close(self, grace: float) -> None:
        """Serve until no node asks for anything any more, at most ``grace`` seconds, and then close the door."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        end = time.monotonic() + grace
        while time.monotonic() < end and any(p.may_ask() for p in self._peers.values()):
            time.sleep(0.05)
        if self._door is not None:
            self._door.close()
        for peer in self._peers.values():
            peer.close()

    # ------------------------------------------------------------------------------------------ asking

    def _owner(self, file: PackedFile, block: int) -> int:
        # by the name, since nodes that miss different blocks have to agree, and small files are to be spread as well
        return (block + zlib.crc32(file.name.encode())) % self.nodes

    def _wait_for(self, peer: Peer, file: PackedFile, block: int, buffer: memoryview, end: float) -> bool:
        failed = 0
        while not peer.gone:
            patient = peer.makes_progress() and time.monotonic() < end
            if peer.met:
                answer = peer.get(file, block, buffer, WAIT if patient else 0.0)
                if answer is Kind.HERE:
                    return True
                failed += answer is None
                if answer is Kind.NEVER or failed == TRIES:
                    return False
            if not patient:
                return False
            time.sleep(PAUSE)
        return False

    def _from_whoever_has_it(self, file: PackedFile, block: int, buffer: memoryview) -> bool:
        numbers = sorted(self._peers, key=lambda n: (n + block) % self.nodes)  # spreads the load
        return any(peer.get(file, block, buffer, 0.0) is Kind.HERE
                   for peer in map(self._peers.__getitem__, numbers) if peer.has(file.name, block))

    # ------------------------------------------------------------------------------------------ answering

    def _find(self, name: str, block: int, seconds: float) -> tuple[Kind, Part | None]:
        end = time.monotonic() + seconds
        with self._changed:
            while block not in self._held.get(name, ()):
                if self._closing or (self._missing is not None and (name, block) not in self._missing):
                    return Kind.NEVER, None
                if not self._changed.wait_for(lambda: block in self._held.get(name, ()) or self._closing,
                                              max(0.0, end - time.monotonic())):
                    return Kind.LATER, None
            offset, length = self._held[name][block]
            return Kind.HERE, Part(self._places[name], offset, length)

    def _overview(self) -> bytes:
        with self._changed:
            return json.dumps({name: f"{sum(1 << block for block in blocks):x}"
                               for name, blocks in self._held.items()}).encode()

    def _stand(self) -> tuple[bool, int]:
        with self._changed:
            return self._closing or self._missing == set(), self._count
