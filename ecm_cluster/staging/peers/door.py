"""Where other nodes of a job ask this one for blocks; what is said there is :mod:`.wire`'s business.

Anybody on the network may call. One thread listens to all that have not proved yet who they are: they cost a file
descriptor each, have two seconds, and where too many are there, the one that came first goes. So no number of strangers
keeps out a node of the job, which takes a round trip to prove itself.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from .wire import (
    ANSWER,
    GET,
    IDLE_SECONDS,
    MAC,
    MAGIC,
    MAP,
    NAME_LIMIT,
    NONCE,
    QUIET_SECONDS,
    REQUEST,
    WAIT_LIMIT,
    Kind,
    Part,
    proof,
    receive_all,
)

HELLO_SECONDS = 2.0  # in which a caller proves who it is
STRANGERS = 128  # that are listened to at once


@dataclass
class Stranger:
    """A caller that has not proved yet that it belongs to the job.

    Attributes:
        end: When it is turned away.
        said: What has come of the message that is due.
        proof: What that has to be; None while its first one is due.
    """

    end: float
    said: bytearray = field(default_factory=bytearray)
    proof: bytes | None = None

    @property
    def missing(self) -> int:
        """Bytes of the message."""
        return (len(MAGIC) + NONCE if self.proof is None else MAC) - len(self.said)


class Door:
    """Answers other nodes of the job, each connection in a thread of its own.

    Args:
        addresses: Under which it will be called; where all are loopback nobody else can connect.
        find: Called with a file's name, a block and the seconds that may be waited for it; gives the kind of the
            answer, and where the block lies.
        overview: Called for an overview of all blocks held.
        stand: (whether this node is done, blocks held).
        limit: Connections of the job at once.

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
        self._strangers: dict[socket.socket, Stranger] = {}  # the one that came first in front
        # else on all interfaces: which of them leads to the other nodes is for those to find out
        alone = bool(addresses) and all(address.startswith("127.") for address in addresses)
        self._socket = socket.create_server(("127.0.0.1" if alone else "", 0), backlog=128)
        self._socket.setblocking(False)
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._socket, selectors.EVENT_READ)
        self.port: int = self._socket.getsockname()[1]
        try:
            threading.Thread(target=self._welcome, name="stage-door", daemon=True).start()
        except RuntimeError as error:
            self._socket.close()
            raise OSError(errno.EAGAIN, str(error)) from None

    def _welcome(self) -> None:
        while not self._closed:
            for key, _ in self._ready.select(HELLO_SECONDS / 4):
                if key.fileobj is self._socket:
                    self._accept()
                else:
                    self._hear(cast(socket.socket, key.fileobj))
            for caller in [c for c, stranger in self._strangers.items() if time.monotonic() > stranger.end]:
                self._turn_away(caller)
        for caller in list(self._strangers):
            self._turn_away(caller)
        self._ready.close()

    def _accept(self) -> None:
        try:
            caller, _ = self._socket.accept()
        except OSError:
            time.sleep(0.05)  # closed, gone already, or out of file descriptors for a while
            return
        if len(self._strangers) >= STRANGERS:
            self._turn_away(next(iter(self._strangers)))
        caller.setblocking(False)
        self._strangers[caller] = Stranger(time.monotonic() + HELLO_SECONDS)
        self._ready.register(caller, selectors.EVENT_READ)

    def _hear(self, caller: socket.socket) -> None:
        """Take what a stranger sends; whoever has proved that it belongs to the job gets a thread of its own."""
        stranger = self._strangers.get(caller)
        if stranger is None:
            return  # it was turned away for one that came later
        try:
            more = caller.recv(stranger.missing)
            stranger.said += more
            if more and stranger.missing == 0 and stranger.proof is None:
                self._prove(caller, stranger)
            elif more and stranger.missing == 0 and hmac.compare_digest(stranger.said, stranger.proof or b""):
                self._let_in(caller)
            elif not more or stranger.missing == 0:
                self._turn_away(caller)
        except BlockingIOError:
            pass
        except (OSError, RuntimeError):  # it has gone; or there are no more threads
            self._turn_away(caller)

    def _prove(self, caller: socket.socket, stranger: Stranger) -> None:
        if not stranger.said.startswith(MAGIC):
            raise ConnectionError("another program calls")
        own = secrets.token_bytes(NONCE)
        both = bytes(stranger.said[len(MAGIC):]) + own
        caller.sendall(own + proof(self._token, b"door", both, self._digest))  # fits into the socket's empty buffer
        stranger.proof, stranger.said = proof(self._token, b"link", both, self._digest), bytearray()

    def _let_in(self, caller: socket.socket) -> None:
        if not self._free.acquire(blocking=False):
            raise ConnectionError("too many connections of this job")
        del self._strangers[caller]
        self._ready.unregister(caller)
        with self._guard:
            self._open.add(caller)
        try:
            threading.Thread(target=self._serve, args=(caller,), name="stage-serve", daemon=True).start()
        except RuntimeError:  # the limit of processes
            self._end(caller)

    def _turn_away(self, caller: socket.socket) -> None:
        if self._strangers.pop(caller, None) is not None:
            self._ready.unregister(caller)
            caller.close()

    def _serve(self, caller: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while not self._closed:
                    self._answer(caller)
        finally:
            self._end(caller)

    def _end(self, caller: socket.socket) -> None:
        with self._guard:
            self._open.discard(caller)
        caller.close()
        self._free.release()

    def _answer(self, caller: socket.socket) -> None:
        caller.settimeout(IDLE_SECONDS)
        kind, wait, block, length = REQUEST.unpack(receive_all(caller, REQUEST.size))
        if kind not in (GET, MAP) or length > NAME_LIMIT:
            raise ConnectionError("not a request")
        caller.settimeout(QUIET_SECONDS)
        name = receive_all(caller, length).decode()
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
