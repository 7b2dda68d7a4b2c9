"""How one node asks another for blocks: a small protocol over TCP. What to ask whom is :mod:`.broadcast`'s business.

Whoever calls and whoever answers prove to each other that they know the answering node's token and the pack's digest,
by HMAC over fresh random bytes; the token itself never crosses the network. Then requests and answers follow, one at a
time for each connection. Every number that comes from the network has a limit, and every wait an end. Blocks are not
encrypted: what is passed on is what shared storage serves in the clear, too.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import hmac
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

MAGIC = b"ecm-pass-1\n"
NONCE, MAC = 16, hashlib.sha256().digest_size
REQUEST = struct.Struct("<BHIH")  # kind, milliseconds to wait, block, length of the name that follows
ANSWER = struct.Struct("<BBQI")  # kind, whether done, blocks held, length of what follows
NAME_LIMIT, MAP_LIMIT = 1024, 4 << 20  # bytes
CONNECT_SECONDS = 3.0  # for each address
QUIET_SECONDS = 5.0  # without a byte, where one is due
BLOCK_SECONDS = 120.0  # for a whole block, however many others ask for theirs
IDLE_SECONDS = 300.0  # that a connection may be without a request
WAIT_LIMIT = 2.0  # seconds that an answer may be put off until the block is there
GET, MAP = 0, 1  # kinds of requests


class Kind(enum.IntEnum):
    """Of answers."""

    HERE = 0  # it follows
    LATER = 1  # it will be here
    NEVER = 2


class Answer(NamedTuple):
    """What another node says.

    Attributes:
        done: It asks for nothing any more.
        held: How many blocks it has been given so far; a number that grows is a sign of progress.
        length: Bytes that follow.
    """

    kind: Kind
    done: bool
    held: int
    length: int


class Part(NamedTuple):
    """Where the bytes of an answer lie."""

    path: Path
    offset: int
    length: int


class Link:
    """A connection to another node's door.

    Raises:
        OSError: It cannot be reached, or it does not know its own token.
    """

    def __init__(self, address: str, port: int, token: bytes, digest: str) -> None:
        self._socket = socket.create_connection((address, port), timeout=CONNECT_SECONDS)
        try:
            self._socket.settimeout(QUIET_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            own = secrets.token_bytes(NONCE)
            self._socket.sendall(MAGIC + own)
            both = own + _receive(self._socket, NONCE)
            if not hmac.compare_digest(_receive(self._socket, MAC), _proof(token, b"door", both, digest)):
                raise ConnectionError("another program answers at this address")
            self._socket.sendall(_proof(token, b"link", both, digest))
        except BaseException:
            self.close()
            raise

    def ask(self, kind: int, wait: float = 0.0, name: str = "", block: int = 0) -> Answer:
        """Send a request; what the answer brings has to be received before the next one.

        Args:
            wait: Seconds that the other node may take until it has the block.
        """
        encoded = name.encode()
        self._socket.settimeout(wait + QUIET_SECONDS)
        self._socket.sendall(REQUEST.pack(kind, int(wait * 1000), block, len(encoded)) + encoded)
        answered, done, held, length = ANSWER.unpack(_receive(self._socket, ANSWER.size))
        if answered not in list(Kind):
            raise ConnectionError(f"an answer of no known kind, {answered}")
        return Answer(Kind(answered), bool(done), held, length)

    def receive(self, buffer: memoryview, passing: Callable[[memoryview], None] = lambda piece: None) -> None:
        """Fill a buffer.

        Args:
            passing: Is given each piece of it that has come, in order, while that is in the processor's cache.
        """
        self._socket.settimeout(QUIET_SECONDS)
        end = time.monotonic() + BLOCK_SECONDS
        while buffer.nbytes:
            count = self._socket.recv_into(buffer, min(buffer.nbytes, 1 << 20))
            if not count or time.monotonic() > end:
                raise ConnectionError("the connection ended in the middle of an answer" if not count else "too slow")
            passing(buffer[:count])
            buffer = buffer[count:]

    def close(self) -> None:
        self._socket.close()


def reach(addresses: Sequence[str], port: int, token: bytes, digest: str) -> tuple[Link, str]:
    """A link by the first address that leads to the right door, and that address.

    Raises:
        OSError: None does.
    """
    for address in addresses:
        with contextlib.suppress(OSError):
            return Link(address, port, token, digest), address
    raise ConnectionError(f"no answer from {', '.join(addresses)}")


class Door:
    """Answers other nodes, each connection in a thread of its own.

    Args:
        addresses: Under which it will be called; where all are loopback nobody else can connect.
        find: Called with a file's name, a block and the seconds that may be waited for it; gives the kind of the
            answer, and where the block lies.
        overview: Called for an overview of all blocks held.
        stand: (whether this node is done, blocks held).
        limit: Connections at once.

    Attributes:
        port: Picked by the kernel.

    Raises:
        OSError: Nothing can be opened.
    """

    def __init__(self, addresses: Sequence[str], token: bytes, digest: str, limit: int,
                 find: Callable[[str, int, float], tuple[Kind, Part | None]], overview: Callable[[], bytes],
                 stand: Callable[[], tuple[bool, int]]) -> None:
        self._token, self._digest, self._find, self._overview, self._stand = token, digest, find, overview, stand
        self._free = threading.BoundedSemaphore(limit)
        self._guard, self._closed = threading.Lock(), False
        self._open: set[socket.socket] = set()
        alone = bool(addresses) and all(address.startswith("127.") for address in addresses)
        self._socket = socket.create_server(("127.0.0.1" if alone else "", 0), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._welcome, name="stage-door", daemon=True).start()

    def _welcome(self) -> None:
        while not self._closed:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                time.sleep(0.05)  # closed, or out of file descriptors for a while
                continue
            if not self._free.acquire(blocking=False):
                caller.close()
                continue
            with self._guard:
                self._open.add(caller)
            threading.Thread(target=self._serve, args=(caller,), name="stage-serve", daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                caller.settimeout(QUIET_SECONDS)
                caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._admit(caller):
                    while not self._closed:
                        self._answer(caller)
        finally:
            with self._guard:
                self._open.discard(caller)
            caller.close()
            self._free.release()

    def _admit(self, caller: socket.socket) -> bool:
        if _receive(caller, len(MAGIC)) != MAGIC:
            return False
        own = secrets.token_bytes(NONCE)
        both = _receive(caller, NONCE) + own
        caller.sendall(own + _proof(self._token, b"door", both, self._digest))
        return hmac.compare_digest(_receive(caller, MAC), _proof(self._token, b"link", both, self._digest))

    def _answer(self, caller: socket.socket) -> None:
        caller.settimeout(IDLE_SECONDS)
        kind, wait, block, length = REQUEST.unpack(_receive(caller, REQUEST.size))
        if kind not in (GET, MAP) or length > NAME_LIMIT:
            raise ConnectionError("not a request")
        caller.settimeout(QUIET_SECONDS)
        name = _receive(caller, length).decode()
        if kind == MAP:
            text = self._overview()
            caller.sendall(ANSWER.pack(Kind.HERE, *self._stand(), len(text)) + text)
            return
        found, handle, part = self._lift(name, block, min(wait / 1000, WAIT_LIMIT))
        if handle is None or part is None:
            caller.sendall(ANSWER.pack(found, *self._stand(), 0))
            return
        with handle:
            caller.sendall(ANSWER.pack(Kind.HERE, *self._stand(), part.length))
            caller.sendfile(handle, part.offset, part.length)

    def _lift(self, name: str, block: int, wait: float) -> tuple[Kind, BinaryIO | None, Part | None]:
        for _ in range(2):
            kind, part = self._find(name, block, wait)
            if part is None:
                return kind, None, None
            with contextlib.suppress(OSError):
                handle = open(part.path, "rb")  # noqa: SIM115  (whoever sends it closes it)
                if os.fstat(handle.fileno()).st_size >= part.offset + part.length:
                    return kind, handle, part
                handle.close()
            time.sleep(0.1)  # it may be getting its name this moment
        return Kind.NEVER, None, None

    def close(self) -> None:
        """Answer nobody any more."""
        self._closed = True
        with self._guard:
            for opened in (self._socket, *self._open):
                # ends the connection also where a process that was forked from this one holds it, too
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _proof(token: bytes, who: bytes, nonces: bytes, digest: str) -> bytes:
    return hmac.new(token, who + nonces + digest.encode(), "sha256").digest()


def _receive(source: socket.socket, size: int) -> bytes:
    """So many bytes, and an end to the patience with one who sends them singly."""
    buffer = bytearray(size)
    view, end = memoryview(buffer), time.monotonic() + (source.gettimeout() or 0.0) + QUIET_SECONDS
    while view.nbytes:
        count = source.recv_into(view)
        if not count or time.monotonic() > end:
            raise ConnectionError("the other side has gone, or is too slow")
        view = view[count:]
    return bytes(buffer)
