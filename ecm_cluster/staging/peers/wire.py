"""How one node asks another for blocks: a small protocol over TCP. :mod:`.door` answers, :mod:`.broadcast` asks.

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
import secrets
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

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
            both = own + receive_all(self._socket, NONCE)
            if not hmac.compare_digest(receive_all(self._socket, MAC), proof(token, b"door", both, digest)):
                raise ConnectionError("another program answers at this address")
            self._socket.sendall(proof(token, b"link", both, digest))
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
        answered, done, held, length = ANSWER.unpack(receive_all(self._socket, ANSWER.size))
        if answered not in list(Kind) or (answered != Kind.HERE and length):
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


def proof(token: bytes, who: bytes, nonces: bytes, digest: str) -> bytes:
    return hmac.new(token, who + nonces + digest.encode(), "sha256").digest()


def receive_all(source: socket.socket, size: int) -> bytes:
    """So many bytes, and an end to the patience with one who sends them singly."""
    buffer = bytearray(size)
    view, end = memoryview(buffer), time.monotonic() + (source.gettimeout() or 0.0) + QUIET_SECONDS
    while view.nbytes:
        count = source.recv_into(view)
        if not count or time.monotonic() > end:
            raise ConnectionError("the other side has gone, or is too slow")
        view = view[count:]
    return bytes(buffer)
