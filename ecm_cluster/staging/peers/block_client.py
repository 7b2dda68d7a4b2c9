"""Another node, as seen from here: how to reach it, and whether it is worth waiting for.

Every failure of it ends here: the block is not available from there, and after a few failures the node counts
as gone. Every wait has an end, also where single bytes arrive.
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...base.reading import Number, Text, Unreadable, check, open_regular, parse_json
from ...pack.manifest import PackedFile
from .protocol import HELD, HERE, LATER, NEVER, PROOF, WAIT, Secret

CONNECT_SECONDS = 3.0  # for each address
QUIET_SECONDS = 5.0  # without a byte, where one is due: several retransmissions in any network
BLOCK_SECONDS = 120.0  # for a whole block, however many others ask for theirs
PATIENCE = 30.0  # seconds without progress of the node after which it is not waited for
LOOK = 0.05  # seconds between two looks for its contact: all nodes start to copy within MEETING seconds
STRIKES = 3  # failures, with no success between them, after which the node is never asked again
APART = 0.5  # seconds: failures closer than this are one, as they reach several threads at once
CONTACT_LIMIT = 1 << 16  # bytes
PIECE = 1 << 20  # bytes that are received and digested while they are in the processor's cache

CONTACT = {"addresses": [Text(longest=255)], "port": Number(1, 65535), "token": Text("[0-9a-f]{64}")}
FAILURES = (OSError, http.client.HTTPException, ValueError)  # Unreadable is a ValueError


class _Socket(socket.socket):
    """Receives nothing after a deadline."""

    deadline = 0.0

    def recv_into(self, *given: Any) -> int:
        self.settimeout(max(0.001, min(WAIT + QUIET_SECONDS, self.deadline - time.monotonic())))
        return super().recv_into(*given)


class _Connection(http.client.HTTPConnection):
    sock: _Socket

    def __init__(self, address: str, port: int, secret: Secret) -> None:
        super().__init__(address, port)
        self._secret = secret

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), CONNECT_SECONDS)
        self.sock = _Socket(fileno=plain.detach())
        self.sock.settimeout(QUIET_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, seconds: float, wait: int = 0, block: int = 0,
            name: str = "") -> tuple[http.client.HTTPResponse, int]:
        """(an answer that is proved to be the node's, how many blocks it has); the body is still to be read.

        Raises:
            One of FAILURES: There is no such answer within ``seconds``.
        """
        if self.sock is None:
            self.connect()
        self.sock.deadline = time.monotonic() + seconds
        nonce, path = self._secret.request(f"{wait}/{block}/{quote(name)}")
        self.request("GET", path)
        answer = self.getresponse()
        held, proof = answer.getheader(HELD, ""), answer.getheader(PROOF, "")
        if not hmac.compare_digest(proof.encode(), self._secret.proof(nonce, answer.status, held).encode()):
            raise ConnectionError("another program answers at this address")
        return answer, int(held)


class BlockClient:
    """Fetches blocks from one other node, which a thread looks for.

    Attributes:
        gone: It has failed too often or stands still, and is not asked any more.
    """

    def __init__(self, contact: Path, digest: str) -> None:
        self._contact, self._digest = contact, digest
        self.gone = False
        self._server: tuple[str, int, Secret] | None = None
        self._idle: list[_Connection] = []
        self._held, self._moved = -1, time.monotonic()
        self._strikes, self._struck = 0, 0.0
        self._end = threading.Event()
        try:
            threading.Thread(target=self._meet, name="stage-meet", daemon=True).start()
        except RuntimeError:  # the limit of processes
            self.gone = True

    @property
    def met(self) -> bool:
        return self._server is not None

    def get(self, file: PackedFile, block: int, buffer: memoryview, wait: int) -> int | None:
        """Fill the buffer with a block, if the answer is HERE; None where there is no answer.

        Wrong bytes are NEVER: they would be wrong again.
        """
        import xxhash

        if self._server is None or self.gone:
            return None
        found = xxhash.xxh3_64()
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = _Connection(*self._server)
        try:
            answer, held = connection.ask(BLOCK_SECONDS, wait, block, file.name)
            if {HERE: buffer.nbytes, LATER: 0, NEVER: 0}.get(answer.status) != answer.length:
                raise ConnectionError("an answer of unexpected kind or length")
            for at in range(0, answer.length or 0, PIECE):
                piece = buffer[at:at + PIECE]
                if answer.readinto(piece) != piece.nbytes:
                    raise ConnectionError("the connection ended in the middle of an answer")
                found.update(piece)
            answer.read()  # nothing is left; makes the connection usable again
        except FAILURES:
            connection.close()
            self._strike()
            return None
        self._idle.append(connection)
        self._note(held)
        self.gone = self.gone or (answer.status == LATER and wait > 0 and self._stands_still())
        if answer.status == HERE and found.intdigest() != file.blocks[block]:
            self._strike()
            return NEVER
        self._strikes = 0
        return answer.status

    def _note(self, held: int) -> None:
        if held > self._held:
            self._held, self._moved = held, time.monotonic()

    def _stands_still(self) -> bool:
        return time.monotonic() - self._moved > PATIENCE

    def _strike(self) -> None:
        if time.monotonic() - self._struck >= APART:
            self._strikes, self._struck = self._strikes + 1, time.monotonic()
        self.gone = self.gone or self._strikes >= STRIKES

    def close(self) -> None:
        """Stop looking, and close all connections that are not in use."""
        self._end.set()
        while self._idle:
            self._idle.pop().close()

    # ------------------------------------------------------------------------------------------ meeting it

    def _meet(self) -> None:
        while not (self.met or self.gone or self._end.wait(LOOK)):
            try:
                record = self._read_contact()
                if record is not None:
                    self._reach(record)
                elif self._stands_still():
                    self.gone = True
            except FAILURES:
                self._strike()
                self._end.wait(APART)

    def _read_contact(self) -> dict[str, Any] | None:
        # listing the folder makes an NFS client look for new names; a bare open may trust a stale "no such file"
        os.listdir(self._contact.parent)
        try:
            handle = open_regular(self._contact, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with os.fdopen(handle, "rb") as file:
            if os.fstat(handle).st_uid != os.geteuid():  # another user may have put it there
                raise Unreadable(self._contact, "", "not a file of this user")
            return check(parse_json(file.read(CONTACT_LIMIT), self._contact), CONTACT, self._contact)

    def _reach(self, record: dict[str, Any]) -> None:
        """Remember the first address that leads to the node."""
        for address in record["addresses"]:
            server = address, record["port"], Secret(record["token"], self._digest)
            with contextlib.closing(_Connection(*server)) as connection, contextlib.suppress(*FAILURES):
                # no block has this name: it answers as soon as it knows what it has
                self._note(connection.ask(QUIET_SECONDS, WAIT)[1])
                self._server = server
                return
        raise ConnectionError(f"no answer from {', '.join(record['addresses'])}")
