"""Serves this node's blocks to the other nodes of a job.

Anybody on the network may connect. A request is not parsed before the signature in its first line has been verified.
Only a few clients without one are kept (the oldest is dropped for the newest), for two seconds, however slowly they
send: no number of them exhausts the node, or keeps out a node of the job, which needs one round trip.
"""

from __future__ import annotations

import contextlib
import errno
import http.server
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, BinaryIO, NamedTuple, cast

from .protocol import HELD, PROOF, Secret

HELLO_SECONDS = 2.0  # in which a client has to send a signed request line
UNVERIFIED = 32  # clients at once; each costs a thread and a descriptor
POLL = 0.2  # seconds between two looks at the deadlines of unverified clients


class Answer(NamedTuple):
    """What is sent: a status, and ``length`` bytes of a file that is closed afterwards.

    Attributes:
        held: How many blocks this node has.
    """

    status: int
    held: int
    file: BinaryIO | None = None
    offset: int = 0
    length: int = 0


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    raw_requestline: bytes

    def parse_request(self) -> bool:
        verified = cast(BlockServer, self.server).verified(self.raw_requestline, self.connection)
        if verified is None:
            self.close_connection = True
            return False
        self._nonce, self._query = verified
        return super().parse_request()

    def do_GET(self) -> None:
        server = cast(BlockServer, self.server)
        answer = server.answer(self._query)
        with answer.file or contextlib.nullcontext():
            held = str(answer.held)
            self.send_response_only(answer.status)
            self.send_header("Content-Length", str(answer.length))
            self.send_header(HELD, held)
            self.send_header(PROOF, server.secret.proof(self._nonce, answer.status, held))
            self.end_headers()
            if answer.file:
                sent = self.connection.sendfile(answer.file, answer.offset, answer.length)
                self.close_connection = sent < answer.length  # it was cut this moment: the rest would be awaited

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: unverified clients must not be able to fill a log."""


class BlockServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Answers other nodes, each connection in a thread of its own, until it is closed.

    Args:
        addresses: Under which it will be called; where all are loopback nobody else can connect.
        answer: Called with the query of a request.

    Raises:
        OSError: No socket or no thread is available.
    """

    daemon_threads = True
    request_queue_size = 128  # socketserver's 5 are too few where all nodes begin to copy at once

    def __init__(self, addresses: Sequence[str], secret: Secret, answer: Callable[[str], Answer]) -> None:
        self.secret, self.answer = secret, answer
        self._guard = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}  # of each connection, the oldest first
        self._nonces: set[str] = set()  # of all requests: one that was recorded on the way is not answered again
        # else on all interfaces: which of them leads to the other nodes is for those to find out
        local = bool(addresses) and all(address.startswith("127.") for address in addresses)
        super().__init__(("127.0.0.1" if local else "", 0), _Handler)
        try:
            threading.Thread(target=self.serve_forever, args=(POLL,), name="stage-serve", daemon=True).start()
        except RuntimeError as error:  # the limit of processes
            self.server_close()
            raise OSError(errno.EAGAIN, str(error)) from None

    def verified(self, line: bytes, client: socket.socket) -> tuple[str, str] | None:
        """(nonce, query) of a request line that a node of the job has sent; from then on the client may stay."""
        found = self.secret.verified(line)
        with self._guard:
            if found is None or found[0] in self._nonces or client not in self._deadlines:
                return None
            self._nonces.add(found[0])
            self._deadlines[client] = inf
            return found

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError:
            time.sleep(POLL)  # out of descriptors for a while: the loop would spin
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            unverified = [client for client, end in self._deadlines.items() if end < inf]
            if len(unverified) >= UNVERIFIED:
                self._hang_up(unverified[0])
            self._deadlines[request] = time.monotonic() + HELLO_SECONDS
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        with self._guard:
            for client in [client for client, end in self._deadlines.items() if end < time.monotonic()]:
                self._hang_up(client)

    def _hang_up(self, client: socket.socket) -> None:
        del self._deadlines[client]
        # shutdown ends it also where a forked process holds the connection, too; its thread then closes it
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone, or that sends nonsense, costs its own connection only."""

    def close(self) -> None:
        """Stop listening, and end all connections."""
        self.shutdown()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # a forked process may hold it, too
        self.server_close()
        with self._guard:
            for client in list(self._deadlines):
                self._hang_up(client)
