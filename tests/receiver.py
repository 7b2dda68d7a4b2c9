"""A server on this machine that receives messages about runs, as apprise sends them to ``json://`` URLs."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

SECRET = "s3cret-of-the-server"


class Server:
    """A server that keeps every message.

    Attributes:
        status: What it answers; 0: nothing, it closes the connection.
    """

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status = 200
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.status in (0, 200):
                    outer.got.append(json.loads(body))
                if outer.status:
                    self.send_response(outer.status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.port = self.server.server_address[1]

    @property
    def url(self) -> str:
        return f"json://user:{SECRET}@127.0.0.1:{self.port}/"

    def events(self) -> list[str]:
        return [message["title"] for message in self.got]


@contextlib.contextmanager
def listening() -> Iterator[Server]:
    made = Server()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
