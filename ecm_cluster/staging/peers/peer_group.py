"""This node among those of one job that copy the same pack.

Every node reads its share of the blocks from shared storage (with N nodes, every N-th block of each file), and gets the
others from the nodes whose share they are. Blocks that a node has already, from an earlier attempt, are not read from
shared storage at all.

Nodes find each other through one file for each of them on shared storage, which holds an address and a secret that only
its owner can read. A node that is dead, hung, unreachable, late, or that sends wrong bytes costs a bounded time and
nothing else: what cannot be fetched the caller reads from shared storage.

Why not Slurm's ``sbcast``: it sends whole files to all nodes alike, from the batch script only; it does not resume, and
it does not know what a node has already. Why not torch's collectives: ranks are not up while data is staged, and one
that fails takes all others along.

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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Tuple
from urllib.parse import unquote

from ...base import files
from ...pack.manifest import TMP, PackedFile
from .block_client import BlockClient
from .block_server import Answer, BlockServer
from .protocol import HERE, LATER, NEVER, WAIT, Secret

LONGEST = 120.0  # seconds that one block is waited for
MEETING = 1.0  # seconds to meet the others before anything is read from shared storage
PAUSE = 0.05  # seconds between two requests for the same block
TRIES = 2  # of a node that fails to answer, for one block

Task = Tuple[PackedFile, int]  # a block


class PeerGroup:
    """This node and its peers; it serves them from its construction until it is closed. Its methods are thread-safe.

    Args:
        contact: Path of the file in which a node says how to reach it; of one start of one job.
        node: The number of this one, of ``nodes``.
        digest: Of the pack; nodes that copy another one are not answered.
        addresses: Under which other nodes may reach this one, the likeliest first.
        folder: Where this node's copy lies.
    """

    def __init__(self, contact: Callable[[int], Path], node: int, nodes: int, digest: str, addresses: Sequence[str],
                 folder: Path) -> None:
        self.node, self.nodes, self._folder = node, nodes, folder
        self._changed = threading.Condition()  # guards what follows
        self._files: dict[str, PackedFile] = {}  # of which a block is here
        self._held: dict[str, int] = {}  # file -> a bit for each block that is here
        self._missing: set[tuple[str, int]] | None = None  # None: not known yet
        self._closing = False
        self._server: BlockServer | None = None
        with contextlib.suppress(OSError):  # then the others do without this node's blocks
            self._server = self._serve(contact(node), digest, addresses)
        self._peers = {n: BlockClient(contact(n), digest) for n in range(nodes) if n != node}

    def _serve(self, contact: Path, digest: str, addresses: Sequence[str]) -> BlockServer:
        token = secrets.token_hex(32)
        server = BlockServer(addresses, Secret(token, digest), self._answer)
        try:
            record = {"addresses": list(addresses), "port": server.server_address[1], "token": token}
            files.write_text(contact, json.dumps(record), private=True)
        except OSError:
            server.close()
            raise
        return server

    def __enter__(self) -> PeerGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving and asking."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._server is not None:
            self._server.close()
        for peer in self._peers.values():
            peer.close()

    # ------------------------------------------------------------------------------------------ for the copier

    def order(self, blocks: list[Task]) -> list[Task]:
        """Say which blocks are missing here, no others will be; gives them in the order in which to obtain them.

        This node's share comes first, then the next node's, and so on: no two nodes begin by asking the same one.
        """
        with self._changed:
            self._missing = {(file.name, block) for file, block in blocks}
            self._changed.notify_all()
        end = time.monotonic() + MEETING
        while blocks and time.monotonic() < end and not all(peer.met or peer.gone for peer in self._peers.values()):
            time.sleep(0.02)
        # a sort keeps the order within each share, and that is the order in which its owner reads it
        return sorted(blocks, key=lambda task: (self._owner(*task) - self.node) % self.nodes)

    def have(self, file: PackedFile, blocks: Iterable[int]) -> None:
        """Blocks in the folder are right, and may be passed on."""
        with self._changed:
            self._files[file.name] = file
            for block in blocks:
                self._held[file.name] = self._held.get(file.name, 0) | 1 << block
                if self._missing is not None:
                    self._missing.discard((file.name, block))
            self._changed.notify_all()

    def fetch(self, file: PackedFile, block: int, buffer: memoryview) -> bool:
        """Fill the buffer, as long as the block, from another node; False: read it from shared storage.

        Waits for the node whose share it is, as long as that node makes progress; an owner waits for nobody, so nodes
        never wait for each other in a ring. What arrives has the block's checksum.
        """
        owner = self._owner(file, block)
        if owner != self.node and self._wait_for(self._peers[owner], file, block, buffer):
            return True
        numbers = sorted(self._peers, key=lambda n: (n + block) % self.nodes)  # spreads the load
        return any(self._peers[number].get(file, block, buffer, 0) == HERE for number in numbers)

    def _owner(self, file: PackedFile, block: int) -> int:
        # by the name, since nodes that miss different blocks have to agree, and small files are to be spread as well
        return (block + zlib.crc32(file.name.encode())) % self.nodes

    def _wait_for(self, peer: BlockClient, file: PackedFile, block: int, buffer: memoryview) -> bool:
        failed, end = 0, time.monotonic() + LONGEST
        while not peer.gone and failed < TRIES and time.monotonic() < end:
            answer = peer.get(file, block, buffer, WAIT)
            if answer in (HERE, NEVER):
                return answer == HERE
            failed += answer is None and peer.met
            time.sleep(PAUSE)
        return False

    # ------------------------------------------------------------------------------------------ answering

    def _answer(self, query: str) -> Answer:
        seconds, number, quoted = query.split("/", 2)
        block, name = int(number), unquote(quoted, errors="strict")
        status, held = self._find(name, block, min(int(seconds), WAIT))
        if status != HERE:
            return Answer(status, held)
        offset, length = self._files[name].span(block)
        handle = self._open(name, offset + length)
        return Answer(HERE, held, handle, offset, length) if handle else Answer(NEVER, held)

    def _find(self, name: str, block: int, seconds: int) -> tuple[int, int]:
        """(status, how many blocks are here)."""
        def here() -> bool:
            return bool(self._held.get(name, 0) >> block & 1)

        def never() -> bool:
            return self._closing or (self._missing is not None and (name, block) not in self._missing)

        with self._changed:
            self._changed.wait_for(lambda: here() or never(), seconds)
            return HERE if here() else NEVER if never() else LATER, sum(bin(b).count("1") for b in self._held.values())

    def _open(self, name: str, size: int) -> BinaryIO | None:
        """A file of the copy that has at least ``size`` bytes."""
        whole, partial = self._folder / name, self._folder / f"{name}{TMP}"
        for path in (whole, partial, whole):  # it may be renamed this moment
            with contextlib.suppress(OSError):
                handle = open(path, "rb")  # noqa: SIM115  (the server closes it)
                if os.fstat(handle.fileno()).st_size >= size:
                    return handle
                handle.close()
        return None
